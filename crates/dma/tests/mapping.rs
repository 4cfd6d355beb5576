//! What a mapping does, refuses and leaves behind.
// A refused token comes back in the error, and tokens own their memory.
#![allow(clippy::result_large_err)]

mod rig;

use std::panic::{AssertUnwindSafe, catch_unwind};

use dmakit_addr::{Attributes, Bidirectional, Direction, DmaAddr, DmaMask, FromDevice, ToDevice};
use dmakit_dma::{
    BounceCause, Coherence, Device, DeviceInfo, MapError, Mapping, RedeemError, ScatterList,
    SegmentLimits, TokenError, Trust,
};
use dmakit_iommu::RedeemError as Unpaid;
use dmakit_platform::CpuBuffer;
use dmakit_sim::SimDevice;
use rig::{Forgetful, HIGH, LOW, PathKind, Rig, align, bytes_of, pattern, phys};

const NONE: Attributes = Attributes::NONE;

/// A rig's device number 1 with all address lines.
fn device<'r>(rig: &'r Rig, path: PathKind) -> (SimDevice, Device<'r, Forgetful>) {
    device_with(rig, path, 64, |_| {})
}

fn device_with<'r>(
    rig: &'r Rig,
    path: PathKind,
    bits: u32,
    change: impl FnOnce(&mut DeviceInfo<'_>),
) -> (SimDevice, Device<'r, Forgetful>) {
    let (sim, mut info) = rig.device(1, bits, Coherence::Coherent);
    change(&mut info);
    (sim, rig.attach(info, path))
}

fn filled(rig: &Rig, len: u64, offset: u64, is_high: bool) -> CpuBuffer {
    let mut buffer = rig.buffer(len, offset, is_high).take();
    buffer.write(0, &pattern(1, len));
    buffer
}

#[test]
fn a_buffer_in_reach_is_lent_as_it_lies() {
    let rig = Rig::coherent(1);
    let (sim, device) = device(&rig, PathKind::Needed);
    let buffer = filled(&rig, 100, 7, false);
    let run = buffer.runs().next().unwrap();
    let mapping = device.map::<ToDevice>(buffer, NONE).unwrap();
    assert!(!mapping.is_bounced() && !mapping.needs_sync());
    let dma = device.info().bus.dma(run).unwrap();
    assert_eq!((mapping.dma_addr(), mapping.len()), (dma.start(), 100));
    let mut seen = vec![0; 100];
    sim.read(mapping.dma_addr(), &mut seen).unwrap();
    assert_eq!(seen, pattern(1, 100));
    assert_eq!(rig.machine.counts().lines_maintained, 0);
    device.unmap_and_sync(mapping).unwrap();
    assert_eq!(device.remove().unwrap().bytes_copied_in, 0);
}

#[test]
fn memory_comes_back_for_a_later_proof_of_its_own_device_only() {
    let rig = Rig::coherent(2);
    let (_, one) = device(&rig, PathKind::Direct);
    let (_, other) = rig.device(2, 64, Coherence::Coherent);
    let other = rig.attach(other, PathKind::Direct);
    let early = one.sync().unwrap();
    let mapping = one
        .map::<FromDevice>(filled(&rig, 64, 0, false), NONE)
        .unwrap();
    let debt = one.unmap(mapping).unwrap();

    let failure = one.redeem(debt, &early).unwrap_err();
    assert!(
        matches!(
            failure.error,
            RedeemError::Unpaid(Unpaid::OlderProof { .. })
        ),
        "{failure}"
    );
    let foreign = other.sync().unwrap();
    let failure = one.redeem(failure.debt, &foreign).unwrap_err();
    assert!(
        matches!(
            failure.error,
            RedeemError::Unpaid(Unpaid::ForeignProof { .. })
        ),
        "{failure}"
    );
    let proof = one.sync().unwrap();
    let failure = other.redeem(failure.debt, &proof).unwrap_err();
    assert!(
        matches!(failure.error, RedeemError::ForeignDebt { .. }),
        "{failure}"
    );
    assert_eq!(one.redeem(failure.debt, &proof).unwrap().len(), 64);
}

