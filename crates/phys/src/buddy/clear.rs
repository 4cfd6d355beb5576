//! Clearing a range: marks on page blocks, allocations on the move, taking what is free.

use dmakit_addr::{Pfn, PfnRange};

use super::{Buddy, PAGEBLOCK_FRAMES, Status};
use crate::block::Kind;
use crate::error::NoFrames;
use crate::frame::{Frame, MigrateType, MoverId, State};
use crate::page_allocator::{FrameRequest, MAX_ORDER};
use crate::sections::Sections;

/// So many ranges can be cleared at once.
pub(crate) const CLEARING_MAX: usize = 64;

/// An allocation whose mover is being asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Move {
    pub(crate) start: u64,
    pub(crate) frames: u64,
    pub(crate) number: u32,
    pub(crate) mover: MoverId,
    pub(crate) node: usize,
}

impl<S: AsRef<[Frame]> + AsMut<[Frame]>> Buddy<S> {
    /// Notes that somebody clears `range`.
    ///
    /// # Errors
    /// The range that is being cleared already and overlaps, or `None` where there are too many.
    pub(crate) fn begin_clearing(&mut self, range: PfnRange) -> Result<(), Option<PfnRange>> {
        if let Some(other) = self.clearing.iter().find(|other| other.overlaps(&range)) {
            return Err(Some(*other));
        }
        if self.clearing.len() == CLEARING_MAX {
            return Err(None);
        }
        self.clearing.push(range);
        Ok(())
    }

    pub(crate) fn end_clearing(&mut self, range: PfnRange) {
        self.clearing.retain(|other| *other != range);
    }

    /// Whether somebody is clearing frames of `range`.
    pub(crate) fn is_being_cleared(&self, range: PfnRange) -> bool {
        self.clearing.iter().any(|other| other.overlaps(&range))
    }

    /// Marks a page block: its free frames go to nobody until the mark is taken away. Marks count,
    /// since two claims may clear different parts of one block.
    pub(crate) fn mark(&mut self, block: u64) {
        match self.block(block).map(|block| block.clearing) {
            Some(0) => self.relist(block, |block| block.clearing = 1),
            _ => self.change_block(block, |block| block.clearing += 1),
        }
    }

    pub(crate) fn unmark(&mut self, block: u64) {
        match self.block(block).map(|block| block.clearing) {
            Some(1) => self.relist(block, |block| block.clearing = 0),
            _ => self.change_block(block, |block| {
                block.clearing = block.clearing.saturating_sub(1);
            }),
        }
    }

    /// Keeps an allocation from being pinned, or moved by another, while its mover is asked.
    pub(crate) fn begin_move(&mut self, start: u64) -> Option<Move> {
        let per_node = self.zones_per_node;
        let entry = self.entry_mut(start)?;
        if entry.state != State::Movable || entry.pins > 0 || entry.order > 0 {
            return None;
        }
        entry.state = State::Moving;
        Some(Move {
            start,
            frames: u64::from(entry.next),
            number: entry.previous,
            mover: MoverId::new(entry.mover),
            node: usize::from(entry.zone) / per_node,
        })
    }

    /// Allocates for what moves: as anybody, or else from page blocks that are marked, outside of
    /// what is being cleared. That walks lists, but only where memory is all but full.
    pub(crate) fn allocate_target(
        &mut self,
        request: &FrameRequest,
        of: MigrateType,
    ) -> Result<(u64, u32), NoFrames> {
        let error = match self.allocate(request, of) {
            Ok(allocated) => return Ok(allocated),
            Err(error) => error,
        };
        let order = request.order();
        let (block, frame) = self.beside(request, of, order).ok_or(error)?;
        let span = self.span_at(block);
        self.unlist(span.start, (span.end - span.start).ilog2());
        self.free_run(span.start, frame);
        self.free_run(frame + (1 << order), span.end);
        Ok((frame, self.hand_out(frame, order, request)))
    }

    /// A listed block in marked page blocks, and an aligned part of it that nobody is clearing.
    #[cold]
    fn beside(&self, request: &FrameRequest, of: MigrateType, order: u32) -> Option<(u64, u64)> {
        let serves = |frame: u64| {
            let first = Sections::page_block(frame);
            let mut blocks = (first..frame + (1 << order)).step_by(PAGEBLOCK_FRAMES as usize);
            blocks.all(|block| {
                let of_block = self.block(block).map(|block| block.migrate_type);
                of_block.is_some_and(|of_block| of.served_by().contains(&of_block))
            })
        };
        let marked = MigrateType::Isolated as usize;
        self.zones_for(request).find_map(|zone| {
            (order..=MAX_ORDER).find_map(|size| {
                self.list(zone.heads[marked][size as usize])
                    .find_map(|block| {
                        let frame =
                            self.outside_of_cleared(block, block + (1 << size), 1 << order)?;
                        serves(frame).then_some((block, frame))
                    })
            })
        })
    }

