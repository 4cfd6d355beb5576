//! An SMMU that executes nothing any more, and what comes back after it was reset.

use dmakit_addr::{Direction, DmaAddr, DmaMask, PhysRange};
use dmakit_io_pgtable::Permissions;
use dmakit_iommu::{Batch, BatchConfig, SyncError};
use dmakit_platform::Platform;
use dmakit_smmuv3::spec::command;
use dmakit_smmuv3::{StartError, SyncFailure};

use crate::recovery::Slow;
use crate::rig::{Mutant, Rig, STREAM, Shape};

/// More than the ring holds.
const PAGES: u64 = 100;

/// What the reset is to be without.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Without {
    Nothing,
    /// The SMMU ignores `TLBI_NSNH_ALL` and all invalidations by ASID.
    Forgetting,
}

/// Unmaps pages one by one and in a batch while the SMMU hangs, resets it, and takes everything back:
/// how many of the old addresses a device still reaches.
fn unmap_reset_and_redeem(seed: u64, messages: bool, without: Without) -> u64 {
    let mut shape = Shape::default();
    shape.smmu.messages = messages;
    let rig = Rig::new(seed, shape);
    let driver = rig.driver_over(Slow(rig.smmu.clone(), rig.machine.clone()));
    let domain = rig.domain(&driver, Mutant::Nothing);
    let buffer = rig.buffer(PAGES << 12, 0);
    rig.device.confine();
    let pages: Vec<PhysRange> = (0..PAGES)
        .map(|page| buffer.range().slice(page << 12, 4096).unwrap())
        .collect();
    let map = |page| rig.map(&domain, &[page], Permissions::READ_WRITE, DmaMask::ALL);
    let mapped: Vec<_> = pages.iter().map(|page| map(*page)).collect();
    let at: Vec<_> = mapped
        .iter()
        .map(|mapped| DmaAddr::new(mapped.range().start().raw()))
        .collect();
    for at in &at {
        rig.device.write(*at, &[1; 64]).unwrap();
    }
    let mut late = Vec::new();
    let config = BatchConfig {
        debts: 16,
        ..BatchConfig::default()
    };
    let mut batch = Batch::new(domain.id(), config).unwrap();
    let (mut tickets, mut given) = (Vec::new(), Vec::new());
    rig.smmu.hang();
    let cpu = rig.machine.enter_cpu();
    for (number, mapped) in (0..).zip(mapped) {
        let at = DmaAddr::new(mapped.range().start().raw());
        late.push(rig.device.start_write(at, &[2; 64]));
        if number < 15 {
            let (now, owned) = (rig.machine.now(), pages[number]);
            let give = |page| given.push(page);
            batch
                .unmap(&domain, &cpu, now, mapped, owned, give)
                .unwrap();
        } else {
            // The ring fills up, and it makes no difference.
            tickets.push((domain.unmap(mapped).unwrap(), pages[number]));
        }
    }
    let failure = driver.sync().unwrap_err();
    assert!(matches!(failure, SyncFailure::Timeout { .. }), "{failure}");
    let failure = domain.sync().unwrap_err();
    assert!(matches!(failure, SyncError::Timeout { .. }), "{failure}");
    batch
        .close(&domain, &cpu, |page| given.push(page))
        .unwrap_err();
    assert_eq!((given.len(), domain.quarantined()), (0, 0));

    if without == Without::Forgetting {
        for opcode in [0x11, 0x12, 0x30] {
            rig.smmu.ignore(opcode);
        }
    }
    // What comes may sleep.
    drop(cpu);
    assert_eq!(domain.space().statistics().used, PAGES << 12);
    driver.reset().unwrap();
    let cpu = rig.machine.enter_cpu();
    let proof = domain.sync().unwrap();
    for (ticket, page) in tickets {
        domain.redeem(&cpu, ticket, &proof).unwrap();
        given.push(page);
    }
    batch.close(&domain, &cpu, |page| given.push(page)).unwrap();
    assert_eq!(given.len() as u64, PAGES, "every buffer comes back");
    for page in given {
        rig.device.revoke(page, Direction::Bidirectional);
    }
    buffer.window().fill(0xcc);
    for late in late {
        drop(rig.device.complete(late));
    }
    let reached = at
        .iter()
        .filter(|at| rig.device.write(**at, &[3; 64]).is_ok());
    let stale = reached.count() as u64;
    if without == Without::Nothing {
        assert_eq!(stale, 0, "seed {seed}");
        let mut bytes = vec![0; (PAGES << 12) as usize];
        buffer.window().read(&mut bytes);
        assert!(bytes.iter().all(|byte| *byte == 0xcc), "seed {seed}");
        // It goes on: attached as before.
        let mapped = map(pages[0]);
        let at = DmaAddr::new(mapped.range().start().raw());
        rig.device.write(at, &[4; 64]).unwrap();
        let ticket = domain.unmap(mapped).unwrap();
        rig.redeem(&domain, ticket, &[pages[0]]);
        rig.machine.check().unwrap();
        drop(cpu);
        driver.detach(STREAM).unwrap();
        let Ok((hardware, table)) = domain.close() else {
            panic!("addresses are in use");
        };
        driver
            .release_context(hardware.inner.into_context())
            .unwrap();
        drop(table);
        driver.stop().unwrap();
        rig.memory.free(buffer);
        assert_eq!(rig.memory.outstanding(), [], "seed {seed}");
    }
    stale
}

