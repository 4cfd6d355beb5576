//! The free slots of one area: what stands under one lock.

use alloc::boxed::Box;
use alloc::vec;
use core::fmt;

use crate::bits::SlotBits;
use crate::entry::Entry;
use crate::fit::Wish;
use crate::lists::RunLists;
use crate::search::Run;
use crate::tree::RunTree;
use crate::{Fit, Record};

/// No run of slots that fits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoRun {
    /// How many slots were asked for.
    pub slots: u32,
    /// The longest free run there is, which may be long enough but lie wrong.
    pub largest: u32,
}

impl fmt::Display for NoRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "no fitting run of {} slots; the longest free run has {}",
            self.slots, self.largest
        )
    }
}

impl core::error::Error for NoRun {}

/// Slot bookkeeping without memory: which slots are free, and the record of each mapping.
///
/// It finds a run for a [`Fit`], or knows that there is none, in a bounded number of probes (see
/// [`take`](Self::take)). Free runs are kept maximal: neighbours are merged when slots come back.
/// One run, the rest of what was split last, is kept out of the index, so that a run of requests
/// against an empty area moves one number.
///
/// An area is a plain value; whoever shares it puts it under a lock.
pub struct Area {
    pub(crate) slots: u32,
    used: u32,
    used_high: u32,
    /// Slots free from slot 0 on.
    prefix: u32,
    /// Slots free up to the last.
    suffix: u32,
    /// The run out of the index; empty where `rest_len` is 0.
    pub(crate) rest_start: u32,
    pub(crate) rest_len: u32,
    probes: u64,
    probes_max: u32,
    pub(crate) free: SlotBits,
    starts: SlotBits,
    pub(crate) entries: Box<[Entry]>,
    pub(crate) lists: RunLists,
    pub(crate) tree: RunTree,
}

impl Area {
    /// The greatest number of slots of an area.
    pub const SLOTS_MAX: u32 = 1 << 24;

    /// An area of `slots` free slots, cut to [`SLOTS_MAX`](Self::SLOTS_MAX). Allocates.
    pub fn new(slots: u32) -> Self {
        let slots = slots.min(Self::SLOTS_MAX);
        let mut free = SlotBits::new(slots);
        if slots > 0 {
            free.insert_run(0, slots);
        }
        Self {
            slots,
            used: 0,
            used_high: 0,
            prefix: slots,
            suffix: slots,
            rest_start: 0,
            rest_len: slots,
            probes: 0,
            probes_max: 0,
            free,
            starts: SlotBits::new(slots),
            entries: vec![Entry::default(); slots as usize].into_boxed_slice(),
            lists: RunLists::new(slots),
            tree: RunTree::new(slots),
        }
    }

    /// How many slots there are.
    #[inline]
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// How many are taken.
    #[inline]
    pub fn used(&self) -> u32 {
        self.used
    }

    /// The most that were ever taken at once.
    pub fn used_high(&self) -> u32 {
        self.used_high
    }

    /// Forgets the high water: it is what is used now.
    pub fn reset_high(&mut self) {
        self.used_high = self.used;
    }

    /// All probes of all searches, and the most of one.
    pub fn probes(&self) -> (u64, u32) {
        (self.probes, self.probes_max)
    }

    /// The length of the longest free run.
    #[inline]
    pub fn largest(&self) -> u32 {
        self.rest_len
            .max(self.lists.longest())
            .max(self.tree.longest())
    }

    /// How many slots are free from the first on.
    #[inline]
    pub fn prefix(&self) -> u32 {
        self.prefix
    }

    /// How many slots are free up to the last.
    #[inline]
    pub fn suffix(&self) -> u32 {
        self.suffix
    }

    /// Bytes of bookkeeping, this value included.
    pub fn metadata_bytes(&self) -> usize {
        size_of::<Self>()
            + self.free.heap_bytes()
            + self.starts.heap_bytes()
            + size_of_val(&*self.entries)
            + self.lists.heap_bytes()
            + self.tree.heap_bytes()
    }

