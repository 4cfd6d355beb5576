//! Errors, and failures of every step.

use dmakit_addr::{DmaAddr, DmaMask};
use dmakit_io_pgtable::Permissions;
use dmakit_iommu::{Batch, BatchConfig};
use dmakit_platform::Platform;
use dmakit_sim::for_each_failure;
use dmakit_smmuv3::spec::command;
use dmakit_smmuv3::{Smmu, SyncFailure};

use crate::rig::{Mutant, Rig, STREAM, Shape, faults};

#[test]
fn a_stuck_smmu_times_out_and_redeems_nothing_until_it_goes_on() {
    for messages in [false, true] {
        let mut shape = Shape::default();
        shape.smmu.messages = messages;
        let rig = Rig::new(1, shape);
        let driver = rig.driver();
        let domain = rig.domain(&driver, Mutant::Nothing);
        let buffer = rig.buffer(4096, 0);
        let mapped = rig.map(&domain, &[buffer.range()], Permissions::READ, DmaMask::ALL);
        let ticket = domain.unmap(mapped).unwrap();
        rig.smmu.stick(true);
        let failure = driver.sync().unwrap_err();
        assert!(matches!(failure, SyncFailure::Timeout { .. }), "{failure}");
        assert!(domain.sync().is_err());
        rig.smmu.stick(false);
        rig.redeem(&domain, ticket, &[buffer.range()]);
        rig.machine.check().unwrap();
    }
}

#[test]
fn service_failure_is_said_at_once() {
    let rig = Rig::new(1, Shape::default());
    let driver = rig.driver();
    rig.smmu.fail_service();
    driver.sync().expect("nothing is waited for");
    let forget = [command::TLBI_NSNH_ALL];
    assert_eq!(driver.execute(forget), Err(SyncFailure::Service));
    assert!(driver.take_events(|_| ()).failed);
    // Only a new start leads out of it.
    drop(driver);
    let driver = rig.driver();
    driver.execute(forget).unwrap();
}

#[test]
fn commands_that_could_not_be_read_are_read_again_and_illegal_ones_replaced() {
    let rig = Rig::new(1, Shape::default());
    let driver = rig.driver();
    let domain = rig.domain(&driver, Mutant::Nothing);
    let buffer = rig.buffer(4096, 0);
    let mapped = rig.map(
        &domain,
        &[buffer.range()],
        Permissions::READ_WRITE,
        DmaMask::ALL,
    );
    let at = DmaAddr::new(mapped.range().start().raw());
    rig.device.write(at, &[1; 64]).unwrap();
    rig.smmu.fail_command_reads(3);
    driver.execute([[0xfe, 0]]).unwrap();
    let counts = driver.command_counts();
    assert_eq!(counts.refused, 4);
    assert_eq!(counts.last_refused.unwrap().command, [0xfe, 0]);
    // A refused invalidation became one of everything.
    let reserved = [0x12 | 1 << 48, 0x400];
    driver.execute([reserved]).unwrap();
    assert_eq!(driver.command_counts().refused, 5);
    let ticket = domain.unmap(mapped).unwrap();
    rig.redeem(&domain, ticket, &[buffer.range()]);
    assert!(rig.device.write(at, &[1; 64]).is_err());
    rig.machine.check().unwrap();
}

#[test]
fn records_beyond_the_queue_are_said_to_be_lost_once() {
    let rig = Rig::new(1, Shape::default());
    let driver = rig.driver();
    let _domain = rig.domain(&driver, Mutant::Nothing);
    // 100 lines for 64 places.
    assert!(
        rig.device
            .write(DmaAddr::new(0x10_0000), &[1; 6400])
            .is_err()
    );
    let count = driver.take_events(|_| ());
    assert_eq!((count.records, count.lost), (64, true));
    assert_eq!(driver.take_events(|_| ()), Default::default());
    assert!(rig.device.write(DmaAddr::new(0x10_0000), &[1; 64]).is_err());
    let count = driver.take_events(|_| ());
    assert!(count.records > 0 && !count.lost);
}

