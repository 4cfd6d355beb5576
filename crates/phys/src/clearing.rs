//! What is in the way of a claim moves out.

use alloc::vec::Vec;

use dmakit_addr::PfnRange;
use dmakit_platform::Platform;

use crate::buddy::{InWay, frame_range, page_blocks, part_in};
use crate::claim::{ClaimLimits, NAMED_MAX, obstacle};
use crate::claim_error::{Blocking, ClaimFailure, Obstacle};
use crate::frame::Frame;
use crate::migration::{Migrate, MigrationCause, Refusal};
use crate::movable_memory::{Asked, Destination, Failed, MovableMemory};
use crate::page_allocator::Frames;

/// Frames that a claim looks over under one hold of the lock: 64 page blocks.
const WALK_FRAMES: u64 = 64 << 9;

/// Why a range was not cleared, and what was in the way.
pub(crate) type NotCleared = (ClaimFailure, Vec<Blocking>);

/// A range on its way to being claimed: nothing that is or becomes free in it goes to anybody.
pub(crate) struct Clearing<'m, P: Platform, S, M> {
    memory: &'m MovableMemory<P, S, M>,
    range: PfnRange,
}

impl<'m, P: Platform, S: AsRef<[Frame]> + AsMut<[Frame]>, M: Migrate> Clearing<'m, P, S, M> {
    /// # Errors
    /// The range that somebody else is clearing and overlaps, or `None` where there are too many.
    pub(crate) fn begin(
        memory: &'m MovableMemory<P, S, M>,
        range: PfnRange,
    ) -> Result<Self, Option<PfnRange>> {
        memory
            .allocator
            .locked(|buddy| buddy.begin_clearing(range))?;
        for block in page_blocks(range) {
            let (start, end) = part_in(range, block);
            memory.allocator.locked(|buddy| buddy.keep_free(start, end));
        }
        Ok(Self { memory, range })
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
            let left = self.pass(cause, limits)?;
            if left.is_empty() {
                return self.check();
            }
            if tried >= limits.tries {
                return Err((ClaimFailure::Tries, left));
            }
            tried += 1;
            self.memory.movers.pause(self.memory.platform.now());
        }
    }

    /// Asks once for everything that is in the way, and says what of it is still there. The lock is
    /// held once for what moved last and what moves next, and once for new frames.
    fn pass(
        &self,
        cause: MigrationCause,
        limits: &ClaimLimits,
    ) -> Result<Vec<Blocking>, NotCleared> {
        let mut left = Vec::new();
        let (mut at, end) = (self.range.start().raw(), self.range.end().raw());
        let mut asked: Option<Asked> = None;
        loop {
            let stop = end.min(at.saturating_add(WALK_FRAMES));
            let last = asked.as_ref().map(Asked::frames);
            let next = self.memory.allocator.locked(|buddy| {
                if let Some(asked) = asked.take() {
                    self.memory.end(asked, buddy)?;
                }
                Ok(buddy.next_in_way(at, stop))
            });
            match next {
                Err(failed) => self.note(last, failed, &mut left)?,
                Ok(None) if stop < end => at = stop,
                Ok(None) => return Ok(left),
                Ok(Some(next)) => {
                    let frames = next.frames();
                    self.in_time(&next, limits)?;
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
                alloc::vec![blocking(Obstacle::NoRoom)],
            )),
            Failed::For(why) => Err((ClaimFailure::Blocked, alloc::vec![blocking(why)])),
            Failed::Now(why) if left.len() < NAMED_MAX => {
                left.push(blocking(why));
                Ok(())
            }
            Failed::Now(_) => Ok(()),
        }
    }

    /// Nothing is begun after the deadline.
    fn in_time(&self, next: &InWay, limits: &ClaimLimits) -> Result<(), NotCleared> {
        if self.memory.platform.now() < limits.deadline {
            return Ok(());
        }
        let why = match next {
            InWay::Move(moved) => {
                self.memory
                    .allocator
                    .locked(|buddy| buddy.end_move(moved, false));
                None
            }
            InWay::Other(span) => obstacle(span.status),
        };
        let why = why.unwrap_or(Obstacle::Refused(Refusal::Busy));
        let blocking = self.memory.name(next.frames(), why);
        Err((ClaimFailure::Deadline, alloc::vec![blocking]))
    }

    /// Nothing is left to move, so all frames are kept for this claim; but for those that somebody
    /// got hold of just before.
    fn check(&self) -> Result<(), NotCleared> {
        let range = self.range;
        if self.memory.allocator.locked(|buddy| buddy.is_kept(range)) {
            return Ok(());
        }
        let stuck = page_blocks(range).find_map(|block| {
            let (start, end) = part_in(range, block);
            let allocator = &self.memory.allocator;
            allocator.locked(|buddy| buddy.first_not_kept(start, end))
        });
        let blocking = stuck.map(|span| {
            let why = obstacle(span.status).unwrap_or(Obstacle::BeingCleared);
            self.memory.name(frame_range(span.start, span.end), why)
        });
        Err((ClaimFailure::Blocked, blocking.into_iter().collect()))
    }

    /// Takes the range, all of which is kept.
    pub(crate) fn take(self) -> Frames {
        let range = self.range;
        for block in page_blocks(range) {
            let (start, end) = part_in(range, block);
            self.memory
                .allocator
                .locked(|buddy| buddy.join_kept(start, end));
        }
        let start = range.start().raw();
        let number = self.memory.allocator.locked(|buddy| {
            buddy.end_clearing(range);
            buddy.seal(start, range.len())
        });
        Frames::new(start, range.len(), number)
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
