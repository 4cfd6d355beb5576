//! What is in the way of a claim moves out.

use alloc::vec::Vec;

use dmakit_addr::PfnRange;
use dmakit_platform::{Instant, Platform};

use crate::buddy::{InWay, frame_range, page_blocks, part_in};
use crate::claim::ClaimLimits;
use crate::claim_error::{Blocking, ClaimFailure, Obstacle};
use crate::frame::Frame;
use crate::migration::{Migrate, MigrationCause, Refusal};
use crate::movable_memory::{Asked, Destination, Failed, MovableMemory};
use crate::obstacles::{NAMED_MAX, named, obstacle, push};
use crate::page_allocator::Frames;

/// Frames that a claim looks over under one hold of the lock: 64 page blocks.
const WALK_FRAMES: u64 = 64 << 9;

/// Why a range was not cleared, and what was in the way.
pub(crate) type NotCleared = (ClaimFailure, Vec<Blocking>);

/// A range on its way to being claimed: nothing that is or becomes free in it goes to anybody.
pub(crate) struct Clearing<'m, P: Platform, S, M> {
    memory: &'m MovableMemory<P, S, M>,
    range: PfnRange,
    /// Whether there were leases in it when it was begun. There are no new ones from then on.
    leased: bool,
}

impl<'m, P: Platform, S: AsRef<[Frame]> + AsMut<[Frame]>, M: Migrate> Clearing<'m, P, S, M> {
    /// # Errors
    /// The range that somebody else is clearing and overlaps, or `None` where there are too many.
    pub(crate) fn begin(
        memory: &'m MovableMemory<P, S, M>,
        range: PfnRange,
    ) -> Result<Self, Option<PfnRange>> {
        let mut leased = false;
        for block in page_blocks(range) {
            let (start, end) = part_in(range, block);
            memory.allocator.locked(|buddy| {
                if start == range.start().raw() {
                    buddy.begin_clearing(range)?;
                }
                leased |= buddy.has_leased(start, end);
                buddy.keep_free(start, end);
                Ok::<_, Option<PfnRange>>(())
            })?;
        }
        Ok(Self {
            memory,
            range,
            leased,
        })
    }

    /// Whether leases have to be recalled first.
    pub(crate) fn is_leased(&self) -> bool {
        self.leased
    }

    /// Has everything moved out. Where an allocation is refused for the moment, the others move
    /// nevertheless, and it is asked again.
    pub(crate) fn clear(
        &self,
        cause: MigrationCause,
        limits: &ClaimLimits,
    ) -> Result<(), NotCleared> {
        let mut tried = 0;
        loop {
            let (left, kept) = self.pass(cause, limits)?;
            if kept {
                return Ok(());
            }
            if left.is_empty() {
                return self.name_stuck();
            }
            if tried >= limits.tries {
                return Err((ClaimFailure::Tries, left));
            }
            tried += 1;
            self.memory.movers.pause(self.memory.platform.now());
        }
    }

    /// Asks once for everything that is in the way, and says what of it is still there, and whether
    /// all frames are kept for this claim now. The lock is held once for what moved last and what moves
    /// next, and once for new frames.
    fn pass(
        &self,
        cause: MigrationCause,
        limits: &ClaimLimits,
    ) -> Result<(Vec<Blocking>, bool), NotCleared> {
        let mut left = Vec::new();
        let (mut at, end) = (self.range.start().raw(), self.range.end().raw());
        let mut asked: Option<Asked> = None;
        let mut now = self.memory.platform.now();
        let mut kept = false;
        loop {
            let stop = end.min(at.saturating_add(WALK_FRAMES));
            let last = asked.as_ref().map(Asked::frames);
            let next = self.memory.allocator.locked(|buddy| {
                if let Some(asked) = asked.take() {
                    self.memory.end(asked, buddy)?;
                }
                let next = buddy.next_in_way(at, stop);
                kept = next.is_none() && buddy.is_kept(self.range);
                Ok(next)
            });
            match next {
                Err(failed) => self.note(last, failed, &mut left)?,
                Ok(None) if stop < end => at = stop,
                Ok(None) => return Ok((left, kept)),
                Ok(Some(next)) => {
                    let frames = next.frames();
                    self.in_time(&next, now, limits)?;
                    at = frames.end().raw();
                    match next {
                        InWay::Move(moved) => {
                            asked = Some(self.memory.ask(moved, cause, Destination::NEAR));
                        }
                        InWay::Other(span) => {
                            let vacated =
                                self.memory.vacate(&span, cause, Destination::NEAR, limits);
                            if let Err(failed) = vacated {
                                self.note(Some(frames), failed, &mut left)?;
                            }
                        }
                    }
                    // Before the lock is taken, which waits for what a mover has written.
                    now = self.memory.platform.now();
                }
            }
        }
    }

