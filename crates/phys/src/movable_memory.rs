//! Memory whose owners can be asked to move it.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use dmakit_addr::{DmaMask, NodeId, Pfn};
use dmakit_platform::Platform;

use crate::buddy::{Hold, Move, Span, Status, frame_range};
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
            Status::Moving | Status::Passing => return Err(Failed::Now(Obstacle::BeingCleared)),
            Status::Pinned => return Err(Failed::For(Obstacle::Pinned)),
            Status::Missing => return Err(Failed::For(Obstacle::NotHere)),
            Status::Unmovable | Status::Free => return Err(Failed::For(Obstacle::Unmovable)),
        }
        self.move_away(span.start, cause, to)
            .map_err(|error| match error {
                NotMoved::NoRoom(error) => Failed::NoRoom(error),
                // What it is now the next try sees.
                NotMoved::NotMovable => Failed::Now(Obstacle::Refused(Refusal::Busy)),
                NotMoved::Refused(reason) if reason.is_passing() => {
                    Failed::Now(Obstacle::Refused(reason))
                }
                NotMoved::Refused(reason) => Failed::For(Obstacle::Refused(reason)),
            })
    }

    /// Asks the owner of the movable allocation that starts at `start` to move it, and says where
    /// it starts then; `None` where its owner freed it meanwhile.
    pub(crate) fn move_away(
        &self,
        start: u64,
        cause: MigrationCause,
        to: Destination,
    ) -> Result<Option<u64>, NotMoved> {
        let moved = self.allocator.locked(|buddy| buddy.begin_move(start));
        let moved = moved.ok_or(NotMoved::NotMovable)?;
        let migration = Migration {
            from: frame_range(moved.start, moved.start + moved.frames),
            mover: moved.mover,
            cause,
        };
        let outcome = self.ask(&migration, &moved, to);
        let vacated = outcome.is_ok();
        let gone = self
            .allocator
            .locked(|buddy| buddy.end_move(&moved, vacated));
        self.counters.note(cause, moved.frames, &outcome);
        match outcome {
            Err(_) if gone => Ok(None),
            outcome => outcome,
        }
    }

    fn ask(
        &self,
        migration: &Migration,
        moved: &Move,
        to: Destination,
    ) -> Result<Option<u64>, NotMoved> {
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
        // Nobody may pin or move the new frames before they are anybody's.
        let (target, token) = self
            .allocator
            .allocate_target(&request, to.blocks)
            .map_err(NotMoved::NoRoom)?;
        let answer = self.movers.migrate(migration, token);
        let hold = to.hold.filter(|_| answer.is_ok());
        let freed = self.allocator.locked(|buddy| {
            let freed = buddy.end_move(&target, false);
            // A new allocation has room for a count.
            let held = hold
                .filter(|_| !freed)
                .map(|hold| buddy.add_hold(target.start, hold));
            debug_assert!(!matches!(held, Some(Err(_))));
            freed
        });
        match answer {
            Ok(old) if old.range() == migration.from && old.number() == moved.number => {
                Ok((!freed).then_some(target.start))
            }
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

impl Counters {
    fn note(&self, cause: MigrationCause, frames: u64, outcome: &Result<Option<u64>, NotMoved>) {
        let cause = cause as usize;
        let counter = match outcome {
            Ok(_) => {
                self.frames[cause].fetch_add(frames, Relaxed);
                &self.moved[cause]
            }
            Err(NotMoved::NoRoom(_)) => &self.no_room[cause],
            Err(NotMoved::Refused(reason)) => &self.refused[cause][*reason as usize],
            Err(NotMoved::NotMovable) => return,
        };
        counter.fetch_add(1, Relaxed);
    }
}

impl<P: Platform, S: AsRef<[Frame]> + AsMut<[Frame]>, M> fmt::Debug for MovableMemory<P, S, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MovableMemory")
            .field("allocator", &self.allocator)
            .finish_non_exhaustive()
    }
}
