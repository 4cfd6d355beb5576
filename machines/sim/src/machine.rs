//! The machine.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dmakit_addr::{NodeId, PhysAddr, PhysRange};
use dmakit_platform::host::{CheckedIrqLock, CheckedSleepLock, HostRam, ThreadContext};
use dmakit_platform::{Barrier, ConversionError, CpuId, Instant, Platform, Segment};

use crate::cache::{Cache, Maintenance};
use crate::cpu::{MachineCpu, Seat};
use crate::engine::DeviceState;
use crate::its::ItsState;
use crate::log::Log;
use crate::sharing::{Conversion, FrameState};
use crate::smmu::SmmuState;
use crate::spans::Spans;
use crate::violation::Recorder;
use crate::{
    Counts, DeviceConfig, DeviceId, Event, FaultPlan, ItsConfig, MachineConfig, MachineError,
    PrivateAccess, Rng, SimDevice, SimIts, SimSmmu, SmmuConfig, SmmuId, Violation, Violations,
};

/// A machine: RAM, CPUs, caches, devices and a clock.
///
/// A clone is a handle to the same machine. Used from one thread, everything that happens follows
/// from the seed and the calls; between threads the system's scheduler has a say.
///
/// What it cannot show:
/// * a missing barrier between two writes of the CPU: windows are plain memory, so devices see
///   stores in order (barriers are counted);
/// * a cache line that was made dirty by storing what it held already: nothing can watch a store
///   that changes nothing, so tests write fresh patterns;
/// * how long anything takes, but for what its [`LatencyTable`](crate::LatencyTable) has a figure for: otherwise time
///   moves when it is [moved](Self::advance).
#[derive(Clone, Debug)]
pub struct Machine {
    inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) id: u64,
    pub(crate) violations: Arc<Recorder>,
    pub(crate) seats: Box<[Seat]>,
    config: MachineConfig,
    now_ns: AtomicU64,
    threads: Mutex<BTreeMap<u64, u32>>,
    state: Mutex<State>,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) seed: u64,
    pub(crate) rng: Rng,
    pub(crate) cache: Cache,
    pub(crate) private: Option<PrivateAccess>,
    pub(crate) frames: Spans<FrameState>,
    pub(crate) devices: Vec<DeviceState>,
    pub(crate) smmus: Vec<SmmuState>,
    pub(crate) its: Vec<ItsState>,
    pub(crate) plan: FaultPlan,
    pub(crate) log: Log,
    pub(crate) violations: Arc<Recorder>,
    pub(crate) config: MachineConfig,
    /// What took time since the clock was last moved.
    pub(crate) elapsed_ns: u64,
    ram: Vec<Vec<Segment>>,
}

/// Lines that the adversary may move, and parts of transfers that may land, at each disturbance.
const MOVES: usize = 4;

impl MachineConfig {
    /// The machine so described.
    ///
    /// # Errors
    /// [`MachineError`].
    pub fn build(self) -> Result<Machine, MachineError> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let config = self.checked()?;
        let ranges: Vec<PhysRange> = config.nodes.iter().flatten().copied().collect();
        let (cpu, mut segments) = HostRam::new(&ranges).map_err(MachineError::Ram)?;
        let below = match config.coherent {
            true => None,
            // Nobody owns the far side of the caches: its segments are dropped.
            false => Some([
                HostRam::new(&ranges).map_err(MachineError::Ram)?.0,
                HostRam::new(&ranges).map_err(MachineError::Ram)?.0,
            ]),
        };
        let mut ram = Vec::new();
        for node in config.nodes.iter().rev() {
            ram.push(segments.split_off(segments.len() - node.len()));
        }
        ram.reverse();
        let violations = Arc::new(Recorder::default());
        let state = State {
            seed: config.seed,
            rng: Rng::derived(config.seed, 0xb05),
            cache: Cache::new(cpu, below, config.line_bytes, config.seed),
            private: config.private,
            frames: Spans::default(),
            devices: Vec::new(),
            smmus: Vec::new(),
            its: Vec::new(),
            plan: FaultPlan::none(),
            log: Log::new(config.record),
            violations: violations.clone(),
            config: config.clone(),
            elapsed_ns: 0,
            ram,
        };
        let machine = Machine {
            inner: Arc::new(Inner {
                id: NEXT.fetch_add(1, Ordering::Relaxed),
                violations,
                seats: (0..config.cpus).map(|_| Seat::default()).collect(),
                config,
                now_ns: AtomicU64::new(0),
                threads: Mutex::default(),
                state: Mutex::new(state),
            }),
        };
        // The builder's thread is CPU 0, whoever else comes first.
        machine.inner.current_cpu();
        Ok(machine)
    }
}

