//! Errors, and failures of every step.

use std::time::Duration;

use dmakit_addr::{DmaAddr, DmaMask, Granule, Iova, IovaRange};
use dmakit_io_pgtable::lpae::{ContiguousHint, Lpae, Stage};
use dmakit_io_pgtable::{Gather, PageTable, Permissions, WalkCoherence};
use dmakit_iommu::{Batch, BatchConfig, Invalidation};
use dmakit_platform::{Mmio, Platform};
use dmakit_sim::{Machine, SimSmmu, for_each_failure};
use dmakit_smmuv3::spec::command;
use dmakit_smmuv3::spec::registers::GERROR;
use dmakit_smmuv3::{AttachError, Smmu, SyncFailure, Tag};

use crate::rig::{Driver, Mutant, Rig, STREAM, Shape, faults};

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
fn whatever_allocation_of_a_start_fails_leaves_no_trace() {
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

/// Does what may fail for want of memory, at most once; that leaves no trace, and then it is done.
fn done_at_last<T>(
    rig: &Rig,
    failures: &mut u32,
    mut act: impl FnMut() -> Result<T, AttachError>,
) -> T {
    let before = rig.memory.outstanding();
    match act() {
        Ok(done) => done,
        Err(error) => {
            assert!(matches!(error, AttachError::Memory(_)), "{error}");
            assert_eq!(rig.memory.outstanding(), before);
            *failures += 1;
            act().unwrap()
        }
    }
}

#[test]
fn whatever_allocation_of_a_context_a_stream_or_a_substream_fails_leaves_no_trace() {
    let mut failures = 0;
    let runs = for_each_failure(|plan| {
        let shape = Shape::default();
        let rig = Rig::new(9, shape);
        let driver = rig.driver();
        let format = Lpae::new(Stage::One, Granule::K4, 40, 44, ContiguousHint::Never).unwrap();
        let (machine, memory) = (rig.machine.clone(), rig.memory.clone());
        let coherence = WalkCoherence::Coherent;
        let table = PageTable::new(format, machine, memory, None, coherence).unwrap();
        let range = IovaRange::new(Iova::new(0x1000), 4096).unwrap();
        let buffer = rig.buffer(4096, 0);
        let to = buffer.range().start();
        table.map(range, to, Permissions::READ_WRITE).unwrap();
        rig.device
            .grant(buffer.range(), dmakit_addr::Direction::Bidirectional);
        let at = DmaAddr::new(0x1000);
        let before = rig.memory.outstanding();
        rig.machine.inject(plan);
        let context = done_at_last(&rig, &mut failures, || driver.create_context(&table));
        assert_eq!(
            context.tag(),
            Tag::Asid(1),
            "the first, also the second time"
        );
        done_at_last(&rig, &mut failures, || {
            let attached = driver.attach(STREAM, &context);
            assert_eq!(rig.device.write(at, &[1; 64]).is_ok(), attached.is_ok());
            attached
        });
        // Another bus, so another table of the streams.
        let other = STREAM + 0x100;
        let mut substreams = done_at_last(&rig, &mut failures, || {
            driver.open_substreams(other, 8, true)
        });
        done_at_last(&rig, &mut failures, || {
            driver.set_substream(&mut substreams, 70, Some(&context))
        });
        rig.machine.inject(&dmakit_sim::FaultPlan::none());
        driver.close_substreams(substreams).unwrap();
        driver.detach(STREAM).unwrap();
        driver.release_context(context).unwrap();
        // Tables of streams stay.
        assert_eq!(rig.memory.outstanding().len(), before.len() + 2);
    });
    // A context, two tables of streams, one of substreams and one below that.
    assert_eq!((runs, failures), (5, 5));
}

#[test]
fn tags_that_run_out_are_said_to_and_one_that_comes_back_serves() {
    for stage in [Stage::One, Stage::Two] {
        let mut shape = Shape::default();
        shape.smmu.wide_tags = false;
        let rig = Rig::new(1, shape);
        let driver = rig.driver();
        let format = Lpae::new(stage, Granule::K4, 40, 44, ContiguousHint::Never).unwrap();
        let (machine, memory) = (rig.machine.clone(), rig.memory.clone());
        let coherence = WalkCoherence::Coherent;
        let table = PageTable::new(format, machine, memory, None, coherence).unwrap();
        let mut contexts: Vec<_> = (0..255)
            .map(|_| driver.create_context(&table).unwrap())
            .collect();
        let before = rig.memory.outstanding();
        assert_eq!(driver.create_context(&table), Err(AttachError::NoTag));
        assert_eq!(rig.memory.outstanding(), before);
        let tag = contexts[100].tag();
        driver.release_context(contexts.remove(100)).unwrap();
        let again = driver.create_context(&table).unwrap();
        assert_eq!(again.tag(), tag);
        assert_eq!(driver.create_context(&table), Err(AttachError::NoTag));
    }
}

/// Registers of an SMMU where looking for errors takes long, so that whoever waits in vain gives up
/// after few looks.
pub struct Slow(pub SimSmmu, pub Machine);

impl Mmio for Slow {
    fn read32(&self, offset: u64) -> u32 {
        if offset == GERROR {
            self.1.advance(Duration::from_millis(1));
        }
        self.0.read32(offset)
    }

    fn read64(&self, offset: u64) -> u64 {
        self.0.read64(offset)
    }

    fn write32(&self, offset: u64, value: u32) {
        self.0.write32(offset, value);
    }

    fn write64(&self, offset: u64, value: u64) {
        self.0.write64(offset, value);
    }
}

/// A life of a domain, as far as the SMMU lets it come; whether it came to its end.
fn life<R: Mmio>(rig: &Rig, driver: &Driver<R>) -> bool {
    let format = Lpae::new(Stage::One, Granule::K4, 40, 44, ContiguousHint::Never).unwrap();
    let (machine, memory) = (rig.machine.clone(), rig.memory.clone());
    let coherence = WalkCoherence::Coherent;
    let table = PageTable::new(format, machine, memory, None, coherence).unwrap();
    let range = IovaRange::new(Iova::new(0x1000), 4096).unwrap();
    let buffer = rig.buffer(4096, 0);
    let at = DmaAddr::new(0x1000);
    let write = || rig.device.write(at, &[1; 64]).is_ok();
    let done = (|| {
        let context = driver.create_context(&table).ok()?;
        driver.attach(STREAM, &context).ok()?;
        let phys = buffer.range().start();
        table.map(range, phys, Permissions::READ_WRITE).unwrap();
        rig.device
            .grant(buffer.range(), dmakit_addr::Direction::Bidirectional);
        assert!(write(), "mapped, and attached");
        let mut gather = Gather::new();
        table.unmap(range, &mut gather).unwrap();
        let what = Invalidation {
            range,
            granule: Granule::K4,
            leaf_height: Some(0),
            leaf_shift: Some(12),
            tables: false,
        };
        driver.invalidate(context.tag(), &what).ok()?;
        driver.sync().ok()?;
        assert!(!write(), "a stale hit");
        driver.detach(STREAM).ok()?;
        driver.release_context(context).ok()
    })();
    driver.take_events(|_| ());
    done.is_some()
}

#[test]
fn whatever_command_cannot_be_read_is_read_again() {
    let mut most = 0;
    for nth in 0.. {
        let rig = Rig::new(3, Shape::default());
        let driver = rig.driver();
        rig.smmu.fail_command_read_after(nth);
        assert!(life(&rig, &driver), "command {nth}");
        let counts = driver.command_counts();
        rig.machine.check().unwrap();
        if counts.refused == 0 {
            break;
        }
        assert_eq!(counts.refused, 1, "command {nth}");
        most = nth;
    }
    assert!(most >= 10, "each of the commands was tried: {most}");
}

#[test]
fn wherever_the_smmu_gets_stuck_a_wait_ends_and_all_memory_comes_back_with_it() {
    let mut stuck = 0;
    for nth in 0.. {
        let rig = Rig::new(3, Shape::default());
        let driver = rig.driver_over(Slow(rig.smmu.clone(), rig.machine.clone()));
        rig.smmu.stick_after(nth);
        let done = life(&rig, &driver);
        rig.smmu.stick(false);
        driver.stop().unwrap();
        // The buffer, which the test has dropped, and nothing else.
        assert_eq!(rig.memory.outstanding().len(), 1, "command {nth}");
        if done {
            break;
        }
        stuck += 1;
    }
    assert!(stuck >= 10, "each of the commands was tried: {stuck}");
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
