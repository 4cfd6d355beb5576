//! A domain of a whole stack: addresses, Arm tables, an SMMU that takes no time.

use std::sync::Mutex;

use dmakit_addr::{DmaMask, Granule, Iova, IovaRange, PhysAddr, PhysRange};
use dmakit_io_pgtable::lpae::{ContiguousHint, Lpae, Stage};
use dmakit_io_pgtable::{PageTable, Permissions, WalkCoherence};
use dmakit_iommu::{Batch, BatchConfig, Domain, DomainId, Lazy, LazyConfig};
use dmakit_iova::{CpuCache, Policy, Space};
use dmakit_platform::host::{HostPlatform, SegmentStore};
use dmakit_platform::{CpuSlot, Platform};
use dmakit_smmuv3::{CommandCounts, Translation};

use super::instant::{Driver, Rig, memory};

/// When a device no longer reaches what was unmapped.
#[derive(Clone, Copy)]
pub enum Invalidation {
    /// Before unmapping returns.
    Strict,
    /// When 32 unmaps wait, before their memory is anybody's.
    Batched,
    /// When 256 unmaps wait.
    Lazy,
}

type TestDomain<'a> =
    Domain<HostPlatform, Vec<CpuSlot<CpuCache>>, Lpae, SegmentStore, Translation<&'a Driver>>;

/// Maps and unmaps `len` bytes `count` times; what went through the queue until then, and for this.
pub fn map_unmap(invalidation: Invalidation, len: u64, count: u32) -> [CommandCounts; 2] {
    let rig = Rig::new(true);
    let platform = HostPlatform::new(1);
    let domain = domain(&rig.smmu, &platform);
    let cpu = platform.enter_cpu();
    // Aligned for blocks; the tables never lead a CPU there.
    let run = PhysRange::new(PhysAddr::new(1 << 40), len).unwrap();
    let map = |domain: &TestDomain<'_>| {
        let (runs, permissions) = ([run].into_iter(), Permissions::READ_WRITE);
        domain
            .map(&cpu, runs, permissions, 1, DmaMask::ALL)
            .unwrap()
    };
    let before = rig.smmu.command_counts();
    match invalidation {
        Invalidation::Strict => {
            for _ in 0..count {
                let ticket = domain.unmap(map(&domain)).unwrap();
                let proof = domain.sync().unwrap();
                domain.redeem(&cpu, ticket, &proof).unwrap();
            }
        }
        Invalidation::Batched => {
            let mut batch = Batch::new(domain.id(), BatchConfig::default()).unwrap();
            let now = platform.now();
            for _ in 0..count {
                let mapped = map(&domain);
                batch
                    .unmap(&domain, &cpu, now, mapped, (), |()| ())
                    .unwrap();
            }
            batch.close(&domain, &cpu, |()| ()).unwrap();
        }
        Invalidation::Lazy => {
            let Ok(lazy) = Lazy::new(domain, platform.clone(), LazyConfig::default()) else {
                panic!("no memory for the queues");
            };
            for _ in 0..count {
                lazy.unmap(&cpu, map(lazy.domain())).unwrap();
            }
            lazy.flush(&cpu).unwrap();
        }
    }
    [before, rig.smmu.command_counts()]
}

fn domain<'a>(smmu: &'a Driver, platform: &HostPlatform) -> TestDomain<'a> {
    // Tables stay for as long as the program runs.
    static RAM: Mutex<Vec<dmakit_platform::host::HostRam>> = Mutex::new(Vec::new());
    let (ram, store) = memory();
    RAM.lock().unwrap().push(ram);
    let format = Lpae::new(Stage::One, Granule::K4, 48, 44, ContiguousHint::Never).unwrap();
    let aperture = IovaRange::new(Iova::new(0), 1 << 48).unwrap();
    let cpus = vec![CpuSlot::default()];
    let space = Space::new(Granule::K4, aperture, Policy::TopDown, cpus).unwrap();
    let coherence = WalkCoherence::Coherent;
    let table = PageTable::new(format, platform.clone(), store, None, coherence).unwrap();
    let context = smmu.create_context(&table).unwrap();
    Domain::new(DomainId(1), space, table, Translation::new(smmu, context))
}