impl Inner {
    pub(crate) fn lock_threads(&self) -> MutexGuard<'_, BTreeMap<u64, u32>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Time passes for caches and devices: the adversary moves.
    pub(crate) fn disturb(&mut self) {
        self.cache.disturb(MOVES, &mut self.log);
        for smmu in 0..self.smmus.len() {
            self.disturb_smmu(SmmuId(smmu));
        }
        for its in 0..self.its.len() {
            self.disturb_its(its);
        }
        for device in 0..self.devices.len() {
            if self.devices[device].is_idle() {
                continue;
            }
            for _ in 0..self.rng.below(MOVES as u64) {
                self.land_one(DeviceId(device));
            }
        }
    }
}

impl Machine {
    pub(crate) fn config(&self) -> &MachineConfig {
        &self.inner.config
    }

    /// Runs `act` on the state.
    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self
            .inner
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        state.log.now = self.now();
        let result = act(&mut state);
        let elapsed = std::mem::take(&mut state.elapsed_ns);
        self.inner.now_ns.fetch_add(elapsed, Ordering::Relaxed);
        result
    }

    /// The RAM of `node`, which is handed out once: afterwards, and for an unknown node, there is
    /// none.
    pub fn take_ram(&self, node: NodeId) -> Vec<Segment> {
        self.with(|state| {
            state
                .ram
                .get_mut(node.index())
                .map(std::mem::take)
                .unwrap_or_default()
        })
    }

    /// Where there is RAM, and on which node.
    pub fn ram(&self) -> impl Iterator<Item = (NodeId, PhysRange)> + '_ {
        let nodes = self.inner.config.nodes.iter().enumerate();
        nodes.flat_map(|(index, ranges)| {
            let node = NodeId::new(index as u16);
            ranges.iter().map(move |range| (node, *range))
        })
    }

    /// The seed of the machine, for messages of failed tests.
    pub fn seed(&self) -> u64 {
        self.inner.config.seed
    }

    /// Puts a device on the bus.
    pub fn add_device(&self, config: DeviceConfig) -> SimDevice {
        let ram = self.ram().map(|(_, range)| range);
        let id = self.with(|state| {
            let device = DeviceState::new(config, ram, state.cache.is_coherent());
            state.devices.push(device);
            DeviceId(state.devices.len() - 1)
        });
        SimDevice::new(self.clone(), id)
    }

    /// Puts an SMMU on the bus, and gives its registers.
    pub fn add_smmu(&self, config: SmmuConfig) -> SimSmmu {
        let id = self.with(|state| {
            state.smmus.push(SmmuState::new(config));
            SmmuId(state.smmus.len() - 1)
        });
        SimSmmu::new(self.clone(), id)
    }

    /// Puts an interrupt translation service on the bus, and gives its registers.
    pub fn add_its(&self, config: ItsConfig) -> SimIts {
        let index = self.with(|state| {
            state.its.push(ItsState::new(config));
            state.its.len() - 1
        });
        SimIts::new(self.clone(), index)
    }

    /// Runs `act` with the calling thread as CPU `cpu`, then goes back to the CPU of before. A
    /// number too high wraps.
    pub fn on_cpu<T>(&self, cpu: CpuId, act: impl FnOnce() -> T) -> T {
        let before = self.inner.current_cpu();
        let count = self.inner.seats.len();
        let wanted = (cpu.index() % count) as u32;
        self.migrate(before, wanted);
        let result = act();
        self.migrate(wanted, before);
        result
    }

    fn migrate(&self, from: u32, to: u32) {
        if from != to && ThreadContext::current().cpu_guards > 0 {
            self.inner.violations.push(Violation::Migrated {
                from: CpuId::new(from),
                to: CpuId::new(to),
            });
        }
        self.inner.bind(to);
    }

    /// Runs `act` as a hard interrupt's handler, on the CPU of the calling thread: whatever may
    /// sleep is a violation in it.
    pub fn in_interrupt<T>(&self, act: impl FnOnce() -> T) -> T {
        self.inner.current_cpu();
        let _scope = ThreadContext::enter_interrupt();
        act()
    }

    /// Moves the clock on.
    pub fn advance(&self, by: Duration) {
        let later = self.now().saturating_add(by);
        self.inner
            .now_ns
            .fetch_max(later.as_nanos(), Ordering::Relaxed);
    }

    /// Lets caches and devices do some of what they may do at any time.
    pub fn disturb(&self) {
        self.with(State::disturb);
    }

    /// From now on, steps fail as `plan` says.
    pub fn inject(&self, plan: &FaultPlan) {
        self.with(|state| state.plan = plan.clone());
    }

    /// The plan by which steps fail, for steps of the user's own.
    pub fn faults(&self) -> FaultPlan {
        self.with(|state| state.plan.clone())
    }

    /// Reads what memory holds at `start`, below the caches and as the guest sees it; false, and
    /// nothing read, where not all of it is RAM.
    pub fn peek(&self, start: PhysAddr, bytes: &mut [u8]) -> bool {
        let range = PhysRange::new(start, bytes.len() as u64);
        range.is_ok_and(|range| self.with(|state| state.cache.peek(range, bytes)))
    }

    /// The frames that the host can reach; none on a machine without an untrusted one.
    pub fn shared(&self) -> Vec<PhysRange> {
        self.with(|state| state.frames_that(|frame| frame.is_shared))
    }

    /// The frames of which a conversion failed: nobody may use them again.
    pub fn unknown(&self) -> Vec<PhysRange> {
        self.with(|state| state.frames_that(|frame| frame.is_unknown))
    }

    /// What has been counted.
    pub fn counts(&self) -> Counts {
        self.with(|state| state.log.counts)
    }

    /// What has happened and when, in order; empty unless
    /// [`MachineConfig::record`] was asked for.
    pub fn log(&self) -> Vec<(Instant, Event)> {
        self.with(|state| state.log.events())
    }

    /// Whether every rule was kept.
    ///
    /// # Errors
    /// The [`Violations`], which stay.
    pub fn check(&self) -> Result<(), Violations> {
        let violations = self.inner.violations.list();
        if violations.total > 0 {
            return Err(violations);
        }
        Ok(())
    }

    /// The violations, which are forgotten: what a test provoked on purpose.
    pub fn take_violations(&self) -> Violations {
        self.inner.violations.take()
    }

    pub(crate) fn violate(&self, violation: Violation) {
        self.inner.violations.push(violation);
    }

    fn maintain(&self, range: PhysRange, what: Maintenance) {
        self.with(|state| {
            let counts = &mut state.log.counts;
            let event = match what {
                Maintenance::Clean => {
                    counts.cleans += 1;
                    Event::Clean(range)
                }
                Maintenance::Invalidate => {
                    counts.invalidates += 1;
                    Event::Invalidate(range)
                }
                Maintenance::CleanInvalidate => {
                    counts.clean_invalidates += 1;
                    Event::CleanInvalidate(range)
                }
            };
            state.log.event(event);
            if !range.is_empty() && !state.cache.is_ram(range) {
                state.violations.push(Violation::NotRam { range });
                return;
            }
            state.disturb();
            state.cache.maintain(range, what, &mut state.log);
            state.disturb();
        });
    }

    fn convert(&self, range: PhysRange, conversion: Conversion) -> Result<(), ConversionError> {
        self.inner.current_cpu();
        ThreadContext::check_may_sleep(match conversion {
            Conversion::Share => "memory was shared",
            Conversion::Unshare => "memory was unshared",
        });
        self.with(|state| {
            state.disturb();
            state.convert(range, conversion)
        })
    }
}

