//! Finds the smallest setting that serves.

use std::collections::BTreeMap;

use crate::engine::{self, Failures, Setup};
use crate::load::Load;

/// One setting on all loads.
#[derive(Clone, Debug)]
pub struct Tried {
    pub setup: Setup,
    pub mappings: u64,
    pub failed: u64,
    /// The greatest of the loads'.
    pub high_water_slots: u64,
    pub pool_slots_peak: u64,
}

impl Tried {
    /// Slots after rounding.
    pub fn slots(&self) -> u64 {
        self.setup.slots()
    }
}

/// What a search found.
#[derive(Clone, Debug)]
pub struct Found {
    /// Every setting tried, ascending.
    pub tried: Vec<Tried>,
    /// Index of the answer: the least setting from which on all that were tried serve.
    pub answer: Option<usize>,
    /// Whether the least setting tried is the least there is.
    pub from_least: bool,
}

impl Found {
    /// The answer.
    pub fn answer(&self) -> Option<&Tried> {
        self.tried.get(self.answer?)
    }

    /// The next smaller setting, which fails.
    pub fn below(&self) -> Option<&Tried> {
        self.tried.get(self.answer?.checked_sub(1)?)
    }

    /// Settings below the answer that happen to serve: where runs of free slots are left depends
    /// on the size, so a larger pool can fail where a smaller one did not.
    pub fn serving_below(&self) -> impl Iterator<Item = &Tried> {
        let answer = self.answer.unwrap_or(0);
        self.tried
            .iter()
            .take(answer)
            .filter(|tried| tried.failed == 0)
    }
}

/// Tries every effective setting from the least to `slots_max`.
///
/// `setups` are one per load, alike but for what the loads themselves decide. `tell` hears of each
/// setting before it is tried.
pub fn search(
    loads: &[Load],
    setups: &[Setup],
    slots_max: u64,
    mut tell: impl FnMut(u64),
) -> Found {
    let mut tried: BTreeMap<u64, Tried> = BTreeMap::new();
    for setup in setups[0].sizes(slots_max) {
        let slots = setup.slots();
        tell(slots);
        tried.insert(slots, try_one(loads, setups, &setup));
    }
    let tried: Vec<Tried> = tried.into_values().collect();
    let answer = match tried.iter().rposition(|tried| tried.failed > 0) {
        None => (!tried.is_empty()).then_some(0),
        Some(last) => (last + 1 < tried.len()).then_some(last + 1),
    };
    Found {
        tried,
        answer,
        from_least: true,
    }
}

/// Runs every load at the size of `setup`.
pub fn try_one(loads: &[Load], setups: &[Setup], setup: &Setup) -> Tried {
    let mut sum = Failures::default();
    for (load, own) in loads.iter().zip(setups) {
        let counts = engine::failures(load, &own.with_slots(setup.slots()));
        sum.mappings += counts.mappings;
        sum.failed += counts.failed;
        sum.high_water_slots = sum.high_water_slots.max(counts.high_water_slots);
        sum.pool_slots_peak = sum.pool_slots_peak.max(counts.pool_slots_peak);
    }
    Tried {
        setup: setup.clone(),
        mappings: sum.mappings,
        failed: sum.failed,
        high_water_slots: sum.high_water_slots,
        pool_slots_peak: sum.pool_slots_peak,
    }
}
