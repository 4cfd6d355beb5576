//! The parts of a domain, for tests that bring their own hardware.

use dmakit_addr::{Granule, Iova, IovaRange, NodeId, PhysAddr, PhysRange};
use dmakit_io_pgtable::lpae::{ContiguousHint, Lpae, Stage};
use dmakit_io_pgtable::{PageTable, WalkCoherence};
use dmakit_iova::{CpuCache, Policy, Space};
use dmakit_platform::host::{HostPlatform, HostRam, SegmentStore};
use dmakit_platform::{CpuSlot, TableMemory};

pub fn run(start: u64, len: u64) -> PhysRange {
    PhysRange::new(PhysAddr::new(start), len).unwrap()
}

pub fn aperture() -> IovaRange {
    IovaRange::new(Iova::new(0), 1 << 32).unwrap()
}

/// 16 MiB for tables, as long as the first lives.
pub fn ram() -> (HostRam, SegmentStore) {
    let (ram, segments) = HostRam::new(&[run(1 << 32, 1 << 24)]).unwrap();
    let memory = SegmentStore::new();
    for segment in segments {
        memory.add(NodeId::new(0), segment);
    }
    (ram, memory)
}

pub fn table<M: TableMemory>(
    platform: &HostPlatform,
    memory: M,
) -> PageTable<Lpae, HostPlatform, M> {
    let format = Lpae::new(Stage::One, Granule::K4, 48, 48, ContiguousHint::Never).unwrap();
    let coherence = WalkCoherence::Coherent;
    PageTable::new(format, platform.clone(), memory, None, coherence).unwrap()
}

pub fn space(cpus: u32) -> Space<HostPlatform, Vec<CpuSlot<CpuCache>>> {
    let cpus = (0..cpus).map(|_| CpuSlot::default()).collect();
    Space::new(Granule::K4, aperture(), Policy::TopDown, cpus).unwrap()
}
