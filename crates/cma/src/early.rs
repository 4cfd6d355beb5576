//! Claims before there is a page allocator.

use alloc::vec::Vec;
use core::fmt;

use dmakit_addr::{Address, PAGE_BYTES, PfnRange};
use dmakit_platform::{Carved, IrqMutex, NoMemory, Platform, Segment, SegmentRequest, TableMemory};

use crate::Reserved;

/// Reserved areas from which tables are taken before the page allocator is up.
///
/// What is taken is recorded in bitmaps that the caller supplies, two bits a unit, not in the
/// memory itself. [`close`](Self::close) ends this stage: what is out then stays taken when the
/// areas become active, and can be freed afterwards like any other claim.
///
/// It is the [`TableMemory`] of whoever is up that early: the areas of the asked node come first,
/// then the others in their order; in an area the lowest place comes first. Finding one reads each
/// unit below it.
pub struct EarlyAreas<'b, P: Platform> {
    platform: P,
    areas: IrqMutex<P, Vec<EarlyArea<'b>>>,
}

struct EarlyArea<'b> {
    reserved: Reserved,
    parts: Vec<Part<'b>>,
}

/// A range of an area.
struct Part<'b> {
    carved: Carved<&'b mut [u64]>,
    /// Set where the last unit of a claim is.
    ends: &'b mut [u64],
    unit_bytes: u64,
}

/// Why early claims cannot be made of some areas.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EarlyReason {
    /// The bitmaps need more words.
    TooFewWords {
        /// Words that are needed.
        needed: usize,
        /// Words that there are.
        given: usize,
    },
    /// No piece of RAM that was given holds these frames.
    NoRam(PfnRange),
}

/// Areas of which no early claims can be made, given back; nothing has changed.
#[derive(Debug)]
pub struct EarlyError {
    /// The areas.
    pub reserved: Vec<Reserved>,
    /// What is wrong.
    pub reason: EarlyReason,
}

impl fmt::Display for EarlyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reason {
            EarlyReason::TooFewWords { needed, given } => {
                write!(f, "the bitmaps need {needed} words and have {given}")
            }
            EarlyReason::NoRam(range) => write!(f, "no RAM was given for frames {range}"),
        }
    }
}

impl core::error::Error for EarlyError {}

impl<'b, P: Platform> EarlyAreas<'b, P> {
    /// How many words of bitmap these areas need.
    pub fn bitmap_words(reserved: &[Reserved]) -> usize {
        reserved
            .iter()
            .map(|area| 2 * words(area).sum::<usize>())
            .sum()
    }

    /// Early areas of `reserved`, their bytes cut out of `ram`, their books in `bitmap`. Allocates
    /// small lists.
    ///
    /// # Errors
    /// [`EarlyError`] with the areas.
    pub fn new(
        platform: P,
        reserved: Vec<Reserved>,
        ram: &mut Vec<Segment>,
        bitmap: &'b mut [u64],
    ) -> Result<Self, EarlyError> {
        let (needed, given) = (Self::bitmap_words(&reserved), bitmap.len());
        let mut ranges = reserved.iter().flat_map(Reserved::ranges);
        let missing = ranges.find(|range| holder(ram, range).is_none());
        let reason = match missing {
            Some(range) => Some(EarlyReason::NoRam(*range)),
            None => (needed > given).then_some(EarlyReason::TooFewWords { needed, given }),
        };
        if let Some(reason) = reason {
            return Err(EarlyError { reserved, reason });
        }
        let mut bits = bitmap;
        let mut areas = Vec::with_capacity(reserved.len());
        for reserved in reserved {
            let unit_bytes = PAGE_BYTES << reserved.unit_order();
            let mut parts = Vec::with_capacity(reserved.ranges().len());
            for (range, words) in reserved.ranges().iter().zip(words(&reserved)) {
                let (taken, rest) = bits.split_at_mut(words);
                let (ends, rest) = rest.split_at_mut(words);
                bits = rest;
                ends.fill(0);
                // Both were checked above: there is RAM, and a bit for each unit.
                let whole = cut(ram, range);
                let carved = whole.and_then(|w| Carved::with_bits(w, unit_bytes, taken).ok());
                parts.extend(carved.map(|carved| Part {
                    carved,
                    ends,
                    unit_bytes,
                }));
            }
            areas.push(EarlyArea { reserved, parts });
        }
        Ok(Self {
            platform,
            areas: IrqMutex::<P, _>::new(areas),
        })
    }

    /// Takes back what was allocated here, a whole segment as it was given.
    ///
    /// # Errors
    /// The segment as it was, where it is none.
    pub fn free(&self, segment: Segment) -> Result<(), Segment> {
        let mut areas = self.areas.lock();
        let mut parts = areas.iter_mut().flat_map(|area| &mut area.parts);
        let of = parts.find(|part| part.carved.range().contains_range(&segment.range()));
        match of {
            Some(part) => part.put(segment),
            None => Err(segment),
        }
    }

    /// Bytes that are out.
    pub fn taken_bytes(&self) -> u64 {
        let areas = self.areas.lock();
        let parts = areas.iter().flat_map(|area| &area.parts);
        parts
            .map(|part| {
                part.claims()
                    .map(|(_, units)| units as u64 * part.unit_bytes)
                    .sum::<u64>()
            })
            .sum()
    }

    /// Ends the early stage: the areas, with note of what is out. All segments that are not go back
    /// to `ram`, which is then what is attached to the page allocator.
    pub fn close(self, ram: &mut Vec<Segment>) -> InactiveAreas {
        let mut areas = Vec::new();
        for EarlyArea { reserved, parts } in self.areas.into_inner() {
            let mut claims = Vec::new();
            for part in parts {
                claims.extend(part.claims().filter_map(|(unit, units)| {
                    let offset = unit as u64 * part.unit_bytes;
                    let bytes = part
                        .carved
                        .range()
                        .slice(offset, units as u64 * part.unit_bytes);
                    bytes.map(|bytes| bytes.frames())
                }));
                ram.extend(part.carved.into_held());
            }
            areas.push(Inactive { reserved, claims });
        }
        InactiveAreas { areas }
    }
}

