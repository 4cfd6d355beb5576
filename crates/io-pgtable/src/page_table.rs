//! Mapping and unmapping.

use core::sync::atomic::{AtomicU64, Ordering};

use dmakit_addr::{Address, DmaMask, IovaRange, NodeId, PhysAddr};
use dmakit_platform::{Arena, Barrier, Platform, SegmentRequest, TableMemory};

use crate::table::{Stock, Table};
use crate::{Format, Gather, MapError, MapFailure, Permissions, TableError, UnmapError};

/// Leaf tables whose numbers are remembered, by the low bits of what they map.
const HINTS: usize = 8;

/// Entries of one tree of tables, and the memory that holds them.
///
/// Map, unmap and look-ups take `&self` from any number of CPUs, in any context. The callers see to
/// it that no two of them work on the same addresses at once, as owners of IOVA ranges do.
///
/// A table stays in the tree until an unmap covers all that it maps: then it goes into the gather,
/// and after [`recycle`](Self::recycle) into a stock of clean tables, from which it is used again.
/// A table emptied piece by piece stays where it is, and later mappings there use its small leaves.
pub struct PageTable<F: Format, P: Platform, M: TableMemory> {
    format: F,
    platform: P,
    memory: M,
    node: Option<NodeId>,
    /// Whether hardware walks go past the CPU's caches.
    cleans: bool,
    /// Of the geometry, at hand for the short ways: log2 of what a granule and a leaf table map.
    granule_shift: u32,
    leaf_table_shift: u32,
    /// Whether every granule can be unmapped alone.
    has_single_leaves: bool,
    tables: Arena<Table>,
    root: u32,
    /// Clean tables without, and with, records for tables below them.
    stock: [Stock; 2],
    hints: [AtomicU64; HINTS],
}

/// How many tables there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Statistics {
    /// Tables in the tree or in gathers, the root included.
    pub used: usize,
    /// Clean tables in stock.
    pub stock: usize,
}

/// Whether hardware's table walks look into the CPU's caches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WalkCoherence {
    /// They do.
    Coherent,
    /// They do not: entries are cleaned to memory.
    NonCoherent,
}

/// A stretch of entries of one table.
struct Place<'a> {
    table: &'a Table,
    height: u32,
    index: usize,
}

impl<F: Format, P: Platform, M: TableMemory> PageTable<F, P, M> {
    /// An empty table, its memory near `node`. Takes the root from `memory`.
    ///
    /// # Errors
    /// [`TableError`] where there is no memory for it.
    pub fn new(
        format: F,
        platform: P,
        memory: M,
        node: Option<NodeId>,
        coherence: WalkCoherence,
    ) -> Result<Self, TableError> {
        let height = format.geometry().root_height();
        let entries = format.geometry().root_entries();
        let mut this = Self {
            granule_shift: format.geometry().shift(0),
            leaf_table_shift: format.geometry().shift(1),
            has_single_leaves: format.contiguous(0).is_none(),
            format,
            platform,
            memory,
            node,
            cleans: coherence == WalkCoherence::NonCoherent,
            tables: Arena::new(),
            root: 0,
            stock: Default::default(),
            hints: Default::default(),
        };
        this.root = this.add_table(height, entries)?;
        Ok(this)
    }

    /// The format.
    pub fn format(&self) -> &F {
        &self.format
    }

    /// Where hardware finds the root.
    pub fn root_phys(&self) -> PhysAddr {
        self.tables
            .get(self.root as usize)
            .map_or(PhysAddr::new(0), Table::phys)
    }

    /// How many tables there are.
    pub fn statistics(&self) -> Statistics {
        let stock = self.stock.iter().map(|stock| stock.len() as usize).sum();
        Statistics {
            used: self.tables.len() - stock,
            stock,
        }
    }

    pub(crate) fn root(&self) -> u32 {
        self.root
    }

    pub(crate) fn tables(&self) -> &Arena<Table> {
        &self.tables
    }

