//! The smallest boot pool that serves.

use std::fmt;

use crate::demand::{Demand, Known};
use crate::replay::{ReplayConfig, replay};
use crate::swiotlb::SEGMENT_SLOTS;

/// A pool that ends at 4 GiB cannot be larger.
const SLOTS_MAX: u32 = 1 << 21;

/// What one setting does under the demand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SizePoint {
    /// Slots of the boot pool.
    pub slots: u32,
    /// Its areas.
    pub areas: u32,
    /// Mappings asked of it.
    pub mappings: u64,
    /// Refusals that callers see.
    pub failed: u64,
    /// Scatterlists given up.
    pub failed_silent: u64,
    /// Highest use.
    pub high_water_slots: u32,
    /// Highest sum of all pools.
    pub pool_slots_peak: u32,
}

impl SizePoint {
    /// Whether nothing failed.
    pub fn serves(&self) -> bool {
        self.failed == 0 && self.failed_silent == 0
    }
}

/// The answer and its proof.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SizeAnswer {
    /// The smallest setting from which on every setting serves.
    pub at: SizePoint,
    /// The next smaller *effective* setting, which fails; `None` if there is no smaller one.
    pub below: Option<SizePoint>,
    /// Settings below that one that happen to serve: fewer slots can fail less by luck.
    pub serving_below: Vec<SizePoint>,
    /// All settings tried, smallest first.
    pub curve: Vec<SizePoint>,
}

/// Why there is no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SizeError {
    /// The recording shows attempts only: without lifetimes nothing can be said.
    NoLifetimes,
    /// Nothing goes through the pool.
    NothingBounced,
    /// No boot pool of any size serves.
    NeverServes {
        /// Mappings longer than any pool serves.
        too_long: u64,
        /// Failures at the largest setting.
        failed: u64,
    },
}

impl fmt::Display for SizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoLifetimes => f.write_str("the recording shows no lifetimes of mappings"),
            Self::NothingBounced => {
                f.write_str("no mapping of the recording goes through the pool")
            }
            Self::NeverServes { too_long, failed } => {
                write!(
                    f,
                    "no size serves: {failed} fail at the largest, {too_long} are too long"
                )
            }
        }
    }
}

impl std::error::Error for SizeError {}

/// The pool sizes that a kernel can end up with at that many areas, smallest first: whatever
/// `swiotlb=` says is rounded up to one of them.
pub fn effective_slots(areas: u32) -> impl Iterator<Item = u32> {
    let first = SEGMENT_SLOTS.saturating_mul(areas.next_power_of_two());
    std::iter::successors(Some(first), |slots| slots.checked_mul(2))
        .take_while(|slots| *slots <= SLOTS_MAX)
}

/// Tries every effective size, the rest of `config` staying, up to one with room for four times
/// the highest use.
///
/// # Errors
/// As [`SizeError`] says. One replay per size.
pub fn minimal_slots(demand: &Demand, config: &ReplayConfig) -> Result<SizeAnswer, SizeError> {
    if demand.known == Known::Attempts {
        return Err(SizeError::NoLifetimes);
    }
    let mut curve = Vec::new();
    let mut too_long = 0;
    for slots in effective_slots(config.swiotlb.areas) {
        let mut config = ReplayConfig {
            samples_max: 0,
            keeps_places: false,
            ..config.clone()
        };
        config.swiotlb.slots = slots;
        let report = replay(demand, &config);
        if report.mappings == 0 {
            return Err(SizeError::NothingBounced);
        }
        too_long = report.too_long;
        let point = SizePoint {
            slots,
            areas: config.swiotlb.areas,
            mappings: report.mappings,
            failed: report.failed,
            failed_silent: report.failed_silent,
            high_water_slots: report.high_water_slots,
            pool_slots_peak: report.pool_slots_peak,
        };
        curve.push(point);
        if slots / 4 >= point.high_water_slots && (point.serves() || too_long > 0) {
            break;
        }
    }
    let serving = curve
        .iter()
        .rev()
        .take_while(|point| point.serves())
        .count();
    let at = curve.len() - serving;
    match curve.get(at) {
        None => {
            let failed = curve
                .last()
                .map_or(0, |point| point.failed + point.failed_silent);
            Err(SizeError::NeverServes { too_long, failed })
        }
        Some(point) => Ok(SizeAnswer {
            at: *point,
            below: at.checked_sub(1).map(|below| curve[below]),
            serving_below: curve[..at]
                .iter()
                .filter(|point| point.serves())
                .copied()
                .collect(),
            curve,
        }),
    }
}
