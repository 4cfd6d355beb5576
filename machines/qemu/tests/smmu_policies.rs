//! Strict, batched and lazy invalidation, and what each leaves open.

mod rig;

use dmakit_addr::{DmaMask, Granule, PhysRange};
use dmakit_io_pgtable::Permissions;
use dmakit_iommu::{Batch, BatchConfig, Lazy, LazyConfig};
use dmakit_platform::Platform;
use dmakit_qemu::Clock;
use rig::{faults, folded, rig, rig_with};

#[test]
fn a_device_with_28_bits_reaches_all_of_ram_through_low_addresses() {
    let rig = rig_with(Clock::Jumping, 28);
    let smmu = rig.smmu();
    let domain = rig.domain(&smmu, Granule::K4);
    let limit = DmaMask::bits(28).unwrap();
    let window = rig.buffers.window();
    for megabyte in (1..256).step_by(16) {
        let frame = window.slice(megabyte << 20, 0x1000).unwrap();
        let mark = [megabyte as u8; 64];
        frame.fill(0xee);
        frame.slice(0, 64).unwrap().write(&mark);
        let mapped = rig.map_below(&domain, &[frame.range()], Permissions::READ_WRITE, limit);
        let iova = mapped.range().start().raw();
        assert!(iova >> 28 == 0 && frame.range().start().raw() >> 28 != 0);
        rig.transfer(iova, 64, true);
        rig.transfer(iova + 128, 64, false);
        assert_eq!(faults(&smmu), []);
        let mut bytes = [0; 64];
        frame.slice(128, 64).unwrap().read(&mut bytes);
        assert_eq!(bytes, mark);
        rig.unmap(&domain, mapped);
    }
}

#[test]
fn lazy_exposure_is_real_until_the_flush_and_then_ends() {
    let rig = rig();
    let smmu = rig.smmu();
    let domain = rig.domain(&smmu, Granule::K4);
    let platform = rig.machine.platform();
    rig.arm(&domain, 0x5a);
    // Mapped while strict: a live domain becomes lazy, and a ticket stays good.
    let frames = [2, 3].map(|index| rig.frame(index, 0xee).range());
    let [early, mapped] = frames.map(|frame| rig.map(&domain, &[frame], Permissions::READ_WRITE));
    let ticket = domain.unmap(early).unwrap();
    let config = LazyConfig::default();
    let Ok(lazy) = Lazy::new(domain, platform.clone(), config) else {
        panic!("no memory for the queues");
    };
    let iova = mapped.range().start().raw();
    rig.transfer(iova, 64, false);
    assert_eq!(rig.first(3), [0x5a; 64]);
    let cpu = platform.enter_cpu();
    lazy.unmap(&cpu, mapped).unwrap();
    assert_eq!(lazy.exposure().bytes, 0x1000);
    rig.frame(3, 0xee);
    rig.transfer(iova, 64, false);
    assert_eq!(faults(&smmu), [], "the stale hit");
    assert_eq!(rig.first(3), [0x5a; 64], "the stale hit");
    lazy.flush(&cpu).unwrap();
    assert_eq!(lazy.exposure().bytes, 0);
    rig.frame(3, 0xee);
    rig.transfer(iova, 64, false);
    assert_eq!(folded(&smmu).faults().count(), 1);
    assert_eq!(rig.first(3), [0xee; 64]);
    let proof = lazy.domain().sync().unwrap();
    lazy.domain().redeem(&cpu, ticket, &proof).unwrap();
}

#[test]
fn a_batch_gives_memory_back_only_where_no_device_reaches_it() {
    let rounds: u64 = std::env::var("DMAKIT_ROUNDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(64);
    let rig = rig();
    let smmu = rig.smmu();
    let domain = rig.domain(&smmu, Granule::K4);
    let platform = rig.machine.platform();
    let cpu = platform.enter_cpu();
    rig.arm(&domain, 0x5a);
    let mut batch = Batch::new(domain.id(), BatchConfig::default()).unwrap();
    let before = smmu.command_counts().syncs;
    for round in 0..rounds {
        let mut open: Vec<(u64, PhysRange, u64)> = Vec::new();
        let mut given = Vec::new();
        for index in 0..32 {
            let frame = rig.frame(8 + index, 0xee).range();
            let mapped = rig.map(&domain, &[frame], Permissions::READ_WRITE);
            let iova = mapped.range().start().raw();
            // Into the cache, by a read.
            rig.transfer(iova + 64, 4, true);
            open.push((8 + index, frame, iova));
            let give = |index: u64| given.push(index);
            batch
                .unmap(&domain, &cpu, platform.now(), mapped, 8 + index, give)
                .unwrap();
            if index < 31 {
                assert!(given.is_empty(), "round {round}: {index} is held back");
            }
        }
        assert_eq!(given.len(), 32, "round {round}: closed when full");
        let (index, _, iova) = open[(round % 32) as usize];
        rig.transfer(iova, 64, false);
        assert_eq!(rig.first(index), [0xee; 64], "round {round}: a stale hit");
        assert_eq!(folded(&smmu).faults().count(), 1);
    }
    assert_eq!(smmu.command_counts().syncs - before, rounds);
    assert_eq!(batch.held().redeemed, rounds * 32);
}
