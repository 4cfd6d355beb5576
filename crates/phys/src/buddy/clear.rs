//! Clearing a range: what is free in it is kept, allocations move, then it is taken.

use dmakit_addr::{Pfn, PfnRange};

use super::{Buddy, PAGEBLOCK_FRAMES, Span, Status};
use crate::block::{self, BLOCK_FRAMES, Kind};
use crate::frame::{Frame, MoverId, State};
use crate::page_allocator::MAX_ORDER;
use crate::sections::Sections;

/// So many ranges can be cleared at once.
pub(crate) const CLEARING_MAX: usize = 64;

/// A range that a claim is clearing. What is or becomes free in it is listed nowhere.
pub(super) struct Clearing {
    pub(super) range: PfnRange,
    /// Frames that are kept for the claim.
    pub(super) kept: u64,
    /// Whether more are: not any more once the claim has failed.
    pub(super) keeps: bool,
}

/// An allocation whose mover is being asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Move {
    pub(crate) start: u64,
    pub(crate) frames: u64,
    pub(crate) number: u32,
    pub(crate) mover: MoverId,
    pub(crate) node: usize,
}

/// What has to leave a range that is being cleared.
#[derive(Clone, Copy, Debug)]
pub(crate) enum InWay {
    /// An allocation whose mover may be asked now.
    Move(Move),
    /// Something else has to come first, or it is stuck.
    Other(Span),
}

/// What a range holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Survey {
    pub(crate) free: u64,
    pub(crate) blocked: u64,
    /// Frames that are not of the zone that was asked for.
    pub(crate) elsewhere: u64,
    /// Free frames of all memory, when the range was begun with.
    pub(crate) everywhere: u64,
}

impl InWay {
    /// Its frames.
    pub(crate) fn frames(&self) -> PfnRange {
        match self {
            Self::Move(moved) => frame_range(moved.start, moved.start + moved.frames),
            Self::Other(span) => frame_range(span.start, span.end),
        }
    }
}

impl<S: AsRef<[Frame]> + AsMut<[Frame]>> Buddy<S> {
    /// Notes that somebody clears `range`: what becomes free in it stays free.
    ///
    /// # Errors
    /// The range that is being cleared already and overlaps, or `None` where there are too many.
    pub(crate) fn begin_clearing(&mut self, range: PfnRange) -> Result<(), Option<PfnRange>> {
        if let Some(other) = self.being_cleared(range) {
            return Err(Some(other));
        }
        if self.clearing.len() == CLEARING_MAX {
            return Err(None);
        }
        self.clearing.push(Clearing {
            range,
            kept: 0,
            keeps: true,
        });
        Ok(())
    }

    /// What becomes free in `range` from now on is anybody's, although it is still being cleared.
    pub(crate) fn stop_keeping(&mut self, range: PfnRange) {
        let mut clearing = self.clearing.iter_mut();
        if let Some(claim) = clearing.find(|claim| claim.range == range) {
            claim.keeps = false;
        }
    }

    pub(crate) fn end_clearing(&mut self, range: PfnRange) {
        self.clearing.retain(|other| other.range != range);
    }

    /// The first range that somebody is clearing and that has frames of `range`.
    pub(crate) fn being_cleared(&self, range: PfnRange) -> Option<PfnRange> {
        let mut ranges = self.clearing.iter().map(|other| other.range);
        ranges.find(|other| other.overlaps(&range))
    }

    /// What there is from `start` up to `end`, in one page block, for a claim of frames of `zone`.
    pub(crate) fn survey(&self, start: u64, end: u64, zone: Option<u16>) -> Survey {
        let frames = end - start;
        let nothing = Survey {
            free: 0,
            blocked: frames,
            elsewhere: frames,
            everywhere: 0,
        };
        let Some(record) = self.record(start) else {
            return nothing;
        };
        let block = block::Block::load(record);
        let ours = |frame| self.zone_of(frame) == zone;
        let alike = zone.is_some() && (Some(block.zone) == zone || (start..end).all(ours));
        let first = Sections::page_block(start);
        let (from, to) = ((start - first) as usize, (end - first) as usize);
        let mut found = Survey {
            elsewhere: if alike { 0 } else { frames },
            ..Survey::default()
        };
        for index in from / 64..=(to - 1) / 64 {
            let mask = block::mask(index, from, to);
            found.free += u64::from((block::free(record, index) & mask).count_ones());
            found.blocked += u64::from((block::blocked(record, index) & mask).count_ones());
        }
        found
    }

    /// Whether there are leases on allocations from `start` up to `end`, of one page block.
    pub(crate) fn has_leased(&self, start: u64, end: u64) -> bool {
        let leased = |record: &_, index| block::moves(record, index).1;
        self.next_in_block(start, end, leased).is_some()
    }

