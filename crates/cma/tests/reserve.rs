//! Where areas are reserved, and what becomes of those that find no room.

#[path = "lockstep/random.rs"]
mod random;

use dmakit_addr::{DmaMask, NodeId, Pfn, PfnRange};
use dmakit_cma::{
    AreaParams, AreaRequest, DefaultSize, GiganticTurn, Outcome, PerNode, Place, Purpose,
    Reservation, ReserveReason, Reserved, SizeChoice, reserve,
};
use dmakit_phys::{MemoryKind, MemoryMap, Region};
use random::{Random, steps};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn frames(start: u64, len: u64) -> PfnRange {
    PfnRange::new(Pfn::new(start), len).unwrap()
}

/// Usable memory: node, first byte, bytes.
fn map(nodes: u16, regions: &[(u16, u64, u64)]) -> MemoryMap {
    let mut map = MemoryMap::new(nodes);
    for (node, start, len) in regions {
        let region = Region {
            range: frames(start >> 12, len >> 12),
            node: NodeId::new(*node),
            kind: MemoryKind::Usable,
        };
        map.add(region).unwrap();
    }
    map
}

fn reserved(reservation: &Reservation) -> &Reserved {
    match &reservation.outcome {
        Outcome::Reserved(reserved) => reserved,
        other => panic!("{other:?}"),
    }
}

fn one(map: &mut MemoryMap, request: AreaRequest) -> Outcome {
    reserve(map, &[], [request]).pop().unwrap().outcome
}

