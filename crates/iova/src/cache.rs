//! Each CPU's own stock of recently freed blocks.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Blocks that pass between CPUs at once.
pub(crate) const MAGAZINE: usize = if cfg!(loom) { 2 } else { 64 };

/// Blocks of one order that a CPU keeps.
const KEPT: usize = 2 * MAGAZINE;

/// Orders that are cached: 1 granule to 1024, 4 KiB to 4 MiB at 4 KiB.
pub(crate) const ORDERS: usize = 11;

/// Below them in a state stands how many blocks are held.
const HIT: u64 = 1 << 8;

/// One CPU's cache: the starts of up to 128 free blocks of each order, last in, first out, so that
/// what is warm in translation caches and page tables is used first. 11.1 KiB.
///
/// Only its CPU touches it, under a guard, with plain loads and stores; the atomics are there so
/// that statistics may be read from anywhere.
pub struct CpuCache {
    /// For each order, requests served and blocks held: one word, so that serving one is one store.
    states: [AtomicU64; ORDERS],
    /// No block held starts below this; `u64::MAX` where none is held.
    lowest: AtomicU64,
    misses: AtomicU64,
    starts: [[AtomicU64; KEPT]; ORDERS],
}

impl Default for CpuCache {
    fn default() -> Self {
        Self::new()
    }
}

impl CpuCache {
    /// An empty cache.
    pub const fn new() -> Self {
        Self {
            states: [const { AtomicU64::new(0) }; ORDERS],
            lowest: AtomicU64::new(u64::MAX),
            misses: AtomicU64::new(0),
            starts: [const { [const { AtomicU64::new(0) }; KEPT] }; ORDERS],
        }
    }

    /// A block of `2^order` granules that lies below `end`.
    #[inline]
    pub(crate) fn pop(&self, order: usize, end: u64) -> Option<u64> {
        let slot = self.states.get(order)?;
        let state = slot.load(Relaxed);
        let last = (state % HIT).checked_sub(1)?;
        let start = self.starts.get(order)?.get(last as usize)?.load(Relaxed);
        if start + (1 << order) > end {
            return None;
        }
        slot.store(state.wrapping_add(HIT - 1), Relaxed);
        Some(start)
    }

    /// Keeps a free block; false where there is no place.
    #[inline]
    pub(crate) fn push(&self, order: usize, start: u64) -> bool {
        let (Some(slot), Some(starts)) = (self.states.get(order), self.starts.get(order)) else {
            return false;
        };
        let state = slot.load(Relaxed);
        let Some(place) = starts.get((state % HIT) as usize) else {
            return false;
        };
        place.store(start, Relaxed);
        slot.store(state + 1, Relaxed);
        if start < self.lowest.load(Relaxed) {
            self.lowest.store(start, Relaxed);
        }
        true
    }

    /// Takes in another CPU's blocks.
    pub(crate) fn load(&self, order: usize, starts: &[u64; MAGAZINE]) {
        for &start in starts {
            self.push(order, start);
        }
    }

    /// Whether no block of the order is held.
    #[inline]
    pub(crate) fn is_empty(&self, order: usize) -> bool {
        self.held(order) == 0
    }

    /// Whether a block may be held that starts below `end`.
    #[inline]
    pub(crate) fn has_below(&self, end: u64) -> bool {
        self.lowest.load(Relaxed) < end
    }

    /// Moves up to a magazine of blocks that start below `end`, the oldest first, into `starts`;
    /// says how many.
    pub(crate) fn unload(&self, order: usize, end: u64, starts: &mut [u64; MAGAZINE]) -> usize {
        let held = self.held(order).min(KEPT);
        let (mut moved, mut kept) = (0, 0);
        for at in 0..held {
            let start = self.starts[order][at].load(Relaxed);
            if start < end && moved < MAGAZINE {
                starts[moved] = start;
                moved += 1;
            } else {
                self.starts[order][kept].store(start, Relaxed);
                kept += 1;
            }
        }
        let state = self.states[order].load(Relaxed);
        self.states[order].store(state - moved as u64, Relaxed);
        moved
    }

    /// Finds out anew where the lowest block starts.
    pub(crate) fn find_lowest(&self) {
        let held = self.starts.iter().enumerate().flat_map(|(order, starts)| {
            let held = self.held(order).min(KEPT);
            starts[..held].iter().map(|start| start.load(Relaxed))
        });
        self.lowest.store(held.min().unwrap_or(u64::MAX), Relaxed);
    }

    pub(crate) fn missed(&self) {
        let misses = self.misses.load(Relaxed);
        self.misses.store(misses.wrapping_add(1), Relaxed);
    }

    /// Requests that the cache served.
    pub(crate) fn hits(&self) -> u64 {
        self.states
            .iter()
            .map(|state| state.load(Relaxed) / HIT)
            .sum()
    }

    /// Requests that went past it.
    pub(crate) fn misses(&self) -> u64 {
        self.misses.load(Relaxed)
    }

    /// Granules held.
    pub(crate) fn granules(&self) -> u64 {
        (0..ORDERS)
            .map(|order| (self.held(order) as u64) << order)
            .sum()
    }

    #[inline]
    fn held(&self, order: usize) -> usize {
        (self.states[order].load(Relaxed) % HIT) as usize
    }
}
