//! Unmapping, and what becomes of tables that fall out.

use core::sync::atomic::Ordering;

use dmakit_addr::{Address, Iova, IovaRange};
use dmakit_platform::{Platform, TableMemory};

use crate::map::AT_ONCE;
use crate::sync::Word;
use crate::table::Table;
use crate::{FallenTables, Format, Gather, PageTable, UnmapError};

impl<F: Format, P: Platform, M: TableMemory> PageTable<F, P, M> {
    /// Clears the entries of `range`, all of it mapped, and adds it to `gather`.
    ///
    /// Never sleeps. Until the caches are invalidated hardware may still use what was mapped.
    ///
    /// # Errors
    /// [`UnmapError`].
    #[inline(always)]
    pub fn unmap(&self, range: IovaRange, gather: &mut Gather) -> Result<(), UnmapError> {
        let (at, len) = (range.start().raw(), range.len());
        match self.unmap_entry(0, at, len, gather) {
            Some(()) => Ok(()),
            None => self.unmap_more(range, gather),
        }
    }

    /// Clears a single entry of a table at hand that is present. There is no room for a larger leaf,
    /// which the ends could cut.
    #[inline(always)]
    fn unmap_entry(&self, height: usize, at: u64, len: u64, gather: &mut Gather) -> Option<()> {
        let (table, index, word) = self.entry_at_hand(height, at, len)?;
        if !self.format.is_present(word.load(Ordering::Relaxed)) {
            return None;
        }
        word.store(0, Ordering::Relaxed);
        self.clean(table, index, 1);
        gather.add(at, at + len, height as u32, 1);
        Some(())
    }

    /// Unmaps a block, or several entries.
    #[inline(never)]
    fn unmap_more(&self, range: IovaRange, gather: &mut Gather) -> Result<(), UnmapError> {
        let (at, len) = (range.start().raw(), range.len());
        let is_block = self.unmap_entry(1, at, len, gather).is_some()
            || self.unmap_entry(2, at, len, gather).is_some();
        match is_block {
            true => Ok(()),
            // In a function of its own, so that a block does not save its registers.
            false => self.unmap_entries_or_any(range, gather),
        }
    }

    /// Unmaps several entries.
    #[inline(never)]
    fn unmap_entries_or_any(
        &self,
        range: IovaRange,
        gather: &mut Gather,
    ) -> Result<(), UnmapError> {
        let (at, len) = (range.start().raw(), range.len());
        if let Some((table, index, words)) = self.entries_at_hand(at, len) {
            // The table leaves no room for a larger leaf, which the ends could cut.
            return match self.clear(table, 0, index, words, at, gather) {
                bytes if bytes == len => Ok(()),
                _ => Err(UnmapError::Absent(range)),
            };
        }
        self.unmap_any(range, gather)
    }

    /// Unmaps without a short way.
    #[inline(never)]
    fn unmap_any(&self, range: IovaRange, gather: &mut Gather) -> Result<(), UnmapError> {
        let (mut at, end) = self.checked(range)?;
        self.refuse_cut_leaf(range, at)?;
        self.refuse_cut_leaf(range, end)?;
        while at < end {
            match self.unmap_run(at, end, gather) {
                0 => return Err(UnmapError::Absent(range)),
                bytes => at += bytes,
            }
        }
        Ok(())
    }

    /// Takes every table out of the tree that maps nothing and lies in `range` as a whole, and adds
    /// it to `gather`. Leaves stay.
    ///
    /// Tables emptied piece by piece stay in the tree until then, so that mapping there again needs
    /// none. The caller owns all addresses of `range`: nobody maps or unmaps there meanwhile. Never
    /// sleeps; O(tables in the range).
    ///
    /// # Errors
    /// [`UnmapError::Range`].
    pub fn prune(&self, range: IovaRange, gather: &mut Gather) -> Result<(), UnmapError> {
        let (at, end) = self.checked(range)?;
        self.prune_below(
            self.root,
            self.format.geometry().root_height(),
            0,
            (at, end),
            gather,
        );
        Ok(())
    }

    /// Takes the tables of a gather back into the stock.
    ///
    /// To be called only after every cache that may know them was invalidated, and that is complete.
    #[inline]
    pub fn recycle(&self, fallen: impl Into<FallenTables>) {
        let FallenTables { last } = fallen.into();
        if last != 0 {
            self.recycle_from(last);
        }
    }

    #[cold]
    fn recycle_from(&self, last: u32) {
        let mut next = last;
        while let Some(number) = next.checked_sub(1) {
            next = self
                .tables
                .get(number as usize)
                .map_or(0, |t| t.next.load(Ordering::Relaxed));
            self.recycle_tree(number);
        }
    }

    #[inline]
    pub(crate) fn checked(&self, range: IovaRange) -> Result<(u64, u64), UnmapError> {
        let geometry = self.format.geometry();
        let (at, end) = (range.start().raw(), range.end().raw());
        let inside = end
            .checked_sub(1)
            .is_some_and(|last| last >> geometry.input_bits() == 0);
        if range.is_empty() || (at | end) & geometry.granule().mask() != 0 || !inside {
            return Err(UnmapError::Range(range));
        }
        Ok((at, end))
    }

