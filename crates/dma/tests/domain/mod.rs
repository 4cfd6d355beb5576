//! A domain in a process, with tables of its own and nothing that translates.

use dmakit_addr::{DmaMask, Granule, Iova, IovaRange, NodeId, PhysAddr, PhysRange};
use dmakit_dma::{CoherentSource, Device, DeviceId, DeviceInfo, Path, SegmentLimits, Unchecked};
use dmakit_io_pgtable::lpae::{ContiguousHint, Lpae, Stage};
use dmakit_io_pgtable::{PageTable, WalkCoherence};
use dmakit_iommu::{Domain, DomainId, Hardware, Invalidation, SyncError};
use dmakit_iova::{CpuCache, Policy, Space};
use dmakit_platform::CpuSlot;
use dmakit_platform::host::{HostPlatform, HostRam, SegmentStore};
use dmakit_swiotlb::NoGrowth;

/// Nothing translates here.
pub struct Nobody;

impl Hardware for Nobody {
    fn invalidate(&self, _: &Invalidation) -> Result<(), SyncError> {
        Ok(())
    }

    fn invalidate_all(&self) -> Result<(), SyncError> {
        Ok(())
    }

    fn sync(&self) -> Result<(), SyncError> {
        Ok(())
    }
}

pub type Strict = Domain<HostPlatform, Vec<CpuSlot<CpuCache>>, Lpae, SegmentStore, Nobody>;
pub type TestDevice<'a> = Device<'a, HostPlatform, NoGrowth, Unchecked, Strict>;

/// A domain with 47 bits of addresses.
pub fn strict(platform: &HostPlatform) -> Strict {
    let tables = PhysRange::new(PhysAddr::new(1 << 40), 4 << 20).unwrap();
    let (_ram, segments) = HostRam::new(&[tables]).unwrap();
    let memory = SegmentStore::new();
    for segment in segments {
        memory.add(NodeId::new(0), segment);
    }
    let format = Lpae::new(Stage::One, Granule::K4, 48, 48, ContiguousHint::Never).unwrap();
    let coherence = WalkCoherence::Coherent;
    let table = PageTable::new(format, platform.clone(), memory, None, coherence).unwrap();
    let aperture = IovaRange::new(Iova::new(0), 1 << 47).unwrap();
    let cpus = vec![CpuSlot::default()];
    let space = Space::new(Granule::K4, aperture, Policy::TopDown, cpus).unwrap();
    Domain::new(DomainId(1), space, table, Nobody)
}

/// A coherent, trusted device behind it.
pub fn device<'a>(
    platform: &HostPlatform,
    domain: &'a Strict,
    limits: SegmentLimits,
) -> TestDevice<'a> {
    let mut info = DeviceInfo::new(DeviceId::new(1), "device", DmaMask::bits(47).unwrap());
    info.limits = limits;
    let path = Path::Translated {
        domain,
        bounce: None,
    };
    Device::new(platform.clone(), info, path, CoherentSource::None)
}
