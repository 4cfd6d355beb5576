//! What can go wrong between a machine and the stack.

use std::fmt;

use dmakit_iommu::SyncError;
use dmakit_iova::SpaceError;
use dmakit_smmuv3::{AttachError, ReleaseFailure, StartError};

/// A step of the stack that failed.
#[derive(Debug)]
pub enum StackError {
    /// The machine has no SMMU.
    NoSmmu,
    /// The SMMU did not come up, or not down.
    Smmu(StartError),
    /// A stream was not attached or detached.
    Attach(AttachError),
    /// No table of the wanted shape.
    Table(String),
    /// No memory for the queues of a domain.
    Queues,
    /// No space of device addresses.
    Space(SpaceError),
    /// The SMMU did not say that it has forgotten.
    Sync(SyncError),
    /// A context was lost.
    Release(ReleaseFailure),
    /// Something is still mapped, or still in use.
    Busy {
        /// What.
        what: &'static str,
        /// How much of it.
        count: u64,
    },
}

impl fmt::Display for StackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSmmu => f.write_str("this machine has no SMMUv3"),
            Self::Smmu(error) => error.fmt(f),
            Self::Attach(error) => error.fmt(f),
            Self::Table(why) => write!(f, "no page table: {why}"),
            Self::Queues => f.write_str("no memory for the queues of a domain"),
            Self::Space(error) => error.fmt(f),
            Self::Sync(error) => error.fmt(f),
            Self::Release(error) => error.fmt(f),
            Self::Busy { what, count } => write!(f, "still in use: {count} {what}"),
        }
    }
}

impl std::error::Error for StackError {}

macro_rules! from {
    ($($error:ty => $variant:ident),* $(,)?) => {$(
        impl From<$error> for StackError {
            fn from(error: $error) -> Self {
                Self::$variant(error)
            }
        }
    )*};
}

from! {
    StartError => Smmu,
    AttachError => Attach,
    SpaceError => Space,
    SyncError => Sync,
    ReleaseFailure => Release,
}
