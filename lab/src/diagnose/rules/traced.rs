//! Failures seen in a trace, and counters of debugfs.

use super::bounce_advice::{above_cap, fragmented, too_small};
use super::{SEGMENT_BYTES, SLOT};
use crate::diagnose::cause::{Cause, Certainty};
use crate::diagnose::event::{Event, PoolCounter};
use crate::diagnose::evidence::{Evidence, Seen};
use crate::diagnose::finding::Finding;

/// One failed map.
#[derive(Clone, Copy)]
struct Failed<'a> {
    seen: &'a Seen,
    size: u64,
    is_silent: bool,
    is_bounced: bool,
}

/// Maps that failed, device by device.
pub fn failed_maps(evidence: &Evidence) -> Vec<Finding> {
    let all: Vec<Failed<'_>> = evidence
        .all(|event| match event {
            Event::TracedMapFailed {
                size,
                is_silent,
                is_bounced,
            } => Some((*size, *is_silent, *is_bounced)),
            _ => None,
        })
        .into_iter()
        .map(|(seen, (size, is_silent, is_bounced))| Failed {
            seen,
            size,
            is_silent,
            is_bounced,
        })
        .collect();
    let mut devices: Vec<Option<&str>> = all.iter().map(|f| f.seen.device.as_deref()).collect();
    devices.sort_unstable();
    devices.dedup();
    devices
        .into_iter()
        .flat_map(|device| {
            let of_device = |f: &&Failed<'_>| f.seen.device.as_deref() == device;
            by_device(
                &all.iter()
                    .copied()
                    .filter(|f| of_device(&f))
                    .collect::<Vec<_>>(),
            )
        })
        .collect()
}

fn by_device(all: &[Failed<'_>]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let bounced: Vec<&Failed<'_>> = all.iter().filter(|f| f.is_bounced).collect();
    let over: Vec<&&Failed<'_>> = bounced.iter().filter(|f| f.size > SEGMENT_BYTES).collect();
    if let Some(least) = over.iter().min_by_key(|f| f.size) {
        let sum = format!(
            "{} B > {SEGMENT_BYTES} B, the largest bounce mapping; a bounce was tried and the map failed",
            least.size
        );
        findings.push(above_cap(least.seen, sum).counted(over.len()));
    }
    let within: Vec<&&Failed<'_>> = bounced.iter().filter(|f| f.size <= SEGMENT_BYTES).collect();
    if let Some(least) = within.iter().min_by_key(|f| f.size) {
        let silent = within.iter().filter(|f| f.is_silent).count();
        let sum = format!(
            "{} B = {} slots, the smallest of {} mappings that failed after a bounce was tried ({silent} of them silently: \
             no event says so); whether the pool was full or scattered is not in the trace, `dmakit replay` reconstructs it",
            least.size,
            least.size.div_ceil(SLOT),
            within.len()
        );
        findings.push(too_small(least.seen, sum.clone(), Certainty::Likely).counted(within.len()));
        findings.push(fragmented(least.seen, sum, Certainty::Possible).counted(within.len()));
    }
    let direct: Vec<&Failed<'_>> = all.iter().filter(|f| !f.is_bounced).collect();
    if let Some(first) = direct.first() {
        let sum = format!(
            "{} mappings failed and no bounce was tried: an address out of reach without a pool, or no room in the I/O address space",
            direct.len()
        );
        let finding = Finding::new(
            first.seen,
            Cause::AddressBeyondMaskNoBounce,
            Certainty::Possible,
            sum.clone(),
        );
        findings.push(finding.counted(direct.len()));
        let finding = Finding::new(first.seen, Cause::IovaExhausted, Certainty::Possible, sum)
            .fixed_by(["the kernel log of the same run says which: `overflow` or an allocation of I/O addresses"]);
        findings.push(finding.counted(direct.len()));
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
