//! The load behind Linux's IOMMU layer.

use std::collections::HashMap;

use dmakit_linux_model as model;
use model::{BufferKind, CallKind, Calls, Domain, Invalidation, Translated, TranslationSetup};

use super::counts::Counts;

/// Runs the calls, one domain for each device.
pub fn run(
    calls: &Calls,
    setup: &TranslationSetup,
    engine: model::Engine,
    invalidation: Invalidation,
) -> Counts {
    let mut domains: HashMap<u32, Domain> = HashMap::new();
    let mut held: HashMap<u32, Translated> = HashMap::new();
    let mut counts = Counts::default();
    let mut now_ns = 0;
    for call in &calls.order {
        now_ns = call.at_ns.max(now_ns);
        match call.kind {
            CallKind::Map(number) => {
                let buffer = &calls.buffers[number as usize];
                if buffer.kind == BufferKind::Coherent {
                    continue;
                }
                let domain = domains
                    .entry(buffer.device)
                    .or_insert_with(|| Domain::new(setup.domain(engine, invalidation)));
                let limits = model::SegmentLimits::default();
                let layout = model::lay_out(&buffer.runs(setup.granule), setup.granule, &limits);
                counts.ios += 1;
                counts.bytes += buffer.bytes;
                if let Ok(translated) = domain.map(call.cpu, now_ns, &layout.runs) {
                    counts.runs += layout.runs.len() as u64;
                    held.insert(number, translated);
                }
            }
            CallKind::Unmap(number) => {
                let device = calls.buffers[number as usize].device;
                if let (Some(translated), Some(domain)) =
                    (held.remove(&number), domains.get_mut(&device))
                {
                    domain.unmap(call.cpu, now_ns, translated);
                }
            }
            // Timers run where the model says, so that every mode and engine is asked alike.
            CallKind::Sync { .. } | CallKind::Flush { .. } => {}
        }
    }
    for domain in domains.values_mut() {
        domain.finish(now_ns);
        let costs = domain.costs();
        counts.failed += costs.failed;
        counts.iova_operations += costs.maps + costs.unmaps;
        counts.cache_hits += costs.cache_hits;
        counts.table_stores += costs.table_stores;
        counts.invalidations += costs.invalidations;
        counts.syncs += costs.syncs;
        counts.exposed_page_ns += costs.exposed_page_ns;
    }
    counts
}
