//! One pass over the operations.

mod sampler;
mod trial;

use crate::demand::{Demand, Mapping, Op, OpKind, Recorded};
use crate::replay::driver::sampler::Sampler;
use crate::replay::memory::BounceMemory;
use crate::replay::report::{DeviceReport, PhaseReport, Placed, ReplayReport};
use crate::swiotlb::{MapFailure, Request, Slots, Swiotlb, SwiotlbConfig};

/// Which mappings go through the pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bounce {
    /// Those that the recorded kernel bounced.
    AsRecorded,
    /// All that no IOMMU translates (`swiotlb=force`).
    All,
    /// Those that the device cannot reach.
    Needed,
}

/// In which order operations of different CPUs happen where the recording leaves it open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// The most likely one.
    Likely,
    /// Releases as early, mappings as late as can be: the least use.
    Least,
    /// Releases as late, mappings as early as can be: the most use.
    Most,
}

/// How to replay.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReplayConfig {
    /// The pool.
    pub swiotlb: SwiotlbConfig,
    /// What is bounced.
    pub bounce: Bounce,
    /// Which order.
    pub order: Order,
    /// Samples of use over time, at most; 0 for none.
    pub samples_max: usize,
    /// Where each area begins its first search; areas not named begin at 0.
    pub cursors: Vec<u32>,
    /// Whether to tell where each mapping went.
    pub keeps_places: bool,
}

