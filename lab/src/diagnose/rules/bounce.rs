//! `swiotlb buffer is full`: one message for several failures.

use super::bounce_advice::{above_cap, fragmented, leak, misaligned, no_pool, too_small};
use super::{SEGMENT_BYTES, SEGMENT_SLOTS, SLOT, human, per_cent};
use crate::diagnose::cause::{Cause, Certainty};
use crate::diagnose::event::{Event, PoolUse};
use crate::diagnose::evidence::{Evidence, Seen};
use crate::diagnose::finding::Finding;

/// The smallest pool the kernel makes by itself.
const SMALLEST_POOL_SLOTS: u64 = 512;

/// Use that never falls for less than this may be a burst.
const LEAK_SECONDS: f64 = 60.0;

/// One failed bounce mapping.
#[derive(Clone, Copy)]
struct Full<'a> {
    seen: &'a Seen,
    size: u64,
    pool: Option<PoolUse>,
}

impl Full<'_> {
    fn slots(&self) -> u64 {
        self.size.div_ceil(SLOT)
    }
}

/// Explains the failed bounce mappings, device by device.
pub fn full(evidence: &Evidence) -> Vec<Finding> {
    let all: Vec<Full<'_>> = evidence
        .all(|event| match event {
            Event::PoolFull { size, pool } => Some((*size, *pool)),
            _ => None,
        })
        .into_iter()
        .map(|(seen, (size, pool))| Full { seen, size, pool })
        .filter(|f| !is_coherent_fallback(evidence, f) && !is_echo(evidence, f))
        .collect();
    let mut devices: Vec<Option<&str>> = all.iter().map(|f| f.seen.device.as_deref()).collect();
    devices.sort_unstable();
    devices.dedup();
    let mut findings = Vec::new();
    for device in devices {
        let (over, within): (Vec<_>, Vec<_>) = all
            .iter()
            .copied()
            .filter(|f| f.seen.device.as_deref() == device)
            .partition(|f| f.size > SEGMENT_BYTES);
        findings.extend(over_cap(&over));
        let has_pool = within.iter().any(|f| f.pool.is_none_or(|p| p.total > 0));
        if has_pool || !has_overflow(evidence, device) {
            findings.extend(within_cap(&within));
        }
    }
    findings
}

/// A coherent allocation ends at the bounce pool when everything before it
/// failed: the pool is then not the cause.
fn is_coherent_fallback(evidence: &Evidence, full: &Full<'_>) -> bool {
    let near = evidence.around(full.seen, 4, 4);
    near.iter()
        .any(|s| matches!(s.event, Event::CoherentFailed { size } if size == full.size))
}

/// Old kernels say it twice: the pool, then `Out of SW-IOMMU space`.
fn is_echo(evidence: &Evidence, full: &Full<'_>) -> bool {
    const FIRST: &str = "buffer is full";
    !full.seen.text.contains(FIRST)
        && evidence.around(full.seen, 2, 0).iter().any(|s| {
            matches!(s.event, Event::PoolFull { size, .. } if size == full.size)
                && s.text.contains(FIRST)
        })
}

/// Whether an overflow line says more about a device without a pool.
fn has_overflow(evidence: &Evidence, device: Option<&str>) -> bool {
    evidence
        .seen
        .iter()
        .any(|s| matches!(s.event, Event::Overflow { .. }) && s.device.as_deref() == device)
}