    /// The first multiple of `len` from `start` on, so far below `end`, that nobody is clearing.
    fn outside_of_cleared(&self, start: u64, end: u64, len: u64) -> Option<u64> {
        let mut at = start;
        while at + len <= end {
            let wanted = frame_range(at, at + len);
            match self.clearing.iter().find(|range| range.overlaps(&wanted)) {
                Some(range) => at = range.end().raw().next_multiple_of(len),
                None => return Some(at),
            }
        }
        None
    }

    /// Ends what [`begin_move`](Self::begin_move) began. The allocation is free where its owner has
    /// gone over to other frames, or freed it meanwhile; says whether it is.
    pub(crate) fn end_move(&mut self, moved: &Move, vacated: bool) -> bool {
        let Some(entry) = self.entry_mut(moved.start) else {
            return false;
        };
        if vacated || entry.state == State::Doomed {
            self.release(moved.start, moved.frames);
            return true;
        }
        entry.state = State::Movable;
        false
    }

    /// Takes the frames from `start` up to `end`, of one page block, out of the lists; `false`, and
    /// nothing has changed, unless all are free.
    pub(crate) fn take(&mut self, start: u64, end: u64) -> bool {
        let mut at = start;
        while at < end {
            let span = self.span_at(at);
            if span.status != Status::Free {
                return false;
            }
            at = span.end;
        }
        self.isolate_free_block(Sections::page_block(start));
        let mut at = start;
        while at < end {
            let span = self.span_at(at);
            self.unlist(span.start, (span.end - span.start).ilog2());
            self.free_run(span.start, start);
            self.free_run(end, span.end);
            at = span.end;
        }
        self.count(start, end, Kind::Free, Kind::Blocked);
        true
    }

    /// Lists again what [`take`](Self::take) took.
    pub(crate) fn give_back(&mut self, start: u64, end: u64) {
        self.count(start, end, Kind::Blocked, Kind::Free);
        self.free_run(start, end);
    }

    /// Makes one allocation of what was taken, and says its number.
    pub(crate) fn seal(&mut self, start: u64, frames: u64) -> u32 {
        self.number = self.number.wrapping_add(1);
        let number = self.number;
        let head = self.sections.index(start).map_or(0, |index| index as u32);
        if let Some(entry) = self.entry_mut(start) {
            entry.state = State::Taken;
            // A table has fewer than 2^32 entries.
            entry.next = frames as u32;
            entry.previous = number;
            (entry.mover, entry.pins, entry.order) = (0, 0, 0);
        }
        for at in further_blocks(start, start + frames) {
            if let Some(entry) = self.entry_mut(at) {
                (entry.state, entry.next) = (State::Joined, head);
            }
        }
        number
    }

    /// Forgets the further blocks of an allocation.
    pub(super) fn clear_joined(&mut self, start: u64, end: u64) {
        for at in further_blocks(start, end) {
            if let Some(entry) = self.entry_mut(at) {
                entry.state = State::Inside;
            }
        }
    }
}

/// Where the aligned blocks start that make up an allocation, but for the first. One that is
/// aligned to its length has none: from any of its frames few steps lead to its start.
fn further_blocks(start: u64, end: u64) -> impl Iterator<Item = u64> {
    let order = (end - start).next_power_of_two().ilog2();
    let aligned = order <= MAX_ORDER && start % (1 << order) == 0;
    let mut at = if aligned { end } else { start };
    let blocks = core::iter::from_fn(move || {
        let left = end.checked_sub(at).filter(|left| *left > 0)?;
        let order = at.trailing_zeros().min(left.ilog2()).min(MAX_ORDER);
        let found = at;
        at += 1 << order;
        Some(found)
    });
    blocks.skip(1)
}

/// The first frames of the page blocks that `range` has frames in.
pub(crate) fn page_blocks(range: PfnRange) -> impl Iterator<Item = u64> {
    let first = Sections::page_block(range.start().raw());
    (first..range.end().raw()).step_by(PAGEBLOCK_FRAMES as usize)
}

/// The part of `range` in the page block that starts at `block`.
pub(crate) fn part_in(range: PfnRange, block: u64) -> (u64, u64) {
    let start = range.start().raw().max(block);
    (start, range.end().raw().min(block + PAGEBLOCK_FRAMES))
}

/// Frames from `start` up to `end`, both known to be frame numbers.
pub(crate) fn frame_range(start: u64, end: u64) -> PfnRange {
    let range = PfnRange::between(Pfn::new(start), Pfn::new(end));
    range.unwrap_or_else(|| unreachable!("{start:#x} lies above {end:#x}"))
}
