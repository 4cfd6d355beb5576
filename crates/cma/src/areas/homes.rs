//! From a frame to its area.

use alloc::vec::Vec;

use dmakit_addr::{Pfn, PfnRange};

use super::AreaId;

/// The ranges of all areas, ascending.
#[derive(Default)]
pub(crate) struct Homes {
    ranges: Vec<(PfnRange, AreaId)>,
}

impl Homes {
    /// So many areas at most: with [`RANGES_MAX`](crate::Area::RANGES_MAX) ranges each, a search
    /// takes ten steps.
    pub(crate) const AREAS_MAX: usize = 64;

    pub(crate) fn add(&mut self, ranges: &[PfnRange], area: AreaId) {
        self.ranges
            .extend(ranges.iter().map(|range| (*range, area)));
        self.ranges.sort_unstable_by_key(|(range, _)| range.start());
    }

    #[inline]
    pub(crate) fn find(&self, frame: Pfn) -> Option<AreaId> {
        let after = self
            .ranges
            .partition_point(|(range, _)| range.start() <= frame);
        let (range, area) = self.ranges.get(after.checked_sub(1)?)?;
        range.contains(frame).then_some(*area)
    }
}
