//! What a domain asks of the hardware that translates for it.

use core::fmt;
use core::time::Duration;

use dmakit_addr::{Granule, IovaRange};

use crate::{DomainId, InvalidationCosts};

/// What hardware is to forget.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Invalidation {
    /// Which addresses, whole granules.
    pub range: IovaRange,
    /// The granule of the tables.
    pub granule: Granule,
    /// The height of all leaves that were cleared, where they are alike.
    pub leaf_height: Option<u32>,
    /// log2 of what such a leaf maps.
    pub leaf_shift: Option<u32>,
    /// Whether tables left the tree, so that caches of walks must go too.
    pub tables: bool,
}

/// Hardware that did not say that it has forgotten. Nothing that waited for it may be used again
/// until a later sync succeeds, maybe after the hardware was reset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SyncError {
    /// It did not come so far in time.
    Timeout {
        /// How long was waited.
        waited: Duration,
        /// Commands that it had executed, counted from its start.
        executed: u64,
        /// Commands that it was to execute.
        wanted: u64,
    },
    /// It refused a command that none can replace.
    Refused {
        /// The reason, as the hardware's manual numbers it.
        reason: u32,
        /// The command.
        command: [u64; 2],
    },
    /// It has failed, and executes nothing until it is reset.
    Failed,
    /// Nothing was asked of it: what waits is another domain's.
    Foreign {
        /// Whose it is.
        owed: DomainId,
        /// The domain that was to sync.
        asked: DomainId,
    },
    /// What waits is lost: the page table was not as it was left, and no sync pays for that.
    Lost,
}

impl fmt::Display for SyncError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout {
                waited,
                executed,
                wanted,
            } => write!(
                f,
                "the IOMMU has executed {executed} commands and not {wanted} in {waited:?}"
            ),
            Self::Refused {
                reason,
                command: [low, high],
            } => write!(
                f,
                "the IOMMU refused command {low:#018x} {high:#018x}, reason {reason}"
            ),
            Self::Failed => f.write_str("the IOMMU has failed, and is to be reset"),
            Self::Foreign { owed, asked } => {
                write!(f, "what waits is of {owed}, and {asked} was to sync")
            }
            Self::Lost => f.write_str("the page table was not as it was left"),
        }
    }
}

impl core::error::Error for SyncError {}

/// The hardware behind one domain: a seam, implemented by drivers for their handle of a tag.
///
/// Every method but one may be called in hard interrupts, from any CPU, and does not sleep.
pub trait Hardware: Send + Sync {
    /// Queues what forgets a range. Hardware may hear of it only with the next sync.
    ///
    /// # Errors
    /// [`SyncError`] where hardware takes no commands; part may have been forgotten.
    fn invalidate(&self, what: &Invalidation) -> Result<(), SyncError>;

    /// At most how many commands [`invalidate`](Self::invalidate) queues for a range.
    fn commands_for(&self, _what: &Invalidation) -> u64 {
        1
    }

    /// What its commands cost.
    fn costs(&self) -> InvalidationCosts {
        InvalidationCosts::EXACT
    }

    /// Queues what forgets everything of the domain.
    ///
    /// # Errors
    /// As [`invalidate`](Self::invalidate).
    fn invalidate_all(&self) -> Result<(), SyncError>;

    /// Waits until everything that was queued before, by any CPU, has taken effect: translation
    /// caches, walk caches, caches in devices, and writes that were on their way.
    ///
    /// # Errors
    /// [`SyncError`] after a bounded time.
    fn sync(&self) -> Result<(), SyncError>;

    /// Tells hardware, once and before anything else, whose it is: so that its reports of faults can
    /// say so. May sleep, as the only one here.
    fn assign(&mut self, _domain: DomainId) {}

    /// Tells hardware that a range is mapped now. Hardware that caches the absence of mappings
    /// forgets it; most has nothing to do.
    ///
    /// # Errors
    /// As [`invalidate`](Self::invalidate).
    fn mapped(&self, _range: IovaRange) -> Result<(), SyncError> {
        Ok(())
    }
}
