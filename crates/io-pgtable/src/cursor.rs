//! Many small leaves, one after the other.

use core::sync::atomic::Ordering;

use dmakit_addr::{IovaRange, PhysAddr};
use dmakit_platform::{Platform, TableMemory};

use crate::sync::Word;
use crate::{Format, MapError, PageTable, Permissions};

/// Fills leaves one after the other, and keeps the leaf table at hand that it filled last: one
/// compare, one load and one store for a page that lies there.
///
/// It belongs to the holder of a range of addresses, who alone maps and unmaps there: so that table
/// does not fall out of the tree meanwhile.
pub struct Cursor<'a, F: Format, P: Platform, M: TableMemory> {
    table: &'a PageTable<F, P, M>,
    permissions: Permissions,
    /// Of the smallest leaves.
    bits: u64,
    words: &'a [Word],
    /// What the first of the words maps.
    first: u64,
}

impl<F: Format, P: Platform, M: TableMemory> PageTable<F, P, M> {
    /// A cursor for leaves that allow this.
    #[inline(always)]
    pub fn cursor(&self, permissions: Permissions) -> Cursor<'_, F, P, M> {
        Cursor {
            table: self,
            permissions,
            bits: self.format.leaf(0, permissions),
            words: &[],
            first: 0,
        }
    }
}

impl<F: Format, P: Platform, M: TableMemory> Cursor<'_, F, P, M> {
    /// Maps `range` to the memory at `phys`, as [`PageTable::map`].
    ///
    /// # Errors
    /// [`MapError`]: nothing of the range is mapped then.
    #[inline(never)]
    pub fn map(&mut self, range: IovaRange, phys: PhysAddr) -> Result<(), MapError> {
        let (start, granule) = (range.start().raw(), self.table.format.geometry().granule());
        let is_whole = (start | phys.raw()) & granule.mask() == 0;
        if range.len() == granule.bytes() && is_whole && self.map_granule(start, phys) {
            return Ok(());
        }
        self.table.map(range, phys, self.permissions)
    }

    /// Maps one granule, both addresses multiples of it, where its table is at hand or remembered and
    /// nothing is mapped there; false where [`map`](Self::map) has to.
    #[inline(always)]
    pub fn map_granule(&mut self, start: u64, phys: PhysAddr) -> bool {
        if phys.raw() >> self.table.plain_bits != 0 {
            return false;
        }
        self.fill(start, phys) || self.find(start) && self.fill(start, phys)
    }

    /// Fills one leaf of the table at hand; false where it lies elsewhere or is taken.
    #[inline(always)]
    fn fill(&self, start: u64, phys: PhysAddr) -> bool {
        let shift = self.table.format.geometry().granule().shift();
        let index = (start.wrapping_sub(self.first) >> shift) as usize;
        let free = self
            .words
            .get(index)
            .filter(|word| word.load(Ordering::Relaxed) == 0);
        free.is_some_and(|word| {
            // Its address stands in an entry as it is.
            word.store(self.bits | phys.raw(), Ordering::Relaxed);
            true
        })
    }

    /// Takes the table for an address to hand, where one is remembered. Entries that are to be
    /// cleaned, and those that could be one of a group, go the long way.
    #[inline(always)]
    fn find(&mut self, start: u64) -> bool {
        if self.table.cleans || !self.table.hints[0].are_whole(start, 0) {
            return false;
        }
        let Some((table, ..)) = self.table.at_hand(0, start) else {
            return false;
        };
        let shift = self.table.format.geometry().granule().shift();
        self.words = table.words();
        self.first = start & !(((self.words.len() as u64) << shift) - 1);
        true
    }
}
