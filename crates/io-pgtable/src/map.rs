//! Mapping.

use core::ops::Range;
use core::sync::atomic::Ordering;

use dmakit_addr::{Address, IovaRange, PhysAddr};
use dmakit_platform::{Platform, TableMemory};

use crate::descend::Place;
use crate::hint::Hints;
use crate::table::Table;
use crate::{Format, Gather, MapError, MapFailure, PageTable, Permissions};

/// Equal leaves but for their addresses: bits, and where the first one leads.
#[derive(Clone, Copy)]
struct Run {
    bits: u64,
    phys: u64,
    /// Whether the entries are known to be clear.
    is_fresh: bool,
}

impl<F: Format, P: Platform, M: TableMemory> PageTable<F, P, M> {
    /// Maps `range` to the memory at `phys`, contiguous, with the largest leaves that fit.
    ///
    /// Never sleeps; takes tables from the stock, else from the provider. Hardware that caches the
    /// absence of mappings is told by the caller.
    ///
    /// # Errors
    /// [`MapError`]: nothing of the range is mapped then. Tables that were made for it stay.
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
        let (start, end) = (range.start().raw(), range.end().raw());
        let short = |(table, height, indices): (&Table, u32, Range<usize>)| {
            let wrote = self.map_in(table, height, indices.clone(), phys.raw(), permissions);
            if wrote == indices.len() {
                return Ok(());
            }
            let undone = (wrote as u64) << self.format.geometry().shift(height);
            self.undo(start, start + undone);
            Err(fail(undone, MapFailure::Occupied))
        };
        if let Some((table, indices)) = self.leaf_way(start, end) {
            return short((table, 0, indices));
        }
        if let Some(place) = self.block_way(start, end, phys.raw()) {
            return short(place);
        }
        let (mut at, mut to) = (start, phys.raw());
        while at < end {
            match self.map_run(at, to, end - at, permissions) {
                Ok(bytes) => {
                    at += bytes;
                    to += bytes;
                }
                Err(failure) => {
                    self.undo(start, at);
                    return Err(fail(at - start, failure));
                }
            }
        }
        Ok(())
    }

    /// Fills entries of a table that was found by a short way: how many.
    #[inline(always)]
    fn map_in(
        &self,
        table: &Table,
        height: u32,
        indices: Range<usize>,
        phys: u64,
        permissions: Permissions,
    ) -> usize {
        let run = Run {
            bits: self.format.leaf(height, permissions),
            phys,
            is_fresh: false,
        };
        let wrote = self.fill(table, height, indices.clone(), run);
        self.clean(table, indices.start, wrote);
        wrote
    }

    #[inline]
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
    fn map_run(
        &self,
        at: u64,
        to: u64,
        left: u64,
        permissions: Permissions,
    ) -> Result<u64, MapFailure> {
        let Place {
            table,
            height,
            index,
            is_fresh,
        } = self.descend(at, self.leaf_height(at, to, left))?;
        let shift = self.format.geometry().shift(height);
        let room = (left >> shift).min((table.words().len() - index) as u64) as usize;
        // One of the tables below may be in the way of a block.
        let room = table.leaves_from(index..index + room);
        let run = Run {
            bits: self.format.leaf(height, permissions),
            phys: to,
            is_fresh,
        };
        let mapped = match self.format.contiguous(height) {
            None => self.fill(table, height, index..index + room, run),
            Some((group, bit)) => {
                self.fill_groups(table, height, index..index + room, run, group, bit)
            }
        };
        if mapped == 0 {
            return Err(MapFailure::Occupied);
        }
        self.clean(table, index, mapped);
        Ok((mapped as u64) << shift)
    }

    /// Writes equal leaves to entries with no table under them, until something is in the way: how
    /// many.
    #[inline(always)]
    fn fill(&self, table: &Table, height: u32, indices: Range<usize>, run: Run) -> usize {
        let span = self.format.geometry().span(height);
        let Some(words) = table.words().get(indices.clone()) else {
            return 0;
        };
        // Address bits above 47 may stand elsewhere in an entry, so that adding would not carry.
        if (run.phys + words.len() as u64 * span) >> 48 != 0 {
            for (index, word) in words.iter().enumerate() {
                let phys = PhysAddr::new(run.phys + index as u64 * span);
                if word.load(Ordering::Relaxed) != 0 {
                    return index;
                }
                word.store(run.bits | self.format.address(phys), Ordering::Relaxed);
            }
            return words.len();
        }
        let mut entry = run.bits | self.format.address(PhysAddr::new(run.phys));
        if run.is_fresh {
            for word in words {
                word.store(entry, Ordering::Relaxed);
                entry += span;
            }
            return words.len();
        }
        for (index, word) in words.iter().enumerate() {
            if word.load(Ordering::Relaxed) != 0 {
                return index;
            }
            word.store(entry, Ordering::Relaxed);
            entry += span;
        }
        words.len()
    }

    /// As [`fill`](Self::fill), with the contiguous bit in whole aligned groups.
    fn fill_groups(
        &self,
        table: &Table,
        height: u32,
        indices: Range<usize>,
        run: Run,
        group: usize,
        bit: u64,
    ) -> usize {
        let span = self.format.geometry().span(height);
        let mut here = indices.start;
        while here < indices.end {
            let phys = run.phys + (here - indices.start) as u64 * span;
            let is_aligned = here % group == 0 && phys % (span * group as u64) == 0;
            let mut next = Run { phys, ..run };
            // Up to where the next group could start.
            let mut count = (group - here % group).min(indices.end - here);
            if is_aligned && count == group {
                if !table.is_clear(here..here + group) {
                    // Not half a group for a moment: hardware could take it for a whole one, over
                    // whatever is mapped behind it.
                    break;
                }
                next.bits |= bit;
                count = group;
            }
            let wrote = self.fill(table, height, here..here + count, next);
            here += wrote;
            if wrote < count {
                break;
            }
        }
        here - indices.start
    }

    /// The greatest height at which one leaf can map `at` to `to`.
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
                        cleared = self.clear_from(table, height, index, at, end, &mut gather);
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

    /// The remembered leaf table that has all of `[at, end)`, and where in it. Short of a whole
    /// leaf table there is no room for blocks.
    #[inline(always)]
    pub(crate) fn leaf_way(&self, at: u64, end: u64) -> Option<(&Table, Range<usize>)> {
        if self.has_single_leaves {
            self.near(0, at, end)
        } else {
            None
        }
    }

    /// The remembered table that has all of `[at, end)` and of whose entries blocks as large as
    /// `at`, `end` and `to` allow are made, its height, and where in it.
    #[inline(never)]
    pub(crate) fn block_way(
        &self,
        at: u64,
        end: u64,
        to: u64,
    ) -> Option<(&Table, u32, Range<usize>)> {
        let ends = at | end | to;
        let is_aligned = |hints: &Hints| ends & ((1 << hints.shift()) - 1) == 0;
        if !is_aligned(&self.hints[0]) {
            return None;
        }
        let height = if is_aligned(&self.hints[1]) { 2 } else { 1 };
        if !self.has_blocks[height - 1] {
            return None;
        }
        let (table, indices) = self.near(height as u32, at, end)?;
        let is_free = match indices.len() {
            1 => table.child(indices.start).is_none(),
            count => table.leaves_from(indices.clone()) == count,
        };
        is_free.then_some((table, height as u32, indices))
    }

    /// The remembered table at `height` that has all of `[at, end)` and more, and where in it.
    #[inline(always)]
    fn near(&self, height: u32, at: u64, end: u64) -> Option<(&Table, Range<usize>)> {
        let hints = self.hints.get(height as usize)?;
        let whole = (end - at) >> hints.shift() != 0;
        if (at ^ (end - 1)) >> hints.shift() != 0 || whole {
            return None;
        }
        let table = self.tables.get(hints.get(at)? as usize)?;
        let shift = self.format.geometry().shift(height);
        let start = (at & ((1 << hints.shift()) - 1)) >> shift;
        let count = (end - at) >> shift;
        Some((table, start as usize..(start + count) as usize))
    }
}
