//! Pools that come and go.

#[path = "lockstep/machine.rs"]
mod machine;

use dmakit_addr::{PhysAddr, ToDevice};
use dmakit_swiotlb::{
    BounceBuffer, BounceConfig, BouncePool, DeviceId, DeviceLimits, Lifetime, MapError, MapRequest,
    Sharing,
};
use machine::{Blocks, Machine, at_ms, device_bytes, growth, machine};
use std::sync::atomic::Ordering;

const MIB: u64 = 1 << 20;

type Set<'a> = BouncePool<Machine, &'a Blocks>;

fn shared() -> BounceConfig {
    BounceConfig {
        sharing: Sharing::Shared,
        credit_batch: 0,
        ..BounceConfig::default()
    }
}

fn map(
    set: &Set<'_>,
    device: DeviceId,
    len: u64,
    lifetime: Lifetime,
) -> Result<BounceBuffer<ToDevice>, MapError> {
    let source = vec![0x77; len as usize];
    let request = MapRequest {
        lifetime,
        ..MapRequest::whole(PhysAddr::new(0), len)
    };
    set.map(device, &DeviceLimits::default(), &source[..], &request)
}

/// Maps blocks of 64 KiB until `bytes` are live, letting the pools grow as they ask for it.
fn burst(set: &Set<'_>, device: DeviceId, bytes: u64) -> Vec<BounceBuffer<ToDevice>> {
    (0..bytes / 65536)
        .map(|_| {
            let mapped = map(set, device, 65536, Lifetime::Brief).unwrap();
            set.maintain(at_ms(0), 4);
            mapped
        })
        .collect()
}

#[test]
fn a_burst_is_served_and_its_memory_given_back() {
    let (machine, _ram, first, blocks) = machine(MIB, 12, MIB);
    let at_home = blocks.free_count();
    let set = BouncePool::growing(machine, first, &shared(), growth(), &blocks).unwrap();
    let device = set.attach(None).unwrap();
    let live = burst(&set, device, 8 * MIB);
    let full = set.statistics();
    assert_eq!(full.failures, Default::default());
    let grown = full.pool_bytes - MIB - growth().reserve;
    assert!(grown >= 6 * MIB, "{full:?}");
    for mapped in live {
        set.unmap_unsynced(mapped).unwrap();
    }
    // Two windows: the first still saw the burst.
    assert_eq!(set.maintain(at_ms(100), 64).shrunk_bytes, 0);
    set.maintain(at_ms(200), 64);
    let after = set.statistics();
    assert_eq!(after.pool_bytes, MIB + growth().reserve, "{after:?}");
    assert_eq!((after.used, after.mapped, after.unmapped), (0, 128, 128));
    assert_eq!(after.pool_bytes_high, full.pool_bytes);
    assert_eq!(blocks.free_count(), at_home - 1);
    assert_eq!(set.device_statistics(device).mapped, 128);
}

#[test]
fn a_draining_pool_takes_no_new_mapping() {
    let (machine, _ram, first, blocks) = machine(MIB, 4, MIB);
    let set = BouncePool::growing(machine, first, &shared(), growth(), &blocks).unwrap();
    let device = set.attach(None).unwrap();
    let mut live = burst(&set, device, 2 * MIB - 65536);
    // One mapping stays in the grown pool and keeps it draining.
    let is_grown = |mapped: &BounceBuffer<ToDevice>| mapped.start().raw() >= machine::GROWN;
    let index = live
        .iter()
        .position(|m| is_grown(m) && !m.is_transient())
        .unwrap();
    let stays = live.swap_remove(index);
    live.into_iter()
        .for_each(|m| set.unmap_unsynced(m).unwrap());
    set.maintain(at_ms(100), 64);
    let maintained = set.maintain(at_ms(200), 64);
    assert_eq!(maintained.draining, 1);
    let mut held = Vec::new();
    while let Ok(mapped) = map(&set, device, 65536, Lifetime::Brief) {
        assert!(!is_grown(&mapped) || mapped.is_transient());
        held.push(mapped);
    }
    // Where room is wanted again, it is opened instead of more memory being fetched.
    let before = set.statistics().pool_bytes;
    set.maintain(at_ms(210), 64);
    let again = map(&set, device, 65536, Lifetime::Brief).unwrap();
    assert!(is_grown(&again) && !again.is_transient());
    assert_eq!(set.statistics().pool_bytes, before);
    held.extend([stays, again]);
    held.into_iter()
        .for_each(|m| set.unmap_unsynced(m).unwrap());
}

