//! The answer of `replay`, as JSON shows it.

use dmakit_linux_model as model;
use serde::Serialize;

use super::claims::ClaimsResult;
use crate::engine::{Run, SLOT_BYTES};
use crate::load::{KernelFacts, Load, TraceFacts};
use crate::output::Confidence;
use crate::quantity;

/// Buckets of the occupancy over time.
pub const BUCKETS: usize = 480;

/// The whole answer.
#[derive(Debug, Serialize)]
pub struct ReplayReport {
    pub trace: TraceFacts,
    /// In the order asked.
    pub results: Vec<EngineResult>,
    /// What the recorded kernel itself counted, for comparison.
    pub kernel: KernelFacts,
}

/// The pool an engine began with, after all rounding.
#[derive(Clone, Debug, Serialize)]
pub struct PoolFacts {
    pub slots: u64,
    pub areas: u64,
    pub bytes: u64,
    /// Whether it may grow.
    pub grows: bool,
    /// How the size came about, step by step; why there is no pool.
    pub reasons: Vec<String>,
    /// How ours grows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub growth: Option<GrowthFacts>,
}

/// How a pool of ours grows.
#[derive(Clone, Debug, Serialize)]
pub struct GrowthFacts {
    pub step_bytes: u64,
    pub reserve_bytes: u64,
    pub bytes_max: u64,
    pub shrink_after_s: f64,
}

/// What one engine did.
#[derive(Debug, Serialize)]
pub struct EngineResult {
    pub engine: &'static str,
    /// The effective setting, to paste into a boot line.
    pub params: String,
    pub pool: PoolFacts,
    /// Mappings asked of the pool.
    pub mappings: u64,
    /// Mappings not served, `null` where the trace cannot tell.
    pub failed: Option<u64>,
    /// Those of them that the caller of a single mapping sees.
    pub failed_visible: Option<u64>,
    /// Those of them that no event of the kernel shows: scatterlists given up.
    pub failed_silent: Option<u64>,
    /// Those of them that are longer than any pool of this engine serves.
    pub failed_too_long: Option<u64>,
    pub high_water_slots: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub high_water_interval: Option<[u64; 2]>,
    pub high_water_bytes: Option<u64>,
    pub pool_bytes_peak: Option<u64>,
    pub pools_grown: u64,
    pub transient_pools: u64,
    pub bytes_copied: Option<u64>,
    pub slots_probed: Option<u64>,
    pub confidence: Confidence,
    /// What cannot be known from this trace, and why.
    pub unknown: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub addresses: Option<AddressAgreement>,
    /// What it did with claims of contiguous memory, where the trace has any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cma: Option<ClaimsResult>,
    pub phases: Vec<PhaseResult>,
    pub devices: Vec<DeviceResult>,
    pub occupancy: Occupancy,
    pub notes: Vec<String>,
}

/// Slots that the model chose against those that the kernel chose.
#[derive(Clone, Debug, Serialize)]
pub struct AddressAgreement {
    /// Mappings with a recorded address.
    pub compared: u64,
    /// Mappings that told where the pool lies and its searches stood.
    pub told: u64,
    /// Mappings whose slot depends on an order that the trace leaves open.
    pub unknowable: u64,
    /// Mappings in pools made for them alone, whose address the page allocator chose.
    pub transient: u64,
    /// The others.
    pub knowable: u64,
    /// Those of them at the recorded slot.
    pub equal: u64,
    pub percent: Option<f64>,
}

/// One phase of the workload.
#[derive(Clone, Debug, Serialize)]
pub struct PhaseResult {
    pub name: String,
    pub begin_s: f64,
    pub end_s: f64,
    pub mappings: u64,
    pub failed: Option<u64>,
    pub failed_silent: Option<u64>,
    pub high_water_slots: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub high_water_interval: Option<[u64; 2]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval_reason: Option<String>,
}

/// One device.
#[derive(Clone, Debug, Serialize)]
pub struct DeviceResult {
    pub name: String,
    pub mappings: u64,
    pub failed: Option<u64>,
    pub failed_silent: Option<u64>,
    /// Its own peak.
    pub high_water_slots: Option<u64>,
    /// What it held when the whole pool was fullest.
    pub slots_at_peak: Option<u64>,
}

/// Use over time, in equal steps; each holds the most of its step.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Occupancy {
    pub begin_s: f64,
    pub step_s: f64,
    pub used_slots: Vec<u64>,
    pub pool_slots: Vec<u64>,
}

impl ReplayReport {
    /// Whether bounce buffers are what it is about: all but a trace of claims alone.
    pub fn is_about_bounces(&self) -> bool {
        let is_used = |result: &EngineResult| result.cma.is_none() || result.mappings > 0;
        self.results.iter().any(is_used)
    }
}

impl EngineResult {
    /// Whether anything was not served.
    pub fn has_failures(&self) -> bool {
        let claims = self.cma.as_ref().map_or(0, |claims| claims.failed);
        self.failed.unwrap_or(0) + claims > 0
    }

