//! Mapping.

use core::ops::Range;
use core::sync::atomic::Ordering;

use dmakit_addr::{Address, IovaRange, PhysAddr};
use dmakit_platform::{Platform, TableMemory};

use crate::descend::{Contents, Place};
use crate::sync::Word;
use crate::table::Table;
use crate::{Format, Gather, MapError, MapFailure, PageTable, Permissions};

/// Entries that are looked at before the first of them is written.
pub(crate) const AT_ONCE: usize = 4;

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
    #[inline(always)]
    pub fn map(
        &self,
        range: IovaRange,
        phys: PhysAddr,
        permissions: Permissions,
    ) -> Result<(), MapError> {
        let (at, len, to) = (range.start().raw(), range.len(), phys.raw());
        // One entry is what most calls write, which often know what it allows.
        match self.map_entry(0, at, len, to, permissions) {
            Some(()) => Ok(()),
            None => self.map_more(range, phys, permissions),
        }
    }

    /// Writes a single clear entry of a table at hand.
    #[inline(always)]
    fn map_entry(
        &self,
        height: usize,
        at: u64,
        len: u64,
        to: u64,
        permissions: Permissions,
    ) -> Option<()> {
        let (table, index, word) = self.entry_at_hand(height, at, len)?;
        if !self.hints.get(height)?.is_plain(to) || word.load(Ordering::Relaxed) != 0 {
            return None;
        }
        let bits = self.format.leaf(height as u32, permissions);
        word.store(bits | to, Ordering::Relaxed);
        self.clean(table, index, 1);
        Some(())
    }

    /// Maps a block, or several entries.
    #[inline(never)]
    fn map_more(
        &self,
        range: IovaRange,
        phys: PhysAddr,
        permissions: Permissions,
    ) -> Result<(), MapError> {
        let (at, len, to) = (range.start().raw(), range.len(), phys.raw());
        let is_block = self.map_entry(1, at, len, to, permissions).is_some()
            || self.map_entry(2, at, len, to, permissions).is_some();
        match is_block {
            true => Ok(()),
            // In a function of its own, so that a block does not save its registers.
            false => self.map_entries_or_any(range, phys, permissions),
        }
    }

    /// Maps several entries.
    #[inline(never)]
    fn map_entries_or_any(
        &self,
        range: IovaRange,
        phys: PhysAddr,
        permissions: Permissions,
    ) -> Result<(), MapError> {
        let (at, len, to) = (range.start().raw(), range.len(), phys.raw());
        match self.map_entries(at, len, to, permissions) {
            true => Ok(()),
            false => self.map_any(range, phys, permissions),
        }
    }

    /// Fills entries of a leaf table at hand, all of them or none; false where none is, or something is
    /// in the way.
    #[inline(always)]
    fn map_entries(&self, at: u64, len: u64, to: u64, permissions: Permissions) -> bool {
        // Where the end wraps around, the start has high bits too.
        let is_plain = self.hints[0].is_plain(to) && to.wrapping_add(len) >> self.plain_bits == 0;
        let Some((table, index, words)) = self.entries_at_hand(at, len).filter(|_| is_plain) else {
            return false;
        };
        let first = self.format.leaf(0, permissions) | to;
        let wrote = fill_clear(words, first, self.hints[0].entry_bytes);
        if wrote < words.len() {
            words[..wrote]
                .iter()
                .for_each(|word| word.store(0, Ordering::Relaxed));
        }
        self.clean(table, index, wrote);
        wrote == words.len()
    }

    /// Maps without a short way.
    #[inline(never)]
    fn map_any(
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
        let height = self.leaf_height(at, to, left);
        if let Some(bytes) = self.map_table(at, to, left, height, permissions)? {
            return Ok(bytes);
        }
        let Place {
            table,
            height,
            index,
            is_fresh,
        } = self.descend(at, height)?;
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

    /// Where `[at, at + left)` begins with all that a table of leaves maps and none is there: makes
    /// it, and fills it before hardware can reach it. How many bytes it maps.
    fn map_table(
        &self,
        at: u64,
        to: u64,
        left: u64,
        height: u32,
        permissions: Permissions,
    ) -> Result<Option<u64>, MapFailure> {
        let geometry = self.format.geometry();
        let above = height + 1;
        if above > geometry.root_height() || self.format.contiguous(height).is_some() {
            return Ok(None);
        }
        let bytes = geometry.span(above);
        if at & (bytes - 1) != 0 || left < bytes || (to + bytes) >> self.plain_bits != 0 {
            return Ok(None);
        }
        let place = self.descend(at, above)?;
        let is_clear = place.table.words()[place.index].load(Ordering::Relaxed) == 0;
        if place.height != above || !is_clear {
            return Ok(None);
        }
        let number = self
            .take_table(height, Contents::Undefined)
            .map_err(MapFailure::Table)?;
        let Some(table) = self.tables.get(number as usize) else {
            return Ok(None);
        };
        let first = self.format.leaf(height, permissions) | self.format.address(PhysAddr::new(to));
        let window = table.words.segment().window();
        window.fill_words64(first, geometry.span(height));
        self.clean(table, 0, geometry.entries());
        if place.table.install(place.index, number).is_err() {
            self.stock[usize::from(height > 0)].push(&self.tables, number);
            return Ok(None);
        }
        self.publish(place.table, place.index, number)?;
        self.name(table, height, at);
        self.remember(height, at, number);
        Ok(Some(bytes))
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
        fill_clear(words, entry, span)
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
}

/// Writes `first`, `first + step`, ... to words that are clear, up to one that is not: how many.
#[inline(always)]
fn fill_clear(words: &[Word], first: u64, step: u64) -> usize {
    let (mut entry, mut wrote) = (first, 0);
    let mut write = |word: &Word| {
        word.store(entry, Ordering::Relaxed);
        entry += step;
    };
    for some in words.chunks_exact(AT_ONCE) {
        let all = some.iter().map(|word| word.load(Ordering::Relaxed));
        if all.fold(0, |all, word| all | word) != 0 {
            break;
        }
        some.iter().for_each(&mut write);
        wrote += AT_ONCE;
    }
    for word in words.iter().skip(wrote) {
        if word.load(Ordering::Relaxed) != 0 {
            break;
        }
        write(word);
        wrote += 1;
    }
    wrote
}
