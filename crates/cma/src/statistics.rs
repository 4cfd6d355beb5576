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

/// A place where coherent memory comes from, in the order in which they are tried.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// The device's own area.
    Device,
    /// The area of the node, one of those of the same size everywhere.
    PerNode,
    /// The area that was listed for the node.
    Listed,
    /// The default area.
    Default,
    /// The page allocator.
    Pages,
}

impl Step {
    /// All of them, in their order.
    pub const ALL: [Self; 5] = [
        Self::Device,
        Self::PerNode,
        Self::Listed,
        Self::Default,
        Self::Pages,
    ];
}

/// Why a place was not tried.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Skip {
    /// There is no such area.
    NoArea,
    /// No node was asked for: the firmware named none for the device.
    NoNode,
    /// The device reaches no more than 4 GiB.
    Narrow,
    /// It was for a single page.
    SinglePage,
    /// The device uses no area but its own.
    DeviceOnly,
}

impl Skip {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 5] = [
        Self::NoArea,
        Self::NoNode,
        Self::Narrow,
        Self::SinglePage,
        Self::DeviceOnly,
    ];
}

/// What came of one place.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StepStatistics {
    /// Requests that it served.
    pub served: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Requests that found no room there.
    pub failed: u64,
    /// Requests that passed it over, by [`Skip`] in the order of [`Skip::ALL`].
    pub skipped: [u64; Skip::ALL.len()],
}

/// Where coherent memory came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CoherentStatistics {
    /// By [`Step`] in the order of [`Step::ALL`].
    pub steps: [StepStatistics; Step::ALL.len()],
    /// Bytes that came back in a way that they never left, and are lost.
    pub leaked_bytes: u64,
}

impl CoherentStatistics {
    /// What came of one place.
    pub fn of(&self, step: Step) -> &StepStatistics {
        &self.steps[step as usize]
    }
}

#[derive(Default)]
struct StepCounters {
    served: AtomicU64,
    bytes: AtomicU64,
    failed: AtomicU64,
    skipped: [AtomicU64; Skip::ALL.len()],
}

#[derive(Default)]
pub(crate) struct CoherentCounters {
    steps: [StepCounters; Step::ALL.len()],
    leaked_bytes: AtomicU64,
}

impl CoherentCounters {
    pub(crate) fn served(&self, step: Step, bytes: u64) {
        let counters = &self.steps[step as usize];
        add(&counters.served, 1);
        add(&counters.bytes, bytes);
    }

    pub(crate) fn failed(&self, step: Step) {
        add(&self.steps[step as usize].failed, 1);
    }

    pub(crate) fn skipped(&self, step: Step, skip: Skip) {
        add(&self.steps[step as usize].skipped[skip as usize], 1);
    }

    pub(crate) fn leaked(&self, bytes: u64) {
        add(&self.leaked_bytes, bytes);
    }

    pub(crate) fn read(&self) -> CoherentStatistics {
        let mut statistics = CoherentStatistics {
            leaked_bytes: self.leaked_bytes.load(Relaxed),
            ..CoherentStatistics::default()
        };
        for (read, counters) in statistics.steps.iter_mut().zip(&self.steps) {
            read.served = counters.served.load(Relaxed);
            read.bytes = counters.bytes.load(Relaxed);
            read.failed = counters.failed.load(Relaxed);
            for (read, counter) in read.skipped.iter_mut().zip(&counters.skipped) {
                *read = counter.load(Relaxed);
            }
        }
        statistics
    }
}