    /// Maps `range` to the memory at `phys`, contiguous, with the largest leaves that fit.
    ///
    /// Never sleeps; takes tables from the stock, else from the provider. Hardware that caches the
    /// absence of mappings is told by the caller.
    ///
    /// # Errors
    /// [`MapError`]: nothing of the range is mapped then.
    pub fn map(
        &self,
        range: IovaRange,
        phys: PhysAddr,
        permissions: Permissions,
    ) -> Result<(), MapError> {
        let fail = |undone, failure| MapError {
            range,
            phys,
            undone,
            failure,
        };
        self.check(range, phys)
            .map_err(|failure| fail(0, failure))?;
        let end = range.end().raw();
        let mut at = range.start().raw();
        let mut to = phys.raw();
        if let Some((table, indices)) = self.short_way(at, end) {
            let count = indices.len();
            let bits = self.format.leaf(0, permissions);
            let wrote = self.fill(table, 0, indices.clone(), bits, to);
            if wrote == count {
                self.clean(table, indices.start, count);
                return Ok(());
            }
            self.undo(at, at + ((wrote as u64) << self.granule_shift));
            return Err(fail(
                (wrote as u64) << self.granule_shift,
                MapFailure::Occupied,
            ));
        }
        while at < end {
            match self.map_run(at, to, end - at, permissions) {
                Ok(bytes) => {
                    at += bytes;
                    to += bytes;
                }
                Err(failure) => {
                    let undone = at - range.start().raw();
                    self.undo(range.start().raw(), at);
                    return Err(fail(undone, failure));
                }
            }
        }
        Ok(())
    }

    /// Clears the entries of `range`, all of it mapped, and adds it to `gather`.
    ///
    /// Never sleeps. Until the caches are invalidated hardware may still use what was mapped.
    ///
    /// # Errors
    /// [`UnmapError`].
    pub fn unmap(&self, range: IovaRange, gather: &mut Gather) -> Result<(), UnmapError> {
        let mask = self.format.geometry().granule().mask();
        let (mut at, end) = (range.start().raw(), range.end().raw());
        let inside = end
            .checked_sub(1)
            .is_some_and(|last| last >> self.format.geometry().input_bits() == 0);
        if range.is_empty() || (at | end) & mask != 0 || !inside {
            return Err(UnmapError::Range(range));
        }
        if let Some((table, indices)) = self.short_way(at, end) {
            return match self.clear(table, 0, indices.start, at, end, gather) {
                bytes if bytes == end - at => Ok(()),
                _ => Err(UnmapError::Absent(range)),
            };
        }
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

    /// Takes the tables of a gather back into the stock, zeroed.
    ///
    /// To be called only after every cache that may know them was invalidated, and that is complete.
    pub fn recycle(&self, gather: Gather) {
        let mut next = gather.tables;
        while let Some(number) = next.checked_sub(1) {
            next = self
                .tables
                .get(number as usize)
                .map_or(0, |t| t.next.load(Ordering::Relaxed));
            self.recycle_tree(number);
        }
    }

    fn check(&self, range: IovaRange, phys: PhysAddr) -> Result<(), MapFailure> {
        let geometry = self.format.geometry();
        let mask = geometry.granule().mask();
        let Some(last) = range.last() else {
            return Err(MapFailure::Unaligned);
        };
        if (range.start().raw() | range.len() | phys.raw()) & mask != 0 {
            return Err(MapFailure::Unaligned);
        }
        if last.raw() >> geometry.input_bits() != 0 {
            return Err(MapFailure::OutOfRange);
        }
        match phys.checked_add(range.len() - 1) {
            Some(last) if last.raw() >> geometry.output_bits() == 0 => Ok(()),
            _ => Err(MapFailure::Unreachable),
        }
    }

    /// Maps as much as one table holds: how many bytes that was.
    #[inline]
    fn map_run(
        &self,
        at: u64,
        to: u64,
        left: u64,
        permissions: Permissions,
    ) -> Result<u64, MapFailure> {
        let height = self.leaf_height(at, to, left);
        let Place {
            table,
            height,
            index,
        } = self.descend(at, height)?;
        let geometry = self.format.geometry();
        let shift = geometry.shift(height);
        let words = table.words();
        let room = (left >> shift).min((words.len() - index) as u64) as usize;
        let entry = self.format.leaf(height, permissions);
        let mapped = match self.format.contiguous(height) {
            None => self.fill(table, height, index..index + room, entry, to),
            Some((group, bit)) => {
                self.fill_groups(table, height, index, room, entry, to, group, bit)
            }
        };
        if mapped == 0 {
            return Err(MapFailure::Occupied);
        }
        self.clean(table, index, mapped);
        Ok((mapped as u64) << shift)
    }

    /// Writes equal leaves until something is in the way: how many.
    #[inline]
    fn fill(
        &self,
        table: &Table,
        height: u32,
        indices: core::ops::Range<usize>,
        bits: u64,
        to: u64,
    ) -> usize {
        let span = self.format.geometry().span(height);
        let Some(words) = table.words().get(indices.clone()) else {
            return 0;
        };
        // Where a table has tables below it, one of them may be in the way of a block.
        let free = match height {
            0 => words.len(),
            _ => indices
                .clone()
                .take_while(|&index| table.child(index).is_none())
                .count(),
        };
        let mut entry = bits | self.format.address(PhysAddr::new(to));
        // Address bits above 47 may stand elsewhere in an entry, so that adding would not carry.
        let is_linear = (to + words.len() as u64 * span) >> 48 == 0;
        let mut done = 0;
        for word in &words[..free] {
            if word.load(Ordering::Relaxed) != 0 {
                break;
            }
            word.store(entry, Ordering::Relaxed);
            done += 1;
            entry = match is_linear {
                true => entry + span,
                false => bits | self.format.address(PhysAddr::new(to + done as u64 * span)),
            };
        }
        done
    }

    /// As [`fill`](Self::fill), with the contiguous bit in whole aligned groups.
    #[allow(clippy::too_many_arguments)]
    fn fill_groups(
        &self,
        table: &Table,
        height: u32,
        index: usize,
        room: usize,
        bits: u64,
        to: u64,
        group: usize,
        bit: u64,
    ) -> usize {
        let span = self.format.geometry().span(height);
        let mut done = 0;
        while done < room {
            let here = index + done;
            let phys = to + done as u64 * span;
            let aligned = here % group == 0 && phys % (span * group as u64) == 0;
            let (count, bits) = match aligned && room - done >= group {
                true => (group, bits | bit),
                // Up to where the next group could start.
                false => ((group - here % group).min(room - done), bits),
            };
            let wrote = self.fill(table, height, here..here + count, bits, phys);
            if wrote < count {
                if bits & bit != 0 {
                    // Half a group must not stand: hardware could take it for a whole one.
                    for word in &table.words()[here..here + wrote] {
                        word.store(0, Ordering::Relaxed);
                    }
                    return done;
                }
                return done + wrote;
            }
            done += count;
        }
        done
    }

    /// The greatest height at which one leaf can map `at` to `to`.
    #[inline]
    fn leaf_height(&self, at: u64, to: u64, left: u64) -> u32 {
        let geometry = self.format.geometry();
        let mut height = geometry.root_height();
        while height > 0 {
            let span = geometry.span(height);
            if left >= span && (at | to) & (span - 1) == 0 && self.format.has_leaves(height) {
                break;
            }
            height -= 1;
        }
        height
    }

    /// The entry for `at` in the table at `height`, or in a lower one where there is a table already;
    /// tables on the way are made.
    #[inline]
    fn descend(&self, at: u64, height: u32) -> Result<Place<'_>, MapFailure> {
        let geometry = self.format.geometry();
        if height == 0 {
            if let Some(table) = self.hinted(at) {
                return Ok(Place {
                    table,
                    height,
                    index: geometry.index(at, 0),
                });
            }
        }
        let mut number = self.root;
        let mut here = geometry.root_height();
        loop {
            let Some(table) = self.tables.get(number as usize) else {
                return Err(MapFailure::Table(TableError::Records));
            };
            let index = geometry.index(at, here);
            if here <= height && table.child(index).is_none() {
                if here == 0 && geometry.root_height() > 0 {
                    self.remember(at, number);
                }
                return Ok(Place {
                    table,
                    height: here,
                    index,
                });
            }
            number = self.child(table, here, index)?;
            here -= 1;
        }
    }

