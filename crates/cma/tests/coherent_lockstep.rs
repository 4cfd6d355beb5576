//! Coherent memory against a naive chain: every request is served by the first area in the order that
//! has a window for it, and goes home from there.

#[path = "lockstep/random.rs"]
mod random;
mod support;

use dmakit_addr::{DmaMask, NodeId, PfnRange};
use dmakit_cma::{AreaRequest, CoherentMemory, DeviceArea, Place, Purpose, Step, Waiting};
use dmakit_phys::AttachedRam;
use dmakit_platform::host::{HostPlatform, HostRam};
use dmakit_platform::{Segment, SegmentRequest, TableMemory};
use random::{Random, steps};
use support::{activate, frames, map, memory, reserved};

const MIB: u64 = 1 << 20;
/// Low memory on node 0, and a stretch above 4 GiB on each node.
const REGIONS: [(u64, u64, u16); 3] = [
    (0x1000, 0x1000, 0),
    (0x20_0000, 0x1000, 0),
    (0x40_0000, 0x1000, 1),
];

/// An area, frame by frame: what is out.
struct Model {
    purpose: Purpose,
    range: PfnRange,
    out: Vec<bool>,
}

impl Model {
    /// Whether a window serves a request.
    fn serves(&self, request: &SegmentRequest) -> bool {
        let (len, align) = (request.len.div_ceil(4096), (request.align / 4096).max(1));
        let last = request.limit.last() >> 12;
        let mut free_from = self.range.start().raw();
        (0..).zip(&self.out).any(|(at, out)| {
            let frame = self.range.start().raw() + at;
            if *out {
                free_from = frame + 1;
            }
            frame <= last && free_from.next_multiple_of(align) + len <= frame + 1
        })
    }

    fn mark(&mut self, segment: &Segment, to: bool) {
        let frames = segment.range().frames();
        let first = (frames.start().raw() - self.range.start().raw()) as usize;
        let window = &mut self.out[first..first + frames.len() as usize];
        assert!(window.iter().all(|out| *out != to), "{frames}");
        window.fill(to);
    }
}

/// The chain as the thread proposed it: device, node, default, pages.
fn expected(models: &[Model], device: DeviceArea, request: &SegmentRequest) -> Option<usize> {
    let narrow = request.limit.last() <= u64::from(u32::MAX);
    let single = request.len <= 4096;
    let mut order = Vec::new();
    if device != DeviceArea::None {
        order.push(Purpose::Device);
    }
    if !single && !matches!(device, DeviceArea::Only(_)) {
        if let Some(node) = request.node.filter(|_| !narrow) {
            order.extend([Purpose::PerNode(node), Purpose::Listed(node)]);
        }
        order.push(Purpose::Default);
    }
    order.iter().find_map(|purpose| {
        let at = models.iter().position(|model| model.purpose == *purpose)?;
        models[at].serves(request).then_some(at)
    })
}

fn episode(seed: u64, length: u64) {
    let mut random = Random::new(seed);
    let mut map = map(&REGIONS);
    let [zero, one] = [0, 1].map(NodeId::new);
    let requests = [
        AreaRequest {
            node: Some(one),
            ..AreaRequest::new(Purpose::Device, 2 * MIB)
        },
        AreaRequest::new(Purpose::PerNode(zero), 4 * MIB),
        AreaRequest::new(Purpose::PerNode(one), 2 * MIB),
        AreaRequest::new(Purpose::Listed(one), 4 * MIB),
        AreaRequest {
            place: Place::At(frames(REGIONS[0].0, 0).start()),
            ..AreaRequest::new(Purpose::Default, 4 * MIB)
        },
    ];
    let set = reserved(&mut map, &requests);
    let mut models: Vec<Model> = set
        .iter()
        .map(|area| Model {
            purpose: area.purpose(),
            range: area.ranges()[0],
            out: vec![false; area.frames() as usize],
        })
        .collect();
    let memory = memory(&map);
    let areas = activate(&memory, set);
    let ranges = REGIONS.map(|(start, len, _)| frames(start, len).bytes().unwrap());
    let (_, segments) = HostRam::new(&ranges).unwrap();
    let ram = AttachedRam::new(HostPlatform::new(1), memory.allocator(), segments, 512);
    let own = areas.find(Purpose::Device).unwrap();
    let device = random.pick(&[
        DeviceArea::None,
        DeviceArea::First(own),
        DeviceArea::Only(own),
    ]);
    let platform = HostPlatform::new(1);
    let coherent = CoherentMemory::new(platform, &areas, &ram, device, Waiting::Never);
    let sizes: Vec<u64> = (0..3)
        .map(|_| random.pick(&[100, 4096, 4097, 20_000, 1 << 16, 300_000, MIB, 3 * MIB]))
        .collect();
    let mut live: Vec<(Segment, Option<usize>)> = Vec::new();
    let mut served = [0_u64; Step::ALL.len()];
    for _ in 0..length {
        if random.chance(55) {
            let limits = [
                u64::MAX,
                u64::MAX,
                u64::from(u32::MAX),
                0x2_0fff_ffff,
                0x13f_ffff,
            ];
            let request = SegmentRequest {
                len: random.pick(&sizes),
                align: random.pick(&[1, 4096, 1 << 16, MIB]),
                node: random.pick(&[None, Some(zero), Some(one)]),
                limit: DmaMask::up_to(random.pick(&limits)),
            };
            let expected = expected(&models, device, &request);
            let Ok(segment) = coherent.allocate_table(&request) else {
                assert_eq!(expected, None, "{request:?}");
                continue;
            };
            let area = areas.area_of(segment.range().frames().start());
            let purpose = area.and_then(|area| areas.purpose(area));
            assert_eq!(
                purpose,
                expected.map(|at| models[at].purpose),
                "{request:?}"
            );
            assert!(request.limit.reaches(&segment.range()) && segment.is_aligned(request.align));
            if let Some(at) = expected {
                models[at].mark(&segment, true);
            }
            served[step_of(purpose) as usize] += 1;
            live.push((segment, expected));
        } else if !live.is_empty() {
            let (segment, home) = live.swap_remove(random.below(live.len() as u32) as usize);
            if let Some(at) = home {
                models[at].mark(&segment, false);
            }
            coherent.free_table(segment);
        }
    }
    let statistics = coherent.statistics();
    assert_eq!(Step::ALL.map(|step| statistics.of(step).served), served);
    for (segment, _) in live {
        coherent.free_table(segment);
    }
    assert_eq!(memory.allocator().free_frames(), 3 * 0x1000);
    assert_eq!(coherent.statistics().leaked_bytes, 0);
    for id in areas.ids() {
        assert_eq!(areas.usage(id).free, areas.usage(id).frames);
    }
}

fn step_of(purpose: Option<Purpose>) -> Step {
    match purpose {
        Some(Purpose::Device) => Step::Device,
        Some(Purpose::PerNode(_)) => Step::PerNode,
        Some(Purpose::Listed(_)) => Step::Listed,
        Some(_) => Step::Default,
        None => Step::Pages,
    }
}

#[test]
fn the_first_area_in_the_order_that_has_room_serves_and_gets_it_back() {
    let (length, total) = (200, steps(4_000));
    for seed in 0..total.div_ceil(length) {
        let outcome = std::panic::catch_unwind(|| episode(seed, length));
        assert!(outcome.is_ok(), "episode with seed {seed} failed");
    }
}
