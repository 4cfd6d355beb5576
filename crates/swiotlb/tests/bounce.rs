//! What a mapping does to bytes.

#[path = "lockstep/machine.rs"]
mod machine;

use dmakit_addr::{
    AlignMask, Bidirectional, BoundaryMask, DmaMask, FromDevice, PhysAddr, ToDevice,
};
use dmakit_swiotlb::{
    AttachError, BounceConfig, BouncePool, DeviceLimits, Lifetime, MapError, MapRequest, NotMapped,
    Purpose, ReserveError, Trust,
};
use machine::{at_ms, device_bytes, device_writes, fixed};

const MIB: u64 = 1 << 20;

fn untrusted() -> DeviceLimits {
    DeviceLimits {
        trust: Trust::Untrusted,
        ..DeviceLimits::default()
    }
}

fn nvme() -> DeviceLimits {
    DeviceLimits {
        min_align: AlignMask::new(4095).unwrap(),
        ..DeviceLimits::default()
    }
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|index| (index * 7 + 13) as u8).collect()
}

#[test]
fn a_device_that_writes_nothing_leaves_the_original_as_it_was() {
    let (pool, _ram) = fixed(MIB, &BounceConfig::default());
    let device = pool.attach(None).unwrap();
    let mut original = bytes(5000);
    let request = MapRequest::whole(PhysAddr::new(0x1000), 5000);
    let limits = DeviceLimits::default();
    let mapped = pool.map::<FromDevice, _>(device, &limits, &original[..], &request);
    pool.unmap(mapped.unwrap(), &mut original[..]).unwrap();
    assert_eq!(original, bytes(5000));
}

#[test]
fn what_the_device_writes_arrives_and_what_it_only_reads_does_not() {
    let (pool, ram) = fixed(MIB, &BounceConfig::default());
    let device = pool.attach(None).unwrap();
    let (limits, request) = (
        DeviceLimits::default(),
        MapRequest::whole(PhysAddr::new(0), 100),
    );
    let mut original = bytes(100);
    let read = pool
        .map::<ToDevice, _>(device, &limits, &original[..], &request)
        .unwrap();
    let write = pool
        .map::<Bidirectional, _>(device, &limits, &original[..], &request)
        .unwrap();
    assert_eq!(device_bytes(&ram, read.start(), 100), original);
    device_writes(&ram, read.start(), &[0xee; 100]);
    device_writes(&ram, write.start(), &[0xdd; 10]);
    pool.unmap(read, &mut original[..]).unwrap();
    assert_eq!(original, bytes(100));
    pool.unmap(write, &mut original[..]).unwrap();
    assert_eq!(original[..10], [0xdd; 10]);
    assert_eq!(original[10..], bytes(100)[10..]);
}

#[test]
fn padding_and_tail_show_nothing_of_who_was_there_before() {
    let (pool, ram) = fixed(MIB, &BounceConfig::default());
    let device = pool.attach(None).unwrap();
    let dirty = vec![0x5a; MIB as usize];
    let request = MapRequest::whole(PhysAddr::new(0), MIB);
    let all = pool
        .map::<ToDevice, _>(device, &nvme(), &dirty[..], &request)
        .unwrap();
    pool.unmap_unsynced(all).unwrap();
    for (limits, original) in [(nvme(), 0x1e00), (untrusted(), 0x1e00), (nvme(), 0)] {
        let request = MapRequest {
            align: AlignMask::new(4095).unwrap(),
            ..MapRequest::whole(PhysAddr::new(original), 0x300)
        };
        let source = bytes(0x300);
        let mapped = pool
            .map::<ToDevice, _>(device, &limits, &source[..], &request)
            .unwrap();
        let offset = original & limits.min_align.raw();
        let start = PhysAddr::new(mapped.start().raw() - offset);
        let seen = device_bytes(&ram, start, (offset + 0x300).next_multiple_of(4096));
        let (padding, rest) = seen.split_at(offset as usize);
        assert!(padding.iter().chain(&rest[0x300..]).all(|byte| *byte == 0));
        assert_eq!(rest[..0x300], source);
        pool.unmap_unsynced(mapped).unwrap();
    }
}