    /// Notes what did not move now; what will not move at all ends the claim.
    fn note(
        &self,
        frames: Option<PfnRange>,
        failed: Failed,
        left: &mut Vec<Blocking>,
    ) -> Result<(), NotCleared> {
        let frames = frames.unwrap_or(self.range);
        let blocking = |why| self.memory.name(frames, why);
        match failed {
            Failed::NoRoom(error) => Err((
                ClaimFailure::NoRoom(error),
                named(Some(blocking(Obstacle::NoRoom))),
            )),
            Failed::For(why) => Err((ClaimFailure::Blocked, named(Some(blocking(why))))),
            Failed::Now(why) if left.len() < NAMED_MAX => {
                push(left, blocking(why));
                Ok(())
            }
            Failed::Now(_) => Ok(()),
        }
    }

    /// Nothing is begun after the deadline.
    fn in_time(&self, next: &InWay, now: Instant, limits: &ClaimLimits) -> Result<(), NotCleared> {
        if now < limits.deadline {
            return Ok(());
        }
        let why = match next {
            InWay::Move(moved) => {
                self.memory
                    .allocator
                    .locked(|buddy| buddy.end_move(moved.start, moved.frames, false));
                None
            }
            InWay::Other(span) => obstacle(span.status),
        };
        let why = why.unwrap_or(Obstacle::Refused(Refusal::Busy));
        let blocking = self.memory.name(next.frames(), why);
        Err((ClaimFailure::Deadline, named(Some(blocking))))
    }

    /// Nothing is left to move, and yet some frames are not kept for this claim: somebody got hold of
    /// them just before.
    fn name_stuck(&self) -> Result<(), NotCleared> {
        let range = self.range;
        let stuck = page_blocks(range).find_map(|block| {
            let (start, end) = part_in(range, block);
            let allocator = &self.memory.allocator;
            allocator.locked(|buddy| buddy.first_not_kept(start, end))
        });
        let blocking = stuck.map(|span| {
            let why = obstacle(span.status).unwrap_or(Obstacle::BeingCleared);
            self.memory.name(frame_range(span.start, span.end), why)
        });
        Err((ClaimFailure::Blocked, named(blocking)))
    }

    /// Takes the range, all of which is kept. `mover` is that of the allocation.
    pub(crate) fn take(self, mover: u16) -> Frames {
        let (first, end) = (self.range.start().raw(), self.range.end().raw());
        let mut number = 0;
        for block in page_blocks(self.range) {
            let part = part_in(self.range, block);
            self.memory.allocator.locked(|buddy| {
                buddy.join_kept(part.0, part.1);
                if part.1 == end {
                    buddy.end_clearing(self.range);
                    number = buddy.seal(first, end - first, mover);
                }
            });
        }
        Frames::new(first, end - first, number)
    }

    /// Lists again what is kept.
    pub(crate) fn give_up(self) {
        let range = self.range;
        self.memory
            .allocator
            .locked(|buddy| buddy.stop_keeping(range));
        for block in page_blocks(range) {
            let (start, end) = part_in(range, block);
            self.memory
                .allocator
                .locked(|buddy| buddy.give_back_kept(start, end));
        }
        self.memory
            .allocator
            .locked(|buddy| buddy.end_clearing(range));
    }
}
