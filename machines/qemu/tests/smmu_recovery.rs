//! Errors, resets and take-overs in the middle of work.

mod rig;

use std::sync::atomic::Ordering;

use dmakit_addr::{Granule, PhysAddr, PhysRange};
use dmakit_io_pgtable::Permissions;
use dmakit_iommu::{Batch, BatchConfig, FaultReason};
use dmakit_platform::{Mmio, Platform};
use dmakit_qemu::{Clock, QemuMmio};
use dmakit_smmuv3::spec::registers::{CR0, CR0_CMDQEN, GERROR, GERRORN};
use dmakit_smmuv3::{Config, InUse, Inherited, Smmu, Tag};
use rig::{Driver, EDU, OTHER, RAM, Rig, faults, folded, rig, rig_with};

#[test]
fn a_transfer_under_way_does_not_outlive_the_unmap() {
    let rig = rig_with(Clock::RealTime, 64);
    let smmu = rig.smmu();
    let domain = rig.domain(&smmu, Granule::K4);
    rig.arm(&domain, 0x5a);
    for unmapped in [false, true] {
        let frame = rig.frame(2, 0xee).range();
        let mapped = rig.map(&domain, &[frame], Permissions::READ_WRITE);
        // It is told now, and asks for a translation 100 ms later.
        Rig::begin(&rig.edu, mapped.range().start().raw(), 64, false);
        if unmapped {
            rig.unmap(&domain, mapped);
        }
        rig.finish(&rig.edu);
        let seen = folded(&smmu);
        let expected = if unmapped { [0xee; 64] } else { [0x5a; 64] };
        assert_eq!(rig.first(2), expected, "unmapped: {unmapped}");
        assert_eq!(seen.faults().count(), usize::from(unmapped));
    }
}

#[test]
fn lost_records_are_reported_and_later_ones_arrive() {
    let rig = rig();
    let smmu = rig.smmu_with(Config {
        event_shift: 6,
        ..Config::default()
    });
    let domain = rig.domain(&smmu, Granule::K4);
    rig.arm(&domain, 0x5a);
    // Four records of 32 bytes for every 16 bytes that fault: 256 of them for 64 places.
    rig.transfer(0x7000_0000, 1024, false);
    let mut kept = Vec::new();
    let count = smmu.take_events(|event| kept.push(event));
    assert!(count.lost && !count.failed, "{count:?}");
    assert!((1..=64).contains(&count.records), "{count:?}");
    assert!(
        kept.iter()
            .all(|event| event.stream == u32::from(EDU.raw()))
    );
    assert_eq!(smmu.take_events(|_| ()), Default::default());
    rig.transfer(0x6000_0000, 64, false);
    let mut later = 0;
    let count = smmu.take_events(|event| later += u64::from(event.address >> 12 == 0x6_0000));
    assert_eq!((count.lost, later), (false, 16), "{count:?}");
}

#[test]
fn a_refused_command_is_replaced_and_the_queue_goes_on() {
    let rig = rig();
    let smmu = rig.smmu();
    let domain = rig.domain(&smmu, Granule::K4);
    let regs = rig.regs();
    for (round, bad) in [[0xfe, 0], [0x3f, 0]].into_iter().enumerate() {
        rig.arm(&domain, 0x5a);
        let frame = rig.frame(2, 0xee).range();
        let mapped = rig.map(&domain, &[frame], Permissions::READ_WRITE);
        let iova = mapped.range().start().raw();
        rig.transfer(iova, 64, false);
        assert_eq!(rig.first(2), [0x5a; 64]);
        smmu.execute([bad]).unwrap();
        let counts = smmu.command_counts();
        assert_eq!(counts.refused, round as u64 + 1);
        let refused = counts.last_refused.unwrap();
        assert_eq!((refused.reason, refused.command), (1, bad));
        assert_eq!(regs.read32(GERROR), regs.read32(GERRORN), "acknowledged");
        rig.unmap(&domain, mapped);
        rig.frame(2, 0xee);
        rig.transfer(iova, 64, false);
        assert_eq!(rig.first(2), [0xee; 64], "commands after it have effect");
        assert!(!faults(&smmu).is_empty());
    }
}

