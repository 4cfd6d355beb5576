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
    heights: u8,
    /// One more than the number of the last table that was added; 0 for none.
    pub(crate) tables: u32,
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
    pub fn range(&self) -> Option<IovaRange> {
        IovaRange::between(Iova::from_raw(self.start), Iova::from_raw(self.end))
    }

    /// How many leaf entries were cleared, tables that fell out counted as one each.
    pub fn leaves(&self) -> u64 {
        self.leaves
    }

    /// The height of all leaves that were cleared; `None` where they differ, or where a table fell
    /// out and nobody looked at its leaves.
    pub fn leaf_height(&self) -> Option<u32> {
        let single = self.heights.count_ones() == 1 && !self.frees_tables();
        single.then(|| self.heights.trailing_zeros())
    }

    /// Whether tables fell out of the tree, so that caches of intermediate walks must go too.
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

    #[inline]
    pub(crate) fn add(&mut self, start: u64, end: u64, height: u32, leaves: u64) {
        self.start = self.start.min(start);
        self.end = self.end.max(end);
        self.leaves += leaves;
        self.heights |= 1 << height;
    }
}
