//! A machine with areas, programs that borrow them, and everybody else; and a naive look at which
//! windows there are.

use std::sync::Arc;

use dmakit_addr::{Address, DmaMask, NodeId, PfnRange, PhysAddr, PhysRange};
use dmakit_cma::{
    AreaClaim, AreaClaimError, AreaId, AreaParams, Areas, InactiveAreas, NoClaim, Outcome, PerNode,
    Reserved, reserve,
};
use dmakit_phys::{
    AttachedRam, ClaimFailure, ClaimLimits, Frame, Frames, MigrateType, MovableMemory,
    PageAllocator,
};
use dmakit_platform::{Instant, Segment};
use dmakit_sim::{
    FaultPlan, Machine, MachineConfig, Mover, Pressure, PressureConfig, Programs, Rng,
};

use crate::pins::Pins;

pub type Memory = MovableMemory<Machine, Vec<Frame>, Mover>;
pub type Ram<'m> = AttachedRam<'m, Machine, Vec<Frame>>;

/// How a run is.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub nodes: u16,
    /// Page blocks of RAM of each node.
    pub blocks: u64,
    /// Page blocks of each node's area.
    pub area_blocks: u64,
    pub order_max: u32,
    /// Pages that are busy for a moment, of 256.
    pub refused_of_256: u32,
}

const BLOCK: u64 = 512;

pub struct Parts {
    pub machine: Machine,
    pub programs: Programs,
    pub memory: Arc<Memory>,
    pub ram: Vec<Segment>,
    pub reserved: Vec<Reserved>,
}

/// Boots: areas are set aside, the page allocator gets the rest.
pub fn boot(seed: u64, shape: Shape) -> Parts {
    let mut config = MachineConfig::new(seed);
    for node in 0..u64::from(shape.nodes) {
        let start = PhysAddr::new((node + 1) << 34);
        let ram = PhysRange::new(start, shape.blocks * BLOCK * 4096).unwrap();
        config = config.node(&[ram]);
    }
    let machine = config.build().unwrap();
    let mut map = machine.memory_map().unwrap();
    let params = AreaParams {
        cma: "0".parse().ok(),
        per_node: PerNode::Sized(format!("{}M", 2 * shape.area_blocks).parse().unwrap()),
        ..AreaParams::default()
    };
    let requests = params.requests(&map, DmaMask::ALL);
    let done = reserve(&mut map, &[], requests);
    let reserved = done.into_iter().map(|done| match done.outcome {
        Outcome::Reserved(reserved) => reserved,
        other => panic!("{other:?}"),
    });
    let reserved: Vec<Reserved> = reserved.collect();
    let programs = Programs::new(&machine, seed);
    let mover = Mover::new(&machine, &programs);
    mover.refuse(shape.refused_of_256);
    type Allocator = PageAllocator<Machine, Vec<Frame>>;
    let table = vec![Frame::default(); Allocator::table_entries(&map) as usize];
    let allocator = Allocator::new(&map, &[], table).unwrap();
    let nodes = (0..shape.nodes).map(NodeId::new);
    Parts {
        ram: nodes.flat_map(|node| machine.take_ram(node)).collect(),
        memory: Arc::new(MovableMemory::new(machine.clone(), allocator, mover)),
        machine,
        programs,
        reserved,
    }
}

/// A claim, with what was written to it.
struct Held {
    area: AreaId,
    segment: Segment,
    byte: u8,
}

pub struct World<'m> {
    machine: &'m Machine,
    memory: &'m Memory,
    programs: &'m Programs,
    pub areas: Areas<'m, Machine, Vec<Frame>, Mover>,
    ram: Ram<'m>,
    pub pressure: Pressure,
    rng: Rng,
    held: Vec<Held>,
    pub pins: Pins,
    order_max: u32,
    /// What there was before anybody came.
    free_frames: u64,
    pub made: u64,
    pub refused: u64,
}

pub const LIMITS: ClaimLimits = ClaimLimits {
    deadline: Instant::from_nanos(u64::MAX),
    tries: 4,
};

/// Segments that may be out at once.
const SEGMENTS: usize = 1024;

