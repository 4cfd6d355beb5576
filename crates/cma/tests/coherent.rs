//! The order in which areas serve coherent memory, and what is counted on the way.

mod support;

use dmakit_addr::{DmaMask, NodeId, PhysRange};
use dmakit_cma::{
    AreaRequest, CoherentMemory, CoherentStatistics, DeviceArea, Place, Purpose, Reserved, Skip,
    Step, Waiting,
};
use dmakit_phys::{AttachedRam, Frame, MemoryMap};
use dmakit_platform::host::{HostPlatform, HostRam};
use dmakit_platform::{Segment, SegmentRequest, TableMemory};
use support::{Memory, Owners, TestAreas, activate, fill, frames, free_if, map, memory, reserved};

const MIB: u64 = 1 << 20;
const NODES: u16 = 2;
/// First frames of the nodes, both above 4 GiB, and of low memory on node 0.
const BASES: [u64; 2] = [0x20_0000, 0x40_0000];
const LOW: u64 = 0x1000;

type Ram<'m> = AttachedRam<'m, HostPlatform, Vec<Frame>>;
type Coherent<'m> = CoherentMemory<'m, HostPlatform, Vec<Frame>, Owners>;

/// Areas: a device's (2 MiB, node 1), one for each node (4 MiB), a listed one on node 1 (2 MiB), the
/// default one (4 MiB) below 4 GiB on node 0.
fn machine() -> (MemoryMap, Vec<Reserved>, Vec<Segment>) {
    let regions = [
        (LOW, 0x1000, 0),
        (BASES[0], 0x1000, 0),
        (BASES[1], 0x1000, 1),
    ];
    let mut map = map(&regions);
    let [zero, one] = [0, 1].map(NodeId::new);
    let requests = [
        AreaRequest {
            node: Some(one),
            ..AreaRequest::new(Purpose::Device, 2 * MIB)
        },
        AreaRequest::new(Purpose::PerNode(zero), 4 * MIB),
        AreaRequest::new(Purpose::PerNode(one), 4 * MIB),
        AreaRequest::new(Purpose::Listed(one), 2 * MIB),
        AreaRequest {
            place: Place::At(frames(LOW, 0).start()),
            ..AreaRequest::new(Purpose::Default, 4 * MIB)
        },
    ];
    let set = reserved(&mut map, &requests);
    let ranges = regions.map(|(start, len, _)| frames(start, len).bytes().unwrap());
    let (_, ram) = HostRam::new(&ranges).unwrap();
    (map, set, ram)
}

fn with(run: impl FnOnce(&Memory, &TestAreas<'_>, &Ram<'_>)) {
    let (map, set, segments) = machine();
    let memory = memory(&map);
    let areas = activate(&memory, set);
    let ram = AttachedRam::new(HostPlatform::new(1), memory.allocator(), segments, 64);
    run(&memory, &areas, &ram);
    for id in areas.ids() {
        let usage = areas.usage(id);
        assert_eq!(usage.free, usage.frames, "{:?}", areas.purpose(id));
    }
}

fn provider<'m>(areas: &'m TestAreas<'m>, ram: &'m Ram<'m>, device: DeviceArea) -> Coherent<'m> {
    CoherentMemory::new(HostPlatform::new(1), areas, ram, device, Waiting::Never)
}

fn wanted(mib: u64, node: Option<u16>) -> SegmentRequest {
    SegmentRequest {
        len: mib * MIB,
        align: 4096,
        node: node.map(NodeId::new),
        limit: DmaMask::ALL,
    }
}

fn purpose(areas: &TestAreas<'_>, segment: &Segment) -> Option<Purpose> {
    let area = areas.area_of(segment.range().frames().start());
    area.and_then(|area| areas.purpose(area))
}

/// Which area each of `count` equal requests came from.
fn chain(
    provider: &Coherent<'_>,
    areas: &TestAreas<'_>,
    request: &SegmentRequest,
    count: usize,
) -> Vec<Option<Purpose>> {
    let segments: Vec<Segment> = (0..count)
        .map(|_| provider.allocate_table(request).unwrap())
        .collect();
    let from = segments
        .iter()
        .map(|segment| purpose(areas, segment))
        .collect();
    for segment in segments {
        provider.free_table(segment);
    }
    from
}

fn served(statistics: &CoherentStatistics) -> [u64; 5] {
    Step::ALL.map(|step| statistics.of(step).served)
}

fn skipped(statistics: &CoherentStatistics, step: Step, skip: Skip) -> u64 {
    statistics.of(step).skipped[skip as usize]
}

#[test]
fn without_room_the_next_of_device_node_default_and_pages_serves() {
    let [zero, one] = [0, 1].map(NodeId::new);
    with(|_, areas, ram| {
        let own = areas.find(Purpose::Device).unwrap();
        let first = provider(areas, ram, DeviceArea::First(own));
        let expected = [
            Some(Purpose::Device),
            Some(Purpose::PerNode(one)),
            Some(Purpose::PerNode(one)),
            Some(Purpose::Listed(one)),
            Some(Purpose::Default),
            Some(Purpose::Default),
            None,
        ];
        let request = wanted(2, Some(1));
        assert_eq!(chain(&first, areas, &request, 7), expected);
        let statistics = first.statistics();
        assert_eq!(served(&statistics), [1, 2, 1, 2, 1]);
        assert_eq!(
            Step::ALL.map(|step| statistics.of(step).failed),
            [6, 4, 3, 1, 0]
        );
        assert_eq!(statistics.of(Step::PerNode).bytes, 4 * MIB);
        // Without an area of its own; node 0 has no listed area.
        let none = provider(areas, ram, DeviceArea::None);
        let expected = [Some(Purpose::PerNode(zero)), Some(Purpose::Default), None];
        assert_eq!(chain(&none, areas, &wanted(4, Some(0)), 3), expected);
        let statistics = none.statistics();
        assert_eq!(skipped(&statistics, Step::Device, Skip::NoArea), 3);
        assert_eq!(skipped(&statistics, Step::Listed, Skip::NoArea), 2);
    });
}

