//! Who keeps frames where they are.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use dmakit_addr::{PfnRange, PhysRange};
use dmakit_platform::Instant;

use crate::account::OverLimit;
use crate::claim_error::Blocking;
use crate::error::NoFrames;

/// Somebody who may pin, as [`MovableMemory::add_pin_owner`](crate::MovableMemory::add_pin_owner)
/// made it known. The number is not used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PinOwner(pub(crate) u64);

/// The number of a pin, which is not used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PinId(pub(crate) u64);

impl fmt::Display for PinOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "owner {}", self.0)
    }
}

impl fmt::Display for PinId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pin {}", self.0)
    }
}

/// A pin: its frames neither move nor are freed until it is given back.
///
/// It cannot be cloned. Dropping it leaks the pin until its owner goes.
#[derive(PartialEq, Eq, Debug)]
#[must_use = "dropping a pin leaks it until its owner goes"]
pub struct Pin {
    pub(crate) id: PinId,
    pub(crate) ranges: Vec<PfnRange>,
}

impl Pin {
    /// Its number, by which reports name it.
    pub fn id(&self) -> PinId {
        self.id
    }

    /// The frames, in the order in which they were asked for. A long-term pin may have moved them,
    /// so these are not always the ones that were named.
    pub fn ranges(&self) -> &[PfnRange] {
        &self.ranges
    }

    /// `len` bytes of the frames from byte `offset` on, in order: what a request for DMA links, one
    /// run for each of [`ranges`](Self::ranges) that has some of them. Fewer where the pin ends before.
    pub fn runs(&self, offset: u64, len: u64) -> impl Iterator<Item = PhysRange> + Clone + '_ {
        let (mut before, mut left) = (offset, len);
        let whole = self.ranges.iter().filter_map(PfnRange::bytes);
        whole.filter_map(move |range| {
            let skipped = before.min(range.len());
            let taken = left.min(range.len() - skipped);
            before -= skipped;
            left -= taken;
            range.slice(skipped, taken).filter(|run| !run.is_empty())
        })
    }
}

/// How long a pin is meant to last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PinKind {
    /// Without an end. Such frames never lie in contiguous areas or movable ranges.
    LongTerm,
    /// For one transfer. It is never broken, but reported once the deadline has passed.
    ShortTerm {
        /// When it should be over.
        deadline: Instant,
    },
    /// Until the memory system asks for the frames.
    Lease {
        /// How long the holder may take to let go once it is asked.
        hold_max: Duration,
    },
}

/// What is known of a pin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PinInfo {
    /// Its number.
    pub id: PinId,
    /// Whose it is.
    pub owner: PinOwner,
    /// How long it is meant to last.
    pub kind: PinKind,
    /// How many frames it names.
    pub frames: u64,
    /// Since when.
    pub since: Instant,
    /// Of a lease that was recalled: when it expires.
    pub expires: Option<Instant>,
}

impl PinInfo {
    /// Whether it lasts longer than it was meant to.
    pub fn is_overdue(&self, now: Instant) -> bool {
        match self.kind {
            PinKind::LongTerm => false,
            PinKind::ShortTerm { deadline } => deadline < now,
            PinKind::Lease { .. } => self.expires.is_some_and(|expires| expires < now),
        }
    }
}

/// What is known of an owner of pins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PinOwnerInfo {
    /// Frames it holds, each counted once however often it is pinned.
    pub frames: u64,
    /// Its pins and leases.
    pub pins: usize,
}

/// Who uses leased frames, and stops when asked.
pub trait LeaseHolder: Send + Sync {
    /// Asks the holder to let go until `until`: to stop its device and give the lease back with
    /// [`unpin`](crate::MovableMemory::unpin), at once or later from anywhere. Called once for each
    /// lease, without locks; may sleep, but somebody waits.
    fn recall(&self, lease: PinId, until: Instant);
}

/// The layer through which a device reaches leased frames, and which can keep it from them.
pub trait Revoke: Send + Sync {
    /// Unmaps the frames of an expired lease and completes the invalidation: when this returns
    /// `Ok`, no access of a device can reach them any more. Called without locks; may sleep.
    ///
    /// # Errors
    /// [`NotRevoked`]: the device may still reach them.
    fn revoke(&self, lease: PinId, frames: &[PfnRange]) -> Result<(), NotRevoked>;
}

/// A lease that could not be revoked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotRevoked;

impl fmt::Display for NotRevoked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the device may still reach the leased frames")
    }
}

impl core::error::Error for NotRevoked {}

/// The terms of a lease.
#[derive(Clone)]
pub struct LeaseTerms {
    /// Who is asked to let go.
    pub holder: Arc<dyn LeaseHolder>,
    /// How long it may take to.
    pub hold_max: Duration,
    /// Who takes the frames from the device where it took longer. Without one an expired lease
    /// fails the claim, which names it.
    pub revoker: Option<Arc<dyn Revoke>>,
}

impl fmt::Debug for LeaseTerms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaseTerms")
            .field("hold_max", &self.hold_max)
            .field("revocable", &self.revoker.is_some())
            .finish_non_exhaustive()
    }
}

/// Why frames are not pinned. None of them is, nothing is charged; what has moved stays where it is
/// now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PinError {
    /// There is no such owner (any more).
    NoOwner(PinOwner),
    /// Its account has no room.
    Limit(OverLimit),
    /// No frames were named, or two ranges overlap.
    Ranges,
    /// Frames that are not allocated, are moved or cleared just now, or do not leave where such a
    /// pin may not stay.
    Blocked(Blocking),
    /// There is no room for frames that have to leave.
    NoRoom(NoFrames),
    /// An allocation is held by as many pins as can be counted.
    TooMany(PfnRange),
    /// No memory to keep the pin in.
    NoMemory,
}

impl fmt::Display for PinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoOwner(owner) => write!(f, "{owner} is not known"),
            Self::Limit(error) => write!(f, "over the limit of the account: {error}"),
            Self::Ranges => f.write_str("these ranges cannot be pinned"),
            Self::Blocked(blocking) => blocking.fmt(f),
            Self::NoRoom(error) => write!(f, "no room for frames that have to leave: {error}"),
            Self::TooMany(frames) => write!(f, "{frames} is pinned too often"),
            Self::NoMemory => f.write_str("no memory to keep the pin in"),
        }
    }
}

impl core::error::Error for PinError {}

/// A pin that is not there any more: its owner went, or a lease was revoked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoPin(pub PinId);

impl fmt::Display for NoPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is not there any more", self.0)
    }
}

impl core::error::Error for NoPin {}