#[test]
fn one_proof_pays_all_earlier_debts_and_no_later_one() {
    let rig = Rig::coherent(3);
    let (_, device) = device(&rig, PathKind::Direct);
    let unmap = || {
        let mapping = device
            .map::<ToDevice>(filled(&rig, 8, 0, false), NONE)
            .unwrap();
        device.unmap(mapping).unwrap()
    };
    let early: Vec<_> = (0..3).map(|_| unmap()).collect();
    let proof = device.sync().unwrap();
    let late = unmap();
    for debt in early {
        device.redeem(debt, &proof).unwrap();
    }
    assert!(device.redeem(late, &proof).is_err());
}

#[test]
fn a_token_of_another_device_is_given_back() {
    for path in [PathKind::Direct, PathKind::Always] {
        let rig = Rig::coherent(4);
        let (_, one) = device(&rig, path);
        let (_, other) = rig.device(2, 64, Coherence::Coherent);
        let other = rig.attach(other, path);
        let mapping = one
            .map::<Bidirectional>(filled(&rig, 64, 0, false), NONE)
            .unwrap();
        let refused = other.unmap(mapping).unwrap_err();
        let foreign = TokenError::Foreign {
            owner: one.info().id,
            device: other.info().id,
        };
        assert_eq!(refused.error, foreign);
        let mut mapping = refused.token;
        assert!(other.sync_part_for_cpu(&mut mapping, 0, 1).is_err());
        assert!(other.unmap_and_sync(mapping).is_err());
        assert_eq!((other.stats().unmapped, one.stats().live()), (0, 1));
    }
}

#[test]
fn memory_out_of_reach_bounces_or_is_refused_with_its_numbers() {
    let rig = Rig::coherent(5);
    for path in [PathKind::Direct, PathKind::Needed] {
        let (sim, device) = device_with(&rig, path, 32, |_| {});
        let buffer = filled(&rig, 300, 5, true);
        let run = buffer.runs().next().unwrap();
        let mask = DmaMask::bits(32).unwrap();
        let cause = BounceCause::OutOfReach { run, reach: mask };
        let mapping = match device.map::<Bidirectional>(buffer, NONE) {
            Ok(mapping) => mapping,
            Err(failure) => {
                assert_eq!(
                    (path, failure.error),
                    (PathKind::Direct, MapError::NoBouncePool(cause))
                );
                assert_eq!(bytes_of(&failure.memory), pattern(1, 300));
                assert_eq!(device.stats().failed.unreachable, 1);
                continue;
            }
        };
        assert!(mapping.is_bounced());
        let mut seen = vec![0; 300];
        sim.read(mapping.dma_addr(), &mut seen).unwrap();
        assert_eq!(seen, pattern(1, 300));
        sim.write(mapping.dma_addr(), &pattern(2, 300)).unwrap();
        let buffer = device.unmap_and_sync(mapping).unwrap();
        assert_eq!(bytes_of(&buffer), pattern(2, 300));
        let stats = device.stats();
        assert_eq!(
            (stats.bounced, stats.bytes_copied_in, stats.bytes_copied_out),
            (1, 300, 300)
        );
    }
}

#[test]
fn the_bus_limit_counts_as_much_as_the_mask() {
    let rig = Rig::coherent(6);
    let limit = LOW + 0x4000_0000 + 0xfff;
    let (_, device) = device_with(&rig, PathKind::Direct, 64, |info| {
        info.bus_limit = DmaMask::up_to(limit);
    });
    let info = device.info();
    let at = |start: u64, len: u64| info.direct(phys(start, len), dmakit_dma::MaskKind::Streaming);
    assert!(at(LOW, 0x1000).is_some() && at(LOW, 0x1001).is_none());
    assert!(at(HIGH, 1).is_none());
    assert!(!info.reaches_all(rig.machine.ram().map(|(_, range)| range)));
}

