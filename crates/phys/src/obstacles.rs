//! What is in the way of a claim, and who holds it.

use alloc::vec::Vec;

use dmakit_addr::PfnRange;
use dmakit_platform::Platform;

use crate::buddy::{Status, frame_range, page_blocks, part_in};
use crate::claim::align_of;
use crate::claim_error::{Blocking, ClaimError, ClaimFailure, Obstacle};
use crate::frame::Frame;
use crate::migration::Migrate;
use crate::movable_memory::MovableMemory;
use crate::pin_table::Entry;
use crate::window::{WindowIn, WindowRequest};

/// Blocking frames that an error names.
pub(crate) const NAMED_MAX: usize = 8;

impl<P: Platform, S: AsRef<[Frame]> + AsMut<[Frame]>, M: Migrate> MovableMemory<P, S, M> {
    /// The first allocation that would have to move.
    pub(crate) fn in_the_way(&self, range: PfnRange, why: Obstacle) -> Vec<Blocking> {
        let found = page_blocks(range).find_map(|block| {
            let (start, end) = part_in(range, block);
            self.allocator
                .locked(|buddy| buddy.next_to_move(start, end))
        });
        let frames = found.map(|span| frame_range(span.start, span.end));
        named(frames.map(|frames| self.name(frames, why)))
    }

    /// What in a range cannot be cleared: up to eight allocations. Of most page blocks the counts
    /// say that there is nothing.
    pub(crate) fn blocking(&self, range: PfnRange, memory: Option<WindowIn>) -> Vec<Blocking> {
        let mut found: Vec<Blocking> = Vec::new();
        let start = range.start().raw();
        let zone = self.allocator.locked(|buddy| buddy.zone_of(start));
        for block in page_blocks(range) {
            let counts = self.allocator.locked(|buddy| buddy.block(block));
            let clear =
                counts.is_some_and(|counts| Some(counts.zone) == zone && counts.blocked == 0);
            let (mut at, end) = part_in(range, block);
            let other = memory.filter(|memory| counts.is_some_and(|counts| !memory.has(&counts)));
            if other.is_some() {
                add(
                    &mut found,
                    self.name(frame_range(at, end), Obstacle::OtherMemory),
                );
                continue;
            }
            while !clear && at < end && found.len() < NAMED_MAX {
                let (span, here) = self
                    .allocator
                    .locked(|buddy| (buddy.span_at(at), buddy.zone_of(at)));
                let elsewhere = (here != zone).then_some(Obstacle::NotHere);
                if let Some(why) = obstacle(span.status).or(elsewhere) {
                    add(
                        &mut found,
                        self.name(frame_range(span.start, span.end), why),
                    );
                }
                at = span.end;
            }
        }
        found
    }

    /// Why there is no window.
    pub(crate) fn no_window(&self, request: &WindowRequest<'_>) -> ClaimError {
        if align_of(request).is_none() {
            return self.refuse(request.frames, ClaimFailure::Request, Vec::new());
        }
        let mut blocking = Vec::new();
        for within in request.within {
            for next in self.blocking(*within, Some(request.memory)) {
                add(&mut blocking, next);
            }
        }
        blocking.truncate(NAMED_MAX);
        self.refuse(request.frames, ClaimFailure::NoWindow, blocking)
    }

    /// An obstacle with whoever holds the frames.
    pub(crate) fn name(&self, frames: PfnRange, why: Obstacle) -> Blocking {
        let holder = self.pins.locked(|books| {
            let mut pins = books.pins().iter().filter(|pin| pin.overlaps(frames));
            match why {
                Obstacle::Pinned => pins.find(|pin| pin.terms.is_none()).map(Entry::info),
                Obstacle::Leased => pins.find(|pin| pin.terms.is_some()).map(Entry::info),
                _ => None,
            }
        });
        Blocking {
            frames,
            why,
            holder,
        }
    }

    pub(crate) fn refuse(
        &self,
        frames: u64,
        reason: ClaimFailure,
        blocking: Vec<Blocking>,
    ) -> ClaimError {
        ClaimError {
            frames,
            reason,
            blocking,
        }
    }
}

/// A list of one obstacle, where there is one.
pub(crate) fn named(obstacle: Option<Blocking>) -> Vec<Blocking> {
    let mut list = Vec::new();
    if let Some(obstacle) = obstacle {
        push(&mut list, obstacle);
    }
    list
}

/// Names an obstacle; one for whose name there is no memory is not named.
pub(crate) fn push(list: &mut Vec<Blocking>, next: Blocking) {
    if list.try_reserve(1).is_ok() {
        list.push(next);
    }
}

/// Adds an obstacle to those before it: frames beside each other that are no allocation are one.
fn add(found: &mut Vec<Blocking>, next: Blocking) {
    let Some(last) = found.last_mut() else {
        return push(found, next);
    };
    let alike =
        last.why == next.why && matches!(next.why, Obstacle::NotHere | Obstacle::OtherMemory);
    if alike && last.frames.end() == next.frames.start() {
        last.frames = frame_range(last.frames.start().raw(), next.frames.end().raw());
    } else if last.frames != next.frames {
        push(found, next);
    }
}

/// Why a span can never be cleared as it is.
pub(crate) fn obstacle(status: Status) -> Option<Obstacle> {
    match status {
        Status::Missing => Some(Obstacle::NotHere),
        Status::Unmovable => Some(Obstacle::Unmovable),
        Status::Pinned => Some(Obstacle::Pinned),
        Status::Free
        | Status::Movable
        | Status::Leased
        | Status::Moving
        | Status::Passing
        | Status::Kept => None,
    }
}
