//! Coherent allocations that no allocator served.

use super::BLOCK_BYTES;
use super::area::{all_areas, claims};
use crate::diagnose::cause::{Cause, Certainty};
use crate::diagnose::event::Event;
use crate::diagnose::evidence::{Evidence, Seen};
use crate::diagnose::finding::Finding;

/// A coherent allocation that fell through to the bounce pool.
pub fn failed(evidence: &Evidence) -> Vec<Finding> {
    let failures = evidence.all(|event| match event {
        Event::CoherentFailed { size } => Some(*size),
        _ => None,
    });
    if !claims(evidence).is_empty() {
        return Vec::new();
    }
    let area = all_areas(evidence);
    let served = evidence.all(|event| match event {
        Event::CoherentServed { size } => Some(*size),
        _ => None,
    });
    let largest = served.iter().map(|(_, size)| *size).max().unwrap_or(0);
    failures
        .into_iter()
        .filter(|(seen, _)| !had_a_slot(evidence, seen))
        .flat_map(|(seen, size)| match huge_page(evidence, seen, size) {
            Some(finding) => vec![finding],
            None => fell_through(seen, size, area, largest),
        })
        .collect()
}

/// Whether the line before says that a slot was found but not reachable.
fn had_a_slot(evidence: &Evidence, seen: &Seen) -> bool {
    let before = evidence.around(seen, 2, 0);
    before
        .iter()
        .any(|s| matches!(s.event, Event::Overflow { .. }))
}

/// Graphics drivers ask for one huge page first and fall back to small ones;
/// until 4.18 the bounce pool complained all the same.
fn huge_page(evidence: &Evidence, seen: &Seen, size: u64) -> Option<Finding> {
    const DRIVERS: [&str; 5] = ["amdgpu", "radeon", "nouveau", "ttm", "vmwgfx"];
    let refused = |s: &Seen| matches!(s.event, Event::AllocationFailed { .. });
    if size != 2 << 20 || evidence.seen.iter().any(refused) {
        return None;
    }
    let device = seen.device.as_deref()?;
    let driver = evidence.seen.iter().find_map(|s| {
        let (driver, address) = s.device.as_deref()?.split_once(' ')?;
        (device.ends_with(address) && DRIVERS.contains(&driver)).then_some(driver)
    })?;
    Some(
        Finding::new(
            seen,
            Cause::Harmless,
            Certainty::Certain,
            format!(
                "{size} B is one huge page, above the 262144 B that the bounce pool serves, so this last fallback can never succeed; \
                 {driver} then takes 4 KiB pages, and no failure follows"
            ),
        )
        .fixed_by(["nothing to fix; kernels from 4.18 on no longer print it"]),
    )
}

/// `served` is the largest coherent buffer that was given out before.
fn fell_through(seen: &Seen, size: u64, area: Option<u64>, served: u64) -> Vec<Finding> {
    let sum = if size > BLOCK_BYTES {
        format!(
            "{size} B: tried in a contiguous area first, then the page allocator ({size} > {BLOCK_BYTES} B with 4 KiB pages), \
             then the bounce pool ({size} > 262144 B); only an area could have served it, and none did"
        )
    } else {
        format!(
            "{size} B: tried in a contiguous area first, then the page allocator, then the bounce pool, which serves at most 262144 B; none had it"
        )
    };
    let absent = |certainty, sum: String| {
        Finding::new(seen, Cause::CmaAbsent, certainty, sum)
            .fixed_by(["reserve an area: cma=SIZE larger than the allocation (the kernel needs CONFIG_DMA_CMA)"])
            .not_helped_by([
                "swiotlb=: the message of the bounce pool is the last fallback speaking, not the cause",
                "freeing memory: blocks above 4 MiB do not exist in the page allocator",
            ])
    };
    let small = |certainty, sum: String| {
        Finding::new(seen, Cause::CmaTooSmall, certainty, sum)
            .fixed_by(["a larger cma=; compare it with CmaTotal and CmaFree in /proc/meminfo"])
            .not_helped_by(["a larger swiotlb="])
    };
    match area {
        Some(0) => vec![absent(
            Certainty::Certain,
            format!("{sum}; the log says that 0 B are reserved"),
        )],
        Some(bytes) if bytes < size => vec![small(
            Certainty::Certain,
            format!("{sum}; the areas hold {bytes} B < {size} B"),
        )],
        Some(bytes) => vec![small(
            Certainty::Likely,
            format!("{sum}; the areas hold {bytes} B in all"),
        )],
        None if served > BLOCK_BYTES => vec![small(
            Certainty::Likely,
            format!("{sum}; {served} B were given out before, so an area exists"),
        )],
        None => vec![
            absent(Certainty::Likely, sum.clone()),
            small(Certainty::Possible, sum),
        ],
    }
}
