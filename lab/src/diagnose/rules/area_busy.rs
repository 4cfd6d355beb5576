//! Ranges of pages that were found busy.

use super::area::{LIST_LINES, busy_at, fallback};
use super::{BLOCK_PAGES, allocation_failed_near};
use crate::diagnose::cause::{Cause, Certainty};
use crate::diagnose::event::Event;
use crate::diagnose::evidence::{Evidence, Seen};
use crate::diagnose::finding::Finding;

/// Memory unplug and huge pages try ranges too, and go on without.
fn other_caller(seen: &Seen, pages: u64) -> Finding {
    if pages <= BLOCK_PAGES && !pages.is_power_of_two() {
        return fallback(seen, pages);
    }
    Finding::new(
        seen,
        Cause::Harmless,
        Certainty::Possible,
        format!(
            "{pages} pages: not every such range is a DMA allocation (memory unplug and huge pages try them too), \
             and no failed allocation stands beside this line"
        ),
    )
    .fixed_by(["nothing, unless a driver fails afterwards"])
}

/// Ranges found busy, where no failed claim explains them already.
pub fn ranges(evidence: &Evidence) -> Vec<Finding> {
    let mut ranges = evidence.all(|event| match event {
        Event::PfnsBusy { start, end } => Some((*start, *end)),
        _ => None,
    });
    ranges.retain(|(seen, _)| {
        let near = evidence.around(seen, LIST_LINES, LIST_LINES);
        !near
            .iter()
            .any(|s| matches!(s.event, Event::CmaFailed { .. }))
    });
    let mut lengths: Vec<u64> = ranges.iter().map(|(_, (start, end))| end - start).collect();
    lengths.sort_unstable();
    lengths.dedup();
    let mut findings = Vec::new();
    for pages in lengths.into_iter().rev() {
        let same: Vec<(&Seen, (u64, u64))> = ranges
            .iter()
            .copied()
            .filter(|(_, (start, end))| end - start == pages)
            .collect();
        findings.extend(busy_ranges(evidence, pages, &same));
    }
    findings
}

fn busy_ranges(evidence: &Evidence, pages: u64, same: &[(&Seen, (u64, u64))]) -> Vec<Finding> {
    let Some((seen, (start, end))) = same.first().copied() else {
        return Vec::new();
    };
    let mut sum = format!(
        "[{start:#x}, {end:#x}) = {pages} pages: free in the area's bitmap, refused as busy"
    );
    let step = same.windows(2).find_map(|pair| match pair {
        [(_, (a, _)), (_, (b, _))] => b.checked_sub(*a).filter(|step| *step > 0),
        _ => None,
    });
    if let Some(step) = step {
        sum.push_str(&format!(
            "; {} windows of that length, in steps of {step:#x} pages, were refused",
            same.len()
        ));
    }
    // Windows that overlap are successive tries of one request.
    let is_one_request = step.is_some_and(|step| step < pages);
    let failed = same
        .iter()
        .any(|(s, _)| allocation_failed_near(evidence, s, 10));
    let mut findings = Vec::new();
    if !failed && pages <= 1 {
        findings.push(
            Finding::new(
                seen,
                Cause::Harmless,
                Certainty::Likely,
                format!("{sum}; a request of one page is served by the page allocator, and no failure stands beside it"),
            )
            .fixed_by(["nothing; newer kernels no longer ask a contiguous area for one page"]),
        );
        findings.push(busy_at(seen, sum, Certainty::Possible));
    } else {
        let certainty = if failed || is_one_request {
            Certainty::Certain
        } else {
            Certainty::Likely
        };
        findings.push(busy_at(seen, sum, certainty));
        if certainty != Certainty::Certain {
            findings.push(other_caller(seen, pages));
        }
    }
    findings
        .into_iter()
        .map(|f| f.counted(same.len()))
        .collect()
}