    /// Lays out a run. Where lifetimes are not shown, what depends on them stays open.
    pub fn new(load: &Load, run: &Run) -> Self {
        let known = load.shows_lifetimes();
        let only = |value: u64| known.then_some(value);
        let likely = &run.likely;
        let failed = likely.failed + likely.failed_silent;
        let high_water = u64::from(likely.high_water_slots);
        let interval = run.high_water_interval();
        Self {
            engine: run.setup.engine.name(),
            params: run.setup.params_shown(),
            pool: run.setup.pool_facts(),
            mappings: likely.mappings,
            failed: only(failed),
            failed_visible: only(likely.failed),
            failed_silent: only(likely.failed_silent),
            failed_too_long: only(likely.too_long),
            high_water_slots: only(high_water),
            high_water_interval: interval.filter(|_| known),
            high_water_bytes: only(high_water * SLOT_BYTES),
            pool_bytes_peak: only(u64::from(likely.pool_slots_peak) * SLOT_BYTES),
            pools_grown: u64::from(likely.grown_pools),
            transient_pools: likely.transient_pools,
            bytes_copied: only(likely.bytes_copied),
            slots_probed: only(likely.slots_probed),
            confidence: run.confidence,
            unknown: run.unknown.clone(),
            addresses: run.addresses.as_ref().map(address_agreement),
            cma: None,
            phases: phases(load, run, known),
            devices: devices(load, run, known),
            occupancy: if known {
                occupancy(load, likely)
            } else {
                Occupancy::default()
            },
            notes: run.notes.clone(),
        }
    }
}

fn address_agreement(agreement: &model::Agreement) -> AddressAgreement {
    AddressAgreement {
        compared: agreement.compared,
        told: agreement.told,
        unknowable: agreement.unknowable,
        transient: agreement.transient,
        knowable: agreement.knowable,
        equal: agreement.equal,
        // Hundredths, so that the decimal printed is short.
        percent: (agreement.equal * 10_000)
            .checked_div(agreement.knowable)
            .map(|hundredths| hundredths as f64 / 100.0),
    }
}

fn phases(load: &Load, run: &Run, known: bool) -> Vec<PhaseResult> {
    let only = |value: u64| known.then_some(value);
    load.demand
        .phases
        .iter()
        .zip(&run.likely.phases)
        .enumerate()
        .map(|(index, (phase, report))| {
            let interval = run.phase_interval(index).filter(|_| known);
            PhaseResult {
                name: phase.name.clone(),
                begin_s: quantity::seconds(phase.begin_ns.saturating_sub(load.begin_ns)),
                end_s: quantity::seconds(
                    phase.end_ns.min(load.end_ns).saturating_sub(load.begin_ns),
                ),
                mappings: report.mappings,
                failed: only(report.failed + report.failed_silent),
                failed_silent: only(report.failed_silent),
                high_water_slots: only(u64::from(report.high_water_slots)),
                high_water_interval: interval,
                interval_reason: interval.map(|_| {
                    "operations of several CPUs overlap; their order is not in the trace".to_owned()
                }),
            }
        })
        .collect()
}

fn devices(load: &Load, run: &Run, known: bool) -> Vec<DeviceResult> {
    let only = |value: u64| known.then_some(value);
    load.demand
        .devices
        .iter()
        .zip(&run.likely.devices)
        .map(|(device, report)| DeviceResult {
            name: device.name.clone(),
            mappings: report.mappings,
            failed: only(report.failed + report.failed_silent),
            failed_silent: only(report.failed_silent),
            high_water_slots: only(u64::from(report.high_water_slots)),
            slots_at_peak: only(u64::from(report.used_at_peak)),
        })
        .collect()
}

/// Spreads the samples, which skip empty steps, over all steps: use stays what it was.
fn occupancy(load: &Load, report: &model::ReplayReport) -> Occupancy {
    let span_ns = (load.end_ns - load.begin_ns).max(1);
    let step_ns = span_ns.div_ceil(BUCKETS as u64).max(1);
    let mut used = Vec::with_capacity(BUCKETS);
    let mut pool = Vec::with_capacity(BUCKETS);
    let mut samples = report.samples.iter().peekable();
    let (mut held, mut there) = (
        0,
        report
            .samples
            .first()
            .map_or(0, |s| u64::from(s.pool_slots)),
    );
    for bucket in 0..span_ns.div_ceil(step_ns) {
        let until = load.begin_ns + (bucket + 1) * step_ns;
        let (mut most, mut pool_most) = (None, None);
        while let Some(sample) = samples.next_if(|sample| sample.at_ns < until) {
            held = u64::from(sample.used_at_end);
            there = u64::from(sample.pool_slots);
            pool_most = pool_most.max(Some(there));
            most = most.max(Some(u64::from(sample.used_slots)));
        }
        used.push(most.unwrap_or(held));
        pool.push(pool_most.unwrap_or(there));
    }
    Occupancy {
        begin_s: 0.0,
        step_s: quantity::seconds(step_ns),
        used_slots: used,
        pool_slots: pool,
    }
}
