//! A mapping that fails half-way leaves nothing behind.

use std::sync::atomic::{AtomicBool, Ordering};

use dmakit_addr::{DmaMask, Granule, Iova, IovaRange, NodeId, PhysAddr, PhysRange};
use dmakit_io_pgtable::lpae::{ContiguousHint, Lpae, Stage};
use dmakit_io_pgtable::{PageTable, Permissions, WalkCoherence};
use dmakit_iommu::{Domain, DomainId, Hardware, Invalidation, MapError, SyncError};
use dmakit_iova::{CpuCache, Policy, Space};
use dmakit_platform::host::{HostPlatform, HostRam, SegmentStore};
use dmakit_platform::{CpuSlot, Platform};

/// Hardware that forgets at once, and refuses to hear of mappings on request.
#[derive(Default)]
struct Refusing(AtomicBool);

impl Hardware for &Refusing {
    fn invalidate(&self, _what: &Invalidation) -> Result<(), SyncError> {
        Ok(())
    }

    fn invalidate_all(&self) -> Result<(), SyncError> {
        Ok(())
    }

    fn sync(&self) -> Result<(), SyncError> {
        Ok(())
    }

    fn mapped(&self, _range: IovaRange) -> Result<(), SyncError> {
        match self.0.load(Ordering::Relaxed) {
            true => Err(SyncError::Failed),
            false => Ok(()),
        }
    }
}

fn run(start: u64, len: u64) -> PhysRange {
    PhysRange::new(PhysAddr::new(start), len).unwrap()
}

#[test]
fn addresses_that_hardware_refused_are_free_and_unmapped() {
    let platform = HostPlatform::new(1);
    let (_ram, segments) = HostRam::new(&[run(1 << 32, 1 << 24)]).unwrap();
    let memory = SegmentStore::new();
    for segment in segments {
        memory.add(NodeId::new(0), segment);
    }
    let format = Lpae::new(Stage::One, Granule::K4, 48, 48, ContiguousHint::Never).unwrap();
    let coherence = WalkCoherence::Coherent;
    let table = PageTable::new(format, platform.clone(), memory, None, coherence).unwrap();
    let aperture = IovaRange::new(Iova::new(0), 1 << 32).unwrap();
    let cpus = vec![CpuSlot::<CpuCache>::default()];
    let space = Space::new(Granule::K4, aperture, Policy::TopDown, cpus).unwrap();
    let hardware = Refusing::default();
    let domain = Domain::new(DomainId(1), space, table, &hardware);
    let cpu = platform.enter_cpu();
    // A whole leaf table falls out of the tree when this is undone.
    let runs = || [run(1 << 33, 1 << 20), run(1 << 34, 1 << 20)].into_iter();
    let map = || domain.map(&cpu, runs(), Permissions::READ_WRITE, 1, DmaMask::ALL);

    hardware.0.store(true, Ordering::Relaxed);
    for _ in 0..3 {
        assert!(matches!(map(), Err(MapError::Hardware(_))));
        assert_eq!(domain.table().leaves(aperture).count(), 0);
        assert_eq!(domain.space().statistics().used, 0);
        assert_eq!(domain.quarantined(), 0);
    }
    let tables = domain.table().statistics();
    hardware.0.store(false, Ordering::Relaxed);
    let mapped = map().unwrap();
    let ticket = domain.unmap(mapped).unwrap();
    let proof = domain.sync().unwrap();
    domain.redeem(&cpu, ticket, &proof).unwrap();
    assert_eq!(domain.table().statistics(), tables, "no table was lost");
}