    /// Takes a run that fits: its first slot. Of two lists of runs it prefers the shorter length,
    /// and in a list the run that was freed last.
    ///
    /// Probes, each one word or one node of 64 entries: at most 9 for any number of slots aligned to
    /// at most 2, at most 40 for up to 34 slots aligned to at most 32, whatever the fill and the
    /// outcome. Beyond these, linear terms come in where runs of the right length exist but the
    /// first tried lies wrong: one node per 4096 slots for larger alignments or more slots, one
    /// word per 64 slots and one per free run in an area under 4096 slots, and the same two in any
    /// area that a limit or a boundary cuts.
    ///
    /// # Errors
    /// [`NoRun`]; nothing has changed then.
    #[inline]
    pub fn take(&mut self, fit: &Fit) -> Result<u32, NoRun> {
        self.take_from(fit, 0)
    }

    /// As [`take`](Self::take), where the fit is in the numbers of a pool whose slot `first` is
    /// this area's first.
    #[inline]
    pub(crate) fn take_from(&mut self, fit: &Fit, first: u32) -> Result<u32, NoRun> {
        if fit.boundary == 0 && fit.limit >= first + self.slots {
            let wish = fit.wish(first);
            // The commonest case of all, an area with nothing in its lists: one number moves.
            if let Some(at) = self.take_rest(wish) {
                self.probes += 2;
                self.probes_max = self.probes_max.max(2);
                return Ok(at);
            }
            return self.take_searching(|area, probes| area.take_uncut(wish, probes), wish.slots);
        }
        let fit = fit.within(first);
        self.take_searching(|area, probes| area.take_cut(&fit, probes), fit.slots)
    }

    #[inline(never)]
    fn take_searching(
        &mut self,
        search: impl FnOnce(&mut Self, &mut u32) -> Option<u32>,
        slots: u32,
    ) -> Result<u32, NoRun> {
        let mut probes = 0;
        let taken = search(self, &mut probes);
        self.probes += u64::from(probes);
        self.probes_max = self.probes_max.max(probes);
        taken.ok_or_else(|| NoRun {
            slots,
            largest: self.largest(),
        })
    }

    /// Takes the front of the rest where nothing is listed that would do, and the front does.
    #[inline]
    fn take_rest(&mut self, wish: Wish) -> Option<u32> {
        let at = self.rest_start;
        let fits = wish.slots.wrapping_sub(1) < self.rest_len
            && (wish.residue ^ at) & (wish.align - 1) == 0
            && !self.lists.has(wish.slots);
        if !fits {
            return None;
        }
        self.note_taken(at, self.rest_len, at, wish.slots);
        self.rest_start += wish.slots;
        self.rest_len -= wish.slots;
        Some(at)
    }

    /// Takes `slots` slots from `at` on; `false`, and nothing has changed, unless all are free.
    /// Costs a probe for each free run below: it is for edges and tests.
    pub fn take_at(&mut self, at: u32, slots: u32) -> bool {
        let mut from = 0;
        let mut probes = 0;
        if at >= self.slots - self.suffix {
            from = self.slots - self.suffix;
        }
        while let Some((start, len)) = self.next_run(from, &mut probes) {
            if start > at {
                return false;
            }
            if at < start + len {
                let fits = slots > 0 && slots <= start + len - at;
                if fits {
                    self.carve(Run { start, len }, at, slots);
                }
                return fits;
            }
            from = start + len;
        }
        false
    }

    /// Gives back `slots` slots from `at` on.
    ///
    /// # Panics
    /// Where one of them is free already, or out of the area: the caller has lost count.
    #[inline]
    pub fn give_back(&mut self, at: u32, slots: u32) {
        assert!(slots > 0 && slots <= self.slots && at <= self.slots - slots);
        assert!(self.free.insert_run(at, slots), "slots freed twice");
        self.used -= slots;
        let end = at + slots;
        let grows_rest = end == self.rest_start && self.rest_len > 0;
        if grows_rest && (at == 0 || !self.free.contains(at - 1)) {
            // What was split last grows back.
            self.rest_start = at;
            self.rest_len += slots;
            self.note_freed(at, at + self.rest_len);
        } else {
            self.merge(at, end);
        }
    }

