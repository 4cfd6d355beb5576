//! What a domain asks of the hardware that translates for it.

use core::fmt;
use core::time::Duration;

use dmakit_addr::{Granule, IovaRange};

use crate::InvalidationCosts;

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

/// Hardware that did not say in time that it has forgotten. Nothing that waited for it may be used
/// again until the hardware was reset into abort.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SyncError {
    /// How long was waited.
    pub waited: Duration,
}

impl fmt::Display for SyncError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the IOMMU has not completed its invalidation in {:?}",
            self.waited
        )
    }
}

impl core::error::Error for SyncError {}

/// The hardware behind one domain: a seam, implemented by drivers for their handle of a tag.
///
/// Every method may be called in hard interrupts, from any CPU, and none sleeps.
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

    /// Tells hardware that a range is mapped now. Hardware that caches the absence of mappings
    /// forgets it; most has nothing to do.
    ///
    /// # Errors
    /// As [`invalidate`](Self::invalidate).
    fn mapped(&self, _range: IovaRange) -> Result<(), SyncError> {
        Ok(())
    }
}
