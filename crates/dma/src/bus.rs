//! How a device's bus shows memory: at which DMA addresses which physical runs lie.

use core::fmt;

use dmakit_addr::{Address, DmaAddr, DmaMask, DmaRange, PhysAddr, PhysRange};

/// One run of memory and where a device's bus shows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BusRange {
    /// The memory.
    pub phys: PhysRange,
    /// The DMA address of its first byte.
    pub dma: DmaAddr,
}

/// Where a device's bus shows memory.
///
/// Without ranges DMA addresses have the numbers of physical ones. With ranges, memory outside all
/// of them cannot be reached (devicetree `dma-ranges`, Linux's `dma_range_map`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BusMap<'m> {
    ranges: Option<&'m [BusRange]>,
}

/// Bus ranges that cannot be one device's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum BusMapError {
    /// A range is empty, or its DMA addresses pass the end of the space.
    Malformed(BusRange),
    /// Two ranges share memory or DMA addresses.
    Overlap(BusRange, BusRange),
}

impl fmt::Display for BusMapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(BusRange { phys, dma }) => {
                write!(f, "{phys} at DMA address {dma} is no bus range")
            }
            Self::Overlap(one, other) => write!(
                f,
                "{} at DMA address {} and {} at DMA address {} overlap",
                one.phys, one.dma, other.phys, other.dma
            ),
        }
    }
}

impl core::error::Error for BusMapError {}

impl BusRange {
    /// The DMA addresses of the run; `None` where they pass the end of the space.
    pub fn dma_range(&self) -> Option<DmaRange> {
        DmaRange::new(self.dma, self.phys.len()).ok()
    }

    /// The part of the run whose DMA addresses are at or below `reach`.
    fn within(&self, reach: DmaMask) -> Option<PhysRange> {
        let room = reach.last().checked_sub(self.dma.raw())?;
        let len = self.phys.len().min(room.saturating_add(1));
        self.phys.slice(0, len)
    }
}

impl<'m> BusMap<'m> {
    /// DMA addresses are physical ones.
    pub const IDENTITY: Self = Self { ranges: None };

    /// Memory at `ranges` and nowhere else.
    ///
    /// # Errors
    /// [`BusMapError`] where a range is malformed or two overlap, on either side: an address that
    /// two ranges claim would not have one translation. O(ranges²), once per device.
    pub fn new(ranges: &'m [BusRange]) -> Result<Self, BusMapError> {
        for (i, range) in ranges.iter().enumerate() {
            let Some(dma) = range.dma_range().filter(|dma| !dma.is_empty()) else {
                return Err(BusMapError::Malformed(*range));
            };
            let clash = ranges[..i].iter().find(|other| {
                other.phys.overlaps(&range.phys)
                    || other.dma_range().is_some_and(|other| other.overlaps(&dma))
            });
            if let Some(other) = clash {
                return Err(BusMapError::Overlap(*other, *range));
            }
        }
        Ok(Self {
            ranges: Some(ranges),
        })
    }

    /// Where the bus shows `run`; `None` where no one range holds all of it.
    #[inline]
    pub fn dma(&self, run: PhysRange) -> Option<DmaRange> {
        let start = match self.ranges {
            None => DmaAddr::new(run.start().raw()),
            Some(ranges) => {
                let range = ranges
                    .iter()
                    .find(|range| range.phys.contains_range(&run))?;
                let offset = run.start().offset_from(range.phys.start())?;
                range.dma.checked_add(offset)?
            }
        };
        DmaRange::new(start, run.len()).ok()
    }

    /// The memory that the bus shows at `dma`; `None` where no one range holds all of it.
    pub fn phys(&self, dma: DmaRange) -> Option<PhysRange> {
        let start = match self.ranges {
            None => PhysAddr::new(dma.start().raw()),
            Some(ranges) => {
                let range = ranges.iter().find(|range| {
                    range
                        .dma_range()
                        .is_some_and(|known| known.contains_range(&dma))
                })?;
                let offset = dma.start().offset_from(range.dma)?;
                range.phys.start().checked_add(offset)?
            }
        };
        PhysRange::new(start, dma.len()).ok()
    }

