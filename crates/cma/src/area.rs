//! A contiguous area: one lock, one or several runs of frames.

use alloc::vec::Vec;
use core::fmt;

use dmakit_addr::{Address, Pfn, PfnRange};
use dmakit_platform::{IrqMutex, Platform};

use crate::{ClaimMap, NoWindow, NotClaimed, Scans};

/// Why no area can be made of some ranges.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AreaError {
    /// There is none, or more than [`Area::RANGES_MAX`].
    Count(usize),
    /// A range is empty, too long, or its ends are not multiples of the unit.
    Range {
        /// The range.
        range: PfnRange,
        /// Frames of a unit.
        unit_frames: u64,
    },
    /// A range does not lie above the one before it.
    Order(PfnRange),
    /// The unit has an order of 64 or more.
    Unit(u32),
}

impl fmt::Display for AreaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "an area has 1 to {} ranges, not {count}", RANGES_MAX),
            Self::Range { range, unit_frames } => write!(
                f,
                "frames {range} are not a run of 1 to {} units of {unit_frames} frames",
                ClaimMap::UNITS_MAX
            ),
            Self::Order(range) => write!(f, "frames {range} do not lie above the range before"),
            Self::Unit(order) => write!(f, "a unit of 2^{order} frames is too large"),
        }
    }
}

impl core::error::Error for AreaError {}

/// Frames that cannot be given back; nothing has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReleaseError {
    /// They do not lie in one range of this area, or do not start with a unit.
    NotHere(PfnRange),
    /// Not all of them are claimed.
    NotClaimed {
        /// The frames.
        frames: PfnRange,
        /// Which unit was wrong, counted from the start of its range.
        error: NotClaimed,
    },
}

impl fmt::Display for ReleaseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotHere(frames) => write!(f, "frames {frames} are not of this area"),
            Self::NotClaimed { frames, error } => write!(f, "frames {frames}: {error}"),
        }
    }
}

impl core::error::Error for ReleaseError {}

/// How full an area is, in frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AreaUse {
    /// All frames.
    pub frames: u64,
    /// Those not claimed.
    pub free: u64,
    /// Searches that took more than a bounded number of steps.
    pub scans: Scans,
}

pub(crate) const RANGES_MAX: usize = 8;

struct Part {
    range: PfnRange,
    map: ClaimMap,
}

/// The books of a contiguous area, shared between CPUs.
///
/// It is made of up to eight ranges; a claim lies in one of them, the lowest that has room. Frames
/// are counted in units of 2^n: a claim takes whole units. What is claimed here is excluded from
/// other claims, no more: whether somebody borrowed the frames meanwhile is not known here.
///
/// Every call takes the area's one lock, never sleeps and may be made in hard interrupts.
pub struct Area<P: Platform> {
    unit_order: u32,
    parts: IrqMutex<P, Vec<Part>>,
}

impl<P: Platform> Area<P> {
    /// The greatest number of ranges.
    pub const RANGES_MAX: usize = RANGES_MAX;

    /// An area of `ranges`, ascending, none of them claimed, in units of 2^`unit_order` frames.
    /// Allocates.
    ///
    /// # Errors
    /// [`AreaError`] says what is wrong with the ranges.
    pub fn new(ranges: &[PfnRange], unit_order: u32) -> Result<Self, AreaError> {
        if ranges.is_empty() || ranges.len() > RANGES_MAX {
            return Err(AreaError::Count(ranges.len()));
        }
        let unit_frames = 1_u64
            .checked_shl(unit_order)
            .ok_or(AreaError::Unit(unit_order))?;
        let mut parts: Vec<Part> = Vec::with_capacity(ranges.len());
        for range in ranges.iter().copied() {
            let units = range.len() >> unit_order;
            let aligned = range.start().is_aligned(unit_frames) && range.len() % unit_frames == 0;
            if !aligned || units == 0 || units > u64::from(ClaimMap::UNITS_MAX) {
                return Err(AreaError::Range { range, unit_frames });
            }
            if parts
                .last()
                .is_some_and(|part| part.range.end() > range.start())
            {
                return Err(AreaError::Order(range));
            }
            let map = ClaimMap::new(range.start().raw() >> unit_order, units as u32);
            parts.push(Part { range, map });
        }
        Ok(Self {
            unit_order,
            parts: IrqMutex::<P, _>::new(parts),
        })
    }