    /// The table under an entry, made where there is none.
    #[inline]
    fn child(&self, table: &Table, height: u32, index: usize) -> Result<u32, MapFailure> {
        let word = &table.words()[index];
        let entry = word.load(Ordering::Relaxed);
        match table.child(index) {
            Some(child) => {
                if !self.format.is_present(entry) {
                    // Whoever made the table has not come to writing the entry: it must be there
                    // before we can say that something below it is mapped.
                    self.publish(table, index, child)?;
                }
                Ok(child)
            }
            None if self.format.is_present(entry) => Err(MapFailure::Occupied),
            None => self.make_child(table, height, index),
        }
    }

    #[cold]
    fn make_child(&self, table: &Table, height: u32, index: usize) -> Result<u32, MapFailure> {
        let fresh = self.take_table(height - 1).map_err(MapFailure::Table)?;
        let slot = &table.below[index];
        let child = match slot.compare_exchange(0, fresh + 1, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => fresh,
            Err(there) => {
                self.stock[usize::from(height > 1)].push(&self.tables, fresh);
                there - 1
            }
        };
        self.publish(table, index, child)?;
        Ok(child)
    }

    /// Writes the entry of a table that is clean and in `below`. Writing it twice does no harm.
    #[cold]
    fn publish(&self, table: &Table, index: usize, child: u32) -> Result<(), MapFailure> {
        let Some(below) = self.tables.get(child as usize) else {
            return Err(MapFailure::Table(TableError::Records));
        };
        // The table's zeroes before the entry that leads to them.
        self.platform.barrier(Barrier::BeforeDevice);
        table.words()[index].store(self.format.table(below.phys()), Ordering::Relaxed);
        self.clean(table, index, 1);
        Ok(())
    }

