//! What lies in slots, and what does not get there.
// A refused token comes back in the error, and tokens own their memory.
#![allow(clippy::result_large_err)]

mod rig;

use std::panic::{AssertUnwindSafe, catch_unwind};

use dmakit_addr::{Attributes, Bidirectional, Direction, DmaAddr, DmaMask, FromDevice, ToDevice};
use dmakit_dma::{BounceCause, Coherence, DeviceInfo, MapError, TokenError, Trust};
use rig::{HIGH, LOW, PathKind, Rig, bytes_of, pattern, phys};

const NONE: Attributes = Attributes::NONE;

#[test]
fn memory_out_of_reach_bounces_or_is_refused_with_its_numbers() {
    let rig = Rig::coherent(5);
    for path in [PathKind::Direct, PathKind::Needed] {
        let (sim, device) = rig.ready_with(path, 32, |_| {});
        let buffer = rig.filled(300, 5, true);
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
fn untrusted_devices_get_no_page_that_holds_anything_else() {
    let rig = Rig::coherent(7);
    let untrusted = |info: &mut DeviceInfo<'_>| info.trust = Trust::Untrusted;
    let (_, device) = rig.ready_with(PathKind::Needed, 64, untrusted);
    for (len, offset, bounces) in [
        (4096, 0, false),
        (8192, 0, false),
        (4095, 0, true),
        (4096, 64, true),
    ] {
        let mapping = device
            .map::<ToDevice>(rig.filled(len, offset, false), NONE)
            .unwrap();
        assert_eq!(mapping.is_bounced(), bounces, "{len} bytes at {offset}");
        device.unmap_and_sync(mapping).unwrap();
    }
    let (_, bare) = rig.ready_with(PathKind::Direct, 64, untrusted);
    let refused = bare
        .map::<ToDevice>(rig.filled(1, 0, false), NONE)
        .unwrap_err();
    let cause = BounceCause::SharedPage {
        run: refused.memory.runs().next().unwrap(),
    };
    assert_eq!(refused.error, MapError::NoBouncePool(cause));
}

#[test]
fn an_untrusted_device_reads_no_old_bytes_and_only_checked_ones_come_back() {
    let rig = Rig::coherent(8);
    let (sim, device) = rig.ready_with(PathKind::Needed, 64, |info| {
        info.trust = Trust::Untrusted;
    });
    let mapping = device
        .map::<FromDevice>(rig.filled(200, 3, false), NONE)
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
    let (sim, device) = rig.ready(PathKind::Always);
    let mapping = device
        .map::<FromDevice>(rig.filled(200, 3, false), NONE)
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
    let (_, device) = rig.ready(PathKind::Direct);
    let mapping = device
        .map::<FromDevice>(rig.filled(64, 0, false), NONE)
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
    let (_, device) = rig.ready(PathKind::Needed);
    let panics = AssertUnwindSafe(|| {
        let mut bytes = [0; 64];
        device.bounce_from_device::<FromDevice, ()>(&mut bytes, NONE, |_| panic!("in the driver"))
    });
    catch_unwind(panics).unwrap_err();
    assert_eq!(device.stats().live(), 1);
    assert!(rig.pool.used() > 0, "the device may still write there");
}

#[test]
fn a_full_pool_refuses_and_nothing_has_changed() {
    let rig = Rig::coherent(24);
    let (_, device) = rig.ready(PathKind::Always);
    let mut held = Vec::new();
    let refused = loop {
        match device.map::<Bidirectional>(rig.filled(256 << 10, 0, false), NONE) {
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
    let mapping = device.map::<ToDevice>(rig.filled(64, 0, true), NONE);
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
        .map::<ToDevice>(rig.filled(64, 0, true), NONE)
        .unwrap_err();
    assert!(
        matches!(refused.error, MapError::PoolOutOfReach { .. }),
        "{refused}"
    );
    assert_eq!((rig.pool.used(), device.stats().bounced), (0, 0));
    assert_eq!(device.stats().failed.unreachable, 1);
}