#[test]
fn an_untrusted_device_sees_zeroes_and_is_believed_only_where_validated() {
    let (pool, ram) = fixed(MIB, &BounceConfig::default());
    let device = pool.attach(None).unwrap();
    let mut original = bytes(1000);
    let request = MapRequest::whole(PhysAddr::new(0x800), 1000);
    let mapped = pool.map::<FromDevice, _>(device, &untrusted(), &original[..], &request);
    let mapped = mapped.unwrap();
    assert_eq!(device_bytes(&ram, mapped.start(), 1000), [0; 1000]);
    device_writes(&ram, mapped.start(), &[0xcc; 1000]);
    pool.unmap_validated(mapped, &mut original[..], 64).unwrap();
    assert_eq!(original[..64], [0xcc; 64]);
    assert_eq!(original[64..], bytes(1000)[64..]);
}

#[test]
fn a_sync_moves_its_part_and_no_other_byte() {
    let (pool, ram) = fixed(MIB, &BounceConfig::default());
    let device = pool.attach(None).unwrap();
    let mut original = bytes(9000);
    let request = MapRequest {
        offset: 500,
        ..MapRequest::whole(PhysAddr::new(0x1e01), 8000)
    };
    let mapped = pool
        .map::<Bidirectional, _>(device, &nvme(), &original[..], &request)
        .unwrap();
    assert_eq!(mapped.start().raw() & 4095, 0xe01);
    device_writes(&ram, mapped.start(), &[0xbb; 8000]);
    pool.sync_for_cpu(&mapped, &mut original[..], 0, 3).unwrap();
    pool.sync_for_cpu(&mapped, &mut original[..], 2047, 2)
        .unwrap();
    let mut expected = bytes(9000);
    for index in [500, 501, 502, 2547, 2548] {
        expected[index] = 0xbb;
    }
    assert_eq!(original, expected);
    pool.sync_for_device(&mapped, &original[..], 7990, 10)
        .unwrap();
    let seen = device_bytes(&ram, mapped.start(), 8000);
    assert_eq!(seen[..7990], [0xbb; 7990]);
    assert_eq!(seen[7990..], expected[8490..8500]);
    assert!(
        pool.sync_for_cpu(&mapped, &mut original[..], 7999, 2)
            .is_err()
    );
    assert!(
        pool.sync_for_cpu(&mapped, &mut original[..], u64::MAX, 2)
            .is_err()
    );
    pool.unmap_unsynced(mapped).unwrap();
    assert_eq!(original, expected);
}

#[test]
fn unmapping_uses_what_was_recorded_not_what_the_device_says_now() {
    let (pool, ram) = fixed(MIB, &BounceConfig::default());
    let device = pool.attach(Some(64)).unwrap();
    let mut limits = nvme();
    let mut original = bytes(4096);
    let request = MapRequest::whole(PhysAddr::new(0x1e00), 4096);
    let mapped = pool
        .map::<FromDevice, _>(device, &limits, &original[..], &request)
        .unwrap();
    limits.min_align = AlignMask::NONE;
    let other = pool
        .map::<FromDevice, _>(device, &limits, &original[..], &request)
        .unwrap();
    device_writes(&ram, mapped.start(), &[1; 4096]);
    pool.unmap(mapped, &mut original[..]).unwrap();
    assert_eq!(original, [1; 4096]);
    pool.unmap_unsynced(other).unwrap();
    assert_eq!(pool.statistics().used, 0);
    pool.detach(device).unwrap();
}