#[test]
fn untrusted_devices_get_no_page_that_holds_anything_else() {
    let rig = Rig::coherent(7);
    let untrusted = |info: &mut DeviceInfo<'_>| info.trust = Trust::Untrusted;
    let (_, device) = device_with(&rig, PathKind::Needed, 64, untrusted);
    for (len, offset, bounces) in [
        (4096, 0, false),
        (8192, 0, false),
        (4095, 0, true),
        (4096, 64, true),
    ] {
        let mapping = device
            .map::<ToDevice>(filled(&rig, len, offset, false), NONE)
            .unwrap();
        assert_eq!(mapping.is_bounced(), bounces, "{len} bytes at {offset}");
        device.unmap_and_sync(mapping).unwrap();
    }
    let (_, bare) = device_with(&rig, PathKind::Direct, 64, untrusted);
    let refused = bare
        .map::<ToDevice>(filled(&rig, 1, 0, false), NONE)
        .unwrap_err();
    let cause = BounceCause::SharedPage {
        run: refused.memory.runs().next().unwrap(),
    };
    assert_eq!(refused.error, MapError::NoBouncePool(cause));
}

#[test]
fn an_untrusted_device_reads_no_old_bytes_and_only_checked_ones_come_back() {
    let rig = Rig::coherent(8);
    let (sim, device) = device_with(&rig, PathKind::Needed, 64, |info| {
        info.trust = Trust::Untrusted;
    });
    let mapping = device
        .map::<FromDevice>(filled(&rig, 200, 3, false), NONE)
        .unwrap();
    let mut seen = vec![0xff; 200];
    sim.read(mapping.dma_addr(), &mut seen).unwrap();
    assert_eq!(seen, [0; 200], "nothing of the original");
    sim.write(mapping.dma_addr(), &pattern(2, 200)).unwrap();
    let debt = device.unmap_validated(mapping, 120).unwrap();
    let proof = device.sync().unwrap();
    let bytes = bytes_of(&device.redeem(debt, &proof).unwrap());
    assert_eq!(bytes[..120], pattern(2, 200)[..120]);
    assert_eq!(bytes[120..], pattern(1, 200)[120..]);
    assert_eq!(device.stats().bytes_copied_out, 120);
}

#[test]
fn a_trusted_device_that_writes_little_leaves_the_rest_as_it_was() {
    let rig = Rig::coherent(9);
    let (sim, device) = device(&rig, PathKind::Always);
    let mapping = device
        .map::<FromDevice>(filled(&rig, 200, 3, false), NONE)
        .unwrap();
    sim.write(mapping.dma_addr(), &[9; 50]).unwrap();
    let bytes = bytes_of(&device.unmap_and_sync(mapping).unwrap());
    assert_eq!(
        (&bytes[..50], &bytes[50..]),
        (&[9; 50][..], &pattern(1, 200)[50..])
    );
}

#[test]
fn a_validated_length_beyond_the_mapping_is_refused() {
    let rig = Rig::coherent(10);
    let (_, device) = device(&rig, PathKind::Direct);
    let mapping = device
        .map::<FromDevice>(filled(&rig, 64, 0, false), NONE)
        .unwrap();
    let refused = device.unmap_validated(mapping, 65).unwrap_err();
    let error = TokenError::OutOfRange {
        offset: 0,
        len: 65,
        mapped: 64,
    };
    assert_eq!(refused.error, error);
    device.unmap_and_sync(refused.token).unwrap();
}

/// Whether both ways of every combination of coherence and bouncing deliver, and what it costs.
#[test]
fn coherence_and_bouncing_are_independent() {
    for (coherence, path, lines, copies) in [
        (Coherence::Coherent, PathKind::Needed, false, false),
        (Coherence::Coherent, PathKind::Always, false, true),
        (Coherence::NonCoherent, PathKind::Needed, true, false),
        (Coherence::NonCoherent, PathKind::Always, true, true),
    ] {
        let case = format!("{coherence:?}, {path:?}");
        let rig = Rig::non_coherent(11);
        let (sim, info) = rig.device(1, 64, coherence);
        let device = rig.attach(info, path);
        let mapping = device
            .map::<Bidirectional>(filled(&rig, 512, 64, false), NONE)
            .unwrap();
        let mut seen = vec![0; 512];
        sim.read(mapping.dma_addr(), &mut seen).unwrap();
        assert_eq!(seen, pattern(1, 512), "{case}");
        sim.write(mapping.dma_addr(), &pattern(2, 512)).unwrap();
        let mut cpu = device.sync_for_cpu(mapping).unwrap();
        cpu.read(0, &mut seen);
        assert_eq!(seen, pattern(2, 512), "{case}");
        cpu.write(0, &pattern(3, 512));
        let mapping = device.sync_for_device(cpu).unwrap();
        sim.read(mapping.dma_addr(), &mut seen).unwrap();
        assert_eq!(seen, pattern(3, 512), "{case}");
        assert_eq!(mapping.needs_sync(), lines || copies, "{case}");
        device.unmap_and_sync(mapping).unwrap();
        assert_eq!(rig.machine.counts().lines_maintained > 0, lines, "{case}");
        assert_eq!(device.stats().bytes_copied_in > 0, copies, "{case}");
    }
}