#[test]
fn everything_that_waited_for_a_sync_comes_back_after_a_reset() {
    for seed in 0..8 {
        for messages in [false, true] {
            unmap_reset_and_redeem(seed, messages, Without::Nothing);
        }
    }
    let stale = unmap_reset_and_redeem(9, false, Without::Forgetting);
    assert!(stale > 0, "what a reset that forgets nothing would leave");
}

#[test]
fn a_reset_that_fails_redeems_nothing_and_aborts_every_device() {
    let rig = Rig::new(3, Shape::default());
    let driver = rig.driver_over(Slow(rig.smmu.clone(), rig.machine.clone()));
    let domain = rig.domain(&driver, Mutant::Nothing);
    let buffer = rig.buffer(8192, 0);
    let [one, two] = [0, 4096].map(|offset| buffer.range().slice(offset, 4096).unwrap());
    let map = |run| rig.map(&domain, &[run], Permissions::READ_WRITE, DmaMask::ALL);
    let (mapped, other) = (map(one), map(two));
    let at = DmaAddr::new(other.range().start().raw());
    rig.device.write(at, &[1; 64]).unwrap();
    rig.smmu.stick(true);
    let ticket = domain.unmap(mapped).unwrap();
    domain.sync().unwrap_err();
    let error = driver.reset().unwrap_err();
    assert!(matches!(error, StartError::Sync(_)), "{error}");
    domain.sync().unwrap_err();
    assert!(rig.device.write(at, &[2; 64]).is_err(), "aborted");
    rig.smmu.stick(false);
    driver.reset().unwrap();
    rig.device.write(at, &[2; 64]).unwrap();
    rig.redeem(&domain, ticket, &[one]);
    let ticket = domain.unmap(other).unwrap();
    rig.redeem(&domain, ticket, &[two]);
    rig.machine.check().unwrap();
}

#[test]
fn service_failure_and_a_refused_invalidation_of_everything_end_with_a_reset() {
    let rig = Rig::new(4, Shape::default());
    let driver = rig.driver();
    rig.smmu.fail_service();
    let forget = [command::TLBI_NSNH_ALL];
    assert_eq!(driver.execute(forget), Err(SyncFailure::Service));
    driver.reset().unwrap();
    driver.execute(forget).unwrap();
    assert!(!driver.take_events(|_| ()).failed);
    // Records that nobody took are said to be lost.
    let domain = rig.domain(&driver, Mutant::Nothing);
    assert!(rig.device.write(DmaAddr::new(0x5000), &[1; 64]).is_err());
    driver.reset().unwrap();
    let count = driver.take_events(|_| ());
    assert_eq!((count.records, count.lost), (0, true));
    assert_eq!(driver.take_events(|_| ()), Default::default());
    driver.detach(STREAM).unwrap();
    drop(domain);
}
