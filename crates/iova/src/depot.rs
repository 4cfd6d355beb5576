//! Blocks on their way from one CPU to another.

use alloc::vec::Vec;
use dmakit_platform::{IrqMutex, Platform};

use crate::cache::MAGAZINE;
use crate::sync::{AtomicU64, Ordering::Relaxed};

/// Full magazines of one order that the space keeps for whichever CPU runs short.
pub(crate) const DEPOT: usize = 4;

/// Full magazines of one order, for whichever CPU runs short.
pub(crate) struct Depot<P: Platform> {
    magazines: IrqMutex<P, Vec<[u64; MAGAZINE]>>,
    /// No block held starts below this; `u64::MAX` where none is held. A hint for those who do not
    /// hold the lock.
    lowest: AtomicU64,
}

impl<P: Platform> Depot<P> {
    /// An empty depot; `None` where there is no memory.
    pub(crate) fn new() -> Option<Self> {
        let mut magazines = Vec::new();
        magazines.try_reserve_exact(DEPOT).ok()?;
        Some(Self {
            magazines: IrqMutex::<P, _>::new(magazines),
            lowest: AtomicU64::new(u64::MAX),
        })
    }

    /// Keeps a magazine; false where there is no place.
    pub(crate) fn push(&self, starts: &[u64; MAGAZINE]) -> bool {
        let mut magazines = self.magazines.lock();
        if magazines.len() == DEPOT {
            return false;
        }
        magazines.push(*starts);
        let lowest = starts.iter().copied().min().unwrap_or(u64::MAX);
        self.lowest
            .store(self.lowest.load(Relaxed).min(lowest), Relaxed);
        true
    }

    pub(crate) fn pop(&self) -> Option<[u64; MAGAZINE]> {
        if self.lowest.load(Relaxed) == u64::MAX {
            return None;
        }
        let mut magazines = self.magazines.lock();
        let starts = magazines.pop();
        if magazines.is_empty() {
            self.lowest.store(u64::MAX, Relaxed);
        }
        starts
    }

    /// Whether a block may be held that starts below `end`.
    pub(crate) fn has_below(&self, end: u64) -> bool {
        self.lowest.load(Relaxed) < end
    }

    /// Blocks held.
    pub(crate) fn blocks(&self) -> usize {
        self.magazines.lock().len() * MAGAZINE
    }
}