impl<'m> World<'m> {
    pub fn new(seed: u64, shape: Shape, parts: &'m mut Parts) -> Self {
        let (ram, reserved) = (
            std::mem::take(&mut parts.ram),
            std::mem::take(&mut parts.reserved),
        );
        let parts: &'m Parts = parts;
        let (areas, failed) = InactiveAreas::new(reserved).activate(&parts.memory);
        assert!(failed.is_empty(), "{failed:?}");
        let all = u64::from(shape.nodes) * shape.blocks * BLOCK;
        let config = PressureConfig {
            free_min: all / 8,
            unmovable_max: all / 16,
            holds_max: 4,
            order_max: shape.order_max,
        };
        let allocator = parts.memory.allocator();
        Self {
            machine: &parts.machine,
            memory: &parts.memory,
            programs: &parts.programs,
            pins: Pins::new(seed, &parts.memory),
            free_frames: allocator.free_frames(),
            ram: AttachedRam::new(parts.machine.clone(), allocator, ram, SEGMENTS),
            areas,
            pressure: Pressure::new(config, seed),
            rng: Rng::derived(seed, 0x301d),
            held: Vec::new(),
            order_max: shape.order_max,
            made: 0,
            refused: 0,
        }
    }

    /// Claims a run of frames that programs have in part, with one migration that fails and no
    /// second try; whether it was refused. Refused or not, all is as it was afterwards.
    pub fn claim_that_may_fail(&mut self, plan: &FaultPlan) -> bool {
        let page = self
            .programs
            .page(0)
            .and_then(|page| self.programs.range_of(page));
        let start = page.unwrap().start().align_down(64);
        let range = PfnRange::new(start, 64).unwrap();
        let state = |world: &Self| {
            let usage = world.areas.ids().map(|id| world.areas.usage(id).free);
            let blocks = (0..10).map(|order| {
                let types = [MigrateType::Movable, MigrateType::Contiguous];
                types.map(|of| world.memory.allocator().free_blocks(order, of) << order)
            });
            let sums = blocks.fold([0, 0], |[a, b], [c, d]| [a + c, b + d]);
            (usage.collect::<Vec<_>>(), sums, world.programs.pages())
        };
        let before = state(self);
        self.machine.inject(plan);
        let once = ClaimLimits { tries: 0, ..LIMITS };
        let claimed = self.memory.claim(range, &once);
        self.machine.inject(&FaultPlan::none());
        let was_refused = claimed.is_err();
        assert_eq!(was_refused, !plan.fired().is_empty());
        if let Ok(frames) = claimed {
            self.memory.allocator().free(frames).unwrap();
        }
        let (usage, sums, pages) = state(self);
        assert_eq!((usage, pages), (before.0, before.2));
        assert_eq!(sums[0] + sums[1], before.1[0] + before.1[1]);
        self.check();
        // And it can be had.
        let frames = self.memory.claim(range, &once).unwrap();
        self.memory.allocator().free(frames).unwrap();
        was_refused
    }

    /// A claim of random size, or the return of one.
    pub fn claim_or_release(&mut self) {
        let release = self.rng.below(2) == 0 || self.held.len() > 24;
        if release && !self.held.is_empty() {
            let index = self.rng.below(self.held.len() as u64) as usize;
            let held = self.held.swap_remove(index);
            return self.release(held);
        }
        let ids: Vec<AreaId> = self.areas.ids().collect();
        let area = self.rng.pick(&ids);
        let order = self.rng.below(11);
        let claim = AreaClaim {
            frames: 1 + self.rng.below(1 << order),
            align_order: self.rng.below(order + 1) as u32,
            limit: DmaMask::ALL,
        };
        self.pins.forget_ended();
        let there_is = self.best(area, &claim);
        let free = self.memory.allocator().free_frames();
        let before = self.claim_moves();
        match self.areas.claim(area, &claim, &LIMITS) {
            Ok(frames) => {
                let moved = self.claim_moves() - before;
                self.judge_cost(&claim, there_is, moved);
                self.keep(area, frames);
            }
            Err(error) => self.judge_refusal(there_is, free, &error),
        }
    }

    fn claim_moves(&self) -> u64 {
        let claims = dmakit_phys::MigrationCause::Claim;
        self.memory.migrations(claims).frames
    }

    fn judge_cost(&self, claim: &AreaClaim, there_is: Option<u64>, moved: u64) {
        let least = there_is.unwrap_or_else(|| panic!("{claim:?} got a window that there is not"));
        // One page may refuse for good where it is referred to, and the next best is taken.
        assert!(moved >= least, "{claim:?} moved {moved}, at least {least}");
    }

