//! What an unmapped buffer still owes before the CPU may have it.

use core::fmt;

use dmakit_addr::{DirectionType, PhysRange};
use dmakit_iommu::Ticket;

use crate::{DeviceId, DomainId, Epoch, Mapping, Refused, SyncError};

/// What a debt waits for.
#[derive(Debug)]
pub(crate) enum Owed {
    /// A sync that begins later.
    Since(Epoch),
    /// The same, and then addresses and table pages go back to their domain.
    Ticket(Ticket),
    /// Nothing: hardware has forgotten the mapping already.
    Paid,
    /// Nothing can pay it: hardware would not forget, or its table was not as it was left.
    Lost,
}

/// Visits the runs of memory, whatever it is.
pub(crate) type EachRun<B> = fn(&B, &mut dyn FnMut(PhysRange));

/// An unmapped buffer that its device may still reach.
///
/// It owns the memory and gives no access to it: only [`Device::redeem`](crate::Device::redeem)
/// with a [`Proof`](crate::Proof) of a later sync does. So a page that the CPU can read, reuse or free
/// is one that no device can reach; the same goes for device addresses and table pages, which the
/// debt owns too where the path is translated. Forgetting a debt leaks all of it, and nothing else.
#[must_use = "a forgotten debt leaks its memory"]
pub struct Debt<B> {
    pub(crate) memory: B,
    pub(crate) device: DeviceId,
    pub(crate) domain: DomainId,
    pub(crate) owed: Owed,
    /// The memory whose lines the CPU drops once this is paid: the device goes past its caches, and
    /// what it wrote may land until then.
    pub(crate) stale_lines: Option<EachRun<B>>,
}

impl<B> Debt<B> {
    /// The domain that must be synced.
    pub fn domain(&self) -> DomainId {
        self.domain
    }

    /// The epoch that a sync must complete; `None` where any proof will do, because a sync was needed
    /// at once, or none, because the memory is [lost](RedeemError::Lost).
    pub fn since(&self) -> Option<Epoch> {
        match &self.owed {
            Owed::Since(epoch) => Some(*epoch),
            Owed::Ticket(ticket) => Some(ticket.since()),
            Owed::Paid | Owed::Lost => None,
        }
    }
}

impl<B> fmt::Debug for Debt<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Debt({}, {:?})", self.domain, self.owed)
    }
}

/// Why a debt was not paid.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum RedeemError {
    /// The proof is not good for it.
    Unpaid(dmakit_iommu::RedeemError),
    /// The debt is another device's.
    ForeignDebt {
        /// Whose it is.
        owner: DeviceId,
        /// Who was to redeem it.
        device: DeviceId,
    },
    /// No proof is good for it: when it was unmapped, hardware took no commands or its table was not
    /// as it was left. The device may reach the memory until it is reset.
    Lost,
}

impl fmt::Display for RedeemError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unpaid(error) => error.fmt(f),
            Self::ForeignDebt { owner, device } => {
                write!(f, "it belongs to {owner} and was given to {device}")
            }
            Self::Lost => f.write_str("the device may reach it until it is reset"),
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
    /// The mapping is gone, and no sync can make its memory safe to use.
    Lost(Debt<B>),
}

impl<D: DirectionType, B> fmt::Debug for UnmapFailure<D, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refused) => fmt::Debug::fmt(refused, f),
            Self::Owed { error, debt } => write!(f, "Owed({error:?}, {debt:?})"),
            Self::Lost(debt) => write!(f, "Lost({debt:?})"),
        }
    }
}

impl<D: DirectionType, B> fmt::Display for UnmapFailure<D, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refused) => fmt::Display::fmt(refused, f),
            Self::Owed { error, .. } => fmt::Display::fmt(error, f),
            Self::Lost(_) => RedeemError::Lost.fmt(f),
        }
    }
}

impl<D: DirectionType, B> core::error::Error for UnmapFailure<D, B> {}
