//! Which units of one run are claimed.

use alloc::boxed::Box;
use alloc::vec;
use core::fmt;

use crate::filing::{CHUNK_ORDER, CHUNK_UNITS, Chunk, Filing};

mod search;

const NO_CHUNK: u32 = u32::MAX;

/// No units.
const NOTHING: (u32, u32) = (0, 0);

/// No window of free units as asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoWindow {
    /// How many units were asked for.
    pub units: u32,
    /// log2 of the alignment that was asked for, in units.
    pub align_order: u32,
    /// How many units are free in all.
    pub free: u32,
    /// Units in the largest naturally aligned free block; from 256 up, in the longest run of
    /// blocks of 256.
    pub largest_block: u32,
}

impl fmt::Display for NoWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            units,
            align_order,
            free,
            largest_block,
        } = self;
        write!(
            f,
            "no free window of {units} units aligned to 2^{align_order}; \
             {free} are free, the largest block has {largest_block}"
        )
    }
}

impl core::error::Error for NoWindow {}

/// Units that were given back although not all of them were claimed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotClaimed {
    /// The first unit that was given back.
    pub at: u32,
    /// How many.
    pub units: u32,
    /// The first of them that is free or does not exist.
    pub first_wrong: u32,
}

impl fmt::Display for NotClaimed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            at,
            units,
            first_wrong,
        } = self;
        write!(
            f,
            "{units} units at {at} were given back, but unit {first_wrong} is not claimed"
        )
    }
}

impl core::error::Error for NotClaimed {}

/// How often a search had to look at all free runs, and how many words that took.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Scans {
    /// Searches that did.
    pub searches: u64,
    /// Words of 64 units that they read.
    pub words: u64,
}

/// Bookkeeping of the units of one contiguous run: which are claimed, and where a claim fits.
///
/// A unit is 2^n frames; alignment counts from unit 0 of physical memory, of which this run starts
/// at `base`. A plain value; whoever shares it puts it under a lock. It never allocates after
/// [`new`](Self::new).
///
/// One bit a unit, and about half a bit more for the indices above.
pub struct ClaimMap {
    /// Units of the first chunk that lie before the run: chunks are aligned, runs need not be.
    lead: u32,
    units: u32,
    free: u32,
    /// The number of the first chunk in physical memory.
    origin: u64,
    chunks: Box<[Chunk]>,
    filing: Filing,
    /// The chunk changed last, which `filing` still knows as `filed`. Small claims go in and out of
    /// the same chunk, so filing late is filing rarely.
    open: u32,
    filed: Chunk,
    /// What was released last, first unit and count, while nothing has changed since: free, but its
    /// bits still say taken. What is released and claimed in turn needs no writing.
    pending: (u32, u32),
    scans: Scans,
}

impl ClaimMap {
    /// The greatest number of units.
    pub const UNITS_MAX: u32 = 1 << 30;

    /// A run of `units` free units from unit `base` of physical memory on, cut to
    /// [`UNITS_MAX`](Self::UNITS_MAX). Allocates.
    pub fn new(base: u64, units: u32) -> Self {
        let units = units.min(Self::UNITS_MAX);
        let lead = (base % u64::from(CHUNK_UNITS)) as u32;
        let chunks = (lead + units).div_ceil(CHUNK_UNITS).max(1);
        let mut map = Self {
            lead,
            units,
            free: 0,
            origin: base >> CHUNK_ORDER,
            chunks: vec![[0; 4]; chunks as usize].into_boxed_slice(),
            filing: Filing::new(chunks),
            open: NO_CHUNK,
            filed: [0; 4],
            pending: NOTHING,
            scans: Scans::default(),
        };
        map.write(lead, units, true);
        map.free = units;
        map
    }

    /// How many units there are.
    #[inline]
    pub fn units(&self) -> u32 {
        self.units
    }

    /// How many are free.
    #[inline]
    pub fn free(&self) -> u32 {
        self.free
    }

    /// Searches that took more than a bounded number of steps.
    pub fn scans(&self) -> Scans {
        self.scans
    }

