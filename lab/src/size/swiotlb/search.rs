//! Finds the smallest setting that serves.

use std::collections::BTreeMap;

use crate::engine::{self, Engine, Failures, PAGE_SLOTS, Setup};
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
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Every setting tried, ascending.
    pub tried: Vec<Tried>,
    /// Index of the answer: the least setting from which on all that were tried serve.
    pub answer: Option<usize>,
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

/// Tries settings from the least to `slots_max`: every effective one of a kernel's, and of ours,
/// whose sizes are finer, enough to prove the answer.
///
/// `setups` are one per load, alike but for what the loads themselves decide. `tell` hears of each
/// setting before it is tried.
///
/// # Errors
/// Where a pool cannot be made.
pub fn search(
    loads: &[Load],
    setups: &[Setup],
    slots_max: u64,
    mut tell: impl FnMut(u64),
) -> anyhow::Result<Found> {
    let mut tried = BTreeMap::new();
    if !loads.iter().all(Load::shows_lifetimes) {
        return Ok(Found::default());
    }
    let mut attempt = |setup: &Setup| -> anyhow::Result<u64> {
        tell(setup.slots());
        let one = try_one(loads, setups, setup)?;
        let failed = one.failed;
        tried.insert(setup.slots(), one);
        Ok(failed)
    };
    match setups[0].engine {
        Engine::Linux(_) => {
            for setup in setups[0].sizes(slots_max) {
                attempt(&setup)?;
            }
        }
        Engine::Dmakit => fine(loads, setups, slots_max, &mut attempt)?,
    }
    let tried: Vec<Tried> = tried.into_values().collect();
    let answer = match tried.iter().rposition(|tried| tried.failed > 0) {
        None => (!tried.is_empty()).then_some(0),
        Some(last) => (last + 1 < tried.len()).then_some(last + 1),
    };
    Ok(Found { tried, answer })
}

/// Above the high water every 128 slots are tried, up to a quarter more; below the least of them
/// that serves, page by page down to the first that fails. A pool smaller than the high water
/// cannot serve, as what is in use does not depend on the size until something fails, so those
/// only shape the curve.
fn fine(
    loads: &[Load],
    setups: &[Setup],
    slots_max: u64,
    attempt: &mut impl FnMut(&Setup) -> anyhow::Result<u64>,
) -> anyhow::Result<()> {
    let at = |slots: u64| setups[0].with_slots(slots);
    if setups.iter().all(|setup| !setup.is_forced()) && attempt(&at(0))? == 0 {
        return Ok(());
    }
    let high = try_one(loads, setups, &at(slots_max))?
        .high_water_slots
        .max(1);
    for part in [16, 8, 4, 2] {
        attempt(&at((high / part).max(1)))?;
    }
    let first = high.next_multiple_of(STEP);
    let last = (high + high / 4).next_multiple_of(STEP) + 4 * STEP;
    let mut least = None;
    let coarse = (first..=last)
        .step_by(STEP as usize)
        .chain([last * 2, last * 4]);
    for slots in coarse.take_while(|slots| *slots <= slots_max) {
        if attempt(&at(slots))? > 0 {
            least = None;
        } else if least.is_none() {
            least = Some(slots);
        }
    }
    let mut slots = least.unwrap_or(0);
    while slots > PAGE_SLOTS {
        slots -= PAGE_SLOTS;
        if attempt(&at(slots))? > 0 {
            break;
        }
    }
    Ok(())
}

/// Slots between sizes that are all tried.
const STEP: u64 = 128;

/// Runs every load at the size of `setup`.
pub fn try_one(loads: &[Load], setups: &[Setup], setup: &Setup) -> anyhow::Result<Tried> {
    let mut sum = Failures::default();
    for (load, own) in loads.iter().zip(setups) {
        let counts = engine::failures(load, &own.with_slots(setup.slots()))?;
        sum.mappings += counts.mappings;
        sum.failed += counts.failed;
        sum.high_water_slots = sum.high_water_slots.max(counts.high_water_slots);
        sum.pool_slots_peak = sum.pool_slots_peak.max(counts.pool_slots_peak);
    }
    Ok(Tried {
        setup: setup.clone(),
        mappings: sum.mappings,
        failed: sum.failed,
        high_water_slots: sum.high_water_slots,
        pool_slots_peak: sum.pool_slots_peak,
    })
}
