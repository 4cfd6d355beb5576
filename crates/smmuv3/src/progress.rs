//! How far the SMMU has come, seen by many CPUs.

use crate::atomic::{AtomicU64, Ordering};

/// Commands executed, counted from the start of the queue; never ahead of the truth.
///
/// The SMMU tells only an index, modulo twice the length of the ring. Each look extends it to a
/// full count by the distance from what was known *before* the look: a CPU that was away for long
/// may understate it, and nothing makes it overstate.
pub(crate) struct Progress {
    consumed: AtomicU64,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self {
            consumed: AtomicU64::new(0),
        }
    }

    /// What is known without a look.
    #[inline]
    pub(crate) fn known(&self) -> u64 {
        self.consumed.load(Ordering::Acquire)
    }

    /// Looks at the register, of which the bits in `mask` count.
    #[inline]
    pub(crate) fn look(&self, mask: u64, read: impl FnOnce() -> u32) -> u64 {
        // Acquire: another CPU may have stored what it saw in a later look. The register read here
        // must not be one from before that, or the distance would come out negative, that is,
        // huge, and commands would count as executed that are not.
        let known = self.known();
        let ahead = u64::from(read()).wrapping_sub(known) & mask;
        self.reached(known + ahead)
    }

    /// Notes that the SMMU has come to `count`; gives the most that is known.
    #[inline]
    pub(crate) fn reached(&self, count: u64) -> u64 {
        self.consumed.fetch_max(count, Ordering::AcqRel).max(count)
    }
}