    /// Bytes of bookkeeping, this value included.
    pub fn metadata_bytes(&self) -> usize {
        size_of::<Self>() + size_of_val(&*self.chunks) + self.filing.heap_bytes()
    }

    /// Claims `units` units whose first is aligned to 2^`align_order`: that unit, counted from the
    /// start of the run. It fails only where no such window is free. What was released just before
    /// is preferred where it fits exactly, then the tightest fit.
    ///
    /// Steps: bounded (a few words, and one way down a binary tree of 64-chunk groups), found or
    /// not, where the units are a power of two aligned to themselves, or a multiple of 256 aligned
    /// to 256. Any other wish is first tried as the power of two, or the chunks, that contain it;
    /// only where those do not exist, and blocks of half the size do, every free run is looked at
    /// ([`scans`](Self::scans) counts that).
    ///
    /// # Errors
    /// [`NoWindow`], for no units too; nothing has changed then.
    #[inline]
    pub fn claim(&mut self, units: u32, align_order: u32) -> Result<u32, NoWindow> {
        let (at, last) = self.pending;
        // What nobody has borrowed meanwhile.
        if units == last && units > 0 && self.is_aligned(at, align_order) {
            self.pending = NOTHING;
            self.free -= units;
            return Ok(at - self.lead);
        }
        self.claim_other(units, align_order)
    }

    /// Claims something else than was released last.
    fn claim_other(&mut self, units: u32, align_order: u32) -> Result<u32, NoWindow> {
        match self.find(units, align_order) {
            Some(at) => {
                self.write(at, units, false);
                self.free -= units;
                Ok(at - self.lead)
            }
            None => Err(self.no_window(units, align_order)),
        }
    }

    #[cold]
    fn no_window(&mut self, units: u32, align_order: u32) -> NoWindow {
        self.flush();
        self.settle();
        NoWindow {
            units,
            align_order,
            free: self.free,
            largest_block: self.filing.largest_block(),
        }
    }

    /// Claims exactly the units from `at` on; `false`, and nothing has changed, unless all exist
    /// and are free. Reads a word for every 64 of them.
    pub fn claim_at(&mut self, at: u32, units: u32) -> bool {
        self.flush();
        let fits = units > 0 && self.first_unlike(at, units, true).is_none();
        if fits {
            self.write(self.lead + at, units, false);
            self.free -= units;
        }
        fits
    }

    /// Gives back `units` claimed units from `at` on, which may be a part of a claim. Reads a word
    /// for every 64 of them, and writes one for every 64 of what was given back before, unless that
    /// was claimed again.
    ///
    /// # Errors
    /// [`NotClaimed`] where one of them is free or does not exist; nothing has changed then.
    #[inline]
    pub fn release(&mut self, at: u32, units: u32) -> Result<(), NotClaimed> {
        self.flush();
        if let Some(first_wrong) = self.first_unlike(at, units, false) {
            return Err(NotClaimed {
                at,
                units,
                first_wrong,
            });
        }
        self.pending = (self.lead + at, units);
        self.free += units;
        Ok(())
    }

    /// Whether a unit is free; one that does not exist is not.
    pub fn is_free(&self, at: u32) -> bool {
        let bit = self.lead.wrapping_add(at);
        let word = self.word((bit / 64) as usize);
        at < self.units && word.is_some_and(|word| word >> (bit % 64) & 1 != 0)
    }

    /// Which of 64 units are free.
    fn word(&self, index: usize) -> Option<u64> {
        let word = *self.chunks.as_flattened().get(index)?;
        let (at, units) = self.pending;
        let first = index as u32 * 64;
        let from = at.max(first);
        let to = (at + units).min(first + 64);
        if from >= to {
            return Some(word);
        }
        Some(word | (u64::MAX >> (64 - (to - from))) << (from - first))
    }

    /// The maximal free runs from the lowest up: first unit and length.
    pub fn free_runs(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        let mut from = 0;
        core::iter::from_fn(move || {
            let (start, len) = self.next_run(from, &mut 0)?;
            from = start + len;
            Some((start - self.lead, len))
        })
    }