#[test]
fn a_stopped_smmu_lets_nothing_through_and_gives_everything_back() {
    let rig = Rig::new(1, Shape::default());
    for _ in 0..3 {
        let driver = rig.driver();
        let domain = rig.domain(&driver, Mutant::Nothing);
        let buffer = rig.buffer(4096, 0);
        let run = buffer.range();
        let mapped = rig.map(&domain, &[run], Permissions::READ_WRITE, DmaMask::ALL);
        let at = DmaAddr::new(mapped.range().start().raw());
        rig.device.write(at, &[1; 64]).unwrap();
        drop(domain);
        driver.stop().unwrap();
        rig.device
            .revoke(run, dmakit_addr::Direction::Bidirectional);
        assert!(rig.device.write(at, &[1; 64]).is_err());
        let through = DmaAddr::new(run.start().raw());
        assert!(
            rig.device.write(through, &[1; 64]).is_err(),
            "aborted, not passed"
        );
        rig.memory.free(buffer);
        assert_eq!(rig.memory.outstanding(), []);
    }
    rig.machine.check().unwrap();
}

#[test]
fn whatever_allocation_fails_leaves_no_trace() {
    let mut runs = 0;
    for_each_failure(|plan| {
        let rig = Rig::new(9, Shape::default());
        rig.machine.inject(plan);
        let (machine, memory) = (rig.machine.clone(), rig.memory.clone());
        let started = Smmu::start(machine, rig.smmu.clone(), memory, rig.shape.driver);
        let Ok(driver) = started else {
            assert_eq!(rig.memory.outstanding(), []);
            runs += 1;
            return;
        };
        rig.machine.inject(&dmakit_sim::FaultPlan::none());
        driver.stop().unwrap();
        assert_eq!(rig.memory.outstanding(), []);
    });
    assert!(runs >= 2, "{runs} failed starts");
}

#[test]
fn a_batch_of_32_needs_a_32nd_of_the_syncs_and_leaves_nothing_behind() {
    for seed in 0..4 {
        let rig = Rig::new(seed, Shape::default());
        let driver = rig.driver();
        let domain = rig.domain(&driver, Mutant::Nothing);
        let buffer = rig.buffer(1 << 20, 0);
        rig.device.confine();
        let mut batch = Batch::new(domain.id(), BatchConfig::default()).unwrap();
        let before = driver.command_counts();
        for round in 0..256_u64 {
            let run = buffer.range().slice((round % 256) << 12, 4096).unwrap();
            let mapped = rig.map(&domain, &[run], Permissions::READ_WRITE, DmaMask::ALL);
            let at = DmaAddr::new(mapped.range().start().raw());
            rig.device.write(at, &[1; 64]).unwrap();
            let late = rig.device.start_write(at, &[2; 64]);
            let give = |run| {
                rig.device
                    .revoke(run, dmakit_addr::Direction::Bidirectional);
            };
            let cpu = rig.machine.enter_cpu();
            let now = rig.machine.now();
            batch.unmap(&domain, &cpu, now, mapped, run, give).unwrap();
            assert_eq!(batch.held().bytes, (round + 1) % 32 * 4096);
            drop(rig.device.complete(late));
        }
        let after = driver.command_counts();
        assert_eq!(after.syncs - before.syncs, 8);
        assert_eq!(after.doorbells - before.doorbells, 8);
        // Neighbours are forgotten together.
        assert!(after.commands - before.commands <= 8 * 8, "{after:?}");
        assert!(
            rig.device
                .write(DmaAddr::new(0xff_ffff_f000), &[3; 64])
                .is_err()
        );
        faults(&driver);
        rig.machine.check().unwrap();
        driver.detach(STREAM).unwrap();
    }
}
