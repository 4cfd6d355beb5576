//! Finds the smallest setting that serves.

use dmakit_swiotlb::AREA_SLOTS_MIN;

use crate::engine::{self, Engine, Failures, Setup};
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
) -> anyhow::Result<Found> {
    let sizes = match setups[0].engine {
        Engine::Linux(_) => setups[0].sizes(slots_max),
        Engine::Dmakit => fine_sizes(loads, setups, slots_max)?,
    };
    let mut tried = Vec::new();
    for setup in sizes {
        tell(setup.slots());
        tried.push(try_one(loads, setups, &setup)?);
    }
    let answer = match tried.iter().rposition(|tried| tried.failed > 0) {
        None => (!tried.is_empty()).then_some(0),
        Some(last) => (last + 1 < tried.len()).then_some(last + 1),
    };
    Ok(Found {
        tried,
        answer,
    })
}

/// Sizes around the high water, where sizes are finer than can all be tried. A pool smaller than
/// the high water cannot serve, as what is in use does not depend on the size until something
/// fails. Above it every size is tried up to a quarter more, in steps of an area's least; the
/// others only shape the curve.
fn fine_sizes(loads: &[Load], setups: &[Setup], slots_max: u64) -> anyhow::Result<Vec<Setup>> {
    let step = u64::from(AREA_SLOTS_MIN);
    let ample = setups[0].with_slots(slots_max);
    let high = try_one(loads, setups, &ample)?.high_water_slots.max(1);
    let first = high.next_multiple_of(step);
    let last = (high + high / 4).next_multiple_of(step) + 4 * step;
    let coarse = [first / 16, first / 8, first / 4, first / 2, first / 4 * 3, first - step];
    let above = [last * 2, last * 4];
    let mut slots: Vec<u64> = coarse.into_iter().chain(above).collect();
    slots.extend((first..=last).step_by(step as usize));
    let mut sizes: Vec<u64> = slots.iter().map(|slots| slots.next_multiple_of(step)).collect();
    if setups.iter().all(|setup| !setup.is_forced()) {
        sizes.push(0);
    } else {
        sizes.retain(|slots| *slots > 0);
    }
    sizes.sort_unstable();
    sizes.dedup();
    sizes.retain(|slots| *slots <= slots_max);
    Ok(sizes.into_iter().map(|slots| setups[0].with_slots(slots)).collect())
}

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
