//! Memory whose owners can be asked to move it.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use dmakit_addr::{DmaMask, NodeId, Pfn, PfnRange};
use dmakit_platform::Platform;

use crate::buddy::{Buddy, Hold, Move, Span, Status, frame_range};
use crate::claim::ClaimLimits;
use crate::claim_error::Obstacle;
use crate::error::NoFrames;
use crate::frame::{Frame, MigrateType};
use crate::migration::{Migrate, Migration, MigrationCause, Refusal, Refused};
use crate::page_allocator::{FrameRequest, PageAllocator};
use crate::pin_table::PinTable;

const CAUSES: usize = MigrationCause::ALL.len();
const REFUSALS: usize = Refusal::ALL.len();

/// A page allocator together with those who own its movable memory.
///
/// Contiguous ranges are claimed here, and single allocations moved. Calls may sleep, because
/// movers may; the allocator's lock is taken for short steps only and never held while anybody is
/// called.
pub struct MovableMemory<P: Platform, S, M> {
    pub(crate) platform: P,
    pub(crate) allocator: PageAllocator<P, S>,
    pub(crate) movers: M,
    pub(crate) pins: PinTable<P>,
    counters: Counters,
}

/// What came of the migrations of one cause.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MigrationCounts {
    /// Allocations that moved.
    pub moved: u64,
    /// Their frames.
    pub frames: u64,
    /// Times that nothing moved, by [`Refusal`] in the order of [`Refusal::ALL`].
    pub refused: [u64; REFUSALS],
    /// Times that there was no room to move to.
    pub no_room: u64,
}

#[derive(Default)]
struct Counters {
    moved: [AtomicU64; CAUSES],
    frames: [AtomicU64; CAUSES],
    refused: [[AtomicU64; REFUSALS]; CAUSES],
    no_room: [AtomicU64; CAUSES],
}

/// Where an allocation may go.
#[derive(Clone, Copy)]
pub(crate) struct Destination {
    /// Instead of the node where it is.
    pub(crate) node: Option<NodeId>,
    pub(crate) only_node: bool,
    /// The type of the blocks that serve it first.
    pub(crate) blocks: MigrateType,
    /// What holds it from the moment it is there.
    pub(crate) hold: Option<Hold>,
}

impl Destination {
    pub(crate) const NEAR: Self = Self {
        node: None,
        only_node: false,
        blocks: MigrateType::Movable,
        hold: None,
    };
}

/// Why frames are not vacated, and whether asking again may help.
pub(crate) enum Failed {
    Now(Obstacle),
    For(Obstacle),
    NoRoom(NoFrames),
}

/// Why an allocation did not move.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotMoved {
    /// No movable allocation that nothing holds starts there, or it is being moved already.
    NotMovable,
    /// Its mover, or the gate, said no.
    Refused(Refusal),
    /// There is no room for it.
    NoRoom(NoFrames),
}

impl fmt::Display for NotMoved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotMovable => f.write_str("no movable allocation starts there"),
            Self::Refused(reason) => write!(f, "the allocation is {reason}"),
            Self::NoRoom(error) => write!(f, "no room to move to: {error}"),
        }
    }
}

impl core::error::Error for NotMoved {}

impl<P: Platform, S: AsRef<[Frame]> + AsMut<[Frame]>, M: Migrate> MovableMemory<P, S, M> {
    /// The memory of `allocator`, whose movable allocations belong to `movers`.
    pub fn new(platform: P, allocator: PageAllocator<P, S>, movers: M) -> Self {
        Self {
            platform,
            allocator,
            movers,
            pins: PinTable::new(),
            counters: Counters::default(),
        }
    }

    /// Where frames are allocated and freed.
    pub fn allocator(&self) -> &PageAllocator<P, S> {
        &self.allocator
    }

    /// Who owns the movable memory.
    pub fn movers(&self) -> &M {
        &self.movers
    }