    fn judge_refusal(&mut self, there_is: Option<u64>, free: u64, error: &AreaClaimError) {
        self.refused += 1;
        // What moves out of a window of n frames has room if n frames are free anywhere, since those
        // in the window are then as many as have to move. Pages of several frames may find the room
        // in pieces.
        let in_pieces = if self.order_max == 0 { 1 } else { 4 };
        let has_room = free >= error.claim.frames * in_pieces;
        let there_is = there_is.filter(|_| has_room);
        if let NoClaim::InTheWay(claim) = &error.reason {
            let no_room = matches!(
                claim.reason,
                ClaimFailure::NoRoom(_) | ClaimFailure::Full { .. }
            );
            let named = !claim.blocking.is_empty() || no_room;
            assert!(named, "{error}: nothing is named");
        }
        assert!(there_is.is_none(), "{error}, but a window is there");
    }

    fn keep(&mut self, area: AreaId, frames: Frames) {
        self.made += 1;
        let range = frames.range();
        assert!(
            self.areas
                .ranges(area)
                .iter()
                .any(|of| of.contains_range(&range))
        );
        assert_eq!(self.programs.page_in(range.start()), None);
        let segment = self.ram.attach(frames).unwrap();
        let byte = self.rng.bits() as u8;
        segment.window().fill(byte);
        self.held.push(Held {
            area,
            segment,
            byte,
        });
    }

    fn release(&mut self, held: Held) {
        let Held {
            area,
            segment,
            byte,
        } = held;
        let mut bytes = vec![!byte; segment.len() as usize];
        segment.window().read(&mut bytes);
        assert!(
            bytes.iter().all(|found| *found == byte),
            "somebody wrote to {segment:?} of {area:?}"
        );
        let frames = self.ram.detach(segment).unwrap();
        self.areas.release(frames).unwrap();
    }

    /// By looking at every frame: the least number of frames that have to move for a claim, or
    /// `None` where every window has something in it that does not.
    fn best(&self, area: AreaId, claim: &AreaClaim) -> Option<u64> {
        let step = 1 << claim.align_order;
        let ranges = self.areas.ranges(area).iter();
        let windows = ranges.flat_map(|range| {
            let first = range.start().raw().next_multiple_of(step);
            let last = range.end().raw().checked_sub(claim.frames);
            let starts = last
                .into_iter()
                .flat_map(move |last| (first..=last).step_by(step as usize));
            starts.filter_map(|start| {
                let start = dmakit_addr::Pfn::new(start);
                PfnRange::new(start, claim.frames).ok()
            })
        });
        windows.filter_map(|window| self.cost(window)).min()
    }

    /// Frames that have to move to clear a window.
    fn cost(&self, window: PfnRange) -> Option<u64> {
        let claimed = |held: &Held| held.segment.range().frames().overlaps(&window);
        if self.held.iter().any(claimed) {
            return None;
        }
        if self
            .pressure
            .unmovable()
            .any(|other| other.overlaps(&window))
        {
            return None;
        }
        let (mut moves, mut at) = (0, window.start().raw());
        while at < window.end().raw() {
            let Some(page) = self.programs.page_in(dmakit_addr::Pfn::new(at)) else {
                at += 1;
                continue;
            };
            if self.pressure.is_held(page) || self.pins.is_in_the_way(page) {
                return None;
            }
            let range = self.programs.range_of(page)?;
            moves += range.len();
            at = range.end().raw();
        }
        Some(moves)
    }

    pub fn pin_or_unpin(&mut self) {
        let areas = self.areas.ids().flat_map(|id| self.areas.ranges(id));
        let areas: Vec<PfnRange> = areas.copied().collect();
        self.pins.step(&areas);
    }

    pub fn pressure_step(&mut self) {
        self.pressure.step(self.memory);
    }

    pub fn fill(&mut self) {
        let free = self.memory.allocator().free_frames();
        let left = self.rng.pick(&[2, 4, 8]);
        self.pressure.fill(self.memory, free / left);
    }

    /// Everything looks as it should.
    pub fn check(&self) {
        self.programs.check();
        let uses = self.programs.uses();
        assert_eq!(uses.damage, None, "{uses:?}");
        assert_eq!(self.memory.movers().past_the_gate(), 0);
        let areas = self.areas.ids().flat_map(|id| self.areas.ranges(id));
        self.pins
            .check(self.memory, &areas.copied().collect::<Vec<_>>());
    }

    /// Everybody goes, and everything is as before.
    pub fn end(mut self) {
        while let Some(held) = self.held.pop() {
            self.release(held);
        }
        self.pins.end();
        self.check();
        self.pressure.leave(self.memory);
        assert_eq!(self.memory.allocator().free_frames(), self.free_frames);
        for area in self.areas.ids() {
            let usage = self.areas.usage(area);
            assert_eq!(usage.free, usage.frames, "{area:?}");
        }
    }
}