#[test]
fn long_lived_mappings_do_not_pin_grown_pools() {
    let (machine, _ram, first, blocks) = machine(MIB, 8, MIB);
    let set = BouncePool::growing(machine, first, &shared(), growth(), &blocks).unwrap();
    let device = set.attach(None).unwrap();
    let brief = burst(&set, device, 3 * MIB);
    // The burst went on until everything was full, then one brief mapping ends in the first pool.
    let (in_first, grown): (Vec<_>, Vec<_>) = brief
        .into_iter()
        .partition(|mapped| mapped.start().raw() < machine::GROWN);
    in_first
        .into_iter()
        .for_each(|m| set.unmap_unsynced(m).unwrap());
    let long = map(&set, device, 65536, Lifetime::Long).unwrap();
    let brief = map(&set, device, 65536, Lifetime::Brief).unwrap();
    assert!(long.start().raw() < machine::GROWN);
    grown
        .into_iter()
        .for_each(|m| set.unmap_unsynced(m).unwrap());
    set.unmap_unsynced(brief).unwrap();
    set.maintain(at_ms(100), 64);
    set.maintain(at_ms(200), 64);
    assert_eq!(set.statistics().pool_bytes, MIB + growth().reserve);
    set.unmap_unsynced(long).unwrap();
}

#[test]
fn a_request_that_cannot_wait_is_served_from_the_reserve_wherever_it_must_start() {
    let (machine, _ram, first, blocks) = machine(MIB, 2, MIB);
    let set = BouncePool::growing(machine, first, &shared(), growth(), &blocks).unwrap();
    let device = set.attach(None).unwrap();
    let all = map(&set, device, MIB, Lifetime::Brief).unwrap();
    let limits = DeviceLimits {
        min_align: dmakit_addr::AlignMask::new(4095).unwrap(),
        ..DeviceLimits::default()
    };
    // Three slots that must begin at the second half of a page.
    let source = vec![1; 4096];
    let request = MapRequest::whole(PhysAddr::new(0x1e00), 4096);
    let odd = set
        .map::<ToDevice, _>(device, &limits, &source[..], &request)
        .unwrap();
    assert!(odd.is_transient());
    assert_eq!(odd.start().raw() & 4095, 0xe00);
    assert_eq!(set.statistics().transient_used, 3);
    assert!(set.maintain(at_ms(1), 1).grown_bytes > 0);
    let next = map(&set, device, 4096, Lifetime::Brief).unwrap();
    assert!(!next.is_transient());
    for mapped in [all, odd, next] {
        set.unmap_unsynced(mapped).unwrap();
    }
}

#[test]
fn frames_of_8_and_34_mib_are_served_by_growth() {
    for len in [8 * MIB, 34 * MIB] {
        let (machine, _ram, first, blocks) = machine(MIB, 3, 40 * MIB);
        let config = dmakit_swiotlb::GrowthConfig {
            bytes_max: 64 * MIB,
            ..growth()
        };
        let set = BouncePool::growing(machine, first, &shared(), config, &blocks).unwrap();
        let device = set.attach(None).unwrap();
        assert!(matches!(
            map(&set, device, len, Lifetime::Brief),
            Err(MapError::Full(_))
        ));
        assert!(set.maintain(at_ms(0), 1).grown_bytes >= len);
        let frame = map(&set, device, len, Lifetime::Brief).unwrap();
        assert_eq!(frame.len(), len);
        set.unmap_unsynced(frame).unwrap();
    }
}

#[test]
fn the_hard_maximum_is_never_passed() {
    let (machine, _ram, first, blocks) = machine(MIB, 12, MIB);
    let config = dmakit_swiotlb::GrowthConfig {
        bytes_max: 3 * MIB,
        ..growth()
    };
    let set = BouncePool::growing(machine, first, &shared(), config, &blocks).unwrap();
    let device = set.attach(None).unwrap();
    let mut live = Vec::new();
    while let Ok(mapped) = map(&set, device, 65536, Lifetime::Brief) {
        live.push(mapped);
        set.maintain(at_ms(0), 4);
        assert!(set.statistics().pool_bytes <= 3 * MIB);
    }
    assert_eq!(set.statistics().pool_bytes, 3 * MIB);
    set.maintain(at_ms(1), 4);
    assert!(set.statistics().growth_refused > 0);
    let refused = map(&set, device, 65536, Lifetime::Brief).unwrap_err();
    match refused {
        MapError::Full(full) => assert_eq!((full.slots, full.total), (32, 3 * 512)),
        other => panic!("{other}"),
    }
    live.into_iter()
        .for_each(|m| set.unmap_unsynced(m).unwrap());
}

