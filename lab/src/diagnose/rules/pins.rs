//! Limits on pinning and on mappings of assigned devices; the pool for
//! atomic allocations.

use super::human;
use crate::diagnose::cause::{Cause, Certainty};
use crate::diagnose::event::Event;
use crate::diagnose::evidence::Evidence;
use crate::diagnose::finding::Finding;

/// `dma_entry_limit` unless set.
const ENTRIES: u64 = 65_535;
/// A limit above this was raised on purpose: that the check fired is certain,
/// that the limit is too low for the need is not.
const RAISED: u64 = 1 << 30;

/// `RLIMIT_MEMLOCK (N) exceeded`.
pub fn memlock(evidence: &Evidence) -> Vec<Finding> {
    let refusals = evidence.all(|event| match event {
        Event::Memlock { limit, task } => Some((*limit, task.as_deref())),
        _ => None,
    });
    refusals
        .into_iter()
        .map(|(seen, (limit, task))| {
            let who = task.map(|t| format!(" for {t}")).unwrap_or_default();
            let mut sum = format!(
                "stated by the line: locked memory would pass {limit} B = {} pages of 4 KiB{who}; an assigned device pins the guest's whole RAM",
                limit / 4096
            );
            let certainty = if limit > RAISED {
                sum.push_str(
                    "; the check fired, but so large a limit was raised on purpose: memory may be counted twice (several devices), \
                     or the count be wrong in this kernel",
                );
                Certainty::Likely
            } else {
                Certainty::Certain
            };
            Finding::new(seen, Cause::MemlockLimit, certainty, sum)
            .fixed_by([
                "raise the limit of the process above guest RAM: LimitMEMLOCK=, hard_limit in libvirt, ulimit -l, or CAP_IPC_LOCK",
            ])
            .not_helped_by([
                "huge pages alone: fewer mappings, the same bytes locked",
                "the limit of another login: a service keeps its own",
            ])
        })
        .chain(warned(evidence))
        .collect()
}

fn warned(evidence: &Evidence) -> Vec<Finding> {
    let warnings = evidence.all(|event| match event {
        Event::MemlockWarned { limit } => Some(*limit),
        _ => None,
    });
    warnings
        .into_iter()
        .map(|(seen, limit)| {
            Finding::new(
                seen,
                Cause::MemlockLimit,
                Certainty::Likely,
                format!("{limit} B = {} pages of 4 KiB may be locked; the line warns, no refusal is in it", limit / 4096),
            )
            .fixed_by(["raise the limit: ulimit -l, LimitMEMLOCK=, /etc/security/limits.conf"])
        })
        .collect()
}

/// Failed `VFIO_MAP_DMA`.
pub fn vfio(evidence: &Evidence) -> Vec<Finding> {
    let failures = evidence.all(|event| match event {
        Event::VfioMapFailed { errno } => Some(*errno),
        _ => None,
    });
    let has_memlock = evidence
        .first(|e| matches!(e, Event::Memlock { .. }).then_some(()))
        .is_some();
    failures
        .into_iter()
        .flat_map(|(seen, errno)| {
            let runs_on = evidence.seen.iter().any(|s| s.line > seen.line && s.event == Event::GuestRunning)
                && !evidence.seen.iter().any(|s| s.event == Event::VfioFatal);
            let entries = format!(
                "error 28 (no space) from VFIO_MAP_DMA: the container's mappings are used up ({ENTRIES} unless dma_entry_limit says otherwise)"
            );
            match errno {
                28 if runs_on => vec![
                    Finding::new(
                        seen,
                        Cause::Harmless,
                        Certainty::Certain,
                        format!("{entries}; the guest runs on afterwards: the map was retried after a flush and succeeded"),
                    )
                    .fixed_by(["nothing to fix"]),
                ],
                28 => vec![
                    Finding::new(seen, Cause::VfioEntryLimit, Certainty::Certain, entries)
                        .fixed_by([
                            "vfio_iommu_type1.dma_entry_limit=N with N above the number of mappings",
                            "fewer, larger mappings: 1 GiB pages behind the guest, no virtual IOMMU with 4 KiB pages",
                        ])
                        .not_helped_by(["a higher locked-memory limit", "more memory"]),
                ],
                12 if !has_memlock => vec![
                    Finding::new(
                        seen,
                        Cause::MemlockLimit,
                        Certainty::Likely,
                        "error 12 (no memory) from VFIO_MAP_DMA: most often the locked-memory limit; the kernel log would say RLIMIT_MEMLOCK".to_owned(),
                    )
                    .fixed_by(["raise LimitMEMLOCK above guest RAM"]),
                ],
                12 => Vec::new(),
                _ => vec![Finding::new(
                    seen,
                    Cause::Other,
                    Certainty::Likely,
                    format!("error {errno} from VFIO_MAP_DMA: neither the entry limit (28) nor locked memory (12); an address beyond the IOMMU's width, or a range mapped already"),
                )],
            }
        })
        .collect()
}

/// The interrupt-safe coherent pool.
pub fn atomic(evidence: &Evidence) -> Vec<Finding> {
    let small = evidence.all(|event| match event {
        Event::AtomicPool { bytes } => Some(*bytes),
        _ => None,
    });
    let mut findings: Vec<Finding> = small
        .into_iter()
        .map(|(seen, bytes)| {
            let size =
                bytes.map(|b| format!(": it holds {} = {} pages of 4 KiB", human(b), b / 4096));
            Finding::new(
                seen,
                Cause::AtomicPoolExhausted,
                Certainty::Certain,
                format!(
                    "stated by the line: the pool is used up{}",
                    size.unwrap_or_default()
                ),
            )
            .fixed_by(["coherent_pool=SIZE on the command line, e.g. four times the present size"])
            .not_helped_by([
                "cma=, swiotlb=",
                "waiting for the line again: it is printed once per boot",
            ])
        })
        .collect();
    let missing = evidence.all(|event| matches!(event, Event::AtomicPoolMissing).then_some(()));
    findings.extend(missing.into_iter().map(|(seen, ())| {
        Finding::new(
            seen,
            Cause::AtomicPoolExhausted,
            Certainty::Likely,
            "no pool for atomic allocations served the request: used up, or none suits the device's mask".to_owned(),
        )
        .fixed_by(["a larger coherent_pool=", "allocate before interrupts are off, where the caller may sleep"])
        .not_helped_by(["cma=, swiotlb="])
    }));
    findings
}
