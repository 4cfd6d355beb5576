extern crate std;

use std::vec::Vec;

use dmakit_addr::DmaMask;
use dmakit_platform::host::HostPlatform;

use super::*;

const G: u64 = 4096;
const LOW: DmaMask = DmaMask::up_to((1 << 32) - 1);

struct On(u32);

impl CpuGuard for On {
    fn cpu(&self) -> CpuId {
        CpuId::new(self.0)
    }
}

type TestSpace = Space<HostPlatform, [CpuSlot<CpuCache>; 2]>;

fn space(start: u64, end: u64) -> TestSpace {
    let aperture = IovaRange::between(Iova::new(start), Iova::new(end)).unwrap();
    Space::new(Granule::K4, aperture, Policy::TopDown, Default::default()).unwrap()
}

fn pages(count: u64, limit: DmaMask) -> Request {
    Request {
        len: count * G,
        align: 1,
        limit,
    }
}

#[test]
fn address_zero_is_never_handed_out() {
    let space = space(0, 4 * G);
    let mut live = Vec::new();
    while let Ok(got) = space.alloc(&On(0), &pages(1, DmaMask::ALL)) {
        assert_ne!(got.range().start(), Iova::new(0));
        live.push(got);
    }
    assert_eq!(live.len(), 3);
}

#[test]
fn a_failed_low_request_leaves_high_blocks_in_the_caches() {
    let space = space(0, 1 << 40);
    let high: Vec<_> = (0..100)
        .map(|_| space.alloc(&On(1), &pages(1, DmaMask::ALL)).unwrap())
        .collect();
    let low = space.alloc(&On(0), &pages((1 << 19) + 1, LOW));
    assert!(
        low.is_err(),
        "granule 0 stands in the way of the 4 GiB that would be taken"
    );
    high.into_iter().for_each(|got| space.free(&On(1), got));
    let before = space.statistics();
    for _ in 0..10 {
        assert!(space.alloc(&On(1), &pages((1 << 19) + 1, LOW)).is_err());
    }
    assert_eq!(space.statistics().cached, before.cached);
    let again = space.alloc(&On(1), &pages(1, DmaMask::ALL)).unwrap();
    assert_eq!(space.statistics().hits, before.hits + 1);
    space.free(&On(1), again);
}

#[test]
fn a_larger_limit_serves_what_a_lower_one_could_not() {
    let space = space(0, 1 << 32);
    let isa = DmaMask::up_to((1 << 24) - 1);
    assert!(space.alloc(&On(0), &pages(8192, isa)).is_err());
    assert!(space.alloc(&On(0), &pages(8192, LOW)).is_ok());
}

#[test]
fn what_a_cache_holds_is_found_before_a_request_fails() {
    let space = space(G, 9 * G);
    let all: Vec<_> = (0..8)
        .map(|_| space.alloc(&On(0), &pages(1, DmaMask::ALL)).unwrap())
        .collect();
    all.into_iter().for_each(|got| space.free(&On(0), got));
    assert_eq!(space.statistics().free, 0);
    assert!(space.alloc(&On(0), &pages(4, DmaMask::ALL)).is_ok());
}

#[test]
fn another_cpu_gives_its_cache_back_when_it_comes_next() {
    let space = space(G, 9 * G);
    let all: Vec<_> = (0..8)
        .map(|_| space.alloc(&On(1), &pages(1, DmaMask::ALL)).unwrap())
        .collect();
    all.into_iter().for_each(|got| space.free(&On(1), got));
    assert!(space.alloc(&On(0), &pages(4, DmaMask::ALL)).is_err());
    let own = space.alloc(&On(1), &pages(1, DmaMask::ALL)).unwrap();
    assert!(space.alloc(&On(0), &pages(4, DmaMask::ALL)).is_ok());
    space.free(&On(1), own);
    space.flush_cpu(&On(1));
    assert_eq!(space.statistics().cached, 0);
}

#[test]
fn a_full_magazine_passes_to_the_cpu_that_runs_short() {
    let space = space(0, 1 << 40);
    let all: Vec<_> = (0..300)
        .map(|_| space.alloc(&On(0), &pages(1, DmaMask::ALL)).unwrap())
        .collect();
    all.into_iter().for_each(|got| space.free(&On(1), got));
    let before = space.statistics();
    let got = space.alloc(&On(0), &pages(1, DmaMask::ALL)).unwrap();
    let after = space.statistics();
    assert_eq!(before.free, after.free, "it came from the depot");
    assert_eq!(before.cached, after.cached + G);
    space.free(&On(0), got);
}

#[test]
fn a_reserve_that_fails_takes_nothing() {
    let space = space(0, 64 * G);
    let got = space.alloc(&On(0), &pages(1, DmaMask::ALL)).unwrap();
    space
        .reserve(IovaRange::new(Iova::new(10 * G), G).unwrap())
        .unwrap();
    let before = space.statistics();
    let error = space
        .reserve(IovaRange::new(Iova::new(2 * G), 100 * G).unwrap())
        .unwrap_err();
    let crate::ReserveCause::InUse(taken) = error.cause else {
        panic!("{error}");
    };
    assert!(taken.overlaps(&got.range()), "{error}");
    assert_eq!(space.statistics().free, before.free);
}

#[test]
fn a_window_that_only_a_depot_holds_can_be_reserved() {
    let space = space(0, 1 << 40);
    let all: Vec<_> = (0..192)
        .map(|_| space.alloc(&On(0), &pages(1, DmaMask::ALL)).unwrap())
        .collect();
    let first = all[0].range();
    all.into_iter().for_each(|got| space.free(&On(0), got));
    // The oldest of them are in the depot, the others are given back on demand.
    space.flush_cpu(&On(0));
    space.reserve(first).unwrap();
}

#[test]
fn a_reservation_of_another_space_is_counted_and_ignored() {
    let (one, other) = (space(G, 1 << 30), space(1 << 30, 1 << 31));
    let before = one.statistics();
    one.free(
        &On(0),
        other.alloc(&On(0), &pages(4096, DmaMask::ALL)).unwrap(),
    );
    let after = one.statistics();
    assert_eq!((after.free, after.refused), (before.free, 4096 * G));
}

#[test]
fn without_records_requests_fail_and_what_is_live_can_still_go_back() {
    let space = space(0, 1 << 48);
    let mut live = Vec::new();
    // Each needs a node of its own: half a node's worth, so that two never share a child.
    let error = loop {
        match space.alloc(&On(0), &pages(4096 + 1, DmaMask::ALL)) {
            Ok(got) => live.push(got),
            Err(error) => break error,
        }
    };
    assert_eq!(error.cause, AllocCause::Records);
    let free = space.statistics().free;
    assert!(space.alloc(&On(0), &pages(4096 + 1, DmaMask::ALL)).is_err());
    assert_eq!(space.statistics().free, free, "a failure takes nothing");
    space.maintain().unwrap();
    live.push(space.alloc(&On(0), &pages(4096 + 1, DmaMask::ALL)).unwrap());
    live.into_iter().for_each(|got| space.free(&On(0), got));
    assert_eq!(space.statistics().free, (1 << 48) - G);
    assert_eq!(space.statistics().refused, 0);
}