    /// The lowest run of memory that begins at or above `from`, or goes on there, and whose DMA
    /// addresses are at or below `reach`.
    pub(crate) fn next_reachable(&self, from: PhysAddr, reach: DmaMask) -> Option<PhysRange> {
        let top = PhysAddr::new(u64::MAX);
        let Some(ranges) = self.ranges else {
            // The last address of the space belongs to no range, so the end saturates there.
            let end = PhysAddr::new(reach.last()).checked_add(1).unwrap_or(top);
            return PhysRange::between(from, end).filter(|run| !run.is_empty());
        };
        ranges
            .iter()
            .filter_map(|range| {
                let run = range.within(reach)?;
                PhysRange::between(run.start().max(from), run.end())
            })
            .filter(|run| !run.is_empty())
            .min_by_key(|run| run.start())
    }
}

impl<'m> BusMap<'m> {
    /// What must be added to physical addresses, wrapping, to get the device's; for each range.
    pub(crate) fn offsets(&self, reach: DmaMask) -> impl Iterator<Item = Offset> + use<'m> {
        let identity = self.ranges.is_none().then_some(Offset { offset: 0, reach });
        let ranges = self.ranges.unwrap_or_default().iter();
        identity.into_iter().chain(ranges.map(move |range| {
            let last = range.dma.raw() + (range.phys.len() - 1);
            Offset {
                offset: range.dma.raw().wrapping_sub(range.phys.start().raw()),
                reach: reach.intersect(DmaMask::up_to(last)),
            }
        }))
    }
}

/// One way from physical addresses to a device's.
#[derive(Clone, Copy)]
pub(crate) struct Offset {
    pub(crate) offset: u64,
    /// The highest DMA address of this way.
    pub(crate) reach: DmaMask,
}

impl Default for BusMap<'_> {
    fn default() -> Self {
        Self::IDENTITY
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phys(start: u64, len: u64) -> PhysRange {
        PhysRange::new(PhysAddr::new(start), len).unwrap()
    }

    fn range(start: u64, len: u64, dma: u64) -> BusRange {
        BusRange {
            phys: phys(start, len),
            dma: DmaAddr::new(dma),
        }
    }

    #[test]
    fn each_range_has_its_own_offset_and_nothing_lies_between() {
        let ranges = [range(0, 0x1000, 0xc000_0000), range(0x8000, 0x1000, 0)];
        let map = BusMap::new(&ranges).unwrap();
        let high = map.dma(phys(0x10, 4)).unwrap();
        assert_eq!(high.start(), DmaAddr::new(0xc000_0010));
        assert_eq!(map.dma(phys(0x8ff0, 0x10)).unwrap().start().raw(), 0xff0);
        assert_eq!(map.dma(phys(0x8ff0, 0x11)), None, "runs out of its range");
        assert_eq!(map.dma(phys(0x2000, 1)), None);
        assert_eq!(map.phys(high), Some(phys(0x10, 4)));
        let below = DmaRange::new(DmaAddr::new(0xbfff_ffff), 2).unwrap();
        assert_eq!(map.phys(below), None);
    }

    #[test]
    fn ranges_that_overlap_on_either_side_are_refused() {
        let same_phys = [range(0, 0x1000, 0), range(0xfff, 1, 0x8000)];
        let same_dma = [range(0, 0x1000, 0), range(0x8000, 0x1000, 0xfff)];
        for ranges in [same_phys, same_dma] {
            let refused = BusMap::new(&ranges).unwrap_err();
            assert_eq!(refused, BusMapError::Overlap(ranges[0], ranges[1]));
        }
        let wraps = [range(0, 2, u64::MAX - 1)];
        assert_eq!(BusMap::new(&wraps), Err(BusMapError::Malformed(wraps[0])));
    }

    #[test]
    fn a_mask_cuts_the_bus_side_not_the_physical_side() {
        let ranges = [range(0, 0x1000, 0x10_0000), range(0x9000_0000, 0x1000, 0)];
        let map = BusMap::new(&ranges).unwrap();
        let reach = DmaMask::up_to(0xffff);
        let found = map.next_reachable(PhysAddr::new(0), reach);
        assert_eq!(found, Some(phys(0x9000_0000, 0x1000)));
        let rest = map.next_reachable(PhysAddr::new(0x9000_0800), DmaMask::up_to(0x8ff));
        assert_eq!(rest, Some(phys(0x9000_0800, 0x100)));
    }
}
