//! The answer of `size swiotlb`, as JSON shows it.

use serde::Serialize;

use super::search::{Found, Tried};
use crate::engine::SLOT_BYTES;
use crate::load::{ContextShare, KernelFacts, TraceFacts};
use crate::output::Confidence;
use crate::replay::DeviceResult;

/// The whole answer; the first engine's stands at the top.
#[derive(Debug, Serialize)]
pub struct SizeReport {
    /// The first trace.
    pub trace: TraceFacts,
    /// All of them, where there are several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub traces: Vec<TraceFacts>,
    #[serde(flatten)]
    pub first: EngineAnswer,
    /// The other engines'.
    pub answers: Vec<EngineAnswer>,
    /// Demand by the context that asks.
    pub contexts: ContextShare,
    pub held_out: HeldOut,
    pub windows: Vec<Window>,
    /// What the trace cannot show.
    pub not_shown: Vec<String>,
    /// What the recorded kernel itself counted, for comparison.
    pub kernel: KernelFacts,
}

/// One engine's answer.
#[derive(Debug, Serialize)]
pub struct EngineAnswer {
    pub engine: &'static str,
    /// The smallest setting that serves; `null` with a reason.
    pub answer: Option<Setting>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    pub proof: Option<Proof>,
    /// Smaller settings that happen to serve.
    pub serving_below: Vec<u64>,
    pub margin: Option<Margin>,
    /// Ours alone: the same load on a pool that begins small and grows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub growing: Option<Growing>,
    pub curve: Vec<CurveEntry>,
    pub confidence: Confidence,
    /// Who needs it, at the answer.
    pub devices: Vec<DeviceResult>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// A setting and what it takes.
#[derive(Clone, Debug, Serialize)]
pub struct Setting {
    /// To paste into a boot line.
    pub params: String,
    pub slots: u64,
    pub areas: u64,
    pub bytes: u64,
    /// The most slots in use under the load.
    pub high_water_slots: u64,
    /// The most memory held, grown and transient pools included.
    pub pool_bytes_peak: u64,
}

/// A pool that begins small and grows.
#[derive(Clone, Debug, Serialize)]
pub struct Growing {
    pub params: String,
    pub start_slots: u64,
    /// Bytes of each pool added.
    pub step_bytes: u64,
    /// Bytes kept for mappings that cannot wait for growth.
    pub reserve_bytes: u64,
    pub failed: u64,
    pub high_water_slots: u64,
    /// The least hard maximum that serves.
    pub pool_bytes_peak: u64,
    /// What is held when the trace ends.
    pub pool_bytes_end: u64,
    /// After a burst, memory that nothing is mapped in is back by then: two windows of the shrink
    /// rule.
    pub back_within_s: f64,
}

/// Why it is the smallest.
#[derive(Clone, Debug, Serialize)]
pub struct Proof {
    pub at: Count,
    /// The next smaller setting that the engine would really make.
    pub below: Option<Count>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub below_reason: Option<String>,
}

/// Failures at a size.
#[derive(Clone, Debug, Serialize)]
pub struct Count {
    pub slots: u64,
    pub failed: u64,
    pub mappings: u64,
}

/// One size that was tried.
#[derive(Clone, Debug, Serialize)]
pub struct CurveEntry {
    pub slots: u64,
    pub bytes: u64,
    pub mappings: u64,
    pub failed: u64,
    /// Share of the mappings that failed.
    pub ratio: f64,
}

/// What to set beyond what the trace needs.
#[derive(Clone, Debug, Serialize)]
pub struct Margin {
    pub recommended: Setting,
    /// How far the answer is above the high water, in per cent of it.
    pub headroom_percent: u64,
    pub rule: String,
}

/// Sized on the first half of the operations, tried on the rest.
#[derive(Clone, Debug, Serialize)]
pub struct HeldOut {
    pub slots: Option<u64>,
    /// Failures in the half that was held out.
    pub failed: Option<u64>,
    pub says: String,
}

/// An eighth of the trace.
#[derive(Clone, Debug, Serialize)]
pub struct Window {
    pub begin_s: f64,
    pub end_s: f64,
    pub high_water_slots: u64,
}

impl Setting {
    pub fn new(tried: &Tried) -> Self {
        let pool = tried.setup.pool_facts();
        Self {
            params: tried.setup.params_shown(),
            slots: pool.slots,
            areas: pool.areas,
            bytes: pool.bytes,
            high_water_slots: tried.high_water_slots,
            pool_bytes_peak: tried.pool_slots_peak * SLOT_BYTES,
        }
    }
}

impl Count {
    fn new(tried: &Tried) -> Self {
        Self {
            slots: tried.slots(),
            failed: tried.failed,
            mappings: tried.mappings,
        }
    }
}

impl Proof {
    /// The proof of what was found, if there is an answer.
    pub fn new(found: &Found) -> Option<Self> {
        let at = found.answer()?;
        let below = found.below();
        Some(Self {
            at: Count::new(at),
            below: below.map(Count::new),
            below_reason: below
                .is_none()
                .then(|| format!("{} makes no smaller pool", at.setup.engine.name())),
        })
    }
}

impl CurveEntry {
    pub fn new(tried: &Tried) -> Self {
        // Parts per million, so that the decimal printed is short.
        let millionths = tried.failed * 1_000_000 / tried.mappings.max(1);
        Self {
            slots: tried.slots(),
            bytes: tried.slots() * SLOT_BYTES,
            mappings: tried.mappings,
            failed: tried.failed,
            ratio: millionths as f64 / 1e6,
        }
    }
}

/// A quarter above what was seen: below that, one more request of the usual kind is a failure.
const HEADROOM_PERCENT: u64 = 25;

impl Margin {
    /// The answer itself if its rounding leaves enough room, else the next setting that does.
    pub fn new(found: &Found) -> Option<Self> {
        let answer = found.answer().filter(|answer| answer.mappings > 0)?;
        let headroom = |slots: u64| {
            let high = answer.high_water_slots.max(1);
            slots.saturating_sub(high) * 100 / high
        };
        let chosen = found
            .tried
            .iter()
            .skip(found.answer?)
            .find(|tried| headroom(tried.slots()) >= HEADROOM_PERCENT)
            .unwrap_or(answer);
        Some(Self {
            recommended: Setting::new(chosen),
            headroom_percent: headroom(answer.slots()),
            rule: format!(
                "at least {HEADROOM_PERCENT} % above the most that was in use, as a trace shows \
                 one run of one workload"
            ),
        })
    }
}
