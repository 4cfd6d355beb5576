//! The answer of `size cma`, as JSON shows it.

use serde::Serialize;

use super::search::Tried;
use crate::engine::page_bytes;
use crate::load::TraceFacts;
use crate::output::Confidence;
use crate::replay::{AreaResult, ClientResult};
use crate::size::found::ratio;

/// The whole answer; the first engine's stands at the top.
#[derive(Debug, Serialize)]
pub struct SizeReport {
    /// The first trace.
    pub trace: TraceFacts,
    /// All of them, where there are several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub traces: Vec<TraceFacts>,
    /// Whether claims were moved to the area of their device's node.
    pub is_per_node: bool,
    #[serde(flatten)]
    pub first: EngineAnswer,
    /// The other engines'.
    pub answers: Vec<EngineAnswer>,
    pub held_out: HeldOut,
    pub windows: Vec<Window>,
    /// What the trace cannot show.
    pub not_shown: Vec<String>,
}

/// One engine's answer.
#[derive(Debug, Serialize)]
pub struct EngineAnswer {
    pub engine: &'static str,
    /// The smallest setting that serves; `null` with a reason.
    pub answer: Option<Setting>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// All areas at their answers together; each area's own proof stands with it.
    pub proof: Option<Proof>,
    pub margin: Option<Margin>,
    pub areas: Vec<AreaAnswer>,
    pub confidence: Confidence,
    /// Who needs it, at the answer.
    pub clients: Vec<ClientResult>,
    /// Use and fragmentation over time, at the answer, of the first trace.
    pub over_time: Vec<AreaResult>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// A setting and what it takes.
#[derive(Clone, Debug, Serialize)]
pub struct Setting {
    /// To paste into a boot line.
    pub params: String,
    pub pages: u64,
    pub bytes: u64,
    /// The most pages in use, area by area.
    pub high_water_pages: u64,
}

/// What to set beyond what the trace needs.
#[derive(Clone, Debug, Serialize)]
pub struct Margin {
    pub params: String,
    pub bytes: u64,
    pub rule: String,
}

/// One area.
#[derive(Debug, Serialize)]
pub struct AreaAnswer {
    pub name: String,
    pub node: Option<u32>,
    pub answer: Option<AreaSetting>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    pub proof: Option<Proof>,
    /// Smaller sizes, in pages, that happen to serve.
    pub serving_below: Vec<u64>,
    /// The size with margin, in pages.
    pub recommended_pages: Option<u64>,
    /// How far the answer is above the high water, in per cent of it.
    pub headroom_percent: Option<u64>,
    pub curve: Vec<CurveEntry>,
}

/// A size.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct AreaSetting {
    pub pages: u64,
    pub bytes: u64,
    pub high_water_pages: u64,
}

/// Why it is the smallest.
#[derive(Clone, Debug, Serialize)]
pub struct Proof {
    pub at: Count,
    /// One pageblock less.
    pub below: Option<Count>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub below_reason: Option<String>,
}

/// Failures at a size.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Count {
    pub pages: u64,
    pub failed: u64,
    /// Claims, with those from before the recording that came back in it.
    pub calls: u64,
}

/// One size that was tried.
#[derive(Clone, Debug, Serialize)]
pub struct CurveEntry {
    pub pages: u64,
    pub bytes: u64,
    pub calls: u64,
    pub failed: u64,
    /// Share of the claims that failed.
    pub ratio: f64,
}

/// Sized on the first half of the operations, tried on the rest.
#[derive(Clone, Debug, Default, Serialize)]
pub struct HeldOut {
    pub pages: Option<u64>,
    /// Failures in the half that was held out.
    pub failed: Option<u64>,
    pub says: String,
}

/// An eighth of the trace.
#[derive(Clone, Debug, Serialize)]
pub struct Window {
    pub begin_s: f64,
    pub end_s: f64,
    pub high_water_bytes: u64,
}

impl Count {
    pub fn new(tried: &Tried) -> Self {
        Self {
            pages: tried.pages,
            failed: tried.failed,
            calls: tried.calls,
        }
    }
}

impl AreaSetting {
    pub fn new(tried: &Tried) -> Self {
        Self {
            pages: tried.pages,
            bytes: page_bytes(tried.pages),
            high_water_pages: tried.high_water_pages,
        }
    }
}

impl CurveEntry {
    pub fn new(tried: &Tried) -> Self {
        Self {
            pages: tried.pages,
            bytes: page_bytes(tried.pages),
            calls: tried.calls,
            failed: tried.failed,
            ratio: ratio(tried.failed, tried.calls),
        }
    }
}
