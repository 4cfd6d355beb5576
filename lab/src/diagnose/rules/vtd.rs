//! Faults and table entries that VT-d reports.

use super::fault::{access, other, permission, place, unmapped};
use crate::diagnose::cause::{Cause, Certainty};
use crate::diagnose::event::Event;
use crate::diagnose::evidence::{Evidence, Seen};
use crate::diagnose::finding::Finding;

/// VT-d faults and entries found set.
pub fn faults(evidence: &Evidence) -> Vec<Finding> {
    let faults = evidence.all(|event| match event {
        Event::VtdFault {
            is_write,
            address,
            reason,
            text,
        } => Some((*is_write, *address, *reason, text.as_str())),
        _ => None,
    });
    let mut findings: Vec<Finding> = faults
        .into_iter()
        .flat_map(|(seen, (is_write, address, reason, text))| {
            // Old kernels print the reason on a line of its own.
            let later = evidence.after(seen, 2).iter().find_map(|s| match &s.event {
                Event::VtdReason { reason, text } => Some((*reason, text.as_str())),
                _ => None,
            });
            let (reason, text) = match reason {
                Some(reason) => (Some(reason), text),
                None => (later.map(|(r, _)| r), later.map_or("", |(_, t)| t)),
            };
            vtd_fault(seen, is_write, address, reason, text)
        })
        .collect();
    let doubles = evidence.all(|event| match event {
        Event::PteAlreadySet { page, old, new } => Some((*page, *old, *new)),
        _ => None,
    });
    findings.extend(
        doubles
            .into_iter()
            .flat_map(|(seen, (page, old, new))| already_set(seen, page, old, new)),
    );
    findings
}

fn vtd_fault(
    seen: &Seen,
    is_write: bool,
    address: Option<u64>,
    reason: Option<u32>,
    text: &str,
) -> Vec<Finding> {
    let access = format!("{}{}", access(is_write), place(address));
    let Some(reason) = reason else {
        let sum = format!("{access}; the reason is not in the log");
        return vec![
            unmapped(seen, sum.clone(), Certainty::Possible),
            permission(seen, sum, Certainty::Possible),
        ];
    };
    let said = if text.is_empty() {
        String::new()
    } else {
        format!(" ({text})")
    };
    let sum = format!("{access}, reason {reason:#04x}{said}");
    if matches!(reason, 5 | 6) && address == Some(0) {
        let sum = format!(
            "{sum}: the kernel never hands out address 0, so nothing was mapped there, unless the firmware reserves it for the device"
        );
        return vec![unmapped(seen, sum, Certainty::Likely)];
    }
    if matches!(reason, 5 | 6) {
        let sum = format!(
            "{sum}: that permission bit is clear; an entry that is empty and one that only lacks the permission give the same reason"
        );
        return vec![
            unmapped(seen, sum.clone(), Certainty::Likely),
            permission(seen, sum, Certainty::Possible),
        ];
    }
    let lower = text.to_ascii_lowercase();
    if lower.contains("first-level") && lower.contains("present bit") {
        return vec![unmapped(seen, sum, Certainty::Certain)];
    }
    if lower.contains("permission") || lower.contains("privilege") {
        return vec![
            permission(seen, sum.clone(), Certainty::Likely),
            unmapped(seen, sum, Certainty::Possible),
        ];
    }
    if lower.contains("present bit") {
        let sum = format!("{sum}: the device has no domain at all");
        return vec![unmapped(seen, sum, Certainty::Likely)];
    }
    vec![other(
        seen,
        format!("{sum}: neither a missing page nor a missing permission"),
    )]
}

fn already_set(seen: &Seen, page: u64, old: u64, new: u64) -> Vec<Finding> {
    let target = old >> 12;
    if target == page {
        let sum = format!(
            "page {page:#x} already maps to {old:#x}: to itself, as a region that the firmware reserves for a device (RMRR); \
             the new entry {new:#x} would replace it"
        );
        let mut findings = vec![
            Finding::new(seen, Cause::Other, Certainty::Likely, sum)
                .fixed_by(["the region must be kept out of the IOVA space of every device in the group (fixed in newer kernels)"])
                .not_helped_by(["changing the driver"]),
        ];
        if old == new {
            findings.extend(double_map(seen, page, old, new));
        }
        return findings;
    }
    double_map(seen, page, old, new).into_iter().collect()
}

fn double_map(seen: &Seen, page: u64, old: u64, new: u64) -> Option<Finding> {
    let what = if old >> 12 == new >> 12 {
        "the same memory is mapped twice"
    } else {
        "it still maps other memory"
    };
    Some(
        Finding::new(
            seen,
            Cause::DriverBugDoubleUnmapOrLeak,
            Certainty::Possible,
            format!("page {page:#x} maps to {old:#x}, wanted {new:#x}: {what}; an unmap was missed, or the address was handed out twice"),
        )
        .fixed_by(["CONFIG_DMA_API_DEBUG names the driver whose mapping was left"])
        .not_helped_by(["any sizing of memory"]),
    )
}
