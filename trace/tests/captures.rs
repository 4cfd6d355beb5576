//! The captures kept in the project, read end to end.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use dmakit_trace::{
    AllocCall, Body, Cma, Event, FlushEvent, Format, IommuEvent, MapCall, Options, Sidecar,
    SyncFor, Trace,
};

fn captures() -> Vec<PathBuf> {
    let folder = std::env::var_os("DMAKIT_CAPTURES").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../captures"),
        PathBuf::from,
    );
    let mut found: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().ends_with(".txt.zst"))
        .collect();
    found.sort();
    assert!(!found.is_empty());
    found
}

/// The kernel's name of an event, back from its typed form.
fn event_name(event: &Event) -> String {
    match &event.body {
        Body::Bounced(_) => "swiotlb_bounced",
        Body::Map(map) => match map.call {
            MapCall::Page => "dma_map_page",
            MapCall::Resource => "dma_map_resource",
            MapCall::Phys => "dma_map_phys",
        },
        Body::Unmap(unmap) => match unmap.call {
            MapCall::Page => "dma_unmap_page",
            MapCall::Resource => "dma_unmap_resource",
            MapCall::Phys => "dma_unmap_phys",
        },
        Body::MapSg(_) => "dma_map_sg",
        Body::UnmapSg(_) => "dma_unmap_sg",
        Body::Sync(sync) if sync.whose == SyncFor::Cpu => "dma_sync_single_for_cpu",
        Body::Alloc(alloc) if alloc.call == AllocCall::Coherent => "dma_alloc",
        Body::Free(alloc) if alloc.call == AllocCall::Coherent => "dma_free",
        Body::Cma(Cma::AllocStart { .. }) => "cma_alloc_start",
        Body::Cma(Cma::AllocFinish { .. }) => "cma_alloc_finish",
        Body::Cma(Cma::Release { .. }) => "cma_release",
        Body::Iommu(IommuEvent::Map { .. }) => "map",
        Body::Iommu(IommuEvent::Unmap { .. }) => "unmap",
        Body::Iommu(IommuEvent::AddToGroup { .. }) => "add_device_to_group",
        Body::Iommu(IommuEvent::Attach { .. }) => "attach_device_to_domain",
        Body::Flush(FlushEvent::Range { .. }) => "cache_tag_flush_range",
        Body::Flush(FlushEvent::All { .. }) => "cache_tag_flush_all",
        Body::Flush(FlushEvent::Submit { .. }) => "qi_submit",
        Body::Marker(_) => "tracing_mark_write",
        Body::Probe(probe) => return probe.name.to_string(),
        other => panic!("unexpected in a capture: {other:?}"),
    }
    .to_owned()
}

#[test]
fn event_counts_are_those_of_the_sidecar() {
    for path in captures() {
        let sidecar = Sidecar::beside(&path).unwrap().expect("a sidecar");
        let mut trace = Trace::open(&path, Options::default()).unwrap();
        let mut counts = BTreeMap::new();
        for event in &mut trace {
            *counts.entry(event_name(&event.unwrap())).or_insert(0u64) += 1;
        }
        assert_eq!(trace.format(), Format::Trace);
        assert!(trace.fidelity().is_complete());
        assert_eq!(Some(trace.fidelity().events), sidecar.capture.events_total);
        for (name, count) in &sidecar.events {
            assert_eq!(
                counts.get(name),
                Some(count),
                "{name} in {}",
                path.display()
            );
        }
    }
}

#[test]
fn every_mapping_finds_its_unmap() {
    for path in captures() {
        let mut ops = Trace::open(&path, Options::default()).unwrap().ops();
        for op in &mut ops {
            op.unwrap();
        }
        let counts = ops.fidelity();
        let name = path.display();
        assert_eq!(counts.unmaps_unmatched, 0, "{name}");
        assert_eq!(counts.unmaps_inferred, 0, "{name}");
        assert_eq!(counts.left_mapped, 0, "{name}");
        assert_eq!(counts.maps, counts.unmaps_matched, "{name}");
        assert_eq!(
            counts.attempts,
            counts.attempts_mapped
                + counts.attempts_failed
                + counts.attempts_orphaned
                + counts.attempts_unknown,
            "{name}"
        );
    }
}