#[test]
fn a_device_that_uses_its_area_only_goes_on_to_pages() {
    with(|_, areas, ram| {
        let own = areas.find(Purpose::Device).unwrap();
        let only = provider(areas, ram, DeviceArea::Only(own));
        let request = wanted(2, Some(1));
        assert_eq!(
            chain(&only, areas, &request, 2),
            [Some(Purpose::Device), None]
        );
        let statistics = only.statistics();
        assert_eq!(skipped(&statistics, Step::PerNode, Skip::DeviceOnly), 1);
        // Single pages too, as with Linux.
        let page = SegmentRequest {
            len: 4096,
            ..request
        };
        assert_eq!(chain(&only, areas, &page, 1), [Some(Purpose::Device)]);
    });
}

#[test]
fn narrow_devices_skip_the_areas_of_nodes() {
    with(|_, areas, ram| {
        let narrow = provider(areas, ram, DeviceArea::None);
        let request = SegmentRequest {
            limit: DmaMask::bits(32).unwrap(),
            ..wanted(2, Some(1))
        };
        let expected = [Some(Purpose::Default), Some(Purpose::Default), None];
        assert_eq!(chain(&narrow, areas, &request, 3), expected);
        let statistics = narrow.statistics();
        for step in [Step::PerNode, Step::Listed] {
            assert_eq!(skipped(&statistics, step, Skip::Narrow), 3);
        }
        // Devices that reach more do not, but an area above their reach does not serve them.
        for (bits, expected) in [
            (33, Purpose::Default),
            (34, Purpose::PerNode(NodeId::new(0))),
        ] {
            let wide = SegmentRequest {
                limit: DmaMask::bits(bits).unwrap(),
                ..wanted(2, Some(0))
            };
            assert_eq!(chain(&narrow, areas, &wide, 1), [Some(expected)]);
        }
        assert_eq!(narrow.statistics().of(Step::PerNode).failed, 1);
    });
}

#[test]
fn single_pages_use_no_area() {
    with(|_, areas, ram| {
        let memory = provider(areas, ram, DeviceArea::None);
        let page = SegmentRequest {
            len: 4096,
            ..wanted(1, Some(1))
        };
        assert_eq!(chain(&memory, areas, &page, 3), [None; 3]);
        let two = SegmentRequest { len: 4097, ..page };
        assert_eq!(
            chain(&memory, areas, &two, 1),
            [Some(Purpose::PerNode(NodeId::new(1)))]
        );
        assert_eq!(
            skipped(&memory.statistics(), Step::Default, Skip::SinglePage),
            3
        );
    });
}

#[test]
fn a_device_whose_node_is_unknown_uses_the_default_area() {
    with(|_, areas, ram| {
        let memory = provider(areas, ram, DeviceArea::None);
        assert_eq!(
            chain(&memory, areas, &wanted(1, None), 1),
            [Some(Purpose::Default)]
        );
        assert_eq!(
            skipped(&memory.statistics(), Step::PerNode, Skip::NoNode),
            1
        );
    });
}

#[test]
fn with_room_everything_is_local_and_zeroed() {
    with(|_, areas, ram| {
        let memory = provider(areas, ram, DeviceArea::None);
        for node in 0..NODES {
            let node_range = frames(BASES[usize::from(node)], 0x1000);
            let sizes = [1 << 16, 4096, 100_000, 2 * MIB];
            let segments = sizes.map(|len| {
                let request = SegmentRequest {
                    len,
                    ..wanted(1, Some(node))
                };
                memory.allocate_table(&request).unwrap()
            });
            for segment in segments {
                let range: PhysRange = segment.range();
                assert!(
                    node_range.contains_range(&range.frames()),
                    "{range} for node {node}"
                );
                let mut bytes = vec![1; range.len() as usize];
                segment.window().read(&mut bytes);
                assert!(bytes.iter().all(|byte| *byte == 0));
                segment.window().fill(0xff);
                memory.free_table(segment);
            }
        }
    });
}

#[test]
fn lent_memory_is_waited_for_only_where_that_is_allowed() {
    with(|memory, areas, ram| {
        fill(memory, 1);
        free_if(memory, |range| areas.area_of(range.start()).is_none());
        let request = wanted(1, Some(1));
        let never = provider(areas, ram, DeviceArea::None);
        assert_eq!(chain(&never, areas, &request, 1), [None]);
        assert_eq!(never.statistics().of(Step::PerNode).failed, 1);
        let waiting = Waiting::UpTo {
            patience: std::time::Duration::from_secs(10),
            tries: 3,
        };
        let patient =
            CoherentMemory::new(HostPlatform::new(1), areas, ram, DeviceArea::None, waiting);
        assert_eq!(
            chain(&patient, areas, &request, 1),
            [Some(Purpose::PerNode(NodeId::new(1)))]
        );
        memory.movers().check_all();
        assert_eq!(memory.movers().moves(), 256);
    });
}