    /// Moves one allocation, found from any of its frames, near `node`, or to its own node.
    /// Compaction, huge pages, NUMA balancing and unplug come this way. May sleep.
    ///
    /// # Errors
    /// [`NotMoved`]; nothing has changed then.
    pub fn migrate(
        &self,
        frame: Pfn,
        cause: MigrationCause,
        node: Option<NodeId>,
    ) -> Result<(), NotMoved> {
        let owner = self.allocator.locked(|buddy| buddy.owner(frame.raw()));
        let (start, _) = owner.ok_or(NotMoved::NotMovable)?;
        let to = Destination {
            node,
            ..Destination::NEAR
        };
        self.move_away(start, cause, to).map(|_| ())
    }

    /// What came of the migrations of one cause.
    pub fn migrations(&self, cause: MigrationCause) -> MigrationCounts {
        let (counters, cause) = (&self.counters, cause as usize);
        let mut refused = [0; REFUSALS];
        for (sum, counter) in refused.iter_mut().zip(&counters.refused[cause]) {
            *sum = counter.load(Relaxed);
        }
        MigrationCounts {
            moved: counters.moved[cause].load(Relaxed),
            frames: counters.frames[cause].load(Relaxed),
            refused,
            no_room: counters.no_room[cause].load(Relaxed),
        }
    }

    /// Counts a question that the gate answered for all allocations at once.
    pub(crate) fn count_closed(&self, cause: MigrationCause) {
        let closed = Err(NotMoved::Refused(Refusal::NotPermitted));
        self.allocator
            .locked(|_| self.counters.note(cause, 0, &closed));
    }

    /// Has an allocation moved away, its leases recalled first, and says where it starts then;
    /// `None` where its owner freed it meanwhile.
    pub(crate) fn vacate(
        &self,
        span: &Span,
        cause: MigrationCause,
        to: Destination,
        limits: &ClaimLimits,
    ) -> Result<Option<u64>, Failed> {
        match span.status {
            Status::Movable => {}
            Status::Leased => self.end_leases(frame_range(span.start, span.end), limits)?,
            Status::Moving | Status::Passing | Status::Kept => {
                return Err(Failed::Now(Obstacle::BeingCleared));
            }
            Status::Pinned => return Err(Failed::For(Obstacle::Pinned)),
            Status::Missing => return Err(Failed::For(Obstacle::NotHere)),
            Status::Unmovable | Status::Free => return Err(Failed::For(Obstacle::Unmovable)),
        }
        Ok(self.move_away(span.start, cause, to)?)
    }

    /// Asks the owner of the movable allocation that starts at `start` to move it, and says where
    /// it starts then; `None` where its owner freed it meanwhile.
    fn move_away(
        &self,
        start: u64,
        cause: MigrationCause,
        to: Destination,
    ) -> Result<Option<u64>, NotMoved> {
        let moved = self.allocator.locked(|buddy| buddy.begin_move(start));
        let asked = self.ask(moved.ok_or(NotMoved::NotMovable)?, cause, to);
        self.allocator.locked(|buddy| self.end(asked, buddy))
    }

    /// Ends a move, and says where the allocation starts now; `None` where its owner freed it
    /// meanwhile.
    pub(crate) fn end(&self, asked: Asked, buddy: &mut Buddy<S>) -> Result<Option<u64>, NotMoved> {
        self.counters
            .note(asked.cause, asked.moved.frames, &asked.answer);
        asked.end(buddy)
    }

    /// Asks the owner of an allocation whose move has begun; [`end`](Self::end) ends it.
    pub(crate) fn ask(&self, moved: Move, cause: MigrationCause, to: Destination) -> Asked {
        let migration = Migration {
            from: frame_range(moved.start, moved.start + moved.frames),
            mover: moved.mover,
            cause,
        };
        let mut target = None;
        let answer = self.answer(&migration, &moved, to, &mut target);
        Asked {
            cause,
            moved,
            target,
            hold: to.hold,
            answer,
        }
    }