fn over_cap(over: &[Full<'_>]) -> Vec<Finding> {
    let Some(least) = over.iter().min_by_key(|f| (f.size, f.seen.line)) else {
        return Vec::new();
    };
    let which = if over.len() > 1 {
        format!(" (the smallest of {})", over.len())
    } else {
        String::new()
    };
    let mut sum = format!(
        "{} B{which} > {SEGMENT_BYTES} B = {SEGMENT_SLOTS} slots x {SLOT} B, the largest bounce mapping; \
         it needs {} slots in a segment of {SEGMENT_SLOTS}",
        least.size,
        least.slots()
    );
    if let Some(pool) = least.pool.filter(|p| p.total > 0) {
        sum.push_str(&format!(
            "; the pool had {} of {} slots free ({} used), which does not matter",
            pool.total.saturating_sub(pool.used),
            pool.total,
            per_cent(pool.used, pool.total)
        ));
    }
    vec![above_cap(least.seen, sum).counted(over.len())]
}

fn within_cap(within: &[Full<'_>]) -> Vec<Finding> {
    let Some(first) = within.first() else {
        return Vec::new();
    };
    let count = within.len();
    let with_pool: Vec<(&Full<'_>, PoolUse)> = within
        .iter()
        .filter_map(|f| f.pool.map(|p| (f, p)))
        .collect();
    let Some((tightest, pool)) = with_pool
        .iter()
        .max_by_key(|(f, p)| (p.used, f.slots(), std::cmp::Reverse(f.seen.line)))
        .copied()
    else {
        return without_counts(first, count);
    };
    let seen = tightest.seen;
    if pool.total == 0 {
        return no_pool(seen, count);
    }
    let needed = tightest.slots();
    let free = pool.total.saturating_sub(pool.used);
    let sum = format!(
        "{} B = {needed} slots of {SLOT} B; {free} of {} slots free ({} used; pool {})",
        tightest.size,
        pool.total,
        per_cent(pool.used, pool.total),
        human(pool.total.saturating_mul(SLOT)),
    );
    let findings = if free < needed {
        let grows = never_falls(&with_pool);
        let sum = format!(
            "{sum}: {free} < {needed}, the pool was full; whether by load or by a leak is not in the line"
        );
        full_pool(seen, sum, grows)
    } else if fits_whatever_the_layout(needed, pool) {
        vec![
            misaligned(
                seen,
                format!(
                    "{sum}: {} used slots cannot break every run of {needed} in {} segments, so neither size nor \
                     fullness explains it; alignment, a segment boundary or a race must",
                    pool.used,
                    pool.total / SEGMENT_SLOTS
                ),
            ),
            fragmented(seen, sum, Certainty::Possible),
        ]
    } else {
        scattered(seen, &sum, pool)
    };
    findings.into_iter().map(|f| f.counted(count)).collect()
}

/// Counts alone prove nothing here: each cause that they leave is listed.
fn without_counts(first: &Full<'_>, count: usize) -> Vec<Finding> {
    let sum = format!(
        "{} B is the request, not the pool: {} slots <= {SEGMENT_SLOTS}, so not above the cap; \
         this kernel does not print the pool's total and used slots",
        first.size,
        first.slots()
    );
    vec![
        too_small(first.seen, sum.clone(), Certainty::Possible).counted(count),
        leak(first.seen, sum.clone(), Certainty::Possible).counted(count),
        fragmented(first.seen, sum, Certainty::Possible).counted(count),
    ]
}

fn full_pool(seen: &Seen, sum: String, grows: bool) -> Vec<Finding> {
    if grows {
        let sum = format!("{sum}; used never fell from one failure to the next");
        vec![
            leak(seen, sum.clone(), Certainty::Likely),
            too_small(seen, sum, Certainty::Possible),
        ]
    } else {
        vec![
            too_small(seen, sum.clone(), Certainty::Likely),
            leak(seen, sum, Certainty::Possible),
        ]
    }
}

fn scattered(seen: &Seen, sum: &str, pool: PoolUse) -> Vec<Finding> {
    let sum = format!(
        "{sum}: enough free slots by number, but the run must be contiguous, within one segment of {SEGMENT_SLOTS} and one area"
    );
    if pool.total <= SMALLEST_POOL_SLOTS {
        let note = format!(
            "{sum}; {} slots is the smallest pool there is, so it was probably set that way",
            pool.total
        );
        return vec![
            too_small(seen, note.clone(), Certainty::Likely),
            fragmented(seen, sum, Certainty::Likely),
            Finding::new(seen, Cause::BadParameter, Certainty::Possible, note).fixed_by([
                "look for a small swiotlb= on the kernel command line; the number is slots of 2 KiB, not megabytes",
            ]),
        ];
    }
    vec![
        fragmented(seen, sum.clone(), Certainty::Likely),
        too_small(seen, sum, Certainty::Likely),
    ]
}

/// A run of `needed` slots in a segment is broken only by at least
/// floor(128 / needed) used slots in it.
fn fits_whatever_the_layout(needed: u64, pool: PoolUse) -> bool {
    let breakers = SEGMENT_SLOTS / needed.max(1);
    pool.used < (pool.total / SEGMENT_SLOTS).saturating_mul(breakers)
}

/// Whether `used` only rose over at least three failures and a while: a burst
/// also fills a pool, but ends.
fn never_falls(series: &[(&Full<'_>, PoolUse)]) -> bool {
    let used: Vec<u64> = series.iter().map(|(_, pool)| pool.used).collect();
    let times: Vec<f64> = series
        .iter()
        .filter_map(|(full, _)| full.seen.seconds)
        .collect();
    let lasted = times
        .last()
        .zip(times.first())
        .map_or(0.0, |(last, first)| last - first);
    used.len() >= 3
        && lasted >= LEAK_SECONDS
        && used.windows(2).all(|pair| matches!(pair, [a, b] if a <= b))
        && used.first() < used.last()
}
