//! The page allocator against a look at every frame: same answers, whatever happens.

#[path = "lockstep/model.rs"]
mod model;
#[path = "lockstep/random.rs"]
mod random;

use dmakit_addr::{Address, DmaMask, NodeId, Pfn, PfnRange};
use dmakit_phys::{
    Frame, FrameRequest, Frames, FreeReason, MAX_ORDER, MemoryKind, MemoryMap, MigrateType,
    MoverId, PAGEBLOCK_ORDER, PageAllocator, Region,
};
use dmakit_platform::host::HostPlatform;
use model::Model;
use random::{Random, steps};

type Allocator = PageAllocator<HostPlatform, Vec<Frame>>;

const TYPES: [MigrateType; 5] = [
    MigrateType::Unmovable,
    MigrateType::Movable,
    MigrateType::MovableOnly,
    MigrateType::Contiguous,
    MigrateType::Isolated,
];

/// What one episode prefers; drawn once, so that episodes differ more than steps do.
struct Swarm {
    nodes: u16,
    allocate_percent: u32,
    sizes: Vec<u64>,
    movable_percent: u32,
    only_node_percent: u32,
    limits: Vec<DmaMask>,
    retype_percent: u32,
}

struct Episode {
    allocator: Allocator,
    model: Model,
    live: Vec<Frames>,
    /// Another machine with the same memory.
    other: Allocator,
    foreign: Vec<Frames>,
}

fn draw_map(random: &mut Random, nodes: u16) -> MemoryMap {
    let mut map = MemoryMap::new(nodes);
    let mut next = random.pick(&[0, 512, 1000, 4096, 1 << 20]);
    for _ in 0..1 + random.below(6) {
        next += random.pick(&[0, 0, 1, 100, 512, 5000]);
        let len = random.pick(&[1, 37, 512, 700, 1024, 3000, 4096]);
        let kind = random.pick(&[
            MemoryKind::Usable,
            MemoryKind::Usable,
            MemoryKind::Usable,
            MemoryKind::Reserved,
            MemoryKind::Device,
        ]);
        map.add(Region {
            range: Model::range(next, len),
            node: NodeId::new(random.below(u32::from(nodes)) as u16),
            kind,
        })
        .unwrap();
        next += len;
    }
    for _ in 0..random.below(8) {
        let from = random.below(u32::from(nodes)) as u16;
        let to = random.below(u32::from(nodes)) as u16;
        if from != to {
            let distance = 11 + random.below(20) as u8;
            map.set_distance(NodeId::new(from), NodeId::new(to), distance)
                .unwrap();
        }
    }
    map
}

fn build(map: &MemoryMap, limits: &[DmaMask]) -> Allocator {
    let entries = Allocator::table_entries(map) as usize;
    PageAllocator::new(map, limits, vec![Frame::default(); entries]).unwrap()
}

impl Episode {
    fn new(random: &mut Random, nodes: u16) -> (Self, Vec<u64>) {
        let map = draw_map(random, nodes);
        let last = map.regions()[map.regions().len() - 1].range.end().raw();
        let first = map.regions()[0].range.start().raw();
        let mut ends: Vec<u64> = (0..random.below(3))
            .map(|_| first + 1 + u64::from(random.below((last - first) as u32)))
            .collect();
        ends.sort_unstable();
        ends.dedup();
        let limits: Vec<DmaMask> = ends
            .iter()
            .map(|end| DmaMask::up_to((end << 12) - 1))
            .collect();
        let episode = Self {
            allocator: build(&map, &limits),
            model: Model::new(&map, &ends),
            live: Vec::new(),
            other: build(&map, &limits),
            foreign: Vec::new(),
        };
        (episode, ends)
    }

    fn wish(&self, random: &mut Random, swarm: &Swarm) -> FrameRequest {
        let movable = random.chance(swarm.movable_percent);
        let node = random.below(u32::from(swarm.nodes) + 1) as u16;
        FrameRequest {
            frames: random.pick(&swarm.sizes),
            align_order: random.pick(&[0, 0, 0, 0, 1, 3, 9, 10, 30, 64]),
            node: (node < swarm.nodes).then(|| NodeId::new(node)),
            only_node: random.chance(swarm.only_node_percent),
            limit: random.pick(&swarm.limits),
            mover: movable.then(|| MoverId::new(random.below(1 << 16) as u16)),
        }
    }

    fn allocate(&mut self, request: &FrameRequest) {
        let source = self.model.source(request);
        match self.allocator.allocate(request) {
            Ok(frames) => {
                let range = frames.range();
                let order = Model::order(request);
                assert_eq!(range.len(), request.frames);
                assert!(range.start().is_aligned(1 << order), "{range} 2^{order}");
                assert!(self.model.all_free(range), "{range} was taken");
                let start = range.start().raw();
                let source = source.unwrap_or_else(|| panic!("{request:?} found {range}"));
                let cell = self.model.cell(start).unwrap();
                assert_eq!((cell.node, cell.zone), (source.node, source.zone));
                assert_eq!(self.model.block_type(start), source.migrate_type);
                assert!((range.end().raw() << 12) - 1 <= request.limit.last());
                self.follow_types(range, model::wanted_type(request));
                self.model.set(range, false);
                self.live.push(frames);
            }
            Err(error) => {
                assert_eq!(source, None, "{error}: {request:?}");
                assert!(error.largest_order.is_none_or(|order| order <= MAX_ORDER));
            }
        }
    }