    fn answer(
        &self,
        migration: &Migration,
        moved: &Move,
        to: Destination,
        begun: &mut Option<u64>,
    ) -> Result<(), NotMoved> {
        if !self.movers.permits(migration) {
            return Err(NotMoved::Refused(Refusal::NotPermitted));
        }
        let request = FrameRequest {
            frames: moved.frames,
            align_order: 0,
            node: to.node.or(Some(NodeId::new(moved.node as u16))),
            only_node: to.only_node,
            limit: DmaMask::ALL,
            mover: Some(moved.mover),
        };
        let target = self.allocator.allocate_target(&request, to.blocks);
        let target = target.map_err(NotMoved::NoRoom)?;
        *begun = Some(target.range().start().raw());
        match self.movers.migrate(migration, target) {
            Ok(old) if old.range() == migration.from && old.number() == moved.number => Ok(()),
            Ok(other) => {
                // The mover parted with something else, which is its right; this did not move.
                let freed = self.allocator.free(other);
                debug_assert!(freed.is_ok(), "a mover gave back frames of nobody");
                Err(NotMoved::Refused(Refusal::Gone))
            }
            Err(Refused { to, reason }) => {
                let freed = self.allocator.free(to);
                debug_assert!(
                    freed.is_ok(),
                    "a mover gave back other frames than it was given"
                );
                Err(NotMoved::Refused(reason))
            }
        }
    }
}

/// An allocation whose owner was asked to move it, before the page allocator is told.
pub(crate) struct Asked {
    cause: MigrationCause,
    moved: Move,
    /// Where it was to move to. Nobody may pin or move these frames before they are anybody's.
    target: Option<u64>,
    hold: Option<Hold>,
    answer: Result<(), NotMoved>,
}

impl Asked {
    /// Which frames it was about.
    pub(crate) fn frames(&self) -> PfnRange {
        frame_range(self.moved.start, self.moved.start + self.moved.frames)
    }

    fn end<S: AsRef<[Frame]> + AsMut<[Frame]>>(
        self,
        buddy: &mut Buddy<S>,
    ) -> Result<Option<u64>, NotMoved> {
        let mut there = None;
        if let Some(target) = self.target {
            let freed = buddy.end_move(target, self.moved.frames, false);
            there = (!freed).then_some(target);
            let hold = self.hold.filter(|_| self.answer.is_ok() && !freed);
            // A new allocation has room for a count.
            let held = hold.map(|hold| buddy.add_hold(target, hold));
            debug_assert!(!matches!(held, Some(Err(_))));
        }
        let Move { start, frames, .. } = self.moved;
        let gone = buddy.end_move(start, frames, self.answer.is_ok());
        match self.answer {
            Ok(()) => Ok(there),
            Err(_) if gone => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl From<NotMoved> for Failed {
    fn from(error: NotMoved) -> Self {
        match error {
            NotMoved::NoRoom(error) => Self::NoRoom(error),
            // What it is now the next try sees.
            NotMoved::NotMovable => Self::Now(Obstacle::Refused(Refusal::Busy)),
            NotMoved::Refused(reason) if reason.is_passing() => {
                Self::Now(Obstacle::Refused(reason))
            }
            NotMoved::Refused(reason) => Self::For(Obstacle::Refused(reason)),
        }
    }
}

impl Counters {
    /// Called under the allocator's lock, so that no counter needs a locked instruction.
    fn note(&self, cause: MigrationCause, frames: u64, answer: &Result<(), NotMoved>) {
        let cause = cause as usize;
        let counter = match answer {
            Ok(()) => {
                add(&self.frames[cause], frames);
                &self.moved[cause]
            }
            Err(NotMoved::NoRoom(_)) => &self.no_room[cause],
            Err(NotMoved::Refused(reason)) => &self.refused[cause][*reason as usize],
            Err(NotMoved::NotMovable) => return,
        };
        add(counter, 1);
    }
}

fn add(counter: &AtomicU64, more: u64) {
    counter.store(counter.load(Relaxed) + more, Relaxed);
}

impl<P: Platform, S: AsRef<[Frame]> + AsMut<[Frame]>, M> fmt::Debug for MovableMemory<P, S, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MovableMemory")
            .field("allocator", &self.allocator)
            .finish_non_exhaustive()
    }
}