    /// A clean table for `height`.
    fn take_table(&self, height: u32) -> Result<u32, TableError> {
        match self.stock[usize::from(height > 0)].pop(&self.tables) {
            Some(number) => Ok(number),
            None => self.add_table(height, self.format.geometry().entries()),
        }
    }

    #[cold]
    fn add_table(&self, height: u32, entries: usize) -> Result<u32, TableError> {
        // A root may have a few entries only; memory comes in frames.
        let len = (entries as u64 * 8).max(4096);
        let limit = DmaMask::bits(self.format.geometry().output_bits()).unwrap_or(DmaMask::ALL);
        let request = SegmentRequest {
            len,
            align: len,
            node: self.node,
            limit,
        };
        let segment = self
            .memory
            .allocate_table(&request)
            .map_err(TableError::Memory)?;
        let table = Table::new(segment, entries, height).map_err(|segment| {
            self.memory.free_table(segment);
            TableError::Records
        })?;
        let number = self.tables.push(table).map_err(|table| {
            self.memory.free_table(table.segment);
            TableError::Records
        })?;
        u32::try_from(number).map_err(|_| TableError::Records)
    }

    /// Unmaps what one table, or one entry of a higher one, holds of `[at, end)`: how many bytes;
    /// none where nothing is mapped.
    #[inline]
    fn unmap_run(&self, at: u64, end: u64, gather: &mut Gather) -> u64 {
        let geometry = self.format.geometry();
        if let Some(table) = self.hinted(at) {
            // A whole leaf table falls out from above.
            let whole = at & (geometry.span(1) - 1) == 0 && end - at >= geometry.span(1);
            if !whole {
                return self.clear(table, 0, geometry.index(at, 0), at, end, gather);
            }
        }
        let mut number = self.root;
        let mut height = geometry.root_height();
        while let Some(table) = self.tables.get(number as usize) {
            let index = geometry.index(at, height);
            let Some(child) = table.child(index) else {
                return self.clear(table, height, index, at, end, gather);
            };
            let span = geometry.span(height);
            if at & (span - 1) == 0 && end - at >= span {
                self.cut(table, height, index, at, child, gather);
                return span;
            }
            if height == 1 {
                self.remember(at, child);
            }
            number = child;
            height -= 1;
        }
        0
    }

    /// Clears leaves from `index` on, as far as they go.
    #[inline]
    fn clear(
        &self,
        table: &Table,
        height: u32,
        index: usize,
        at: u64,
        end: u64,
        gather: &mut Gather,
    ) -> u64 {
        let shift = self.format.geometry().shift(height);
        let words = table.words();
        let count = ((end - at) >> shift).min((words.len() - index) as u64) as usize;
        // Where a table has tables below it, leaves end where one of those begins.
        let leaves = match height {
            0 => count,
            _ => (index..index + count)
                .take_while(|&index| table.child(index).is_none())
                .count(),
        };
        let mut done = 0;
        for word in &words[index..index + leaves] {
            if !self.format.is_present(word.load(Ordering::Relaxed)) {
                break;
            }
            word.store(0, Ordering::Relaxed);
            done += 1;
        }
        if done == 0 {
            return 0;
        }
        self.clean(table, index, done);
        let bytes = (done as u64) << shift;
        gather.add(at, at + bytes, height, done as u64);
        bytes
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
        table.words()[index].store(0, Ordering::Relaxed);
        self.clean(table, index, 1);
        table.below[index].store(0, Ordering::Release);
        self.forget(at, self.format.geometry().span(height));
        if let Some(below) = self.tables.get(child as usize) {
            below.next.store(gather.tables, Ordering::Relaxed);
            gather.tables = child + 1;
        }
        gather.add(at, at + self.format.geometry().span(height), height - 1, 1);
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
        table.segment.window().fill(0);
        if self.cleans {
            self.platform.clean(table.segment.range());
        }
        self.stock[usize::from(!table.below.is_empty())].push(&self.tables, number);
    }

