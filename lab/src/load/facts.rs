//! What a report says about its trace.

use dmakit_linux_model::{Demand, Known, Recorded};
use dmakit_trace::{Sidecar, Trace};
use serde::Serialize;

use crate::input::Source;
use crate::quantity;

/// The trace, and what it does not show.
#[derive(Clone, Debug, Serialize)]
pub struct TraceFacts {
    /// Base name.
    pub path: String,
    pub format: &'static str,
    pub kernel: Option<String>,
    pub command_line: Option<String>,
    pub duration_s: f64,
    pub events: u64,
    /// Events that the recording itself lost.
    pub lost: u64,
    /// Scatterlists that the kernel cut short in the trace.
    pub truncated: u64,
    /// Events without their partner.
    pub unmatched: u64,
    /// Mappings that were there when the recording ended.
    pub open_at_end: u64,
    /// Releases that a probe missed and that reuse of the slot shows.
    pub releases_inferred: u64,
    /// Malformed records that were skipped.
    pub malformed: u64,
    /// Whether the input ended early, and that was tolerated.
    pub cut: bool,
    /// What the trace shows of a mapping's life.
    pub shows: &'static str,
    /// Attempts that the recorded kernel refused: seen by the caller, and without any event.
    pub recorded_failed: u64,
    pub recorded_failed_silent: u64,
}

impl TraceFacts {
    pub(super) fn new(
        source: &Source,
        trace: &Trace,
        demand: &Demand,
        sidecar: Option<&Sidecar>,
        duration_ns: u64,
    ) -> Self {
        let fidelity = trace.fidelity();
        let unpaired = demand.unpaired;
        let capture = sidecar.map(|sidecar| &sidecar.capture);
        Self {
            path: source.name(),
            format: trace.format().name(),
            kernel: capture.and_then(|capture| capture.kernel.clone()),
            command_line: capture.and_then(|capture| capture.cmdline.clone()),
            duration_s: quantity::seconds(duration_ns),
            events: fidelity.events,
            lost: fidelity.lost(),
            truncated: fidelity.truncated_lists,
            unmatched: match demand.known {
                // Without mapping events no attempt has a partner to be matched with.
                Known::Attempts => unpaired.unmaps,
                _ => unpaired.unmaps + unpaired.attempts,
            },
            open_at_end: unpaired.maps_open_at_end,
            releases_inferred: unpaired.releases_inferred,
            malformed: fidelity.malformed,
            cut: fidelity.cut,
            shows: match demand.known {
                Known::Lifetimes => "lifetimes",
                Known::Probes => "probed lifetimes",
                Known::Attempts => "attempts only",
            },
            recorded_failed: became(demand, Recorded::Failed),
            recorded_failed_silent: became(demand, Recorded::FailedSilently),
        }
    }
}

/// Mappings that became `what`.
pub(super) fn became(demand: &Demand, what: Recorded) -> u64 {
    demand
        .mappings
        .iter()
        .filter(|mapping| mapping.recorded == what)
        .count() as u64
}

/// What the kernel counted while the trace was taken. No prediction uses it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct KernelFacts {
    pub phases: Vec<KernelPhase>,
}

/// One phase.
#[derive(Clone, Debug, Serialize)]
pub struct KernelPhase {
    pub name: String,
    /// `io_tlb_used_hiwater`, reset when the phase begins; kernels before 6.4 have none.
    pub high_water_slots: Option<u64>,
    /// `io_tlb_used` at the phase's end.
    pub used_slots: Option<u64>,
    /// `io_tlb_nslabs` at the phase's end.
    pub pool_slots: Option<u64>,
}

impl KernelFacts {
    /// The sidecar's phases in the order of the demand's, by name.
    pub(super) fn new(demand: &Demand, sidecar: Option<&Sidecar>) -> Self {
        let Some(sidecar) = sidecar else {
            return Self::default();
        };
        let phases = demand.phases.iter().map(|phase| {
            let kept = sidecar.phases.iter().find(|kept| kept.name == phase.name);
            KernelPhase {
                name: phase.name.clone(),
                high_water_slots: kept.and_then(|kept| kept.swiotlb_hiwater),
                used_slots: kept.and_then(|kept| kept.swiotlb_used),
                pool_slots: kept.and_then(|kept| kept.swiotlb_nslabs),
            }
        });
        Self {
            phases: phases.collect(),
        }
    }
}

impl TraceFacts {
    /// What is missing, in one line.
    pub fn fidelity(&self) -> String {
        let mut parts = vec![
            format!("{} events lost", quantity::grouped(self.lost)),
            format!("{} lists truncated", quantity::grouped(self.truncated)),
            format!("{} unmatched", quantity::grouped(self.unmatched)),
        ];
        if self.open_at_end > 0 {
            parts.push(format!(
                "{} still mapped at the end",
                quantity::grouped(self.open_at_end)
            ));
        }
        if self.releases_inferred > 0 {
            let count = quantity::grouped(self.releases_inferred);
            parts.push(format!("{count} releases missed by the probe and inferred"));
        }
        if self.malformed > 0 {
            parts.push(format!(
                "{} malformed lines skipped",
                quantity::grouped(self.malformed)
            ));
        }
        if self.cut {
            parts.push("the input ends early".to_owned());
        }
        parts.join(", ")
    }

    /// Whether nothing is known to be missing.
    pub fn is_whole(&self) -> bool {
        self.lost == 0
            && self.truncated == 0
            && self.unmatched == 0
            && self.malformed == 0
            && !self.cut
    }
}