#[test]
fn masks_boundaries_and_the_bus_offset_are_kept() {
    let (pool, _ram) = fixed(MIB, &BounceConfig::default());
    let device = pool.attach(None).unwrap();
    let source = bytes(65536);
    let request = MapRequest::whole(PhysAddr::new(0), 65536);
    // The pool lies at 0x7000_0000: through the bus offset its second half is past the mask.
    let limits = DeviceLimits {
        dma_offset: 0x8000_0000_u64.wrapping_sub(0x7000_0000),
        mask: DmaMask::up_to(0x8007_ffff),
        boundary: BoundaryMask::of_size(0x2_0000).unwrap(),
        ..DeviceLimits::default()
    };
    let mut live = Vec::new();
    loop {
        match pool.map::<ToDevice, _>(device, &limits, &source[..], &request) {
            Ok(mapped) => live.push(mapped),
            Err(error) => {
                assert!(matches!(error, MapError::Full(full) if full.slots == 32));
                break;
            }
        }
    }
    assert_eq!(live.len(), 8);
    for mapped in live {
        let start = mapped.start().raw() + 0x1000_0000;
        assert!(start + 65535 <= 0x8007_ffff);
        assert_eq!(start & !0x1_ffff, (start + 65535) & !0x1_ffff);
        pool.unmap_unsynced(mapped).unwrap();
    }
    let low = DeviceLimits {
        mask: DmaMask::bits(24).unwrap(),
        ..DeviceLimits::default()
    };
    let refused = pool.map::<ToDevice, _>(device, &low, &source[..], &request);
    assert_eq!(
        refused.unwrap_err(),
        MapError::Unreachable { limit: 0xff_ffff }
    );
    assert_eq!(pool.statistics().failures.unreachable, 1);
}

#[test]
fn a_quota_is_charged_with_padding_and_refunded() {
    let (pool, _ram) = fixed(MIB, &BounceConfig::default());
    let device = pool.attach(Some(4)).unwrap();
    let source = bytes(4096);
    let request = MapRequest::whole(PhysAddr::new(0x1e00), 4096);
    let mapped = pool
        .map::<ToDevice, _>(device, &nvme(), &source[..], &request)
        .unwrap();
    let refused = pool.map::<ToDevice, _>(device, &nvme(), &source[..], &request);
    match refused.unwrap_err() {
        MapError::Quota(exceeded) => {
            assert_eq!(
                (exceeded.slots, exceeded.charged, exceeded.quota),
                (3, 3, 4)
            );
        }
        other => panic!("{other}"),
    }
    assert_eq!(pool.detach(device), Err(AttachError::Busy { slots: 3 }));
    pool.unmap_unsynced(mapped).unwrap();
    assert!(
        pool.map::<ToDevice, _>(device, &nvme(), &source[..], &request)
            .is_ok()
    );
    assert_eq!(pool.device_statistics(device).refused, 1);
}

#[test]
fn a_mapping_of_other_pools_comes_back_untouched() {
    let (ours, _) = fixed(MIB, &BounceConfig::default());
    let range = dmakit_addr::PhysRange::new(PhysAddr::new(0x2_0000_0000), MIB).unwrap();
    let (_, mut segments) = dmakit_platform::host::HostRam::new(&[range]).unwrap();
    let theirs = BouncePool::new(
        dmakit_platform::host::HostPlatform::new(1),
        segments.pop().unwrap(),
        &BounceConfig::default(),
    )
    .unwrap();
    let device = theirs.attach(None).unwrap();
    let mut source = bytes(10);
    let request = MapRequest::whole(PhysAddr::new(0), 10);
    let limits = DeviceLimits::default();
    let mapped = theirs.map::<Bidirectional, _>(device, &limits, &source[..], &request);
    let foreign = ours.unmap(mapped.unwrap(), &mut source[..]).unwrap_err();
    theirs.unmap(foreign.0, &mut source[..]).unwrap();
    assert_eq!(theirs.statistics().used, 0);
}

#[test]
fn a_dropped_mapping_leaks_and_is_counted() {
    let (pool, _ram) = fixed(MIB, &BounceConfig::default());
    let device = pool.attach(None).unwrap();
    let request = MapRequest::whole(PhysAddr::new(0), 10);
    let limits = DeviceLimits::default();
    drop(pool.map::<ToDevice, _>(device, &limits, &bytes(10)[..], &request));
    assert_eq!(pool.statistics().used, 1);
    assert_eq!(pool.device_statistics(device).used, 1);
    assert_eq!(pool.detach(device), Err(AttachError::Busy { slots: 1 }));
}

