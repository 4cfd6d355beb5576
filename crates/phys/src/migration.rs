//! The migration contract: what whoever owns movable memory does for it.

use core::fmt;

use dmakit_addr::PfnRange;
use dmakit_platform::Instant;

use crate::frame::MoverId;
use crate::page_allocator::Frames;

/// Who wants memory to move.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum MigrationCause {
    /// A claim of contiguous frames.
    Claim,
    /// Free memory is to be gathered.
    Compaction,
    /// A huge page is to be made.
    HugePage,
    /// The memory is to be near whoever uses it.
    NumaBalancing,
    /// The memory is to be unplugged.
    Unplug,
    /// A long-term pin that may not stay where the memory is.
    LongTermPin,
}

impl MigrationCause {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 6] = [
        Self::Claim,
        Self::Compaction,
        Self::HugePage,
        Self::NumaBalancing,
        Self::Unplug,
        Self::LongTermPin,
    ];
}

/// One allocation that is to move.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Migration {
    /// Where it is.
    pub from: PfnRange,
    /// Whose it is.
    pub mover: MoverId,
    /// Who wants it to move.
    pub cause: MigrationCause,
}

/// Why an allocation does not move.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Refusal {
    /// Somebody uses it just now; asking again may help.
    Busy,
    /// A device or a driver relies on where it is.
    Pinned,
    /// It has to be written back first; asking again may help.
    Dirty,
    /// The mover does not know it: not yet, or not any more.
    Gone,
    /// The gate is closed: not for this cause, or not now.
    NotPermitted,
}

impl Refusal {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 5] = [
        Self::Busy,
        Self::Pinned,
        Self::Dirty,
        Self::Gone,
        Self::NotPermitted,
    ];

    /// Whether asking again may help.
    pub const fn is_passing(self) -> bool {
        matches!(self, Self::Busy | Self::Dirty | Self::Gone)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Busy => "busy",
            Self::Pinned => "pinned",
            Self::Dirty => "dirty",
            Self::Gone => "gone",
            Self::NotPermitted => "not permitted to move",
        })
    }
}

/// An allocation that did not move, and the frames that it was to move to.
#[derive(Debug)]
pub struct Refused {
    /// The new frames, unused.
    pub to: Frames,
    /// Why.
    pub reason: Refusal,
}

/// What the owner of movable memory does: the embedder's part of every migration.
///
/// One implementor serves a machine; [`Migration::mover`] says whose memory it is about. Every
/// source of migration asks [`permits`](Self::permits) and nobody goes past it: claims, compaction,
/// huge pages, NUMA balancing, unplug, long-term pins.
///
/// No lock of this crate is held during a call, so a call may sleep, allocate and free. While one
/// is under way for an allocation there is no second one for it, and it cannot be pinned.
pub trait Migrate: Sync {
    /// The gate as a whole: whether anything may move for this cause now. Asked once by each claim
    /// that would have to move something, before anything is done: where it is closed, the claim
    /// ends at once ([`ClaimFailure::NotPermitted`](crate::ClaimFailure::NotPermitted)). Where it is
    /// open, [`permits`](Self::permits) still decides for each allocation.
    fn permits_cause(&self, cause: MigrationCause) -> bool {
        let _ = cause;
        true
    }

    /// The gate: whether this allocation may move now, for this cause. Asked before frames are
    /// looked for.
    fn permits(&self, migration: &Migration) -> bool {
        let _ = migration;
        true
    }

    /// Called where a claim or a pin can do nothing before somebody lets go of frames: sleeps until
    /// `until` at most, or lets others run. Waking early does no harm.
    fn pause(&self, until: Instant) {
        let _ = until;
        core::hint::spin_loop();
    }

    /// Called once what is free in a claim's range is kept for it: gives back frames that are
    /// allocated but nobody's, such as those in [`FrameStocks`](crate::FrameStocks).
    fn drain(&self) {}

    /// Moves an allocation: keeps everybody from writing to it, copies it to `to`, which is as long
    /// and on the nearest node with room, makes every reference point there, and gives up the old
    /// frames. From then on `to` is the allocation.
    ///
    /// # Errors
    /// [`Refused`] with the new frames: nothing has moved. The owner may have freed the allocation
    /// meanwhile: it is [`Gone`](Refusal::Gone).
    fn migrate(&self, migration: &Migration, to: Frames) -> Result<Frames, Refused>;
}

/// Nobody has movable memory: for machines that lend their areas to nobody.
#[derive(Clone, Copy, Default, Debug)]
pub struct NoMovers;

impl Migrate for NoMovers {
    fn migrate(&self, _migration: &Migration, to: Frames) -> Result<Frames, Refused> {
        Err(Refused {
            to,
            reason: Refusal::Gone,
        })
    }
}

impl<M: Migrate + ?Sized> Migrate for &M {
    fn permits_cause(&self, cause: MigrationCause) -> bool {
        (**self).permits_cause(cause)
    }

    fn permits(&self, migration: &Migration) -> bool {
        (**self).permits(migration)
    }

    fn pause(&self, until: Instant) {
        (**self).pause(until);
    }

    fn drain(&self) {
        (**self).drain();
    }

    fn migrate(&self, migration: &Migration, to: Frames) -> Result<Frames, Refused> {
        (**self).migrate(migration, to)
    }
}