#[test]
fn any_part_can_be_synced_and_none_outside() {
    for (coherence, path) in [
        (Coherence::Coherent, PathKind::Direct),
        (Coherence::Coherent, PathKind::Always),
        (Coherence::NonCoherent, PathKind::Needed),
        (Coherence::NonCoherent, PathKind::Always),
    ] {
        let rig = Rig::non_coherent(12);
        let (sim, info) = rig.device(1, 64, coherence);
        let device = rig.attach(info, path);
        let mut mapping = device
            .map::<Bidirectional>(filled(&rig, 4096, 0, false), NONE)
            .unwrap();
        let mut model = pattern(1, 4096);
        for (i, (offset, len)) in [(0, 1), (63, 2), (1, 4095), (4096, 0), (2047, 2)]
            .into_iter()
            .enumerate()
        {
            let case = format!("{coherence:?}, {path:?}, {len} at {offset}");
            let bytes = pattern(100 + i as u64, len as u64);
            let addr = DmaAddr::new(mapping.dma_addr().raw() + offset as u64);
            sim.write(addr, &bytes).unwrap();
            model[offset..offset + len].copy_from_slice(&bytes);
            let mut part = device
                .sync_part_for_cpu(&mut mapping, offset as u64, len as u64)
                .unwrap();
            let mut seen = vec![0; len + 8];
            assert_eq!(part.read(0, &mut seen), len, "{case}");
            assert_eq!(seen[..len], bytes, "{case}");
            let answer = pattern(200 + i as u64, len as u64);
            assert_eq!(part.write(0, &answer), len);
            assert_eq!(part.write(len as u64, &[1]), 0, "past the part");
            device.sync_part_for_device(part).unwrap();
            model[offset..offset + len].copy_from_slice(&answer);
            let mut all = vec![0; 4096];
            sim.read(mapping.dma_addr(), &mut all).unwrap();
            assert!(all == model, "{case}");
        }
        for (offset, len) in [(0, 4097), (4097, 0), (u64::MAX, 2)] {
            let refused = device.sync_part_for_cpu(&mut mapping, offset, len).err();
            let error = TokenError::OutOfRange {
                offset,
                len,
                mapped: 4096,
            };
            assert_eq!(refused, Some(error));
        }
        assert_eq!(bytes_of(&device.unmap_and_sync(mapping).unwrap()), model);
    }
}

#[test]
fn what_was_recorded_at_map_counts_at_unmap() {
    let rig = Rig::coherent(13);
    let (sim, mut device) = device_with(&rig, PathKind::Always, 64, |info| {
        info.min_align = align(4096);
    });
    let mapping = device
        .map::<Bidirectional>(filled(&rig, 5000, 0xe03, false), NONE)
        .unwrap();
    assert_eq!(mapping.dma_addr().raw() & 0xfff, 0xe03);
    device.set_min_align(align(1));
    device.set_limits(SegmentLimits {
        max_bytes: 1,
        ..SegmentLimits::NONE
    });
    sim.write(mapping.dma_addr(), &pattern(2, 5000)).unwrap();
    let buffer = device.unmap_and_sync(mapping).unwrap();
    assert_eq!(bytes_of(&buffer), pattern(2, 5000));
    assert_eq!(rig.pool.used(), 0);
}