    /// Claims `frames` frames whose first is aligned to 2^`align_order` frames. It fails only where
    /// no range has such a window; [`ClaimMap::claim`] says what it costs.
    ///
    /// # Errors
    /// [`NoWindow`] with the numbers, in units, of the range that came closest; nothing has changed
    /// then.
    #[inline]
    pub fn claim(&self, frames: u64, align_order: u32) -> Result<PfnRange, NoWindow> {
        let align_order = align_order.saturating_sub(self.unit_order);
        let units = u32::try_from(self.units(frames)).unwrap_or(u32::MAX);
        let mut refused = NoWindow {
            units,
            align_order,
            free: 0,
            largest_block: 0,
        };
        for part in self.parts.lock().iter_mut() {
            match part.map.claim(units, align_order) {
                Ok(at) => {
                    let start = part.range.start().raw() + (u64::from(at) << self.unit_order);
                    // The window lies inside the range, and ranges do not pass the end.
                    return PfnRange::new(Pfn::new(start), frames).map_err(|_| refused);
                }
                Err(error) if error.largest_block >= refused.largest_block => refused = error,
                Err(_) => {}
            }
        }
        Err(refused)
    }

    /// Claims exactly these frames, whole units; `false`, and nothing has changed, unless all are of
    /// one range and free. Reads a word for every 64 units.
    pub fn claim_at(&self, frames: PfnRange) -> bool {
        let mut parts = self.parts.lock();
        let Some((part, at)) = find(&mut parts, self.unit_order, frames) else {
            return false;
        };
        part.map.claim_at(at, self.units(frames.len()) as u32)
    }

    /// Gives claimed frames back, whole units of them: all of a claim, or a part.
    ///
    /// # Errors
    /// [`ReleaseError`]: they are of another owner, or not claimed. Nothing has changed then.
    #[inline]
    pub fn release(&self, frames: PfnRange) -> Result<(), ReleaseError> {
        let mut parts = self.parts.lock();
        let here = find(&mut parts, self.unit_order, frames);
        let (part, at) = here.ok_or(ReleaseError::NotHere(frames))?;
        // Below the units of a range, which fit.
        let released = part.map.release(at, self.units(frames.len()) as u32);
        released.map_err(|error| ReleaseError::NotClaimed { frames, error })
    }

    /// Whether a frame lies in the area. Takes the lock.
    pub fn contains(&self, frame: Pfn) -> bool {
        self.parts
            .lock()
            .iter()
            .any(|part| part.range.contains(frame))
    }

    /// How full it is.
    pub fn usage(&self) -> AreaUse {
        let mut sum = AreaUse::default();
        for part in self.parts.lock().iter() {
            let scans = part.map.scans();
            sum.frames += part.range.len();
            sum.free += u64::from(part.map.free()) << self.unit_order;
            sum.scans.searches += scans.searches;
            sum.scans.words += scans.words;
        }
        sum
    }

    fn units(&self, frames: u64) -> u64 {
        let mask = (1 << self.unit_order) - 1;
        (frames >> self.unit_order) + u64::from(frames & mask != 0)
    }
}

/// The range that holds these frames, and which of its units is their first.
#[inline]
fn find(parts: &mut [Part], unit_order: u32, frames: PfnRange) -> Option<(&mut Part, u32)> {
    let mut parts = parts.iter_mut();
    let part = parts.find(|part| part.range.contains_range(&frames))?;
    let offset = frames.start().offset_from(part.range.start())?;
    // Below the units of a range, which fit.
    (offset % (1 << unit_order) == 0).then_some((part, (offset >> unit_order) as u32))
}

impl<P: Platform> fmt::Debug for Area<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Area")
            .field("unit_order", &self.unit_order)
            .field("usage", &self.usage())
            .finish()
    }
}
