//! What came of claims.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What came of the claims of one area: calls and frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AreaStatistics {
    /// Claims that succeeded.
    pub claims: u64,
    /// Their frames, in whole units.
    pub claimed_frames: u64,
    /// Claims that failed.
    pub failures: u64,
    /// The frames that they asked for.
    pub failed_frames: u64,
    /// Frames that were given back.
    pub released_frames: u64,
    /// Claims for which something had to move.
    pub moving_claims: u64,
    /// Frames that were to move for them, as of when their windows were chosen.
    pub moved_frames: u64,
}

#[derive(Default)]
pub(crate) struct AreaCounters {
    claims: AtomicU64,
    claimed_frames: AtomicU64,
    failures: AtomicU64,
    failed_frames: AtomicU64,
    released_frames: AtomicU64,
    moving_claims: AtomicU64,
    moved_frames: AtomicU64,
}

fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Relaxed);
}

impl AreaCounters {
    pub(crate) fn claimed(&self, frames: u64) {
        add(&self.claims, 1);
        add(&self.claimed_frames, frames);
    }

    pub(crate) fn failed(&self, frames: u64) {
        add(&self.failures, 1);
        add(&self.failed_frames, frames);
    }

    pub(crate) fn released(&self, frames: u64) {
        add(&self.released_frames, frames);
    }

    pub(crate) fn moved(&self, frames: u64) {
        if frames > 0 {
            add(&self.moving_claims, 1);
            add(&self.moved_frames, frames);
        }
    }

    pub(crate) fn read(&self) -> AreaStatistics {
        let load = |counter: &AtomicU64| counter.load(Relaxed);
        AreaStatistics {
            claims: load(&self.claims),
            claimed_frames: load(&self.claimed_frames),
            failures: load(&self.failures),
            failed_frames: load(&self.failed_frames),
            released_frames: load(&self.released_frames),
            moving_claims: load(&self.moving_claims),
            moved_frames: load(&self.moved_frames),
        }
    }
}