impl ReplayConfig {
    /// The most likely order, everything as recorded, no samples.
    pub fn new(swiotlb: SwiotlbConfig) -> Self {
        Self {
            swiotlb,
            bounce: Bounce::AsRecorded,
            order: Order::Likely,
            samples_max: 0,
            cursors: Vec::new(),
            keeps_places: false,
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum State {
    Idle,
    Held(Slots),
    Ended,
}

/// The replay, one operation at a time.
pub(crate) struct Driver<'a, M = Swiotlb> {
    demand: &'a Demand,
    config: &'a ReplayConfig,
    memory: M,
    states: Vec<State>,
    /// Per scatterlist whether it has been given up.
    given_up: Vec<bool>,
    /// Per scatterlist whether the recording has given it up.
    is_over: Vec<bool>,
    /// Mappings held by each scatterlist that the recording gave up.
    held_by: Vec<Vec<u32>>,
    open_phase: Option<usize>,
    report: ReplayReport,
    sampler: Sampler,
}

/// Runs the demand through the model. The recorded addresses take no part in it.
///
/// O(operations) searches, each at worst the kernel's own; `Order::Least` and `Order::Most` sort
/// the operations first.
pub fn replay(demand: &Demand, config: &ReplayConfig) -> ReplayReport {
    run(Driver::on_model(demand, config))
}

/// Runs the demand through any bounce memory, by the same rules. The pool of `config` is not
/// looked at.
pub fn replay_on<M: BounceMemory>(
    memory: M,
    demand: &Demand,
    config: &ReplayConfig,
) -> ReplayReport {
    run(Driver::new(memory, demand, config))
}

fn run<M: BounceMemory>(mut driver: Driver<'_, M>) -> ReplayReport {
    let (demand, config) = (driver.demand, driver.config);
    match config.order {
        Order::Likely => demand
            .ops
            .iter()
            .for_each(|op| driver.step(op.likely_ns, op)),
        order => {
            let mut moments: Vec<(u64, &Op)> = demand
                .ops
                .iter()
                .map(|op| (moment(op, order), op))
                .collect();
            moments.sort_by_key(|(at_ns, _)| *at_ns);
            moments
                .into_iter()
                .for_each(|(at_ns, op)| driver.step(at_ns, op));
        }
    }
    driver.finish()
}

/// [`replay`] in the most likely order, with each phase's high water bounded by the extreme ones.
///
/// The recording does not show in which order releases and mappings of different CPUs happened
/// where their windows overlap, so the kernel's figure is one of the interval's; the report's is
/// the most likely one. Costs three replays.
pub fn replay_bounded(demand: &Demand, config: &ReplayConfig) -> ReplayReport {
    let run = |order| {
        replay(
            demand,
            &ReplayConfig {
                order,
                ..config.clone()
            },
        )
    };
    let bare = ReplayConfig {
        samples_max: 0,
        keeps_places: false,
        ..config.clone()
    };
    let extreme = |order| {
        replay(
            demand,
            &ReplayConfig {
                order,
                ..bare.clone()
            },
        )
    };
    let mut report = run(Order::Likely);
    for other in [extreme(Order::Least), extreme(Order::Most)] {
        for (phase, other) in report.phases.iter_mut().zip(other.phases) {
            let (low, high) = phase.high_water_interval;
            let bound = other.high_water_slots;
            phase.high_water_interval = (low.min(bound), high.max(bound));
        }
    }
    report
}

fn moment(op: &Op, order: Order) -> u64 {
    let is_release = matches!(op.kind, OpKind::Unmap(_) | OpKind::GiveUp(_));
    let is_map = matches!(op.kind, OpKind::Map(_));
    match order {
        Order::Least if is_release => op.sooner_ns,
        Order::Most if is_release => op.later_ns,
        Order::Least if is_map => op.later_ns,
        Order::Most if is_map => op.sooner_ns,
        _ => op.likely_ns,
    }
}

impl<'a> Driver<'a> {
    /// On the pool that the configuration describes.
    pub fn on_model(demand: &'a Demand, config: &'a ReplayConfig) -> Self {
        let mut memory = Swiotlb::new(config.swiotlb);
        memory.set_cursors(&config.cursors);
        Self::new(memory, demand, config)
    }
}

impl<'a, M: BounceMemory> Driver<'a, M> {
    pub fn new(memory: M, demand: &'a Demand, config: &'a ReplayConfig) -> Self {
        let lists = demand
            .mappings
            .iter()
            .filter_map(|m| m.list)
            .max()
            .map_or(0, |n| n + 1);
        let phase = |phase: &crate::demand::Phase| PhaseReport {
            name: phase.name.clone(),
            high_water_slots: 0,
            high_water_interval: (0, 0),
            used_at_end: 0,
            mappings: 0,
            failed: 0,
            failed_silent: 0,
        };
        let placed = if config.keeps_places {
            demand.mappings.len()
        } else {
            0
        };
        Self {
            demand,
            config,
            memory,
            states: vec![State::Idle; demand.mappings.len()],
            given_up: vec![false; lists as usize],
            is_over: vec![false; lists as usize],
            held_by: vec![Vec::new(); lists as usize],
            open_phase: None,
            sampler: Sampler::new(demand, config.samples_max),
            report: ReplayReport {
                engine: config.swiotlb.engine,
                mappings: 0,
                failed: 0,
                failed_silent: 0,
                too_long: 0,
                served_beyond_recording: 0,
                high_water_slots: 0,
                pool_slots_peak: 0,
                grown_pools: 0,
                transient_pools: 0,
                bytes_copied: 0,
                slots_probed: 0,
                phases: demand.phases.iter().map(phase).collect(),
                devices: vec![DeviceReport::default(); demand.devices.len()],
                samples: Vec::new(),
                placed: vec![Placed::NotBounced; placed],
            },
        }
    }

    pub fn step(&mut self, at_ns: u64, op: &Op) {
        self.memory.advance(at_ns);
        match op.kind {
            OpKind::Map(index) => self.map(at_ns, index),
            OpKind::Unmap(index) => self.unmap(index),
            OpKind::GiveUp(list) => self.give_up(list),
            OpKind::Sync { mapping, bytes } => {
                if matches!(self.states[mapping as usize], State::Held(_)) {
                    let most = self.demand.mappings[mapping as usize].bytes;
                    self.report.bytes_copied += bytes.min(most);
                }
            }
            OpKind::PhaseBegin(index) => {
                self.memory.reset_high_water();
                self.open_phase = Some(index as usize);
            }
            OpKind::PhaseEnd(index) => {
                let counters = self.memory.counters();
                let phase = &mut self.report.phases[index as usize];
                phase.high_water_slots = counters.high_water;
                phase.high_water_interval = (counters.high_water, counters.high_water);
                phase.used_at_end = counters.used;
                self.open_phase = None;
            }
        }
        let counters = self.memory.counters();
        self.sampler.note(
            at_ns,
            counters.used,
            counters.pool_slots + counters.transient_slots,
        );
    }

    fn bounces(&self, mapping: &Mapping) -> bool {
        match self.config.bounce {
            Bounce::AsRecorded => mapping.was_bounced,
            Bounce::All => mapping.was_bounced || !self.demand.is_translated,
            Bounce::Needed => {
                let limits = &self.demand.devices[mapping.device as usize].limits;
                let last = mapping.original.saturating_add(mapping.bytes - 1);
                mapping.was_bounced && (!mapping.was_forced || last > limits.dma_mask)
            }
        }
    }

    fn map(&mut self, at_ns: u64, index: u32) {
        let mapping = &self.demand.mappings[index as usize];
        if matches!(self.states[index as usize], State::Ended) {
            // In an extreme order the release came first: it was never there.
            return;
        }
        if mapping.bytes == 0 || !self.bounces(mapping) || !self.list_goes_on(mapping) {
            return;
        }
        self.report.mappings += 1;
        self.report.devices[mapping.device as usize].mappings += 1;
        if let Some(phase) = self.open_phase {
            self.report.phases[phase].mappings += 1;
        }
        let request = request(mapping);
        let limits = self.demand.devices[mapping.device as usize].limits;
        let result = self.memory.map(at_ns, &limits, &request);
        if let Some(cpu) = self.memory.take_growth_request() {
            let start_ns = self.next_switch_ns(cpu, at_ns);
            self.memory.start_growth_at(start_ns);
        }
        match result {
            Ok(slots) => self.served(index, mapping, slots),
            Err(failure) => self.refused(index, mapping, failure),
        }
    }

    /// When a work item queued on a CPU can run: as soon as the CPU turns to another task.
    fn next_switch_ns(&self, cpu: u32, at_ns: u64) -> u64 {
        let Some(switches) = self.demand.switches.get(&cpu) else {
            return at_ns;
        };
        let next = switches.partition_point(|switch| switch.to_ns <= at_ns);
        switches
            .get(next)
            .map_or(u64::MAX, |switch| switch.from_ns.max(at_ns))
    }

    /// Entries after the failing one of a scatterlist are not tried. Where the recording gave a
    /// list up, the next attempt may as well begin another one.
    fn list_goes_on(&mut self, mapping: &Mapping) -> bool {
        let Some(list) = mapping.list else {
            return true;
        };
        if mapping.recorded == Recorded::FailedSilently {
            // In an extreme order a list can be over before all of it was tried.
            self.given_up[list as usize] = self.is_over[list as usize];
        }
        !self.given_up[list as usize]
    }

    fn served(&mut self, index: u32, mapping: &Mapping, slots: Slots) {
        self.report.bytes_copied += mapping.bytes;
        if self.config.keeps_places {
            self.report.placed[index as usize] = Placed::At(slots);
        }
        let used = self.memory.counters().used;
        let device = &mut self.report.devices[mapping.device as usize];
        device.used += slots.count;
        device.high_water_slots = device.high_water_slots.max(device.used);
        if used > self.report.high_water_slots {
            self.report.high_water_slots = used;
            for device in &mut self.report.devices {
                device.used_at_peak = device.used;
            }
        }
        self.states[index as usize] = State::Held(slots);
        match (mapping.recorded, mapping.list) {
            (Recorded::Failed, _) | (Recorded::FailedSilently, None) => {
                self.report.served_beyond_recording += 1;
                self.release(index);
            }
            (_, Some(list)) => self.held_by[list as usize].push(index),
            _ => {}
        }
    }

    fn refused(&mut self, index: u32, mapping: &Mapping, failure: MapFailure) {
        if self.config.keeps_places {
            self.report.placed[index as usize] = Placed::Refused;
        }
        self.states[index as usize] = State::Ended;
        self.report.too_long += u64::from(matches!(failure, MapFailure::TooLong { .. }));
        let is_silent = mapping.list.is_some();
        let device = &mut self.report.devices[mapping.device as usize];
        let phase = self.open_phase.map(|phase| &mut self.report.phases[phase]);
        if is_silent {
            self.report.failed_silent += 1;
            device.failed_silent += 1;
            phase.into_iter().for_each(|phase| phase.failed_silent += 1);
        } else {
            self.report.failed += 1;
            device.failed += 1;
            phase.into_iter().for_each(|phase| phase.failed += 1);
        }
        if let Some(list) = mapping.list {
            self.undo(list);
        }
    }

    fn unmap(&mut self, index: u32) {
        let mapping = &self.demand.mappings[index as usize];
        if matches!(self.states[index as usize], State::Held(_)) {
            self.report.bytes_copied += mapping.copied_back();
            self.release(index);
        }
        self.states[index as usize] = State::Ended;
    }

    /// The recording's end of a scatterlist that failed. Served here, it is work that the
    /// recording does not go on with.
    fn give_up(&mut self, list: u32) {
        if !self.given_up[list as usize] {
            self.report.served_beyond_recording += 1;
        }
        self.is_over[list as usize] = true;
        self.undo(list);
    }

    fn undo(&mut self, list: u32) {
        self.given_up[list as usize] = true;
        for index in std::mem::take(&mut self.held_by[list as usize]) {
            self.release(index);
        }
    }

    fn release(&mut self, index: u32) {
        if let State::Held(slots) = self.states[index as usize] {
            self.memory.unmap(&slots);
            let device = self.demand.mappings[index as usize].device;
            self.report.devices[device as usize].used -= slots.count;
            self.states[index as usize] = State::Ended;
        }
    }

    fn finish(mut self) -> ReplayReport {
        let counters = *self.memory.counters();
        self.report.pool_slots_peak = counters.pool_slots_peak;
        self.report.grown_pools = counters.grown_pools;
        self.report.transient_pools = counters.transient_pools;
        self.report.slots_probed = counters.probed;
        self.report.samples = self.sampler.finish();
        self.report
    }
}

fn request(mapping: &Mapping) -> Request {
    Request {
        cpu: mapping.cpu,
        original: mapping.original,
        bytes: mapping.bytes,
        alloc_align_mask: 0,
    }
}