#[test]
fn attributes_are_honoured_or_refused() {
    let rig = Rig::non_coherent(18);
    let (_, info) = rig.device(1, 64, Coherence::NonCoherent);
    let plain = rig.attach(info, PathKind::Needed);
    let (_, coherent) = rig.device(2, 64, Coherence::Coherent);
    let forced = rig.attach(coherent, PathKind::Always);
    let direct = rig.attach(coherent, PathKind::Direct);
    let map = |device: &Device<'_, Forgetful>, attributes| {
        device.map::<FromDevice>(filled(&rig, 4096, 0, false), attributes)
    };
    for attributes in [
        Attributes::MMIO,
        Attributes::WRITE_COMBINE,
        Attributes::NO_KERNEL_MAPPING,
        Attributes::FORCE_CONTIGUOUS,
        Attributes::ALLOC_SINGLE_PAGES,
        Attributes::from_bits(1 << 13),
    ] {
        let refused = map(&plain, attributes | Attributes::NO_WARN).unwrap_err();
        assert_eq!(refused.error, MapError::Attributes(attributes));
    }
    let stats = plain.stats();
    assert_eq!((stats.failed.request, stats.failed_expected), (6, 6));

    let required = Attributes::REQUIRE_COHERENT;
    assert_eq!(
        map(&plain, required).unwrap_err().error,
        MapError::NotCoherent
    );
    let refused = map(&forced, required).unwrap_err().error;
    assert_eq!(refused, MapError::WouldBounce(BounceCause::Forced));
    assert_eq!(forced.stats().failed.coherence, 1);
    direct
        .unmap_and_sync(map(&direct, required).unwrap())
        .unwrap();

    let before = rig.machine.counts().lines_maintained;
    let mapping = map(
        &plain,
        Attributes::SKIP_CPU_SYNC | Attributes::WEAK_ORDERING,
    )
    .unwrap();
    plain.unmap_and_sync(mapping).unwrap();
    assert_eq!(rig.machine.counts().lines_maintained, before);
    let copied = forced.stats().bytes_copied_out;
    let mapping = map(&forced, Attributes::SKIP_CPU_SYNC | Attributes::PRIVILEGED).unwrap();
    forced.unmap_and_sync(mapping).unwrap();
    assert_eq!(forced.stats().bytes_copied_out, copied);
}

#[test]
fn skipped_syncs_can_be_made_up_for() {
    for path in [PathKind::Needed, PathKind::Always] {
        let rig = Rig::non_coherent(19);
        let (sim, info) = rig.device(1, 64, Coherence::NonCoherent);
        let device = rig.attach(info, path);
        let mapping = device
            .map::<FromDevice>(filled(&rig, 4096, 0, false), Attributes::NONE)
            .unwrap();
        let buffer = device.unmap_and_sync(mapping).unwrap();
        let mapping = device
            .map::<FromDevice>(buffer, Attributes::SKIP_CPU_SYNC)
            .unwrap();
        sim.write(mapping.dma_addr(), &pattern(5, 4096)).unwrap();
        let cpu = device.sync_for_cpu(mapping).unwrap();
        let mut seen = vec![0; 4096];
        cpu.read(0, &mut seen);
        assert_eq!(seen, pattern(5, 4096), "{path:?}");
        let buffer = device.unmap_and_sync(cpu.resubmit()).unwrap();
        assert_eq!(bytes_of(&buffer), pattern(5, 4096), "{path:?}");
    }
}

#[test]
fn forgotten_tokens_leak_are_counted_and_hurt_nobody() {
    let rig = Rig::coherent(20);
    let (sim, device) = device(&rig, PathKind::Always);
    sim.confine();
    let map = || {
        device
            .map::<Bidirectional>(filled(&rig, 3000, 0, false), NONE)
            .unwrap()
    };
    let used = |mapping: &Mapping<Bidirectional>| (mapping.dma_addr(), rig.pool.used());
    let (forgotten, slots) = used(&map());
    core::mem::forget(device.sync_for_cpu(map()).unwrap());
    drop(map());
    let debt = device.unmap(map()).unwrap();
    core::mem::forget(debt);
    assert_eq!(rig.pool.used(), 3 * slots, "a debt holds no slots here");
    let later = map();
    assert_ne!(
        later.dma_addr(),
        forgotten,
        "leaked slots are not given again"
    );
    device.unmap_and_sync(later).unwrap();
    assert_eq!(device.stats().live(), 3);
    let left = device.remove().unwrap_err();
    assert_eq!((left.mappings, left.coherent), (3, 0));
}