#[test]
fn an_address_is_claimed_once_and_only_in_its_direction() {
    let (pool, _ram) = fixed(MIB, &BounceConfig::default());
    let device = pool.attach(None).unwrap();
    let mut source = bytes(9000);
    let request = MapRequest::whole(PhysAddr::new(0x1e00), 9000);
    let mapped = pool
        .map::<FromDevice, _>(device, &nvme(), &source[..], &request)
        .unwrap();
    let start = mapped.start();
    assert!(
        pool.claim::<FromDevice>(start).is_err(),
        "the token is still held"
    );
    assert_eq!(pool.into_address(mapped).unwrap(), start);
    assert!(pool.claim::<ToDevice>(start).is_err());
    let inside = PhysAddr::new(start.raw() + 5000);
    let found = pool.find(inside).unwrap();
    assert_eq!(
        (found.start, found.len, found.device),
        (start, 9000, device)
    );
    assert_eq!(
        pool.claim::<FromDevice>(inside).unwrap_err(),
        NotMapped { address: inside }
    );
    let claimed = pool.claim::<FromDevice>(start).unwrap();
    assert!(pool.claim::<FromDevice>(start).is_err());
    pool.unmap(claimed, &mut source[..]).unwrap();
    assert_eq!(pool.find(inside), None);
}

#[test]
fn coherent_slots_are_zeroed_and_naturally_aligned() {
    let (pool, ram) = fixed(MIB, &BounceConfig::default());
    let device = pool.attach(Some(512)).unwrap();
    let limits = DeviceLimits::default();
    let dirty = vec![0x5a; MIB as usize];
    let request = MapRequest::whole(PhysAddr::new(0), MIB);
    let all = pool
        .map::<ToDevice, _>(device, &limits, &dirty[..], &request)
        .unwrap();
    pool.unmap_unsynced(all).unwrap();
    let odd = pool.alloc_coherent(device, &limits, 1).unwrap();
    let slots = pool.alloc_coherent(device, &limits, 65537).unwrap();
    assert_eq!(slots.start().raw() % 0x2_0000, 0);
    assert_eq!(device_bytes(&ram, slots.start(), 0x1_1000), [0; 0x1_1000]);
    assert_eq!(pool.coherent_window(&slots).unwrap().len(), 65537);
    pool.free_coherent(slots).unwrap();
    pool.free_coherent(odd).unwrap();
    pool.detach(device).unwrap();
}

#[test]
fn failure_leaves_no_trace() {
    let (pool, _ram) = fixed(MIB, &BounceConfig::default());
    let device = pool.attach(Some(600)).unwrap();
    let source = vec![0; 2 * MIB as usize];
    let limits = DeviceLimits::default();
    let before = pool.statistics();
    let whole = |len| MapRequest::whole(PhysAddr::new(0), len);
    let fail = |limits: &DeviceLimits, request: &MapRequest| {
        pool.map::<ToDevice, _>(device, limits, &source[..], request)
            .unwrap_err()
    };
    assert_eq!(fail(&limits, &whole(0)), MapError::Empty);
    assert_eq!(
        fail(&limits, &whole(MIB + 1)),
        MapError::TooLarge { len: MIB + 2048 }
    );
    let beyond = MapRequest {
        offset: u64::MAX,
        ..whole(2)
    };
    assert!(matches!(
        fail(&limits, &beyond),
        MapError::OutOfSource { .. }
    ));
    let coarse = MapRequest {
        align: AlignMask::new(0x1_ffff).unwrap(),
        ..whole(10)
    };
    assert_eq!(
        fail(&limits, &coarse),
        MapError::Alignment { mask: 0x1_ffff }
    );
    let narrow = DeviceLimits {
        boundary: BoundaryMask::of_size(512).unwrap(),
        ..limits
    };
    assert!(matches!(
        fail(&narrow, &whole(513)),
        MapError::Boundary { .. }
    ));
    assert!(matches!(
        fail(&limits, &whole(1300 * 1024)),
        MapError::Quota(_)
    ));
    let after = pool.statistics();
    assert_eq!((before.used, before.mapped), (after.used, after.mapped));
    pool.detach(device).unwrap();
    let gone = pool.map::<ToDevice, _>(device, &limits, &source[..], &whole(1));
    assert_eq!(gone.unwrap_err(), MapError::UnknownDevice(device));
}