    /// The first unit from `at` on that does not exist, or is not free or taken as `free` says.
    /// Nothing is pending.
    #[inline]
    fn first_unlike(&self, at: u32, units: u32, free: bool) -> Option<u32> {
        if at > self.units || units > self.units - at {
            return Some(at.max(self.units));
        }
        let flip = if free { u64::MAX } else { 0 };
        let words = self.chunks.as_flattened();
        let (mut from, end) = (self.lead + at, self.lead + at + units);
        if units > CHUNK_UNITS && from % 64 == 0 {
            let inner = &words[(from / 64) as usize..(end / 64) as usize];
            if inner.iter().fold(0, |wrong, word| wrong | (word ^ flip)) == 0 {
                from = end & !63;
            }
        }
        while from < end {
            let len = (64 - from % 64).min(end - from);
            let mask = (u64::MAX >> (64 - len)) << (from % 64);
            let wrong = (words[(from / 64) as usize] ^ flip) & mask;
            if wrong != 0 {
                return Some((from & !63) + wrong.trailing_zeros() - self.lead);
            }
            from += len;
        }
        None
    }

    /// Writes what was released last.
    #[inline]
    fn flush(&mut self) {
        let (at, units) = self.pending;
        if units > 0 {
            self.pending = NOTHING;
            self.write(at, units, true);
        }
    }

    /// Writes units as free or taken that all were the other.
    fn write(&mut self, at: u32, units: u32, free: bool) {
        if units == 0 {
            return;
        }
        let chunk = at >> CHUNK_ORDER;
        if chunk == (at + units - 1) >> CHUNK_ORDER {
            if chunk != self.open {
                self.settle();
                self.open = chunk;
                self.filed = self.chunks[chunk as usize];
            }
            write_part(
                &mut self.chunks[chunk as usize],
                at % CHUNK_UNITS,
                units,
                free,
            );
        } else {
            self.write_many(at, units, free);
        }
    }

    fn write_many(&mut self, at: u32, units: u32, free: bool) {
        self.settle();
        self.open = NO_CHUNK;
        let (mut from, end) = (at, at + units);
        while from < end {
            let chunk = from >> CHUNK_ORDER;
            let whole = (end - from) >> CHUNK_ORDER;
            if from % CHUNK_UNITS == 0 && whole > 0 {
                self.fill(chunk, whole, free);
                self.filing.set_chunks(chunk, whole, free);
                from += whole << CHUNK_ORDER;
                continue;
            }
            let len = (CHUNK_UNITS - from % CHUNK_UNITS).min(end - from);
            let words = &mut self.chunks[chunk as usize];
            let was = *words;
            write_part(words, from % CHUNK_UNITS, len, free);
            self.filing.refile(chunk, &was, words);
            from += len;
        }
    }

    fn fill(&mut self, first: u32, count: u32, free: bool) {
        let chunks = &mut self.chunks[first as usize..(first + count) as usize];
        // Constants, so that each becomes one fill of bytes.
        match free {
            true => chunks.as_flattened_mut().fill(u64::MAX),
            false => chunks.as_flattened_mut().fill(0),
        }
    }

    /// Files what was changed last.
    #[inline]
    fn settle(&mut self) {
        let Some(now) = self.chunks.get(self.open as usize) else {
            return;
        };
        if *now != self.filed {
            self.filing.refile(self.open, &self.filed, now);
            self.filed = *now;
        }
    }
}

/// Writes `units` bits of a chunk from `at` on.
#[inline]
fn write_part(chunk: &mut Chunk, at: u32, units: u32, free: bool) {
    let (mut from, end) = (at, at + units);
    while from < end {
        let len = (64 - from % 64).min(end - from);
        let mask = (u64::MAX >> (64 - len)) << (from % 64);
        let word = &mut chunk[(from / 64) as usize];
        debug_assert!(if free {
            *word & mask == 0
        } else {
            *word & mask == mask
        });
        *word = if free { *word | mask } else { *word & !mask };
        from += len;
    }
}

impl fmt::Debug for ClaimMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClaimMap")
            .field("units", &self.units)
            .field("free", &self.free)
            .finish_non_exhaustive()
    }
}