    /// A page block may become of the wanted type, but only where it was wholly free.
    fn follow_types(&mut self, range: PfnRange, wanted: MigrateType) {
        let last = range.last().unwrap().raw();
        let block = |frame: u64| frame >> PAGEBLOCK_ORDER << PAGEBLOCK_ORDER;
        for block in (block(range.start().raw())..=last).step_by(1 << PAGEBLOCK_ORDER) {
            let inside = Pfn::new(block.max(range.start().raw()));
            let now = self.allocator.migrate_type(inside).unwrap();
            if now != self.model.block_type(block) {
                assert_eq!(now, wanted);
                assert_ne!(self.model.block_type(block), MigrateType::Contiguous);
                assert!(
                    self.model
                        .all_free(Model::range(block, 1 << PAGEBLOCK_ORDER))
                );
                self.model.set_block_type(block, now);
            }
        }
    }

    fn free(&mut self, random: &mut Random) {
        if self.live.is_empty() {
            return;
        }
        let victim = random.below(self.live.len() as u32) as usize;
        let frames = self.live.swap_remove(victim);
        let range = frames.range();
        let inside = range.start().raw() + u64::from(random.below(range.len() as u32));
        assert_eq!(self.allocator.owner(Pfn::new(inside)), Some(range));
        self.allocator.free(frames).unwrap();
        assert_eq!(self.allocator.owner(Pfn::new(inside)), None);
        self.model.set(range, true);
        self.model.forget_unmovable();
    }

    /// A token of another machine is refused and comes back.
    fn free_wrongly(&mut self, random: &mut Random) {
        let frames = u64::from(1 + random.below(40));
        self.foreign.extend(
            self.other
                .allocate(&FrameRequest::movable(frames, MoverId::new(0))),
        );
        let Some(token) = self.foreign.pop() else {
            return;
        };
        let range = token.range();
        // The two count their allocations apart, so equal numbers on equal frames are no forgery.
        if self
            .live
            .iter()
            .any(|frames| frames.range().start() == range.start())
        {
            self.other.free(token).unwrap();
            return;
        }
        let error = self.allocator.free(token).unwrap_err();
        assert_eq!(error.frames.range(), range);
        assert_eq!(error.reason, FreeReason::NotTaken);
        self.foreign.push(error.frames);
        while self.foreign.len() > 8 {
            self.other.free(self.foreign.swap_remove(0)).unwrap();
        }
    }

    fn retype(&mut self, random: &mut Random) {
        let blocks = (self.model.end() - self.model.first()) >> PAGEBLOCK_ORDER;
        let first = u64::from(random.below(blocks as u32 + 1));
        let start = self.model.first() + (first << PAGEBLOCK_ORDER);
        let range = Model::range(start, u64::from(1 + random.below(3)) << PAGEBLOCK_ORDER);
        let migrate_type = random.pick(&TYPES);
        let known = (start..range.end().raw()).all(|frame| self.model.cell(frame).is_some());
        assert_eq!(self.allocator.set_migrate_type(range, migrate_type), known);
        if known {
            for block in (start..range.end().raw()).step_by(1 << PAGEBLOCK_ORDER) {
                self.model.set_block_type(block, migrate_type);
            }
            self.model.forget_unmovable();
        }
    }

    fn compare(&self, nodes: u16) {
        for node in 0..nodes {
            let free = self.allocator.free_on(NodeId::new(node));
            assert_eq!(free, self.model.free_on(usize::from(node)), "node {node}");
        }
        for migrate_type in TYPES {
            let listed = (0..=MAX_ORDER)
                .map(|order| self.allocator.free_blocks(order, migrate_type) << order);
            assert_eq!(listed.sum::<u64>(), self.model.free_of(migrate_type));
        }
    }
}

fn episode(seed: u64, length: u64) {
    let mut random = Random::new(seed);
    let nodes = random.pick(&[1, 2, 2, 4, 5]);
    let (mut episode, ends) = Episode::new(&mut random, nodes);
    let mut limits = vec![DmaMask::ALL];
    limits.extend(ends.iter().map(|end| DmaMask::up_to((end << 12) - 1)));
    let span = (episode.model.end() - episode.model.first()) as u32;
    if random.chance(40) {
        let cut = episode.model.first() + u64::from(random.below(span));
        limits.push(DmaMask::up_to((cut << 12) + 77));
    }
    let all = [
        0,
        1,
        1,
        1,
        1,
        2,
        3,
        4,
        5,
        8,
        17,
        64,
        100,
        255,
        512,
        513,
        1024,
        2000,
        u64::MAX,
    ];
    let swarm = Swarm {
        nodes,
        allocate_percent: 45 + random.below(20),
        sizes: (0..1 + random.below(6))
            .map(|_| random.pick(&all))
            .collect(),
        movable_percent: random.pick(&[0, 50, 90, 100]),
        only_node_percent: random.pick(&[0, 20, 100]),
        limits,
        retype_percent: random.pick(&[0, 1, 5]),
    };
    for step in 0..length {
        if random.chance(swarm.retype_percent) {
            episode.retype(&mut random);
        } else if random.chance(2) {
            episode.free_wrongly(&mut random);
        } else if random.chance(swarm.allocate_percent) {
            let request = episode.wish(&mut random, &swarm);
            episode.allocate(&request);
        } else {
            episode.free(&mut random);
        }
        if step % 32 == 0 {
            assert_eq!(episode.allocator.first_miscounted(), None);
        }
        if step % 256 == 0 {
            episode.compare(nodes);
        }
    }
    while !episode.live.is_empty() {
        episode.free(&mut random);
    }
    episode.compare(nodes);
}

#[test]
fn an_allocation_fails_only_where_no_block_is_free_and_comes_from_the_nearest() {
    let (length, total) = (500, steps(500_000));
    for seed in 0..total.div_ceil(length) {
        let outcome = std::panic::catch_unwind(|| episode(seed, length));
        assert!(outcome.is_ok(), "episode with seed {seed} failed");
    }
}
