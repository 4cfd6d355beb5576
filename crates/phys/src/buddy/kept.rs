//! Frames that are free and in no list: kept for the claim that is clearing them.

use dmakit_addr::PfnRange;

use super::{Buddy, PAGEBLOCK_FRAMES, Span, Status};
use crate::block::{self, Kind};
use crate::frame::{Frame, State};
use crate::page_allocator::PAGEBLOCK_ORDER;
use crate::sections::Sections;

impl<S: AsRef<[Frame]> + AsMut<[Frame]>> Buddy<S> {
    /// Keeps the free frames from `start` up to `end`, of one page block, for the claim that is
    /// clearing them.
    pub(crate) fn keep_free(&mut self, start: u64, end: u64) {
        // Only what is wholly free may be part of a larger block.
        let block = Sections::page_block(start);
        let counts = self.block(block);
        if counts.is_some_and(|counts| u64::from(counts.free) == PAGEBLOCK_FRAMES) {
            self.isolate_free_block(block);
        }
        let Some(claim) = self.keeper(start, end) else {
            return;
        };
        let (from, to) = ((start - block) as usize, (end - block) as usize);
        let place = self.place(start);
        let mut next = from;
        for index in from / 64..=(to - 1) / 64 {
            let Some(record) = self.record(block) else {
                return;
            };
            let free = block::free(record, index) & block::mask(index, from, to);
            let mut left = free;
            while left != 0 {
                let at = index * 64 + left.trailing_zeros() as usize;
                if at >= next {
                    // Most often a block starts there, and ends before the claim does.
                    let place = place.and_then(|place| place.further(at - from));
                    let kept = place.and_then(|place| self.keep_listed(place, to - at));
                    let after = |frames| at + frames;
                    next =
                        kept.map_or_else(|| self.keep_part(block + at as u64, start, end), after);
                }
                left &= left - 1;
            }
            self.clearing[claim].kept += u64::from(free.count_ones());
            if let Some(record) = self.record_mut(block) {
                block::recount_word(record, index, free, Kind::Free, Kind::Blocked);
            }
        }
    }

    /// Keeps the free block that a frame lies in, as far as it lies from `start` up to `end`, and says
    /// which frame of the page block comes after it.
    #[cold]
    fn keep_part(&mut self, frame: u64, start: u64, end: u64) -> usize {
        let span = self.span_at(frame);
        debug_assert_eq!(span.status, Status::Free);
        let (from, to) = (span.start.max(start), span.end.min(end));
        self.unlist(span.start, (span.end - span.start).ilog2());
        self.free_run(span.start, from);
        self.free_run(to, span.end);
        self.make_kept(from, to);
        (to - Sections::page_block(start)) as usize
    }

    /// Lists again what is kept from `start` up to `end`, of one page block.
    pub(crate) fn give_back_kept(&mut self, start: u64, end: u64) {
        let mut at = start;
        while let Some(frame) = self.next_in_block(at, end, block::blocked) {
            let span = self.span_at(frame);
            if span.status == Status::Kept {
                self.join_kept(span.start, span.start + 1);
                self.free_as(span.start, span.end, Kind::Blocked);
            }
            at = span.end;
        }
    }

    /// Forgets the blocks that are kept from `start` up to `end`, which are all of one page block:
    /// they become a part of an allocation.
    pub(crate) fn join_kept(&mut self, start: u64, end: u64) {
        let entries = self.sections.index(start);
        let entries = entries.map(|index| index..index + (end - start) as usize);
        let entries = entries.and_then(|entries| self.table.as_mut().get_mut(entries));
        for entry in entries.into_iter().flatten() {
            debug_assert!(matches!(entry.state, State::Kept | State::Inside));
            entry.state = State::Inside;
        }
    }

    /// What is in the way from `start` up to `end`, of one page block, and does not move.
    pub(crate) fn first_not_kept(&self, start: u64, end: u64) -> Option<Span> {
        let mut at = start;
        while at < end {
            let span = self.span_at(at);
            if span.status != Status::Kept {
                return Some(span);
            }
            at = span.end;
        }
        None
    }

    /// Whether all frames of a range are kept for the claim that is clearing it.
    pub(crate) fn is_kept(&self, range: PfnRange) -> bool {
        let mut clearing = self.clearing.iter();
        clearing.any(|other| other.range == range && other.kept == range.len())
    }

    /// Frees frames that are in no list: those that claims are clearing are kept for them.
    #[inline]
    pub(super) fn free_as(&mut self, start: u64, end: u64, kind: Kind) {
        match self.keeper(start, end) {
            None => {
                self.count(start, end, kind, Kind::Free);
                self.free_run(start, end);
            }
            Some(claim) => self.keep_as(claim, start, end, kind),
        }
    }

    /// The claim with the lowest range that keeps some of the frames from `start` up to `end`.
    #[inline]
    fn keeper(&self, start: u64, end: u64) -> Option<usize> {
        let claims = self.clearing.iter().enumerate();
        let keepers = claims.filter(|(_, claim)| {
            let range = &claim.range;
            claim.keeps && range.start().raw() < end && start < range.end().raw()
        });
        let mut lowest: Option<usize> = None;
        for (index, claim) in keepers {
            if lowest.is_none_or(|other| claim.range < self.clearing[other].range) {
                lowest = Some(index);
            }
        }
        lowest
    }

    fn keep_as(&mut self, claim: usize, start: u64, end: u64, kind: Kind) {
        let range = self.clearing[claim].range;
        let from = range.start().raw().max(start);
        let to = range.end().raw().min(end);
        if start < from {
            self.count(start, from, kind, Kind::Free);
            self.free_run(start, from);
        }
        self.keep(claim, from, to, kind);
        if to < end {
            self.free_as(to, end, kind);
        }
    }

    /// Keeps frames that are in no list for the claim that is clearing them.
    fn keep(&mut self, claim: usize, start: u64, end: u64, kind: Kind) {
        self.make_kept(start, end);
        self.count(start, end, kind, Kind::Blocked);
        self.clearing[claim].kept += end - start;
    }

    /// Makes blocks of frames that are in no list, none longer than a page block.
    fn make_kept(&mut self, start: u64, end: u64) {
        let mut at = start;
        while at < end {
            let fits = (end - at).ilog2().min(PAGEBLOCK_ORDER);
            let order = at.trailing_zeros().min(fits);
            if let Some(entry) = self.entry_mut(at) {
                (entry.state, entry.order) = (State::Kept, order as u8);
            }
            at += 1 << order;
        }
    }
}
