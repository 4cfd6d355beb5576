//! Address space that ran out, tables that do not fit.

use super::{BLOCK_BYTES, human};
use crate::diagnose::cause::{Cause, Certainty};
use crate::diagnose::event::{Event, IovaWindow, ItsUnit};
use crate::diagnose::evidence::{Evidence, Seen};
use crate::diagnose::finding::Finding;

/// Refused address ranges.
pub fn iova(evidence: &Evidence) -> Vec<Finding> {
    let failures = evidence.all(|event| match event {
        Event::IovaFailed { size, pages, what } => Some((*size, *pages, *what)),
        _ => None,
    });
    let window = evidence.first(|event| match event {
        Event::IovaWindowBytes { bytes } => Some(*bytes),
        _ => None,
    });
    failures
        .into_iter()
        .map(|(seen, (size, pages, what))| {
            let asked = match (size, pages) {
                (Some(size), _) => format!("{size} B"),
                (_, Some(pages)) => format!("{pages} pages"),
                _ => "a range".to_owned(),
            };
            let space = match (what, window) {
                (IovaWindow::Gart, Some((_, bytes))) => {
                    format!("the GART aperture of {}", human(bytes))
                }
                (IovaWindow::Gart, None) => "the GART aperture".to_owned(),
                (IovaWindow::Tce, _) => "the device's TCE table".to_owned(),
                (IovaWindow::Generic, _) => "the device's I/O address space".to_owned(),
            };
            exhausted(
                seen,
                format!("stated by the line: {asked} asked, no free range of that size in {space}"),
                what,
            )
        })
        .collect()
}

fn exhausted(seen: &Seen, sum: String, what: IovaWindow) -> Finding {
    let finding = Finding::new(seen, Cause::IovaExhausted, Certainty::Certain, sum);
    let finding = match what {
        IovaWindow::Gart => finding.fixed_by(["a larger aperture: iommu=memaper=ORDER or the firmware's setting (32 MiB << order)"]),
        IovaWindow::Tce => finding.fixed_by([
            "64-bit DMA for the device, so that it gets the large window; fewer queues or smaller buffers",
        ]),
        IovaWindow::Generic => finding.fixed_by([
            "free mappings first: close the other users of the same window",
            "a wider DMA mask or iommu.forcedac=1, if the device can address more",
        ]),
    };
    finding
        .fixed_by(["if it grows with time, mappings leak: CONFIG_DMA_API_DEBUG names the driver"])
        .not_helped_by(["more RAM, swiotlb=, cma=: address space ran out, not memory"])
}

/// Tables of the interrupt translation service.
pub fn its(evidence: &Evidence) -> Vec<Finding> {
    let cuts = evidence.all(|event| match event {
        Event::ItsTooLarge {
            table,
            from,
            to,
            unit,
            its,
        } => Some((table.as_str(), *from, *to, *unit, its.as_str())),
        _ => None,
    });
    cuts.into_iter()
        .map(|(seen, (table, from, to, unit, its))| {
            let made = evidence.after(seen, 20).iter().find_map(|s| match &s.event {
                Event::ItsTable {
                    its: other,
                    is_flat,
                    entry_bytes,
                    page_bytes,
                    entries,
                    table: made,
                } if other == its && (table.is_empty() || made == table) => {
                    Some((*is_flat, *entry_bytes, *page_bytes, *entries))
                }
                _ => None,
            });
            let sum = match unit {
                ItsUnit::IdBits => id_bits(from, to, made),
                ItsUnit::PageOrder => format!("the table needs 2^{from} pages and gets 2^{to}: the page allocator has no larger block"),
                ItsUnit::ItsPages => format!("the table needs {from} ITS pages; its register holds at most 256, it gets {to}"),
            };
            Finding::new(seen, Cause::ItsTableTooLarge, Certainty::Certain, sum)
                .fixed_by([
                    "nothing while all DeviceIDs are below the reduced limit",
                    "else a two-level (indirect) table where the hardware has it, or a kernel with larger blocks (CONFIG_ARCH_FORCE_MAX_ORDER)",
                ])
                .not_helped_by(["cma=: the table is allocated before contiguous areas work"])
        })
        .collect()
}

fn id_bits(from: u64, to: u64, made: Option<(bool, u64, u64, u64)>) -> String {
    let bytes = |entry: u64, bits: u64| {
        u32::try_from(bits)
            .ok()
            .and_then(|b| entry.checked_shl(b))
            .filter(|_| bits < 56)
    };
    match made {
        Some((true, entry, _, _)) => {
            let (need, got) = (
                bytes(entry, from).unwrap_or(u64::MAX),
                bytes(entry, to).unwrap_or(u64::MAX),
            );
            format!(
                "flat table: {entry} B << {from} = {} > {} (largest block of the page allocator with 4 KiB pages); cut to {entry} B << {to} = {}, \
                 so DeviceIDs from {} up are lost",
                human(need),
                human(BLOCK_BYTES),
                human(got),
                1u64.checked_shl(u32::try_from(to).unwrap_or(64))
                    .unwrap_or(u64::MAX)
            )
        }
        Some((false, entry, page, _)) if entry > 0 && page >= entry => {
            let inner = (page / entry).ilog2();
            format!(
                "indirect table: {from} and {to} count level-1 entries; each covers {page} B / {entry} B = 2^{inner} ids, \
                 so {} id bits are asked and {} remain",
                from.saturating_add(u64::from(inner)),
                to.saturating_add(u64::from(inner))
            )
        }
        _ => format!(
            "2^{from} ids asked, 2^{to} kept: the table is larger than the largest block of the page allocator"
        ),
    }
}
