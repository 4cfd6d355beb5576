//! Segments given out first fit.

use dmakit_addr::{DmaMask, NodeId, PhysAddr, PhysRange};
use dmakit_platform::host::{HostRam, SegmentStore};
use dmakit_platform::{SegmentRequest, TableMemory};

const BASE: u64 = 0x8000_0000;
const LEN: u64 = 0x10_0000;

fn node(number: u16) -> NodeId {
    NodeId::new(number)
}

/// Two nodes of 1 MiB, neighbours in physical addresses.
fn two_nodes() -> SegmentStore {
    let ranges = [0, LEN].map(|at| PhysRange::new(PhysAddr::new(BASE + at), LEN).unwrap());
    let (_, segments) = HostRam::new(&ranges).unwrap();
    let store = SegmentStore::new();
    for (number, segment) in segments.into_iter().enumerate() {
        store.add(node(number as u16), segment);
    }
    store
}

fn request(len: u64, align: u64) -> SegmentRequest {
    SegmentRequest {
        len,
        align,
        node: None,
        limit: DmaMask::ALL,
    }
}

#[test]
fn the_lowest_run_that_fits_is_cut_at_the_alignment() {
    let store = two_nodes();
    let first = store.allocate(&request(0x1000, 1)).unwrap();
    let second = store.allocate(&request(0x4000, 0x4000)).unwrap();
    let third = store.allocate(&request(0x3000, 0x1000)).unwrap();
    assert_eq!(first.range().start().raw(), BASE);
    assert_eq!(second.range().start().raw(), BASE + 0x4000);
    assert_eq!(
        third.range().start().raw(),
        BASE + 0x1000,
        "the hole before the second"
    );
    assert_eq!(store.outstanding_bytes(), 0x8000);
}

#[test]
fn what_comes_back_in_any_order_is_whole_again() {
    for order in [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ] {
        let store = two_nodes();
        let before = store.free_runs(node(0));
        let mut given: Vec<_> = (0..3)
            .map(|_| Some(store.allocate(&request(0x2000, 0x1000)).unwrap()))
            .collect();
        for index in order {
            store.free(given[index].take().unwrap()).unwrap();
        }
        assert_eq!(store.free_runs(node(0)), before, "{order:?}");
        assert_eq!(store.outstanding(), []);
    }
}

#[test]
fn nodes_stay_apart_and_the_wanted_one_is_tried_first() {
    let store = two_nodes();
    let wanted = SegmentRequest {
        node: Some(node(1)),
        ..request(LEN, 0x1000)
    };
    let all = store.allocate(&wanted).unwrap();
    assert_eq!(all.range().start().raw(), BASE + LEN);
    let other = store
        .allocate(&SegmentRequest {
            len: 0x1000,
            ..wanted
        })
        .unwrap();
    assert_eq!(other.range().start().raw(), BASE, "another node will do");
    assert_eq!(
        store.outstanding()[0].0,
        node(0),
        "and is known for what it is"
    );
    store.free(all).unwrap();
    store.free(other).unwrap();
    assert_eq!(store.free_runs(node(0)).len(), 1);
    assert_eq!(
        store.free_runs(node(1)).len(),
        1,
        "two nodes are never one run"
    );
}

#[test]
fn a_limit_holds_and_a_refusal_says_what_was_there() {
    let store = two_nodes();
    let low = SegmentRequest {
        limit: DmaMask::up_to(BASE + 0x1fff),
        ..request(0x3000, 0x1000)
    };
    let refused = store.allocate(&low).unwrap_err();
    assert_eq!(refused.largest_free, Some(0x2000));
    assert_eq!(store.outstanding_bytes(), 0);
    let fits = store
        .allocate(&SegmentRequest { len: 0x2000, ..low })
        .unwrap();
    assert_eq!(fits.range().start().raw(), BASE);
    assert!(
        store.allocate(&request(0, 1)).is_err(),
        "nothing is no memory"
    );
    assert!(store.allocate(&request(0x1000, 3)).is_err(), "no alignment");
}

#[test]
fn a_segment_that_is_not_ours_or_not_whole_comes_back() {
    let (store, other) = (two_nodes(), two_nodes());
    let foreign = other.allocate(&request(0x1000, 0x1000)).unwrap();
    assert!(store.free(foreign).is_err());
    let whole = store.allocate(&request(0x2000, 0x1000)).unwrap();
    let (low, high) = whole.split_at(0x1000).unwrap();
    let low = store.free(low).unwrap_err();
    assert!(store.free(high).is_err());
    drop(low);
    assert_eq!(store.outstanding_bytes(), 0x2000, "what leaked shows");
}

#[test]
fn tables_come_zeroed_whatever_was_there() {
    let store = two_nodes();
    let used = store.allocate(&request(0x1000, 0x1000)).unwrap();
    used.window().fill(0xff);
    store.free(used).unwrap();
    let table = store.allocate_table(&request(0x1000, 0x1000)).unwrap();
    let mut bytes = [1; 0x1000];
    table.window().read(&mut bytes);
    assert_eq!(bytes, [0; 0x1000]);
    store.free_table(table);
    assert_eq!(store.outstanding_bytes(), 0);
}
