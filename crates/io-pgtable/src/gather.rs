//! What translation caches may still know.

use dmakit_addr::{Address, Iova, IovaRange};

/// What was unmapped since the caches were last invalidated, and the tables that fell out of the
/// tree meanwhile.
///
/// It is the page table's half of an unmap's debt: whoever holds it invalidates, waits until that is
/// complete, and only then calls [`PageTable::recycle`](crate::PageTable::recycle). Forgetting one
/// leaks its tables until the page table is dropped.
#[derive(Debug)]
pub struct Gather {
    /// Above `end` where nothing was unmapped.
    start: u64,
    end: u64,
    leaves: u64,
    /// A bit each, all in the lowest byte. A load that straddles two stores waits until both are in the
    /// cache, and these fields are loaded right after they were stored: so a new gather is stored in
    /// whole words, and this one, to which one byte is added, is loaded as one.
    heights: u32,
    /// One more than the number of the last table that was added; 0 for none.
    pub(crate) tables: u32,
}

/// Tables that fell out of the tree, which hardware may still walk: what is left of a [`Gather`] once
/// its invalidation is queued. Forgetting one leaks its tables until the page table is dropped.
#[derive(Debug, Default)]
pub struct FallenTables {
    /// One more than the number of the last one; 0 for none.
    pub(crate) last: u32,
}

impl From<Gather> for FallenTables {
    #[inline]
    fn from(gather: Gather) -> Self {
        Self {
            last: gather.tables,
        }
    }
}

impl Default for Gather {
    fn default() -> Self {
        Self::new()
    }
}

impl Gather {
    /// Nothing to invalidate.
    pub const fn new() -> Self {
        Self {
            start: u64::MAX,
            end: 0,
            leaves: 0,
            heights: 0,
            tables: 0,
        }
    }

    /// The least range that covers all that was unmapped; `None` where nothing was.
    #[inline]
    pub fn range(&self) -> Option<IovaRange> {
        IovaRange::between(Iova::from_raw(self.start), Iova::from_raw(self.end))
    }

    /// Where [`range`](Self::range) starts; above all of them where nothing was unmapped.
    #[inline]
    pub fn range_start(&self) -> Iova {
        Iova::from_raw(self.start)
    }

    /// How many leaf entries were cleared, tables that fell out counted as one each.
    pub fn leaves(&self) -> u64 {
        self.leaves
    }

    /// The height of all leaves that were cleared; `None` where they differ, or where a table fell
    /// out and nobody looked at its leaves.
    #[inline]
    pub fn leaf_height(&self) -> Option<u32> {
        let single = (self.heights as u8).is_power_of_two() && !self.frees_tables();
        single.then(|| (self.heights as u8).trailing_zeros())
    }

    /// Whether tables fell out of the tree, so that caches of intermediate walks must go too.
    #[inline]
    pub fn frees_tables(&self) -> bool {
        self.tables != 0
    }

    /// Whether there is nothing to invalidate.
    pub fn is_empty(&self) -> bool {
        self.start > self.end
    }

    /// Whether `range` starts or ends where the gathered one ends or starts, or overlaps it, so
    /// that adding it invalidates nothing else.
    pub fn joins(&self, range: &IovaRange) -> bool {
        self.is_empty() || range.start().raw() <= self.end && self.start <= range.end().raw()
    }

    /// Takes in a gather that begins or ends where this one ends or begins, so that both are forgotten
    /// as one, and as exactly: leaves alike, and no tables.
    ///
    /// # Errors
    /// The other one, where they must be forgotten apart.
    #[inline]
    pub fn join(&mut self, other: Self) -> Result<(), Self> {
        let is_near = self.end == other.start || self.start == other.end;
        let is_alike = self.heights == other.heights && self.tables | other.tables == 0;
        if !(is_near && is_alike) {
            return Err(other);
        }
        self.start = self.start.min(other.start);
        self.end = self.end.max(other.end);
        self.leaves += other.leaves;
        Ok(())
    }

    #[inline]
    pub(crate) fn add(&mut self, start: u64, end: u64, height: u32, leaves: u64) {
        self.start = self.start.min(start);
        self.end = self.end.max(end);
        self.leaves += leaves;
        self.heights |= 1 << height;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gather(start: u64, end: u64, height: u32) -> Gather {
        let mut gather = Gather::new();
        gather.add(start, end, height, 1);
        gather
    }

    #[test]
    fn neighbours_join_from_either_side_and_nobody_else_does() {
        let mut one = gather(0x4000, 0x5000, 0);
        assert!(one.join(gather(0x5000, 0x6000, 0)).is_ok());
        assert!(one.join(gather(0x3000, 0x4000, 0)).is_ok());
        assert_eq!(
            one.range(),
            IovaRange::between(Iova::new(0x3000), Iova::new(0x6000))
        );
        assert_eq!((one.leaves(), one.leaf_height()), (3, Some(0)));
        assert!(one.join(gather(0x7000, 0x8000, 0)).is_err(), "a gap");
        assert!(one.join(gather(0x20_0000, 0x40_0000, 1)).is_err());
        assert!(
            one.join(gather(0x6000, 0x20_6000, 1)).is_err(),
            "other leaves"
        );
        let mut fallen = gather(0x6000, 0x7000, 0);
        fallen.tables = 1;
        assert!(one.join(fallen).is_err(), "tables");
        assert!(one.join(Gather::new()).is_err(), "nothing");
    }
}