#[test]
fn what_waits_for_a_command_queue_that_is_off_comes_back_after_a_reset() {
    let rig = rig();
    let smmu = rig.smmu();
    let domain = rig.domain(&smmu, Granule::K4);
    rig.arm(&domain, 0x5a);
    let frame = rig.frame(2, 0xee).range();
    let mapped = rig.map(&domain, &[frame], Permissions::READ_WRITE);
    let iova = mapped.range().start().raw();
    rig.transfer(iova, 64, false);
    assert_eq!(rig.first(2), [0x5a; 64]);
    let regs = rig.regs();
    regs.write32(CR0, regs.read32(CR0) & !CR0_CMDQEN);
    let ticket = domain.unmap(mapped).unwrap();
    domain.sync().unwrap_err();
    rig.frame(2, 0xee);
    rig.transfer(iova, 64, false);
    assert_eq!(rig.first(2), [0x5a; 64], "it is still known");
    smmu.reset().unwrap();
    let proof = domain.sync().unwrap();
    domain
        .redeem(&rig.machine.platform().enter_cpu(), ticket, &proof)
        .unwrap();
    rig.frame(2, 0xee);
    rig.transfer(iova, 64, false);
    assert_eq!(rig.first(2), [0xee; 64], "forgotten, and attached");
    assert!(!faults(&smmu).is_empty());
}

#[test]
fn a_stopped_smmu_gives_all_memory_back_and_starts_again() {
    let rig = rig();
    for round in 0..3 {
        assert_eq!(rig.memory.out(), 0, "round {round}");
        let smmu = rig.smmu();
        let domain = rig.domain(&smmu, Granule::K4);
        rig.arm(&domain, 0x5a);
        let frame = rig.frame(2, 0xee).range();
        let mapped = rig.map(&domain, &[frame], Permissions::READ_WRITE);
        rig.transfer(mapped.range().start().raw(), 64, false);
        assert_eq!(rig.first(2), [0x5a; 64]);
        assert_eq!(faults(&smmu), []);
        // Something is mapped, and the stream is attached.
        drop(domain);
        smmu.stop().unwrap();
        assert_eq!(rig.regs().read32(CR0), 0);
    }
    assert_eq!(rig.memory.out(), 0);
}

/// How an owner ends in the midst of work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    /// It turns the SMMU off.
    Stop,
    /// It is gone: the next one starts over a running SMMU.
    Crash,
}

/// Frames that the earlier owner had mapped, and those beside them.
const FRAMES: std::ops::Range<u64> = 1..8;

/// An owner ends while both devices write, with a ticket and a batch open and a command queued that
/// no sync follows. `None` where the transfers were over before the next owner had the SMMU.
fn reset_in_mid_work(rig: &Rig, end: End) -> Option<()> {
    let platform = rig.machine.platform();
    let old = rig.smmu();
    let domain = rig.domain(&old, Granule::K4);
    let context = domain.hardware().context();
    old.attach(OTHER.raw().into(), context).unwrap();
    let [live, unmapped, held] = [2, 4, 6].map(|index| {
        let frame = rig.frame(index, 0x5a).range();
        rig.map(&domain, &[frame], Permissions::READ_WRITE)
    });
    let at = [&live, &unmapped, &held].map(|mapped| mapped.range().start().raw());
    // Cached, all of them, and both devices have what must not land.
    for iova in at {
        rig.transfer(iova, 64, true);
    }
    rig.transfer_by(&rig.other, at[0], 64, true);
    assert_eq!(faults(&old), []);
    let ticket = domain.unmap(unmapped).unwrap();
    let mut batch = Batch::new(domain.id(), BatchConfig::default()).unwrap();
    let (cpu, now) = (platform.enter_cpu(), platform.now());
    let closed = batch.unmap(&domain, &cpu, now, held, (), |()| ());
    closed.unwrap();
    assert_eq!(batch.held().bytes, 0x1000, "open");
    old.invalidate_all(context.tag()).unwrap();
    Rig::begin(&rig.edu, at[0], 64, false);
    Rig::begin(&rig.other, at[1], 64, false);

    let new = match end {
        End::Stop => {
            drop(domain);
            old.stop().unwrap();
            assert_eq!(rig.memory.out(), 0, "whatever was open");
            None
        }
        End::Crash => Some(rig.smmu()),
    };
    for index in FRAMES {
        rig.frame(index, 0xee);
    }
    let under_way = |edu: &QemuMmio| edu.read64(0x98) & 1 != 0;
    let in_time = under_way(&rig.edu) && under_way(&rig.other);
    rig.finish(&rig.edu);
    rig.finish(&rig.other);
    for index in FRAMES {
        let bytes = rig.bytes(PhysAddr::new(RAM + (index << 12)), 0x1000);
        assert!(bytes.iter().all(|&byte| byte == 0xee), "{end:?}: {index}");
    }
    let smmu = match new {
        Some(smmu) => {
            let seen = folded(&smmu);
            let named = seen
                .faults()
                .map(|folded| (folded.fault.stream, folded.fault.reason));
            let both = [EDU, OTHER].map(|id| (id.raw().into(), FaultReason::Device));
            assert!(
                !in_time || named.eq(both),
                "no table for their bus: {seen:?}"
            );
            smmu
        }
        None => rig.smmu(),
    };
    drop(ticket);
    is_served(rig, smmu);
    in_time.then_some(())
}