    /// Puts freed slots, with what is free on both sides, into the index.
    #[inline(never)]
    fn merge(&mut self, at: u32, past: u32) {
        let (mut start, mut end) = (at, past);
        let mut is_rest = false;
        if end < self.slots && self.free.contains(end) {
            end = self.absorb_above(end, &mut is_rest);
        }
        if start > 0 && self.free.contains(start - 1) {
            start = self.absorb_below(start, &mut is_rest);
        }
        self.note_freed(start, end);
        if is_rest {
            (self.rest_start, self.rest_len) = (start, end - start);
        } else {
            self.attach(start, end - start);
        }
    }

    /// Keeps the ends when a free run has become the one from `start` to `end`.
    #[inline]
    fn note_freed(&mut self, start: u32, end: u32) {
        if start == 0 {
            self.prefix = end;
        }
        if end == self.slots {
            self.suffix = end - start;
        }
    }

    /// Writes down what was decided about the mapping whose first slot is `first`.
    #[inline]
    pub fn set_record(&mut self, first: u32, record: Record) {
        self.starts.insert(first);
        self.entries[first as usize].set_record(record);
    }

    /// The record of the mapping whose first slot is `first`, if one begins there.
    #[inline]
    pub fn record(&self, first: u32) -> Option<Record> {
        self.starts
            .contains(first)
            .then(|| self.entries[first as usize].record())
    }

    /// Takes the record of the mapping whose first slot is `first`, if one begins there.
    #[inline]
    pub fn take_record(&mut self, first: u32) -> Option<Record> {
        let record = self.record(first)?;
        self.starts.remove(first);
        Some(record)
    }

    /// The mapping that `slot` may belong to: the last that begins at or below it. One word, and
    /// one more for every 64 slots of the mapping.
    pub fn mapping_at(&self, slot: u32) -> Option<u32> {
        self.starts.last_at(slot)
    }

    /// The maximal free runs from slot 0 up: first slot and length.
    pub fn free_runs(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        let mut from = 0;
        core::iter::from_fn(move || {
            let (start, len) = self.next_run(from, &mut 0)?;
            from = start + len;
            Some((start, len))
        })
    }

    pub(crate) fn next_run(&self, from: u32, probes: &mut u32) -> Option<(u32, u32)> {
        let (start, len) = self.free.next_run(from, probes)?;
        // The last word may reach past the area.
        Some((start, len.min(self.slots - start)))
    }

    #[inline]
    pub(crate) fn carve(&mut self, run: Run, at: u32, slots: u32) {
        let Run { start, len } = run;
        let (end, past) = (start + len, at + slots);
        self.note_taken(start, len, at, slots);
        if start == self.rest_start && self.rest_len > 0 {
            (self.rest_start, self.rest_len) = (past, end - past);
        } else {
            self.detach(start, len);
            if past < end {
                self.attach(past, end - past);
            }
        }
        if start < at {
            self.attach(start, at - start);
        }
    }

    /// Counts `slots` slots at `at` out of the free run of `len` slots at `start`.
    #[inline]
    fn note_taken(&mut self, start: u32, len: u32, at: u32, slots: u32) {
        assert!(self.free.remove_run(at, slots), "a run found free was not");
        let (end, past) = (start + len, at + slots);
        if start == 0 {
            self.prefix = at;
        }
        if end == self.slots {
            self.suffix = end - past;
        }
        self.used += slots;
        self.used_high = self.used_high.max(self.used);
    }
}

impl fmt::Debug for Area {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Area")
            .field("slots", &self.slots)
            .field("used", &self.used)
            .field("largest", &self.largest())
            .finish_non_exhaustive()
    }
}
