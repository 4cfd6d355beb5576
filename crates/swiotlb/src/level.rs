//! How full everything is, without a counter that every CPU writes.

use crate::sync::{AtomicU64, Ordering};

/// Slots in use over all areas, and the most there ever were, from above.
///
/// Each area draws credit in batches and counts its own use under its own lock, so this is written
/// once in a batch. What is drawn is at least what is used, and exceeds it by at most two batches
/// for each area; with batches of 0 it is exact, and written at every mapping.
pub(crate) struct Level {
    drawn: AtomicU64,
    high: AtomicU64,
    /// As `high`, since the last turn of the window.
    window_high: AtomicU64,
}

impl Level {
    pub(crate) fn new() -> Self {
        Self {
            drawn: AtomicU64::new(0),
            high: AtomicU64::new(0),
            window_high: AtomicU64::new(0),
        }
    }

    /// Sees to it that `credit` covers `used`.
    #[inline]
    pub(crate) fn rise(&self, credit: &mut u32, used: u32, batch: u32) {
        if used > *credit {
            self.draw(credit, used - *credit + batch);
        }
    }

    #[cold]
    fn draw(&self, credit: &mut u32, slots: u32) {
        *credit += slots;
        let slots = u64::from(slots);
        let drawn = self.drawn.fetch_add(slots, Ordering::Relaxed) + slots;
        self.high.fetch_max(drawn, Ordering::Relaxed);
        self.window_high.fetch_max(drawn, Ordering::Relaxed);
    }

    /// Gives credit back that has become idle.
    #[inline]
    pub(crate) fn fall(&self, credit: &mut u32, used: u32, batch: u32) {
        if *credit > used + 2 * batch {
            let idle = *credit - used - batch;
            *credit -= idle;
            self.drawn.fetch_sub(u64::from(idle), Ordering::Relaxed);
        }
    }

    /// Makes `credit` what is used.
    pub(crate) fn settle(&self, credit: &mut u32, used: u32) {
        let idle = credit.saturating_sub(used);
        *credit -= idle;
        self.drawn.fetch_sub(u64::from(idle), Ordering::Relaxed);
    }

    /// Slots in use, from above.
    #[inline]
    pub(crate) fn drawn(&self) -> u64 {
        self.drawn.load(Ordering::Relaxed)
    }

    /// The most slots ever in use, from above.
    pub(crate) fn high(&self) -> u64 {
        self.high.load(Ordering::Relaxed)
    }

    /// Forgets the high water: it is what is in use now.
    pub(crate) fn reset_high(&self) {
        self.high.store(self.drawn(), Ordering::Relaxed);
    }

    /// The high water since this was last called.
    pub(crate) fn turn_window(&self) -> u64 {
        self.window_high.swap(self.drawn(), Ordering::Relaxed)
    }
}
