//! What an area shows of itself to those who do not hold its lock.

use crate::Area;
use crate::sync::{AtomicU64, Ordering};

/// An area of a pool has at most 2^20 slots.
const FIELD: u32 = 21;
const MASK: u64 = (1 << FIELD) - 1;

/// The longest free run of an area, and the runs at its two ends.
///
/// Written under the area's lock, read without: a reader may be late, so it verifies under the
/// lock. But whoever freed slots, and tells another CPU so, has published the hint before: a
/// search that comes after the freeing does not pass the area over.
///
/// It has cache lines of its own, a pair, because adjacent ones are fetched together.
#[repr(align(128))]
pub(crate) struct Hint(AtomicU64);

/// The ends of an area: how many slots are free from its first on, and up to its last.
#[derive(Clone, Copy)]
pub(crate) struct Ends {
    pub(crate) prefix: u32,
    pub(crate) suffix: u32,
}

impl Hint {
    /// Of an area that serves nothing.
    pub(crate) fn closed() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Shows what `area` can serve. The caller holds its lock.
    #[inline]
    pub(crate) fn publish(&self, area: &Area) {
        let [largest, prefix, suffix] =
            [area.largest(), area.prefix(), area.suffix()].map(u64::from);
        let word = (largest << (2 * FIELD)) | (prefix << FIELD) | suffix;
        self.0.store(word, Ordering::Relaxed);
    }

    /// Shows an area that serves nothing. The caller holds its lock.
    pub(crate) fn close(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// The longest free run.
    #[inline]
    pub(crate) fn largest(&self) -> u32 {
        (self.0.load(Ordering::Relaxed) >> (2 * FIELD)) as u32
    }

    pub(crate) fn ends(&self) -> Ends {
        let word = self.0.load(Ordering::Relaxed);
        Ends {
            prefix: ((word >> FIELD) & MASK) as u32,
            suffix: (word & MASK) as u32,
        }
    }
}