#[test]
fn borrowed_bytes_reach_the_device_by_way_of_a_copy() {
    let rig = Rig::non_coherent(21);
    let (sim, info) = rig.device(1, 64, Coherence::NonCoherent);
    let device = rig.attach(info, PathKind::Needed);
    let text = pattern(1, 333);
    let sent = device.bounce_to_device(&text, NONE, |segment| {
        let mut seen = vec![0; segment.len as usize];
        sim.read(segment.addr, &mut seen).unwrap();
        seen
    });
    assert_eq!(sent.unwrap(), text);
    let mut bytes = pattern(2, 333);
    let answer = device.bounce_from_device::<FromDevice, _>(&mut bytes, NONE, |segment| {
        sim.write(segment.addr, &text).unwrap();
        ("done", 300)
    });
    assert_eq!(answer.unwrap(), "done");
    assert_eq!(
        (&bytes[..300], &bytes[300..]),
        (&text[..300], &pattern(2, 333)[300..])
    );
    assert_eq!((rig.pool.used(), device.stats().live()), (0, 0));

    let bare = rig.attach(info, PathKind::Direct);
    let refused = bare.bounce_to_device(&text, NONE, |_| ()).unwrap_err();
    assert_eq!(refused, MapError::NoBouncePool(BounceCause::Borrowed));
}

#[test]
fn slots_of_a_borrow_that_panics_stay_with_the_device() {
    let rig = Rig::coherent(22);
    let (_, device) = device(&rig, PathKind::Needed);
    let panics = AssertUnwindSafe(|| {
        let mut bytes = [0; 64];
        device.bounce_from_device::<FromDevice, ()>(&mut bytes, NONE, |_| panic!("in the driver"))
    });
    catch_unwind(panics).unwrap_err();
    assert_eq!(device.stats().live(), 1);
    assert!(rig.pool.used() > 0, "the device may still write there");
}

#[test]
fn mappings_begin_and_end_in_interrupts_and_on_other_cpus() {
    for path in [PathKind::Direct, PathKind::Always] {
        let rig = Rig::coherent(23);
        let (_, device) = device(&rig, path);
        let buffer = filled(&rig, 4096, 0, false);
        let mapping = rig
            .machine
            .in_interrupt(|| device.map::<FromDevice>(buffer, NONE))
            .unwrap();
        let other = dmakit_platform::CpuId::new(1);
        let debt = rig
            .machine
            .on_cpu(other, || rig.machine.in_interrupt(|| device.unmap(mapping)));
        let proof = rig.machine.in_interrupt(|| device.sync()).unwrap();
        rig.machine
            .in_interrupt(|| device.redeem(debt.unwrap(), &proof))
            .unwrap();
        rig.machine.check().unwrap();
    }
}

#[test]
fn a_full_pool_refuses_and_nothing_has_changed() {
    let rig = Rig::coherent(24);
    let (_, device) = device(&rig, PathKind::Always);
    let mut held = Vec::new();
    let refused = loop {
        match device.map::<Bidirectional>(filled(&rig, 256 << 10, 0, false), NONE) {
            Ok(mapping) => held.push(mapping),
            Err(failure) => break failure,
        }
    };
    assert_eq!(held.len(), 8);
    assert!(matches!(
        refused.error,
        MapError::Bounce {
            cause: BounceCause::Forced,
            ..
        }
    ));
    assert_eq!(bytes_of(&refused.memory), pattern(1, 256 << 10));
    let stats = device.stats();
    assert_eq!((stats.mapped, stats.bounced, stats.failed.pool), (8, 8, 1));
    assert_eq!(stats.bytes_copied_in, 8 * (256 << 10));
    let last = held.pop().unwrap();
    device.unmap_and_sync(last).unwrap();
    let again = device.map::<Bidirectional>(refused.memory, NONE).unwrap();
    device.unmap_and_sync(again).unwrap();
    for mapping in held {
        device.unmap_and_sync(mapping).unwrap();
    }
    assert_eq!(rig.pool.used(), 0);
}

