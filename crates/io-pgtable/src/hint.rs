//! Tables that were used lately, found without a walk.
//!
//! The arena keeps some tables of each height at hand: one for each low part of what they map, the
//! last one put there. A table itself says what it maps, from when the tree leads to it until it is
//! taken out. So a place that holds another table, or one that has left, finds nothing; and nobody
//! has to look through the places when tables leave.
//!
//! Whoever looks works on addresses which the table would map, so that nobody takes it out meanwhile;
//! and who gets these addresses next sees what was taken out before.

use core::sync::atomic::Ordering;

use dmakit_platform::{Platform, TableMemory};

use crate::sync::Word;
use crate::table::Table;
use crate::{Format, PageTable};

/// How many tables of each height are at hand, as long as there is no other for the same place: with
/// 4 KiB granules the leaf tables of 1 GiB of addresses in one piece, in 4 KiB of records.
const PLACES: [usize; 3] = if cfg!(loom) {
    // The model checker pays for every atomic.
    [2, 2, 2]
} else {
    [512, 8, 8]
};

/// All of them.
pub(crate) const PLACES_ALL: usize = PLACES[0] + PLACES[1] + PLACES[2];

/// Where a table says that it maps nothing: no address of a tree is near.
pub(crate) const NOWHERE: u64 = 1 << 63;

/// Above the addresses of every tree: a table's height, so that one which was used again at another
/// height is not taken for one of this.
const HEIGHT_SHIFT: u32 = 60;

/// The tables at hand of one height, and what can be done to their entries one by one.
pub(crate) struct Hints {
    /// log2 of what one table maps.
    table_shift: u32,
    /// log2 of what one entry maps.
    entry_shift: u32,
    /// What one entry maps.
    pub(crate) entry_bytes: u64,
    /// Bits that are clear in what whole entries map, and above the addresses of the tree; all of them
    /// where entries are not written one by one.
    at_mask: u64,
    /// Bits that are clear in where whole entries lead, as long as that stands in them as it is.
    to_mask: u64,
}

impl Hints {
    /// For each height that has hints. Output addresses of `plain_bits` stand in an entry as they are.
    pub(crate) fn of<F: Format>(format: &F, plain_bits: u32) -> [Self; PLACES.len()] {
        let geometry = format.geometry();
        [0, 1, 2].map(|height| {
            let is_free =
                format.contiguous(height).is_none() && (height == 0 || format.has_leaves(height));
            let entry_bytes = geometry.span(height);
            let mask = |bits: u32| match is_free {
                true => (entry_bytes - 1) | (u64::MAX << bits),
                false => u64::MAX,
            };
            Self {
                table_shift: geometry.shift(height + 1),
                entry_shift: geometry.shift(height),
                entry_bytes,
                at_mask: mask(geometry.input_bits()),
                to_mask: mask(plain_bits),
            }
        })
    }

    /// Whether `[at, at + len)` is whole entries that may be written one by one, at addresses of the
    /// tree; of those behind `at` the first only.
    #[inline(always)]
    pub(crate) fn are_whole(&self, at: u64, len: u64) -> bool {
        (at | len) & self.at_mask == 0
    }

    /// Whether entries that lead to `to`, the first of them, are that and their bits.
    #[inline(always)]
    pub(crate) fn is_plain(&self, to: u64) -> bool {
        to & self.to_mask == 0
    }

    /// How many entries map so many bytes.
    #[inline(always)]
    pub(crate) fn count(&self, len: u64) -> usize {
        (len >> self.entry_shift) as usize
    }

    /// The place of the table at `height` that maps an address.
    #[inline(always)]
    fn place(&self, height: usize, at: u64) -> usize {
        let first: usize = PLACES[..height].iter().sum();
        first + ((at >> self.table_shift) as usize & (PLACES[height] - 1))
    }
}

impl<F: Format, P: Platform, M: TableMemory> PageTable<F, P, M> {
    /// The entry at `height` for an address that the tree has, where its table is at hand: the table,
    /// the entry's index, and the entry.
    #[inline(always)]
    pub(crate) fn at_hand(&self, height: usize, at: u64) -> Option<(&Table, usize, &Word)> {
        let hints = self.hints.get(height)?;
        let table = self.tables.kept(hints.place(height, at))?;
        // Acquire: what it says is the last thing that its maker wrote.
        let start = table.start.load(Ordering::Acquire);
        let offset = (at | (height as u64) << HEIGHT_SHIFT).wrapping_sub(start);
        let index = (offset >> hints.entry_shift) as usize;
        Some((table, index, table.words().get(index)?))
    }

    /// As [`at_hand`](Self::at_hand), for the entry that alone maps `[at, at + len)` and has no table
    /// under it.
    #[inline(always)]
    pub(crate) fn entry_at_hand(
        &self,
        height: usize,
        at: u64,
        len: u64,
    ) -> Option<(&Table, usize, &Word)> {
        let hints = self.hints.get(height)?;
        if len != hints.entry_bytes || !hints.are_whole(at, len) {
            return None;
        }
        let (table, index, word) = self.at_hand(height, at)?;
        if height > 0 && table.child(index).is_some() {
            return None;
        }
        Some((table, index, word))
    }

    /// As [`at_hand`](Self::at_hand), for the entries at height 0 that map `[at, at + len)`: some, but
    /// not all of a table's.
    #[inline(always)]
    pub(crate) fn entries_at_hand(&self, at: u64, len: u64) -> Option<(&Table, usize, &[Word])> {
        let hints = &self.hints[0];
        if !hints.are_whole(at, len) {
            return None;
        }
        let (table, first, _) = self.at_hand(0, at)?;
        let count = hints.count(len);
        let words = table.words().get(first..first.wrapping_add(count))?;
        (0 < count && count < table.words().len()).then_some((table, first, words))
    }

    /// Keeps the table at `height` at hand that maps `at`, an address of the caller's own range.
    #[inline]
    pub(crate) fn remember(&self, height: u32, at: u64, number: u32) {
        // The root always is.
        if height < self.format.geometry().root_height() {
            if let Some(hints) = self.hints.get(height as usize) {
                let place = hints.place(height as usize, at);
                self.tables.keep(place, number as usize);
            }
        }
    }

    /// Has a table say what it maps: the tree leads to it, and all its entries are written.
    pub(crate) fn name(&self, table: &Table, height: u32, at: u64) {
        let bytes = self.format.geometry().span(height + 1);
        let start = at & !(bytes - 1) | u64::from(height) << HEIGHT_SHIFT;
        table.start.store(start, Ordering::Release);
    }

    /// Has a table that left the tree, and all below it, say that it maps nothing.
    pub(crate) fn forget(&self, table: &Table) {
        // Who could take it for a table of his own addresses got them from us.
        table.start.store(NOWHERE, Ordering::Relaxed);
        for slot in &table.below {
            let child = slot.load(Ordering::Relaxed).checked_sub(1);
            if let Some(child) = child.and_then(|number| self.tables.get(number as usize)) {
                self.forget(child);
            }
        }
    }
}