#[test]
fn a_throttled_caller_has_room_for_all_or_for_nothing() {
    let (pool, _ram) = fixed(MIB, &BounceConfig::default());
    let device = pool.attach(None).unwrap();
    let (limits, source) = (DeviceLimits::default(), bytes(4096));
    let request = MapRequest {
        lifetime: Lifetime::Brief,
        ..MapRequest::whole(PhysAddr::new(0), 4096)
    };
    assert_eq!(pool.slots_of(&limits, &request), Ok(2));
    let (now, deadline) = (at_ms(0), at_ms(10));
    let reserve = |slots, purpose, now| pool.try_reserve(slots, purpose, now, deadline);
    let too_much = reserve(449, Purpose::Ordinary, now).unwrap_err();
    assert_eq!(
        too_much,
        ReserveError::NeverFits {
            slots: 449,
            limit: 448
        }
    );
    let mut first = reserve(440, Purpose::Ordinary, now).unwrap();
    let busy = reserve(9, Purpose::Ordinary, now).unwrap_err();
    assert_eq!(busy, ReserveError::Busy { slots: 9, free: 8 });
    let late = reserve(9, Purpose::Ordinary, at_ms(11)).unwrap_err();
    assert_eq!(late, ReserveError::DeadlinePassed { slots: 9, free: 8 });
    // Reclaim's own I/O has a share that the others leave.
    let reclaim = reserve(64, Purpose::Reclaim, now).unwrap();
    let mapped = pool
        .map_reserved::<ToDevice, _>(&mut first, device, &limits, &source[..], &request)
        .unwrap();
    assert_eq!(first.slots(), 438);
    pool.release(first);
    pool.release(reclaim);
    pool.unmap_unsynced(mapped).unwrap();
    let mut little = reserve(1, Purpose::Ordinary, now).unwrap();
    let refused =
        pool.map_reserved::<ToDevice, _>(&mut little, device, &limits, &source[..], &request);
    assert_eq!(
        refused.unwrap_err(),
        MapError::Reserved { slots: 2, left: 1 }
    );
    pool.release(little);
    let all = reserve(448, Purpose::Ordinary, now).unwrap();
    pool.release(all);
}

#[test]
fn the_high_water_is_bounded_from_above_by_the_slack_it_names() {
    for (credit_batch, areas) in [(0, 1), (0, 4), (8, 4), (64, 2)] {
        let config = BounceConfig {
            areas,
            credit_batch,
            ..BounceConfig::default()
        };
        let (pool, _ram) = fixed(MIB, &config);
        let device = pool.attach(None).unwrap();
        let (limits, source) = (DeviceLimits::default(), bytes(6144));
        let request = MapRequest::whole(PhysAddr::new(0), 6144);
        let map = || {
            pool.map::<ToDevice, _>(device, &limits, &source[..], &request)
                .unwrap()
        };
        for _ in 0..3 {
            let live: Vec<_> = (0..20).map(|_| map()).collect();
            for mapped in live {
                pool.unmap_unsynced(mapped).unwrap();
            }
        }
        let statistics = pool.statistics();
        let (high, slack) = (statistics.used_high, statistics.used_high_slack);
        assert!((60..=60 + slack).contains(&high), "{high} of slack {slack}");
        assert_eq!(slack, 2 * u64::from(credit_batch * areas));
        assert_eq!(statistics.copied, 60 * 6144);
    }
}
