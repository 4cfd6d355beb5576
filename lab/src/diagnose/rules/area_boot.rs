//! Contiguous areas that could not be reserved at boot.

use super::human;
use crate::diagnose::cause::{Cause, Certainty};
use crate::diagnose::event::Event;
use crate::diagnose::evidence::Evidence;
use crate::diagnose::finding::Finding;

/// Explains failed reservations.
pub fn reserve(evidence: &Evidence) -> Vec<Finding> {
    let failures = evidence.all(|event| match event {
        Event::CmaReserveFailed { bytes, node } => Some((*bytes, *node)),
        _ => None,
    });
    let asked = evidence.first(|event| match event {
        Event::CmaReserving { bytes } => Some(*bytes),
        _ => None,
    });
    let mut findings: Vec<Finding> = failures
        .into_iter()
        .map(|(seen, (bytes, node))| {
            let mut sum = match bytes {
                Some(bytes) => format!("stated by the line: no free range of {} was found at boot", human(bytes)),
                None => "stated by the line: the area was not reserved".to_owned(),
            };
            if let Some(node) = node.filter(|n| *n >= 0) {
                sum.push_str(&format!(" on node {node}"));
            }
            if let Some((wanted, got)) = asked.map(|(_, a)| a).zip(bytes).filter(|(a, b)| a != b) {
                sum.push_str(&format!(
                    "; {} were asked and rounded up to {}, the alignment of an area (512 MiB with 64 KiB pages)",
                    human(wanted),
                    human(got)
                ));
            }
            if let Some(place) = fixed_place(evidence) {
                sum.push_str(&format!("; {place} names the place, where something else may lie already"));
            }
            Finding::new(seen, Cause::CmaReserveFailed, Certainty::Certain, sum)
                .fixed_by([
                    "a smaller area, or no fixed base: cma=SIZE without @BASE",
                    "free the range: crash kernel, firmware and device-tree reservations are made first and are in the boot log",
                ])
                .not_helped_by(["more memory, if the limit or the place excludes it", "a size below the rounding"])
        })
        .collect();
    let inactive = evidence.all(|event| matches!(event, Event::CmaActivationFailed).then_some(()));
    findings.extend(inactive.into_iter().map(|(seen, ())| {
        Finding::new(
            seen,
            Cause::CmaReserveFailed,
            Certainty::Likely,
            "reserved, but not usable: an area must lie in one memory zone".to_owned(),
        )
        .fixed_by(["move the area so that it does not straddle two zones (cma=SIZE@BASE)"])
    }));
    findings
}

fn fixed_place(evidence: &Evidence) -> Option<&str> {
    let (_, line) = evidence.first(|event| match event {
        Event::CommandLine { text } => Some(text),
        _ => None,
    })?;
    line.split_whitespace()
        .find(|word| word.starts_with("cma=") && word.contains('@'))
}