    /// Unmaps what one table, or one entry of a higher one, holds of `[at, end)`: how many bytes;
    /// none where nothing is mapped.
    fn unmap_run(&self, at: u64, end: u64, gather: &mut Gather) -> u64 {
        let geometry = self.format.geometry();
        if let Some((table, index, _)) = self.at_hand(0, at) {
            // A whole leaf table falls out from above.
            let whole = at & (geometry.span(1) - 1) == 0 && end - at >= geometry.span(1);
            if !whole {
                return self.clear_from(table, 0, index, at, end, gather);
            }
        }
        let mut number = self.root;
        let mut height = geometry.root_height();
        while let Some(table) = self.tables.get(number as usize) {
            let index = geometry.index(at, height);
            let Some(child) = table.child(index) else {
                self.remember(height, at, number);
                return self.clear_from(table, height, index, at, end, gather);
            };
            let span = geometry.span(height);
            if at & (span - 1) == 0 && end - at >= span {
                self.cut(table, height, index, at, child, gather);
                return span;
            }
            number = child;
            height -= 1;
        }
        0
    }

    /// As [`clear`](Self::clear), from `index` as far as the table's leaves go, or to `end`.
    pub(crate) fn clear_from(
        &self,
        table: &Table,
        height: u32,
        index: usize,
        at: u64,
        end: u64,
        gather: &mut Gather,
    ) -> u64 {
        let count = (end - at) >> self.format.geometry().shift(height);
        let count = count.min((table.words().len() - index) as u64) as usize;
        // Leaves end where a table below begins.
        let leaves = table.leaves_from(index..index + count);
        let words = table.words().get(index..index + leaves).unwrap_or(&[]);
        self.clear(table, height, index, words, at, gather)
    }

    /// Clears leaves, entries of a table from `first` on with no table under them, up to the first
    /// that is absent: how many bytes they mapped.
    #[inline(always)]
    fn clear(
        &self,
        table: &Table,
        height: u32,
        first: usize,
        words: &[Word],
        at: u64,
        gather: &mut Gather,
    ) -> u64 {
        let done = self.clear_words(words);
        if done == 0 {
            return 0;
        }
        self.clean(table, first, done);
        let bytes = (done as u64) << self.format.geometry().shift(height);
        gather.add(at, at + bytes, height, done as u64);
        bytes
    }

    /// Clears words up to the first that refers to nothing: how many.
    #[inline(always)]
    fn clear_words(&self, words: &[Word]) -> usize {
        let is_present = |word: &Word| self.format.is_present(word.load(Ordering::Relaxed));
        let mut done = 0;
        for some in words.chunks_exact(AT_ONCE) {
            if !some.iter().fold(true, |all, word| all & is_present(word)) {
                break;
            }
            some.iter()
                .for_each(|word| word.store(0, Ordering::Relaxed));
            done += AT_ONCE;
        }
        for word in words.iter().skip(done) {
            if !is_present(word) {
                break;
            }
            word.store(0, Ordering::Relaxed);
            done += 1;
        }
        done
    }

    /// Takes a whole table, and all below it, out of the tree.
    #[cold]
    fn cut(
        &self,
        table: &Table,
        height: u32,
        index: usize,
        at: u64,
        child: u32,
        gather: &mut Gather,
    ) {
        let span = self.format.geometry().span(height);
        table.words()[index].store(0, Ordering::Relaxed);
        self.clean(table, index, 1);
        table.below[index].store(0, Ordering::Release);
        if let Some(below) = self.tables.get(child as usize) {
            self.forget(below);
            below.next.store(gather.tables, Ordering::Relaxed);
            gather.tables = child + 1;
        }
        gather.add(at, at + span, height - 1, 1);
    }

    /// Prunes below a table that maps from `start` on: whether it has no entry left.
    fn prune_below(
        &self,
        number: u32,
        height: u32,
        start: u64,
        (at, end): (u64, u64),
        gather: &mut Gather,
    ) -> bool {
        let Some(table) = self.tables.get(number as usize) else {
            return false;
        };
        let span = self.format.geometry().span(height);
        let last = ((end - 1 - start) / span) as usize;
        let first = (at.saturating_sub(start) / span) as usize;
        for index in first..table.below.len().min(last + 1) {
            let from = start + index as u64 * span;
            if let Some(child) = table.child(index) {
                let is_empty = self.prune_below(child, height - 1, from, (at, end), gather);
                if is_empty && at <= from && from + span <= end {
                    self.cut(table, height, index, from, child, gather);
                }
            }
        }
        table.is_clear(0..table.words().len())
    }

    fn recycle_tree(&self, number: u32) {
        let Some(table) = self.tables.get(number as usize) else {
            return;
        };
        for slot in &table.below {
            if let Some(child) = slot.swap(0, Ordering::Relaxed).checked_sub(1) {
                self.recycle_tree(child);
            }
        }
        self.stock[usize::from(!table.below.is_empty())].push(&self.tables, number);
    }

    /// An unmap may not cut a block or a contiguous group in two.
    pub(crate) fn refuse_cut_leaf(&self, range: IovaRange, edge: u64) -> Result<(), UnmapError> {
        // No leaf is that large, or only single leaves are near.
        if edge & (self.largest_leaf - 1) == 0
            || self.has_single_leaves && self.at_hand(0, edge).is_some()
        {
            return Ok(());
        }
        match self.unit_at(Iova::new(edge)) {
            Some(leaf) if leaf.start().raw() != edge => Err(UnmapError::PartOfLeaf { range, leaf }),
            _ => Ok(()),
        }
    }

    /// What can only be unmapped as a whole around an address: its leaf, or the contiguous group that
    /// this is one of; `None` where nothing is mapped. Costs and limits as [`leaf_at`](Self::leaf_at).
    pub fn unit_at(&self, iova: Iova) -> Option<IovaRange> {
        let leaf = self.leaf_at(iova)?;
        let group = match leaf.is_contiguous {
            true => self.format.contiguous(leaf.height),
            false => None,
        };
        let span = leaf.range.len() * group.map_or(1, |(count, _)| count as u64);
        IovaRange::new(leaf.range.start().align_down(span), span).ok()
    }
}