    /// What has to move first, from frame `at` up to `end`. Looks at eight words for each page block.
    pub(crate) fn next_to_move(&self, at: u64, end: u64) -> Option<Span> {
        self.first_to_move(at, end).map(|frame| self.span_at(frame))
    }

    fn first_to_move(&self, at: u64, end: u64) -> Option<u64> {
        let mut at = at;
        while at < end {
            let stop = end.min(Sections::page_block(at) + PAGEBLOCK_FRAMES);
            let moves = |record: &_, index| block::moves(record, index).0;
            let found = self.next_in_block(at, stop, moves);
            if found.is_some() {
                return found;
            }
            at = stop;
        }
        None
    }

    /// The same, and an allocation that may be asked at once is kept from being pinned, or moved by
    /// another, while its mover is asked.
    pub(crate) fn next_in_way(&mut self, at: u64, end: u64) -> Option<InWay> {
        let frame = self.first_to_move(at, end)?;
        // Most often an allocation starts there.
        if let Some(moved) = self.begin_move(frame) {
            return Some(InWay::Move(moved));
        }
        let span = self.span_at(frame);
        let moved = self.begin_move(span.start);
        Some(moved.map_or(InWay::Other(span), InWay::Move))
    }

    /// The first frame from `at` up to `end`, in one page block, whose bit `plane` sets.
    pub(super) fn next_in_block(
        &self,
        at: u64,
        end: u64,
        plane: impl Fn(&[Frame; block::RECORD], usize) -> u64,
    ) -> Option<u64> {
        if at >= end {
            return None;
        }
        let record = self.record(at)?;
        let first = Sections::page_block(at);
        let (from, to) = ((at - first) as usize, (end - first) as usize);
        debug_assert!(to <= BLOCK_FRAMES);
        let mut mask = u64::MAX << (from % 64);
        for index in from / 64..to.div_ceil(64) {
            let found = plane(record, index) & mask;
            if found != 0 {
                let frame = first + index as u64 * 64 + u64::from(found.trailing_zeros());
                return (frame < end).then_some(frame);
            }
            mask = u64::MAX;
        }
        None
    }

    /// Keeps an allocation from being pinned, or moved by another, while its mover is asked.
    pub(crate) fn begin_move(&mut self, start: u64) -> Option<Move> {
        let place = self.place(start)?;
        let per_node = self.zones_per_node;
        let entry = self.table.as_mut().get_mut(place.index)?;
        if entry.state != State::Movable || entry.pins > 0 || entry.order > 0 {
            return None;
        }
        entry.state = State::Moving;
        Some(Move {
            start,
            frames: u64::from(entry.next),
            number: entry.previous,
            mover: MoverId::new(entry.mover),
            node: usize::from(place.zone) / per_node,
        })
    }

    /// Keeps a new allocation from being pinned, or moved, while something moves there.
    pub(crate) fn begin_arrival(&mut self, start: u64) {
        if let Some(entry) = self.entry_mut(start) {
            debug_assert_eq!(entry.state, State::Movable);
            entry.state = State::Moving;
        }
    }

    /// Ends what [`begin_move`](Self::begin_move) or [`begin_arrival`](Self::begin_arrival) began. The
    /// allocation is free where its owner has gone over to other frames, or freed it meanwhile; says
    /// whether it is.
    pub(crate) fn end_move(&mut self, start: u64, frames: u64, vacated: bool) -> bool {
        let Some(entry) = self.entry_mut(start) else {
            return false;
        };
        if vacated || entry.state == State::Doomed {
            self.release(start, frames);
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
        self.free_as(start, end, Kind::Blocked);
    }

    /// Makes one allocation of what was taken or kept, and says its number. `mover` is [`BOOKED`]
    /// where somebody keeps books of it, or 0.
    ///
    /// [`BOOKED`]: crate::frame::BOOKED
    pub(crate) fn seal(&mut self, start: u64, frames: u64, mover: u16) -> u32 {
        self.number = self.number.wrapping_add(1);
        let number = self.number;
        let head = self.sections.index(start).map_or(0, |index| index as u32);
        if let Some(entry) = self.entry_mut(start) {
            entry.state = State::Taken;
            // A table has fewer than 2^32 entries.
            entry.next = frames as u32;
            entry.previous = number;
            (entry.mover, entry.pins, entry.order) = (mover, 0, 0);
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
    let (mut next, end) = (Sections::page_block(range.start().raw()), range.end().raw());
    core::iter::from_fn(move || {
        let block = next;
        next += PAGEBLOCK_FRAMES;
        (block < end).then_some(block)
    })
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
