//! Contiguous areas as debugfs shows them.

use std::collections::BTreeMap;

use super::per_cent;
use crate::diagnose::cause::{Cause, Certainty};
use crate::diagnose::event::{AreaCounter, Event};
use crate::diagnose::evidence::{Evidence, Seen};
use crate::diagnose::finding::Finding;

/// What is known of one area, in pages.
struct Area<'a> {
    seen: &'a Seen,
    count: Option<u64>,
    used: Option<u64>,
    longest: Option<u64>,
}

/// Areas that are full or scattered now. A snapshot shows no failure, so
/// nothing here is more than possible.
pub fn counters(evidence: &Evidence) -> Vec<Finding> {
    let mut areas: BTreeMap<&str, Area<'_>> = BTreeMap::new();
    for seen in &evidence.seen {
        let (Event::AreaCounter { name, pages }, Some(device)) = (&seen.event, &seen.device) else {
            continue;
        };
        let area = areas.entry(device).or_insert(Area {
            seen,
            count: None,
            used: None,
            longest: None,
        });
        match name {
            AreaCounter::Count => area.count = Some(*pages),
            AreaCounter::Used => area.used = Some(*pages),
            AreaCounter::LongestFree => area.longest = Some(*pages),
        }
    }
    areas.values().filter_map(judge).collect()
}

fn judge(area: &Area<'_>) -> Option<Finding> {
    let (count, used) = (area.count?, area.used?);
    let free = count.checked_sub(used)?;
    let sum = format!(
        "{free} of {count} pages free ({} used)",
        per_cent(used, count)
    );
    let longest = area.longest.unwrap_or(free);
    if free == 0 && count > 0 {
        let finding = Finding::new(area.seen, Cause::CmaTooSmall, Certainty::Possible, sum);
        return Some(finding.fixed_by(["a larger area, if a driver fails now"]));
    }
    let sum = format!(
        "{sum}, the longest free run is {longest}: a larger request fails although {free} are free"
    );
    let finding = Finding::new(area.seen, Cause::CmaFragmented, Certainty::Possible, sum);
    (longest < free / 2).then(|| {
        finding.fixed_by([
            "allocate the large buffers first, or give the large user an area of its own",
        ])
    })
}