impl Platform for Machine {
    type IrqLock = CheckedIrqLock;
    type SleepLock = CheckedSleepLock;
    type CpuGuard<'a> = MachineCpu<'a>;

    fn now(&self) -> Instant {
        Instant::from_nanos(self.inner.now_ns.load(Ordering::Relaxed))
    }

    fn cpu_count(&self) -> usize {
        self.inner.seats.len()
    }

    fn enter_cpu(&self) -> MachineCpu<'_> {
        let cpu = self.inner.current_cpu();
        self.inner.seats[cpu as usize].enter(CpuId::new(cpu))
    }

    fn barrier(&self, barrier: Barrier) {
        fence(match barrier {
            Barrier::BeforeDevice => Ordering::Release,
            Barrier::AfterDevice => Ordering::Acquire,
            Barrier::Full => Ordering::SeqCst,
        });
        self.with(|state| state.log.counts.barriers += 1);
    }

    fn cache_line_bytes(&self) -> u64 {
        self.inner.config.line_bytes
    }

    fn clean(&self, range: PhysRange) {
        self.maintain(range, Maintenance::Clean);
    }

    fn invalidate(&self, range: PhysRange) {
        self.maintain(range, Maintenance::Invalidate);
    }

    fn clean_invalidate(&self, range: PhysRange) {
        self.maintain(range, Maintenance::CleanInvalidate);
    }

    fn share(&self, range: PhysRange) -> Result<(), ConversionError> {
        self.convert(range, Conversion::Share)
    }

    fn unshare(&self, range: PhysRange) -> Result<(), ConversionError> {
        self.convert(range, Conversion::Unshare)
    }
}