#[test]
fn a_device_with_several_bus_ranges_finds_the_pool_in_any() {
    // The pool lies in low memory, which this device's bus shows above what it shows of high.
    let rig = Rig::coherent(25);
    let (_, mut info) = rig.device(1, 64, Coherence::Coherent);
    let ranges = [
        dmakit_dma::BusRange {
            phys: phys(HIGH, 0x1000),
            dma: DmaAddr::new(0),
        },
        dmakit_dma::BusRange {
            phys: phys(LOW, rig::RAM_BYTES),
            dma: DmaAddr::new(0x1000_0000),
        },
    ];
    info.bus = dmakit_dma::BusMap::new(&ranges).unwrap();
    let device = rig.attach(info, PathKind::Needed);
    let mapping = device.map::<ToDevice>(filled(&rig, 64, 0, true), NONE);
    let mapping = match mapping {
        Ok(mapping) => mapping,
        Err(failure) => panic!("{failure}"),
    };
    assert_eq!(mapping.direction(), Direction::ToDevice);
    device.unmap_and_sync(mapping).unwrap();
}

#[test]
fn slots_that_the_bus_does_not_show_are_given_back() {
    let rig = Rig::coherent(26);
    let (_, mut info) = rig.device(1, 64, Coherence::Coherent);
    let high = phys(HIGH, rig::RAM_BYTES);
    // No offset, and a mask that the pool's slots pass: only the bus map knows better.
    let ranges = [dmakit_dma::BusRange {
        phys: high,
        dma: DmaAddr::new(HIGH),
    }];
    info.bus = dmakit_dma::BusMap::new(&ranges).unwrap();
    let device = rig.attach(info, PathKind::Always);
    let refused = device
        .map::<ToDevice>(filled(&rig, 64, 0, true), NONE)
        .unwrap_err();
    assert!(
        matches!(refused.error, MapError::PoolOutOfReach { .. }),
        "{refused}"
    );
    assert_eq!((rig.pool.used(), device.stats().bounced), (0, 0));
    assert_eq!(device.stats().failed.unreachable, 1);
}

/// A token that did not compile here could not go to the interrupt handler that ends it.
#[test]
fn tokens_can_be_sent_and_devices_shared() {
    fn sent<T: Send>() {}
    fn shared<T: Sync>() {}
    sent::<Mapping<FromDevice>>();
    sent::<Mapping<Bidirectional, ScatterList<Vec<CpuBuffer>>>>();
    sent::<dmakit_dma::CpuMapping<Bidirectional>>();
    sent::<dmakit_dma::Debt<CpuBuffer>>();
    sent::<dmakit_dma::Coherent<u64>>();
    shared::<Device<'static, Forgetful>>();
    shared::<dmakit_dma::DmaPool<Forgetful, [dmakit_dma::PoolChunk; 1]>>();
    shared::<dmakit_dma::CoherentPool<Forgetful, [dmakit_dma::PageChunk; 1]>>();
}

#[test]
fn threads_map_and_unmap_for_each_other() {
    let rig = Rig::coherent(27);
    let (_, device) = device(&rig, PathKind::Needed);
    let (send, receive) = std::sync::mpsc::channel();
    let buffers: Vec<_> = (0..64)
        .map(|i| filled(&rig, 100 + i, 1, i % 2 == 0))
        .collect();
    std::thread::scope(|scope| {
        let device = &device;
        scope.spawn(move || {
            for buffer in buffers {
                send.send(device.map::<Bidirectional>(buffer, NONE).unwrap())
                    .unwrap();
            }
        });
        scope.spawn(move || {
            for mapping in receive {
                let len = mapping.len();
                let buffer = device.unmap_and_sync(mapping).unwrap();
                assert_eq!(bytes_of(&buffer), pattern(1, len));
            }
        });
    });
    assert_eq!((device.stats().mapped, device.stats().live()), (64, 0));
}