#[test]
fn memory_whose_sharing_failed_is_never_used_nor_freed() {
    let (machine, _ram, first, blocks) = machine(MIB, 4, MIB);
    let faults = machine.faults.clone();
    let at_home = blocks.free_count();
    let set = BouncePool::growing(machine, first, &shared(), growth(), &blocks).unwrap();
    let device = set.attach(None).unwrap();
    let all = map(&set, device, MIB, Lifetime::Brief).unwrap();
    let fill = |set: &Set<'_>| map(set, device, 65536, Lifetime::Brief).unwrap();
    let one = fill(&set);
    faults.conversion.store(1, Ordering::Relaxed);
    assert_eq!(set.maintain(at_ms(0), 4).grown_bytes, 0);
    assert_eq!(set.statistics().quarantined_bytes, MIB);
    let two = fill(&set);
    assert!(two.is_transient());
    assert_eq!(set.maintain(at_ms(1), 4).grown_bytes, MIB);
    for mapped in [all, one, two] {
        set.unmap_unsynced(mapped).unwrap();
    }
    faults.conversion.store(1, Ordering::Relaxed);
    set.maintain(at_ms(100), 4);
    assert_eq!(set.maintain(at_ms(200), 4).shrunk_bytes, 0);
    let after = set.statistics();
    assert_eq!(after.quarantined_bytes, 2 * MIB);
    assert_eq!(after.pool_bytes, MIB + growth().reserve);
    assert_eq!(blocks.free_count(), at_home - 3);
}

#[test]
fn growth_takes_less_where_a_whole_step_cannot_be_had() {
    let (machine, _ram, first, blocks) = machine(MIB, 4, MIB / 2);
    let set = BouncePool::growing(machine, first, &shared(), growth(), &blocks).unwrap();
    let device = set.attach(None).unwrap();
    let all = map(&set, device, MIB, Lifetime::Brief).unwrap();
    let one = map(&set, device, 4096, Lifetime::Brief).unwrap();
    assert_eq!(set.maintain(at_ms(0), 1).grown_bytes, MIB / 2);
    for mapped in [all, one] {
        set.unmap_unsynced(mapped).unwrap();
    }
}

#[test]
fn pools_are_zero_to_the_host_before_the_first_mapping() {
    let (machine, ram, first, blocks) = machine(MIB, 2, MIB);
    first.window().fill(0x5a);
    let set = BouncePool::growing(machine.clone(), first, &shared(), growth(), &blocks).unwrap();
    let device = set.attach(None).unwrap();
    assert_eq!(
        device_bytes(&ram, PhysAddr::new(machine::FIRST), MIB),
        vec![0; MIB as usize]
    );
    let all = map(&set, device, MIB, Lifetime::Brief).unwrap();
    let one = map(&set, device, 4096, Lifetime::Brief).unwrap();
    set.maintain(at_ms(0), 1);
    for (start, len) in machine.faults.shared.lock().unwrap().iter() {
        if *start == machine::FIRST {
            continue;
        }
        let bytes = device_bytes(&ram, PhysAddr::new(*start), *len);
        assert!(bytes.iter().all(|byte| [0, 0x77].contains(byte)));
    }
    for mapped in [all, one] {
        set.unmap_unsynced(mapped).unwrap();
    }
}

#[test]
fn a_grown_mapping_is_found_by_its_address() {
    let (machine, _ram, first, blocks) = machine(MIB, 8, MIB);
    let set = BouncePool::growing(machine, first, &shared(), growth(), &blocks).unwrap();
    let device = set.attach(None).unwrap();
    for mapped in burst(&set, device, 6 * MIB) {
        let middle = PhysAddr::new(mapped.start().raw() + 40_000);
        let found = set.find(middle).unwrap();
        assert_eq!((found.start, found.len), (mapped.start(), 65536));
        let address = set.into_address(mapped).unwrap();
        let claimed = set.claim::<ToDevice>(address).unwrap();
        set.unmap_unsynced(claimed).unwrap();
        assert_eq!(set.find(middle), None);
    }
}

#[test]
fn taken_apart_every_segment_goes_home_and_not_before_it_is_idle() {
    let (machine, _ram, first, blocks) = machine(MIB, 4, MIB);
    let faults = machine.faults.clone();
    let at_home = blocks.free_count();
    let set = BouncePool::growing(machine, first, &shared(), growth(), &blocks).unwrap();
    let device = set.attach(None).unwrap();
    let mut live = burst(&set, device, 2 * MIB);
    let last = live.pop().unwrap();
    live.into_iter()
        .for_each(|m| set.unmap_unsynced(m).unwrap());
    let busy = set.dismantle().unwrap_err();
    assert_eq!(busy.used, 32);
    busy.pools.unmap_unsynced(last).unwrap();
    let segment = busy.pools.dismantle().unwrap().unwrap();
    assert_eq!(segment.range().start().raw(), machine::FIRST);
    assert_eq!(blocks.free_count(), at_home);
    assert!(faults.shared.lock().unwrap().is_empty());
}
