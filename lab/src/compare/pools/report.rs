//! The answer of `compare --pools`, as JSON shows it.

use serde::Serialize;

use crate::engine::{PoolKind, PoolRun, Setup, confidence};
use crate::load::{Load, TraceFacts};
use crate::output::Confidence;

/// The whole answer.
#[derive(Debug, Serialize)]
pub struct PoolsReport {
    pub trace: TraceFacts,
    /// What the fixed pool has, the growing one has at most, and the area has; whole page blocks.
    pub pool_bytes: u64,
    /// `fixed`, `growing`, `area`.
    pub results: Vec<PoolResult>,
    pub notes: Vec<String>,
}

/// A pool on one kind of memory.
#[derive(Debug, Serialize)]
pub struct PoolResult {
    pub pool: PoolKind,
    /// Bytes that nothing else can use: the pools, and what is kept ready for them.
    pub set_aside_peak_bytes: u64,
    pub set_aside_mean_bytes: u64,
    pub mappings: u64,
    pub failed: u64,
    pub bytes_copied: u64,
    /// Pools that were added, those given back, and times that there was no memory for one.
    pub growth_steps: u64,
    pub shrink_steps: u64,
    pub growth_refused: u64,
    /// How it grows; `null` where it does not.
    pub step_bytes: Option<u64>,
    pub reserve_bytes: Option<u64>,
    /// `null` where nothing is lent.
    pub lending: Option<LendingResult>,
    pub confidence: Confidence,
}

/// How an area served movable memory meanwhile.
#[derive(Debug, Serialize)]
pub struct LendingResult {
    pub movable_mean_bytes: u64,
    pub movable_least_bytes: u64,
    /// Frames that moved so that a pool could have theirs.
    pub moved_frames: u64,
    /// Claims for which something moved while nobody waited.
    pub reclaims_ahead: u64,
    /// The same while a mapping or a growing pool waited.
    pub reclaims_in_need: u64,
}

impl PoolResult {
    pub fn new(load: &Load, setup: &Setup, run: &PoolRun) -> Self {
        Self {
            pool: run.kind,
            set_aside_peak_bytes: run.use_over_time.peak_bytes,
            set_aside_mean_bytes: run.use_over_time.mean_bytes(),
            mappings: run.report.mappings,
            failed: run.failed(),
            bytes_copied: run.report.bytes_copied,
            growth_steps: run.statistics.grown,
            shrink_steps: run.statistics.shrunk,
            growth_refused: run.statistics.growth_refused,
            step_bytes: run.growth.map(|growth| growth.step),
            reserve_bytes: run.growth.map(|growth| growth.reserve),
            lending: run.lending.map(|lending| LendingResult {
                movable_mean_bytes: lending.mean_bytes,
                movable_least_bytes: lending.least_bytes,
                moved_frames: lending.moved_frames,
                reclaims_ahead: lending.ahead,
                reclaims_in_need: lending.in_need,
            }),
            confidence: confidence(load, setup, &run.report),
        }
    }
}

impl PoolsReport {
    /// Of the weakest.
    pub fn confidence(&self) -> Confidence {
        let is_beyond = |result: &PoolResult| result.confidence == Confidence::Extrapolated;
        match self.results.iter().any(is_beyond) {
            true => Confidence::Extrapolated,
            false => Confidence::Modelled,
        }
    }

    /// The pool on one kind of memory.
    pub fn of(&self, kind: PoolKind) -> Option<&PoolResult> {
        self.results.iter().find(|result| result.pool == kind)
    }
}
