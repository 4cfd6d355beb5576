//! From evidence to findings. Each rule looks at all the evidence and speaks
//! for one kind of failure; a claim is `certain` only where the numbers or the
//! words of the input leave nothing else.

mod address;
mod area;
mod area_boot;
mod area_busy;
mod area_snapshot;
mod bounce;
mod bounce_advice;
mod coherent;
mod driver;
mod fault;
mod options;
mod pins;
mod space;
#[cfg(test)]
mod tests;
mod traced;
mod vtd;

use super::event::Event;
use super::evidence::{Evidence, Seen};
use super::finding::{Finding, rank};

/// Bytes of a bounce slot.
const SLOT: u64 = 2048;
/// Slots of a segment, which no mapping crosses (`IO_TLB_SEGSIZE`).
const SEGMENT_SLOTS: u64 = 128;
/// Largest bounce mapping.
const SEGMENT_BYTES: u64 = SLOT * SEGMENT_SLOTS;
/// Largest block of the page allocator with 4 KiB pages (order 10).
const BLOCK_BYTES: u64 = 4 << 20;
const BLOCK_PAGES: u64 = BLOCK_BYTES / 4096;

/// One view of the evidence.
type Rule = fn(&Evidence) -> Vec<Finding>;

const RULES: &[Rule] = &[
    bounce::full,
    address::overflow,
    address::refused,
    address::no_pool_at_boot,
    address::not_linear,
    area::failed,
    area_busy::ranges,
    coherent::failed,
    area_boot::reserve,
    fault::smmu,
    fault::smmuv3,
    fault::amd,
    vtd::faults,
    fault::rest,
    pins::memlock,
    pins::vfio,
    pins::atomic,
    space::iova,
    space::its,
    driver::debug,
    options::refused,
    options::slots_with_unit,
    traced::failed_maps,
    traced::counters,
    area_snapshot::counters,
];

/// All findings, best first; and notices, which only look like failures. A
/// notice is an answer where nothing failed, else it stands apart.
pub fn conclude(evidence: &Evidence) -> (Vec<Finding>, Vec<Finding>) {
    let mut findings: Vec<Finding> = RULES.iter().flat_map(|rule| rule(evidence)).collect();
    let mut notices = merged(options::notices(evidence));
    findings = merged(findings);
    rank(&mut findings);
    if findings.is_empty() {
        std::mem::swap(&mut findings, &mut notices);
    }
    (findings, notices)
}

/// Findings that say the same of the same device become one with a count.
fn merged(findings: Vec<Finding>) -> Vec<Finding> {
    let mut kept: Vec<Finding> = Vec::new();
    for finding in findings {
        let same = kept.iter_mut().find(|k| {
            k.cause == finding.cause
                && k.certainty == finding.certainty
                && k.device == finding.device
        });
        match same {
            Some(same) => same.count += finding.count,
            None => kept.push(finding),
        }
    }
    kept
}

/// Whether a driver or the page allocator reports a refused allocation within
/// `lines` lines after, or a few before.
fn allocation_failed_near(evidence: &Evidence, seen: &Seen, lines: u64) -> bool {
    evidence.around(seen, 3, lines).iter().any(|s| {
        matches!(
            s.event,
            Event::AllocationFailed { .. } | Event::CoherentFailed { .. }
        )
    })
}

/// `512 KiB`, `1 GiB`, or bytes where no unit divides.
fn human(bytes: u64) -> String {
    for (unit, shift) in [("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        if bytes >= 1 << shift && bytes % (1 << shift) == 0 {
            return format!("{} {unit}", bytes >> shift);
        }
    }
    format!("{bytes} B")
}

/// Tenths of a per cent without floating point.
fn per_cent(part: u64, whole: u64) -> String {
    let tenths = u128::from(part) * 1000 / u128::from(whole.max(1));
    format!("{}.{} %", tenths / 10, tenths % 10)
}
