//! Misuse of the DMA API, as its checker reports it.

use crate::diagnose::cause::{Cause, Certainty};
use crate::diagnose::event::{DebugFault, Event};
use crate::diagnose::evidence::{Evidence, Seen};
use crate::diagnose::finding::Finding;

/// Explains the checker's complaints.
pub fn debug(evidence: &Evidence) -> Vec<Finding> {
    evidence.seen.iter().flat_map(complaint).collect()
}

fn complaint(seen: &Seen) -> Vec<Finding> {
    match &seen.event {
        Event::DebugFree { what, text } => vec![freed(seen, *what, text)],
        Event::DebugOther { text } => misuse(seen, text),
        Event::DebugOverlap { overlaps, line } => vec![overlap(seen, *overlaps, *line)],
        _ => Vec::new(),
    }
}

fn freed(seen: &Seen, what: DebugFault, text: &str) -> Finding {
    let why = match what {
        DebugFault::NotMapped => "unmapped a second time, or never mapped",
        DebugFault::Mismatch => "unmapped otherwise than it was mapped",
        DebugFault::Pending => "still mapped when the driver let go of the device: a leak",
    };
    Finding::new(
        seen,
        Cause::DriverBugDoubleUnmapOrLeak,
        Certainty::Certain,
        format!("{why}: {text}"),
    )
    .fixed_by(["a driver fix: unmap once, with the address, size and direction that map was given"])
    .not_helped_by(["any boot option or sizing of memory"])
}

/// Misuse that is neither a double unmap nor a leak.
fn misuse(seen: &Seen, text: &str) -> Vec<Finding> {
    let sum = format!("misuse of the DMA API by the driver: {text}");
    vec![
        Finding::new(seen, Cause::Other, Certainty::Likely, sum.clone())
            .fixed_by(["a driver fix"])
            .not_helped_by(["any boot option or sizing of memory"]),
        Finding::new(
            seen,
            Cause::DriverBugDoubleUnmapOrLeak,
            Certainty::Possible,
            sum,
        )
        .fixed_by(["a driver fix"]),
    ]
}

fn overlap(seen: &Seen, overlaps: u64, line: u64) -> Finding {
    Finding::new(
        seen,
        Cause::DriverBugDoubleUnmapOrLeak,
        Certainty::Likely,
        format!(
            "cache line {line:#x} << 6 = {:#x} was mapped more than {overlaps} times at once (64-byte lines): \
             mappings leak, or one owner maps the same page many times on purpose",
            line.checked_mul(64).unwrap_or(0)
        ),
    )
    .fixed_by(["list the live mappings of that address (debugfs dma-api/dump); missing unmaps on an error path are the usual cause"])
    .not_helped_by(["any sizing of memory"])
}