/// First byte and bytes of an area of one range.
fn place_of(outcome: &Outcome) -> (u64, u64) {
    match outcome {
        Outcome::Reserved(reserved) => {
            let [range] = reserved.ranges() else {
                panic!("{reserved:?}");
            };
            (range.start().raw() << 12, range.len() << 12)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_node_without_room_leaves_the_others_their_areas() {
    let mut map = map(
        4,
        &[(0, 0, 2 * GIB), (1, 4 * GIB, 8 * MIB), (3, 8 * GIB, GIB)],
    );
    let params = AreaParams {
        cma: "0".parse().ok(),
        per_node: PerNode::Sized("16M".parse().unwrap()),
        numa_cma: "3:32M,9:1M".parse().ok(),
        ..AreaParams::default()
    };
    let requests = params.requests(&map, DmaMask::ALL);
    let done = reserve(&mut map, &[], requests);
    assert_eq!(done.len(), 6);
    let no_room = |longest| ReserveReason::NoRoom {
        frames: 4096,
        longest,
        together: longest,
    };
    assert_eq!(place_of(&done[0].outcome), (2 * GIB - 16 * MIB, 16 * MIB));
    assert_eq!(done[1].outcome, Outcome::Failed(no_room(2048)));
    assert_eq!(done[2].outcome, Outcome::Failed(no_room(0)));
    assert_eq!(place_of(&done[3].outcome), (8 * GIB, 16 * MIB));
    assert_eq!(place_of(&done[4].outcome), (8 * GIB + 16 * MIB, 32 * MIB));
    assert_eq!(
        done[5].outcome,
        Outcome::Failed(ReserveReason::NoSuchNode { nodes: 4 })
    );
    let purposes = done.iter().map(|one| one.request.purpose.to_string());
    let purposes: Vec<String> = purposes.collect();
    assert_eq!(purposes[3..], ["pernuma3", "numa3", "numa9"]);
}

#[test]
fn an_area_lies_low_only_where_there_is_no_room_above_four_gibibytes() {
    let small = AreaRequest::new(Purpose::Default, 64 * MIB);
    let mut low = map(1, &[(0, 0, 3 * GIB)]);
    assert_eq!(place_of(&one(&mut low, small)).0, 3 * GIB - 64 * MIB);
    let mut both = map(1, &[(0, 0, 3 * GIB), (0, 4 * GIB, 2 * GIB)]);
    assert_eq!(place_of(&one(&mut both, small)).0, 4 * GIB);
    let narrow = AreaRequest {
        limit: DmaMask::up_to(u64::from(u32::MAX)),
        ..small
    };
    assert_eq!(place_of(&one(&mut both, narrow)).0, 3 * GIB - 64 * MIB);
    // A run from below to above is one run where no zone ends inside.
    let large = AreaRequest::new(Purpose::Default, 6 * GIB);
    let mut across = map(1, &[(0, GIB, 7 * GIB)]);
    assert_eq!(place_of(&one(&mut across, large)).0, 2 * GIB);
    let mut across = map(1, &[(0, GIB, 7 * GIB)]);
    let zones = [DmaMask::up_to(u64::from(u32::MAX))];
    let refused = reserve(&mut across, &zones, [large]);
    assert!(matches!(
        refused[0].outcome,
        Outcome::Failed(ReserveReason::NoRoom { .. })
    ));
}

#[test]
fn a_place_that_was_named_is_taken_or_nothing_is() {
    let at = |params: &str, map: &mut MemoryMap| {
        let params = AreaParams {
            cma: params.parse().ok(),
            ..AreaParams::default()
        };
        let requests = params.requests(map, DmaMask::ALL);
        reserve(map, &[], requests).pop().unwrap().outcome
    };
    let mut memory = map(2, &[(0, 0, GIB), (1, GIB, GIB)]);
    assert_eq!(place_of(&at("32M@0x10000000", &mut memory)).0, 0x1000_0000);
    let busy = at("64M@0x10000000", &mut memory);
    assert!(matches!(busy, Outcome::Failed(ReserveReason::Busy(_))));
    // Not across nodes, not past the end.
    let across = at("64M@0x3e000000", &mut memory);
    assert!(matches!(across, Outcome::Failed(ReserveReason::Busy(_))));
    let past = at("64M@0x7e000000", &mut memory);
    assert!(matches!(past, Outcome::Failed(ReserveReason::Busy(_))));
    // Rounded up to page blocks.
    assert_eq!(
        place_of(&at("3M@0x100000", &mut memory)),
        (2 * MIB, 4 * MIB)
    );
    // Between two bounds: the highest below 4 GiB.
    assert_eq!(
        place_of(&at("4M@16M-64M", &mut memory)),
        (60 * MIB, 4 * MIB)
    );
    assert_eq!(
        place_of(&at("4M@64M-68M", &mut memory)),
        (64 * MIB, 4 * MIB)
    );
    let none = at("48M@16M-64M", &mut memory);
    assert!(matches!(
        none,
        Outcome::Failed(ReserveReason::NoRoom { .. })
    ));
}

#[test]
fn who_chooses_first_is_said() {
    let turn = |gigantic| {
        let mut map = map(1, &[(0, 4 * GIB, GIB)]);
        let params = AreaParams {
            cma: "16M".parse().ok(),
            hugetlb_cma: "0:1G".parse().ok(),
            gigantic,
            ..AreaParams::default()
        };
        let requests = params.requests(&map, DmaMask::ALL);
        let done = reserve(&mut map, &[], requests);
        let served = done.into_iter().map(|one| match one.outcome {
            Outcome::Reserved(reserved) => Some(reserved.purpose()),
            _ => None,
        });
        served.collect::<Vec<_>>()
    };
    let gigantic = Purpose::Gigantic(NodeId::new(0));
    assert_eq!(turn(GiganticTurn::First), [Some(gigantic), None]);
    assert_eq!(turn(GiganticTurn::Last), [Some(Purpose::Default), None]);
}

#[test]
fn the_default_area_is_the_one_of_its_node_where_sizes_follow_from_it() {
    let mut memory = map(2, &[(0, 0, GIB), (1, 4 * GIB, 3 * GIB)]);
    let params = AreaParams {
        per_node: PerNode::AsDefault,
        default_size: DefaultSize {
            choice: SizeChoice::Percent,
            ..DefaultSize::default()
        },
        ..AreaParams::default()
    };
    // Devices with narrow masks use the default area: it lies low, on node 0.
    let requests = params.requests(&memory, DmaMask::up_to(GIB - 1));
    let done = reserve(&mut memory, &[], requests);
    assert_eq!(done[0].request.purpose, Purpose::Default);
    assert_eq!(reserved(&done[0]).node(), NodeId::new(0));
    assert_eq!(reserved(&done[0]).frames() << 12, 410 * MIB);
    assert_eq!(done[1].outcome, Outcome::DefaultServes);
    // 10 % of its own node.
    assert_eq!(place_of(&done[2].outcome), (4 * GIB, 308 * MIB));
    // An explicit size is an explicit wish: every node has one, as in Linux.
    let mut memory = map(2, &[(0, 0, GIB), (1, 4 * GIB, 3 * GIB)]);
    let params = AreaParams {
        per_node: PerNode::Sized("16M".parse().unwrap()),
        ..AreaParams::default()
    };
    let requests = params.requests(&memory, DmaMask::ALL);
    let done = reserve(&mut memory, &[], requests);
    let purposes: Vec<Purpose> = done.iter().map(|one| reserved(one).purpose()).collect();
    let [zero, one] = [0, 1].map(NodeId::new);
    assert_eq!(
        purposes,
        [
            Purpose::PerNode(zero),
            Purpose::PerNode(one),
            Purpose::Default
        ]
    );
}

#[test]
fn the_default_size_is_the_lesser_or_the_greater_of_two_or_one_of_them() {
    let size = |choice, memory| {
        let size = DefaultSize {
            choice,
            ..DefaultSize::default()
        };
        size.of(memory)
    };
    assert_eq!(size(SizeChoice::Bytes, 100 * MIB), 16 * MIB);
    assert_eq!(size(SizeChoice::Percent, 100 * MIB), 10 * MIB);
    assert_eq!(size(SizeChoice::Least, 100 * MIB), 10 * MIB);
    assert_eq!(size(SizeChoice::Greatest, 100 * MIB), 16 * MIB);
    assert_eq!(size(SizeChoice::Percent, u64::MAX), u64::MAX / 10);
    assert_eq!(DefaultSize::NONE.of(GIB), 0);
    let mut memory = map(1, &[(0, 0, GIB)]);
    let none = AreaParams {
        default_size: DefaultSize::NONE,
        ..AreaParams::default()
    };
    let requests = none.requests(&memory, DmaMask::ALL);
    assert!(reserve(&mut memory, &[], requests).is_empty());
}

#[test]
fn gigantic_areas_are_spread_until_there_is_enough() {
    let spread = |regions: &[(u16, u64, u64)]| {
        let mut map = map(4, regions);
        let params = AreaParams {
            cma: "0".parse().ok(),
            hugetlb_cma: "3G".parse().ok(),
            ..AreaParams::default()
        };
        let requests = params.requests(&map, DmaMask::ALL);
        reserve(&mut map, &[], requests)
    };
    let all = [
        (0, 4 * GIB, 2 * GIB),
        (1, 8 * GIB, 2 * GIB),
        (2, 12 * GIB, 2 * GIB),
        (3, 16 * GIB, 2 * GIB),
    ];
    let done = spread(&all);
    assert!(
        done[..3]
            .iter()
            .all(|one| reserved(one).frames() == 1 << 18)
    );
    assert_eq!(done[3].outcome, Outcome::NotNeeded);
    let done = spread(&all[1..]);
    assert!(matches!(done[0].outcome, Outcome::Failed(_)));
    assert!(
        done[1..]
            .iter()
            .all(|one| reserved(one).frames() == 1 << 18)
    );
    let small = AreaRequest {
        align_order: 18,
        ..AreaRequest::new(Purpose::Gigantic(NodeId::new(0)), GIB / 2)
    };
    assert_eq!(
        one(&mut map(1, &all[..1]), small),
        Outcome::Failed(ReserveReason::TooSmall { at_least: GIB })
    );
}

#[test]
fn an_area_of_several_ranges_takes_the_longest_from_the_lowest_up() {
    let holes: Vec<(u16, u64, u64)> = (0..12)
        .map(|hole| (0, 4 * GIB + hole * GIB, (hole + 1) * 2 * MIB))
        .collect();
    let request = AreaRequest {
        ranges_max: 8,
        ..AreaRequest::new(Purpose::Device, 100 * MIB)
    };
    let outcome = one(&mut map(1, &holes), request);
    let Outcome::Reserved(reserved) = outcome else {
        panic!("{outcome:?}");
    };
    // The eight longest have 10 to 24 MiB; the first six of them come to 90 MiB.
    let mib: Vec<u64> = reserved.ranges().iter().map(|r| r.len() >> 8).collect();
    assert_eq!(mib, [10, 12, 14, 16, 18, 20, 10]);
    let whole = AreaRequest {
        bytes: 200 * MIB,
        ..request
    };
    assert_eq!(
        one(&mut map(1, &holes), whole),
        Outcome::Failed(ReserveReason::NoRoom {
            frames: 200 << 8,
            longest: 24 << 8,
            together: (10 + 12 + 14 + 16 + 18 + 20 + 22 + 24) << 8
        })
    );
}

/// Frames by frame: which node, and whether usable.
fn flat(map: &MemoryMap, end: u64) -> Vec<Option<(NodeId, MemoryKind)>> {
    let mut flat = vec![None; end as usize];
    for region in map.regions() {
        let range = region.range.start().raw() as usize..region.range.end().raw() as usize;
        flat[range].fill(Some((region.node, region.kind)));
    }
    flat
}

#[test]
fn whatever_is_asked_areas_are_apart_on_their_node_and_fail_only_without_room() {
    const END: u64 = 64 << 9;
    for seed in 0..steps(400) {
        let mut random = Random::new(seed);
        let mut map = MemoryMap::new(3);
        let mut at = 0;
        while at < END - 4096 {
            at += u64::from(random.below(900));
            let len = u64::from(1 + random.below(6000)).min(END - at);
            let node = NodeId::new(random.below(3) as u16);
            let range = frames(at, len);
            let kind = MemoryKind::Usable;
            map.add(Region { range, node, kind }).unwrap();
            at += len;
        }
        let zone = 512 * u64::from(1 + random.below(60)) + u64::from(random.below(2));
        let zones = [DmaMask::up_to((zone << 12) - 1)];
        for _ in 0..12 {
            let node = random
                .chance(60)
                .then(|| NodeId::new(random.below(4) as u16));
            let order = random.pick(&[0, 0, 9, 10, 12]);
            let request = AreaRequest {
                node,
                align_order: order,
                place: match random.below(4) {
                    0 => Place::At(Pfn::new(u64::from(random.below(END as u32)))),
                    1 => Place::Within(frames(u64::from(random.below(20_000)), 12_000)),
                    _ => Place::Anywhere,
                },
                ..AreaRequest::new(Purpose::Device, u64::from(1 + random.below(5000)) << 12)
            };
            let before = flat(&map, END);
            let outcome = reserve(&mut map, &zones, [request]).pop().unwrap().outcome;
            check(&request, &outcome, &before, &flat(&map, END), zone);
        }
    }
}

fn check(
    request: &AreaRequest,
    outcome: &Outcome,
    before: &[Option<(NodeId, MemoryKind)>],
    after: &[Option<(NodeId, MemoryKind)>],
    zone: u64,
) {
    let step = 1_u64 << request.align_order.max(9);
    let len = (request.bytes >> 12).next_multiple_of(step);
    let serves = |start: u64| {
        let inside = match request.place {
            Place::At(base) => start == base.raw().next_multiple_of(step),
            Place::Within(within) => within.contains_range(&frames(start, len)),
            Place::Anywhere => true,
        };
        let Some(window) = before.get(start as usize..(start + len) as usize) else {
            return false;
        };
        let first = window[0];
        let usable = |(node, kind): (NodeId, MemoryKind)| {
            kind == MemoryKind::Usable && request.node.is_none_or(|asked| asked == node)
        };
        inside
            && first.is_some_and(usable)
            && window.iter().all(|frame| *frame == first)
            && !(start < zone && zone < start + len)
    };
    match outcome {
        Outcome::Reserved(reserved) => {
            let [range] = reserved.ranges() else {
                panic!("{reserved:?}");
            };
            assert!(
                serves(range.start().raw()) && range.len() == len,
                "{request:?}"
            );
            let mut expected = before.to_vec();
            let taken = range.start().raw() as usize..range.end().raw() as usize;
            expected[taken].fill(Some((reserved.node(), MemoryKind::Contiguous)));
            assert_eq!(after, expected);
        }
        Outcome::Failed(reason) => {
            assert_eq!(before, after);
            let known = request.node.is_none_or(|node| node.index() < 3);
            let window = (0..before.len() as u64)
                .step_by(step as usize)
                .find(|at| serves(*at));
            assert!(
                !known || window.is_none(),
                "{request:?}: {reason} at {window:?}"
            );
        }
        other => panic!("{other:?}"),
    }
}
