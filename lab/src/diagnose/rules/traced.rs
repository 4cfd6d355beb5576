//! Failures seen in a trace, and counters of debugfs.

use super::bounce_advice::{above_cap, fragmented, too_small};
use super::{SEGMENT_BYTES, SLOT};
use crate::diagnose::cause::Certainty;
use crate::diagnose::event::{Event, PoolCounter};
use crate::diagnose::evidence::Evidence;
use crate::diagnose::finding::Finding;

/// Maps that returned no address although a bounce was tried.
pub fn failed_maps(evidence: &Evidence) -> Vec<Finding> {
    let failed = evidence.all(|event| match event {
        Event::TracedMapFailed { size } => Some(*size),
        _ => None,
    });
    let mut devices: Vec<Option<&str>> = failed.iter().map(|(s, _)| s.device.as_deref()).collect();
    devices.sort_unstable();
    devices.dedup();
    let mut findings = Vec::new();
    for device in devices {
        let of_device: Vec<_> = failed
            .iter()
            .filter(|(s, _)| s.device.as_deref() == device)
            .collect();
        let bounced = |size: u64| {
            evidence
                .seen
                .iter()
                .any(|s| s.device.as_deref() == device && s.event == Event::TracedBounce { size })
        };
        let over: Vec<_> = of_device
            .iter()
            .filter(|(_, size)| *size > SEGMENT_BYTES && bounced(*size))
            .collect();
        if let Some((seen, size)) = over.first() {
            let sum = format!(
                "{size} B > {SEGMENT_BYTES} B, the largest bounce mapping; a bounce was tried and the map failed"
            );
            findings.push(above_cap(seen, sum).counted(over.len()));
        }
        let within = of_device
            .iter()
            .filter(|(_, size)| *size <= SEGMENT_BYTES && bounced(*size));
        let count = within.clone().count();
        if let Some((seen, size)) = within.min_by_key(|(_, size)| *size) {
            let sum = format!(
                "{size} B = {} slots: a bounce was tried and the map failed (smallest of {count}); whether the pool was full or \
                 scattered is not in the trace, `dmakit replay` reconstructs it",
                size.div_ceil(SLOT)
            );
            findings.push(too_small(seen, sum.clone(), Certainty::Likely).counted(count));
            findings.push(fragmented(seen, sum, Certainty::Possible).counted(count));
        }
    }
    findings
}

/// A snapshot of debugfs `swiotlb/`.
pub fn counters(evidence: &Evidence) -> Vec<Finding> {
    let value = |wanted: PoolCounter| {
        evidence.first(move |event| match event {
            Event::PoolCounter { name, slots } if *name == wanted => Some(*slots),
            _ => None,
        })
    };
    let Some((_, total)) = value(PoolCounter::Total).filter(|(_, total)| *total > 0) else {
        return Vec::new();
    };
    let Some((seen, peak)) = value(PoolCounter::HighWater).or_else(|| value(PoolCounter::Used))
    else {
        return Vec::new();
    };
    let used = value(PoolCounter::Used).map(|(_, used)| used);
    if peak >= total {
        let now = used.map(|u| format!(", {u} used now")).unwrap_or_default();
        let sum =
            format!("high water {peak} >= {total} slots{now}: the pool was full at least once");
        return vec![too_small(seen, sum, Certainty::Likely)];
    }
    Vec::new()
}
