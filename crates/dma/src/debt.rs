//! What an unmapped buffer still owes before the CPU may have it.

use core::fmt;

use crate::{DeviceId, Mapping, Refused};
use dmakit_addr::DirectionType;

/// Whose accesses a sync waits for: one device that reaches memory by itself, later one IOMMU
/// domain for all devices attached to it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum DomainId {
    /// A device without translation.
    Device(DeviceId),
}

impl fmt::Display for DomainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(device) => device.fmt(f),
        }
    }
}

/// A moment in the life of a domain: the number of syncs before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Epoch(pub(crate) u64);

/// Proof that a sync of a domain is complete: nothing unmapped there before it began can be reached
/// any more.
///
/// Made by [`Device::sync`](crate::Device::sync) only; good for any number of debts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Proof {
    pub(crate) domain: DomainId,
    pub(crate) completed: Epoch,
}

impl Proof {
    /// The domain that was synced.
    pub fn domain(&self) -> DomainId {
        self.domain
    }

    /// The last epoch whose debts it covers.
    pub fn completed(&self) -> Epoch {
        self.completed
    }
}

/// An unmapped buffer that its device may still reach.
///
/// It owns the memory and gives no access to it: only [`Device::redeem`](crate::Device::redeem)
/// with a [`Proof`] of a later sync does. So a page that the CPU can read, reuse or free is one that
/// no device can reach. Forgetting a debt leaks its memory and nothing else.
#[must_use = "a forgotten debt leaks its memory"]
pub struct Debt<B> {
    pub(crate) memory: B,
    pub(crate) device: DeviceId,
    pub(crate) domain: DomainId,
    pub(crate) since: Epoch,
}

impl<B> Debt<B> {
    /// The domain that must be synced.
    pub fn domain(&self) -> DomainId {
        self.domain
    }

    /// The epoch that a sync must complete.
    pub fn since(&self) -> Epoch {
        self.since
    }
}

impl<B> fmt::Debug for Debt<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Debt({} since epoch {})", self.domain, self.since.0)
    }
}

/// Why a proof does not pay a debt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum RedeemError {
    /// The proof is of another domain.
    ForeignProof {
        /// The debt's domain.
        owed: DomainId,
        /// The proof's.
        proof: DomainId,
    },
    /// The sync began before the buffer was unmapped.
    OlderProof {
        /// The epoch that must be complete.
        owed: Epoch,
        /// The last that is proved complete.
        completed: Epoch,
    },
    /// The debt is another device's.
    ForeignDebt {
        /// Whose it is.
        owner: DeviceId,
        /// Who was to redeem it.
        device: DeviceId,
    },
}

impl fmt::Display for RedeemError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ForeignProof { owed, proof } => {
                write!(f, "a sync of {proof} says nothing about {owed}")
            }
            Self::OlderProof { owed, completed } => write!(
                f,
                "epoch {} must be complete and only {} is",
                owed.0, completed.0
            ),
            Self::ForeignDebt { owner, device } => {
                write!(f, "it belongs to {owner} and was given to {device}")
            }
        }
    }
}

impl core::error::Error for RedeemError {}

/// A debt that was not paid, given back as it was.
pub struct RedeemFailure<B> {
    /// Why.
    pub error: RedeemError,
    /// The debt.
    pub debt: Debt<B>,
}

impl<B> fmt::Debug for RedeemFailure<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedeemFailure({:?}, {:?})", self.error, self.debt)
    }
}

impl<B> fmt::Display for RedeemFailure<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<B> core::error::Error for RedeemFailure<B> {}

/// Why a sync could not be completed. Nothing that it was to cover may be redeemed then.
///
/// There is nothing to wait for without translation, so no such failure exists yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum SyncError {}

impl fmt::Display for SyncError {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {}
    }
}

impl core::error::Error for SyncError {}

/// What is left where [`Device::unmap_and_sync`](crate::Device::unmap_and_sync) stopped half-way.
pub enum UnmapFailure<D: DirectionType, B> {
    /// Nothing was done.
    Refused(Refused<Mapping<D, B>>),
    /// The mapping is gone and the sync failed: the debt stands.
    Owed {
        /// Why the sync failed.
        error: SyncError,
        /// The debt.
        debt: Debt<B>,
    },
}

impl<D: DirectionType, B> fmt::Debug for UnmapFailure<D, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refused) => fmt::Debug::fmt(refused, f),
            Self::Owed { error, debt } => write!(f, "Owed({error:?}, {debt:?})"),
        }
    }
}

impl<D: DirectionType, B> fmt::Display for UnmapFailure<D, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refused) => fmt::Display::fmt(refused, f),
            Self::Owed { error, .. } => fmt::Display::fmt(error, f),
        }
    }
}

impl<D: DirectionType, B> core::error::Error for UnmapFailure<D, B> {}
