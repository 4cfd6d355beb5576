//! Which failed claim the kernel's log tells of.

use super::FailureReport;
use super::demand::{Demand, Outcome, Recorded};

/// What the two clocks may drift apart within a recording, in ns.
const DRIFT_NS: i128 = 2_000_000;
/// Reports that the offset of the clocks is found by.
const VOTES_MAX: usize = 256;

/// A claim that failed, and when.
struct Failed {
    call: usize,
    begin_ns: i128,
    end_ns: i128,
}

/// The report of each call that has one.
///
/// A claim prints between the events of its beginning and its end. The log and the trace have
/// clocks of their own, which may be seconds apart: the offset is the one by which most reports
/// fall into a failed claim of their area and size. The kernel limits the rate of the line with
/// the size, so not every report has one. O(reports × failed claims).
pub(super) fn reports_of<'a>(
    demand: &Demand,
    recorded: &Recorded,
    reports: &'a [FailureReport],
) -> Vec<Option<&'a FailureReport>> {
    let mut of = vec![None; demand.calls.len()];
    let failed: Vec<Failed> = recorded
        .outcomes
        .iter()
        .enumerate()
        .filter(|(_, outcome)| matches!(outcome, Some(Outcome::Failed(_))))
        .map(|(call, _)| Failed {
            call,
            begin_ns: i128::from(demand.calls[call].at_ns),
            end_ns: i128::from(recorded.ended_ns[call]),
        })
        .collect();
    let fits = |report: &FailureReport, failed: &Failed| {
        let call = &demand.calls[failed.call];
        let name = &demand.areas[call.area as usize];
        report.pages.is_none_or(|pages| pages == call.wish.pages)
            && report.area.as_deref().is_none_or(|area| area == name)
    };
    let Some(offset) = offset(reports, &failed, fits) else {
        return of;
    };
    for report in reports {
        let at = i128::from(report.at_ns) - offset;
        let around = |failed: &&Failed| {
            failed.begin_ns - DRIFT_NS <= at
                && at <= failed.end_ns + DRIFT_NS
                && of[failed.call].is_none()
                && fits(report, failed)
        };
        // Of claims at once, the one whose end is nearest: it prints last of all.
        let nearest = failed
            .iter()
            .filter(around)
            .min_by_key(|failed| (failed.end_ns - at).abs());
        if let Some(failed) = nearest {
            of[failed.call] = Some(report);
        }
    }
    of
}

/// By how much the log's clock is ahead: what lies in most of the ranges that each pair of a report
/// and a claim that it may be of leaves open. Of equally good ones the least.
fn offset(
    reports: &[FailureReport],
    failed: &[Failed],
    fits: impl Fn(&FailureReport, &Failed) -> bool,
) -> Option<i128> {
    let mut edges: Vec<(i128, i32)> = Vec::new();
    for report in reports.iter().take(VOTES_MAX) {
        let at = i128::from(report.at_ns);
        for failed in failed.iter().filter(|failed| fits(report, failed)) {
            edges.push((at - failed.end_ns - DRIFT_NS, 1));
            edges.push((at - failed.begin_ns + DRIFT_NS + 1, -1));
        }
    }
    edges.sort_unstable();
    let (mut depth, mut best) = (0, None);
    for pair in edges.windows(2) {
        depth += pair[0].1;
        let middle = (pair[0].0 + pair[1].0) / 2;
        let good = (depth, -middle.abs());
        if depth > 0 && best.is_none_or(|(known, _)| known < good) {
            best = Some((good, middle));
        }
    }
    best.map(|(_, middle)| middle)
}