impl<P: Platform> TableMemory for EarlyAreas<'_, P> {
    fn allocate_table(&self, request: &SegmentRequest) -> Result<Segment, NoMemory> {
        let segment = [true, false].into_iter().find_map(|near| {
            let mut areas = self.areas.lock();
            let of =
                |area: &&mut EarlyArea<'_>| (Some(area.reserved.node()) == request.node) == near;
            let mut parts = areas.iter_mut().filter(of).flat_map(|area| &mut area.parts);
            parts.find_map(|part| part.take(request))
        });
        let segment = segment.ok_or(NoMemory {
            request: *request,
            largest_free: None,
        })?;
        segment.window().fill(0);
        self.platform.clean(segment.range());
        Ok(segment)
    }

    /// A segment that is not from here leaks: the trait has no way to return it.
    fn free_table(&self, segment: Segment) {
        let freed = self.free(segment);
        debug_assert!(freed.is_ok(), "a segment from elsewhere");
    }
}

impl<P: Platform> fmt::Debug for EarlyAreas<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EarlyAreas")
            .field("taken_bytes", &self.taken_bytes())
            .finish_non_exhaustive()
    }
}

impl Part<'_> {
    fn take(&mut self, request: &SegmentRequest) -> Option<Segment> {
        let range = self.carved.range();
        let step = request.align.max(self.unit_bytes);
        if !request.align.is_power_of_two() || request.len == 0 {
            return None;
        }
        let units = request.len.div_ceil(self.unit_bytes);
        let last = request.limit.last();
        let mut at = range.start().align_up(step)?;
        loop {
            let wanted = range.slice(
                at.offset_from(range.start())?,
                units.checked_mul(self.unit_bytes)?,
            )?;
            if wanted.last()?.raw() > last {
                return None;
            }
            let first = (at.offset_from(range.start())? / self.unit_bytes) as usize;
            let past = first + units as usize;
            match (first..past).rev().find(|unit| self.carved.is_out(*unit)) {
                None => {
                    let segment = self.carved.take(first, units as usize)?;
                    set(self.ends, past - 1, true);
                    return Some(segment);
                }
                Some(out) => {
                    let next = range
                        .start()
                        .checked_add((out as u64 + 1) * self.unit_bytes)?;
                    at = next.align_up(step)?;
                }
            }
        }
    }

    fn put(&mut self, segment: Segment) -> Result<(), Segment> {
        let range = segment.range();
        let whole = self.claims().find(|(unit, units)| {
            let offset = *unit as u64 * self.unit_bytes;
            let claim = self
                .carved
                .range()
                .slice(offset, *units as u64 * self.unit_bytes);
            claim == Some(range)
        });
        let Some((unit, units)) = whole else {
            return Err(segment);
        };
        self.carved.put(segment)?;
        set(self.ends, unit + units - 1, false);
        Ok(())
    }

    /// What is out: the first unit of each claim, and how many it has.
    fn claims(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let units = self.carved.units();
        let mut at = 0;
        core::iter::from_fn(move || {
            let first = (at..units).find(|unit| self.carved.is_out(*unit))?;
            let last = (first..units).find(|unit| self.ends[unit / 64] >> (unit % 64) & 1 != 0)?;
            at = last + 1;
            Some((first, at - first))
        })
    }
}

fn set(bits: &mut [u64], at: usize, to: bool) {
    let bit = 1 << (at % 64);
    let word = &mut bits[at / 64];
    *word = if to { *word | bit } else { *word & !bit };
}

/// Words for one bit a unit, range by range.
fn words(reserved: &Reserved) -> impl Iterator<Item = usize> + '_ {
    let units = reserved
        .ranges()
        .iter()
        .map(|range| range.len() >> reserved.unit_order());
    units.map(|units| units.div_ceil(64) as usize)
}

/// Which piece of RAM holds `range`.
fn holder(ram: &[Segment], range: &PfnRange) -> Option<usize> {
    let bytes = range.bytes()?;
    ram.iter()
        .position(|segment| segment.range().contains_range(&bytes))
}

/// Cuts `range` out of the piece that holds it; the rest stays.
fn cut(ram: &mut Vec<Segment>, range: &PfnRange) -> Option<Segment> {
    let at = holder(ram, range)?;
    let bytes = range.bytes()?;
    let piece = ram.swap_remove(at);
    // The offsets were checked against the piece, so no split is refused.
    let below = bytes.start().offset_from(piece.range().start())?;
    let (low, rest) = piece.split_at(below).ok()?;
    let (middle, high) = rest.split_at(bytes.len()).ok()?;
    ram.extend([low, high].into_iter().filter(|rest| !rest.is_empty()));
    Some(middle)
}

/// Reserved areas that await the page allocator.
#[derive(Debug, Default)]
pub struct InactiveAreas {
    pub(crate) areas: Vec<Inactive>,
}

#[derive(Debug)]
pub(crate) struct Inactive {
    pub(crate) reserved: Reserved,
    /// What was claimed early, ascending.
    pub(crate) claims: Vec<PfnRange>,
}

impl InactiveAreas {
    /// Areas from which nothing was claimed early.
    pub fn new(reserved: impl IntoIterator<Item = Reserved>) -> Self {
        let inactive = |reserved| Inactive {
            reserved,
            claims: Vec::new(),
        };
        Self {
            areas: reserved.into_iter().map(inactive).collect(),
        }
    }
}