    /// Clears what a failed map had written. Tables stay: hardware may have walked them.
    #[cold]
    fn undo(&self, start: u64, end: u64) {
        let geometry = self.format.geometry();
        let mut gather = Gather::new();
        let mut at = start;
        while at < end {
            let mut number = self.root;
            let mut height = geometry.root_height();
            let mut cleared = 0;
            while let Some(table) = self.tables.get(number as usize) {
                let index = geometry.index(at, height);
                match table.child(index) {
                    Some(child) => number = child,
                    None => {
                        cleared = self.clear(table, height, index, at, end, &mut gather);
                        break;
                    }
                }
                height -= 1;
            }
            if cleared == 0 {
                return;
            }
            at += cleared;
        }
    }

    /// An unmap may not cut a block or a contiguous group in two.
    #[inline]
    fn refuse_cut_leaf(&self, range: IovaRange, edge: u64) -> Result<(), UnmapError> {
        let geometry = self.format.geometry();
        let single = self.format.contiguous(0).is_none();
        // A leaf table with single leaves, or an edge between two entries of the root: no cut.
        if edge & (geometry.span(geometry.root_height()) - 1) == 0
            || single && self.hinted(edge).is_some()
        {
            return Ok(());
        }
        let Some(leaf) = self.leaf_at(dmakit_addr::Iova::new(edge)) else {
            return Ok(());
        };
        let mut span = leaf.range.len();
        if leaf.is_contiguous {
            span *= self
                .format
                .contiguous(leaf.height)
                .map_or(1, |(count, _)| count as u64);
        }
        if edge & (span - 1) == 0 {
            return Ok(());
        }
        let start = leaf.range.start().align_down(span);
        Err(UnmapError::PartOfLeaf {
            range,
            leaf: IovaRange::new(start, span).unwrap_or(leaf.range),
        })
    }

    /// Writes entries back to memory where hardware walks past the caches.
    #[inline]
    fn clean(&self, table: &Table, index: usize, count: usize) {
        if self.cleans {
            if let Some(range) = table
                .segment
                .range()
                .slice(index as u64 * 8, count as u64 * 8)
            {
                self.platform.clean(range);
            }
        }
    }

    /// The leaf table that has all of `[at, end)`, and where in it, if it is remembered, is not
    /// covered whole, and has only single leaves.
    #[inline]
    fn short_way(&self, at: u64, end: u64) -> Option<(&Table, core::ops::Range<usize>)> {
        let tag = at >> self.leaf_table_shift;
        let whole = (end - at) >> self.leaf_table_shift != 0;
        if (end - 1) >> self.leaf_table_shift != tag || whole || !self.has_single_leaves {
            return None;
        }
        let table = self.hinted(at)?;
        let start = (at - (tag << self.leaf_table_shift)) >> self.granule_shift;
        let count = (end - at) >> self.granule_shift;
        Some((table, start as usize..(start + count) as usize))
    }

    /// The leaf table for `at`, if it is remembered.
    #[inline]
    fn hinted(&self, at: u64) -> Option<&Table> {
        let tag = at >> self.leaf_table_shift;
        let hint = self.hints[tag as usize % HINTS].load(Ordering::Acquire);
        if hint >> 32 != tag {
            return None;
        }
        self.tables.get((hint as u32).checked_sub(1)? as usize)
    }

    /// Remembers the leaf table for `at`. The caller works on addresses that it maps, so nobody can
    /// take it out of the tree meanwhile.
    #[inline]
    fn remember(&self, at: u64, number: u32) {
        let tag = at >> self.leaf_table_shift;
        let hint = tag << 32 | u64::from(number + 1);
        self.hints[tag as usize % HINTS].store(hint, Ordering::Release);
    }

    /// Forgets leaf tables of `[at, at + bytes)`, which leave the tree.
    fn forget(&self, at: u64, bytes: u64) {
        let shift = self.format.geometry().shift(1);
        let tags = at >> shift..(at + bytes).div_ceil(1 << shift);
        for hint in &self.hints {
            let seen = hint.load(Ordering::Relaxed);
            if tags.contains(&(seen >> 32)) {
                // Where it changed meanwhile it is no longer one of ours.
                let _ = hint.compare_exchange(seen, 0, Ordering::AcqRel, Ordering::Relaxed);
            }
        }
    }
}

impl<F: Format, P: Platform, M: TableMemory> Drop for PageTable<F, P, M> {
    fn drop(&mut self) {
        for table in self.tables.drain() {
            self.memory.free_table(table.segment);
        }
    }
}