/// Whoever has the SMMU now attaches a device, which writes where it should.
fn is_served(rig: &Rig, smmu: Driver<'_>) {
    let domain = rig.domain(&smmu, Granule::K4);
    rig.arm(&domain, 0x77);
    let frame = rig.frame(2, 0xee).range();
    let mapped = rig.map(&domain, &[frame], Permissions::READ_WRITE);
    rig.transfer(mapped.range().start().raw(), 64, false);
    assert_eq!(rig.first(2), [0x77; 64]);
    assert_eq!(faults(&smmu), []);
    drop(domain);
    smmu.stop().unwrap();
}

#[test]
fn after_a_reset_in_mid_work_no_byte_changes_and_the_next_owner_is_served() {
    for end in [End::Stop, End::Crash] {
        let rig = rig_with(Clock::RealTime, 64);
        let tries = 20;
        // A transfer takes 100 ms, in which the reset must fall.
        let done = (0..tries).find_map(|_| reset_in_mid_work(&rig, end));
        done.unwrap_or_else(|| panic!("{end:?}: too late {tries} times"));
    }
}

#[test]
fn streams_of_a_crashed_owner_are_aborted_until_attached() {
    let rig = rig();
    let old = rig.smmu();
    let domain = rig.domain(&old, Granule::K4);
    rig.arm(&domain, 0x5a);
    let frame = rig.frame(2, 0xee).range();
    let mapped = rig.map(&domain, &[frame], Permissions::READ_WRITE);
    let iova = mapped.range().start().raw();
    rig.transfer(iova, 64, false);
    assert_eq!(rig.first(2), [0x5a; 64], "it works before");
    // The crash: nobody stops anything.
    let out = rig.memory.out();
    let smmu = rig.smmu();
    rig.frame(2, 0xee);
    rig.transfer(iova, 64, false);
    assert_eq!(rig.first(2), [0xee; 64]);
    let seen = folded(&smmu);
    let reasons: Vec<_> = seen.faults().map(|one| one.fault.reason).collect();
    assert_eq!(reasons, [FaultReason::Device], "no table for its bus yet");
    assert!(
        rig.memory.out() > out,
        "what the old owner had is not touched"
    );
    let domain = rig.domain(&smmu, Granule::K4);
    rig.arm(&domain, 0x77);
    assert_eq!(faults(&smmu), []);
}

#[test]
fn inherited_streams_translate_as_their_owner_left_them() {
    let rig = rig();
    let old = rig.smmu();
    let domain = rig.domain(&old, Granule::K4);
    rig.arm(&domain, 0x5a);
    let frame = rig.frame(2, 0xee).range();
    let mapped = rig.map(&domain, &[frame], Permissions::READ_WRITE);
    let context = domain.hardware().context();
    // All that the next owner knows is in registers and memory.
    let word = |at: PhysAddr| {
        let word = PhysRange::new(at, 8).ok()?;
        let window = rig.machine.hardware_window(word)?;
        Some(window.words64()?[0].load(Ordering::Relaxed))
    };
    let found = InUse::read(&rig.regs(), EDU.raw().into(), word).unwrap();
    assert_eq!(found.entry, context.entry());
    let asids = found.asid.as_slice();
    assert_eq!(asids.first().copied().map(Tag::Asid), Some(context.tag()));
    let inherited = Inherited {
        streams: &[(EDU.raw().into(), found.entry)],
        asids,
        vmids: &[],
    };
    let smmu = Smmu::take_over(
        rig.machine.platform(),
        rig.regs(),
        &rig.memory,
        Config::default(),
        inherited,
    )
    .unwrap();
    rig.transfer(mapped.range().start().raw(), 64, false);
    assert_eq!(rig.first(2), [0x5a; 64]);
    assert_eq!(faults(&smmu), []);
    let fresh = rig.detached_domain(&smmu, Granule::K4, 2);
    let tag = fresh.hardware().context().tag();
    assert_ne!(tag, domain.hardware().context().tag());
    // What was not inherited is not mapped.
    rig.transfer(0x1000, 64, false);
    let seen = folded(&smmu);
    assert!(
        seen.faults()
            .all(|one| one.fault.reason == FaultReason::Unmapped)
    );
    assert_eq!(seen.faults().count(), 1);
}
