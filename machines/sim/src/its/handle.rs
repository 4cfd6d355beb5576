//! An ITS and its redistributors, as a driver and a test hold them.

use std::time::Duration;

use dmakit_addr::{PhysAddr, PhysRange};
use dmakit_platform::Mmio;

use super::ItsConfig;
use super::bus::Bus;
use super::registers as reg;
use super::state::ItsState;
use crate::Machine;

/// What a register read costs in virtual time: so that whoever waits comes to an end.
const READ_TIME: Duration = Duration::from_micros(1);

/// A handle to an ITS and its registers; a clone stands for the same one.
#[derive(Clone, Debug)]
pub struct SimIts {
    machine: Machine,
    index: usize,
}

/// The registers of one redistributor.
#[derive(Clone, Debug)]
pub struct SimRedistributor {
    its: SimIts,
    cpu: u16,
}

impl SimIts {
    pub(crate) fn new(machine: Machine, index: usize) -> Self {
        Self { machine, index }
    }

    /// What it can do.
    pub fn config(&self) -> ItsConfig {
        self.with(|its, _| its.config)
    }

    /// Where its registers would be.
    pub fn base(&self) -> PhysAddr {
        PhysAddr::new(self.config().base)
    }

    /// The redistributor of a CPU.
    pub fn redistributor(&self, cpu: u16) -> SimRedistributor {
        SimRedistributor {
            its: self.clone(),
            cpu,
        }
    }

    /// A device writes an event to the doorbell.
    pub fn raise(&self, device: u32, event: u32) {
        self.with(|its, bus| its.deliver(device, event, bus));
    }

    /// How many events raised nothing.
    pub fn dropped(&self) -> u64 {
        self.with(|its, _| its.counts.dropped)
    }

    /// How many commands were wrong.
    pub fn refused(&self) -> u64 {
        self.with(|its, _| its.counts.refused)
    }

    /// How many commands of this number it has consumed.
    pub fn consumed(&self, opcode: u8) -> u64 {
        self.with(|its, _| its.counts.consumed.get(&opcode).copied().unwrap_or(0))
    }

    /// The entries that it read or wrote since this was last asked, wherever they lie.
    pub fn take_reached(&self) -> Vec<PhysRange> {
        let reached = self.with(|its, _| std::mem::take(&mut its.counts.reached));
        reached
            .into_iter()
            .filter_map(|(start, len)| PhysRange::new(PhysAddr::new(start), len).ok())
            .collect()
    }

    /// It executes nothing any more, or goes on.
    pub fn stick(&self, is_stuck: bool) {
        self.with(|its, _| its.faults.is_stuck = is_stuck);
    }

    /// Turned off, it never comes to rest.
    pub fn never_rest(&self) {
        self.with(|its, _| its.faults.is_restless = true);
    }

    /// Its read index says `creadr`, or what it should again.
    pub fn stray(&self, creadr: Option<u64>) {
        self.with(|its, _| its.faults.stray = creadr);
    }

    /// Commands of this number do nothing from now on, as if the driver had not sent them.
    pub fn ignore(&self, opcode: u8) {
        self.with(|its, _| its.faults.ignored.insert(opcode));
    }

    /// The next command of this number is refused, right or wrong.
    pub fn refuse(&self, opcode: u8) {
        self.with(|its, _| its.faults.refused = Some(opcode));
    }

    fn with<T>(&self, act: impl FnOnce(&mut ItsState, &mut Bus<'_>) -> T) -> T {
        self.machine.with(|state| state.with_its(self.index, act))
    }

    fn read(&self, offset: u64) -> u64 {
        self.machine.advance(READ_TIME);
        self.machine.with(|state| {
            if matches!(offset, reg::CREADR | reg::CTLR) {
                // Whoever looks waits for something: it happens, sooner or later.
                for _ in 0..state.rng.below(4) {
                    state.with_its(self.index, ItsState::step);
                }
            }
            state.with_its(self.index, |its, _| its.get(offset))
        })
    }

    fn write(&self, offset: u64, value: u64) {
        self.machine.with(|state| {
            state.with_its(self.index, |its, bus| its.set(offset, value, bus));
            state.disturb();
        });
    }
}

impl Mmio for SimIts {
    fn read32(&self, offset: u64) -> u32 {
        // No driver reads the upper half of a wide register by itself.
        self.read(offset) as u32
    }

    fn read64(&self, offset: u64) -> u64 {
        self.read(offset)
    }

    fn write32(&self, offset: u64, value: u32) {
        self.write(offset, value.into());
    }

    fn write64(&self, offset: u64, value: u64) {
        self.write(offset, value);
    }
}

impl SimRedistributor {
    /// Where its registers would be.
    pub fn base(&self) -> PhysAddr {
        PhysAddr::new(self.its.config().redistributor_base(self.cpu))
    }

    /// Whether an interrupt is pending, wherever that is kept.
    pub fn is_pending(&self, interrupt: u32) -> bool {
        self.on(|cpu, config, bus| cpu.is_pending(interrupt, config, bus))
    }

    /// Takes an interrupt as the CPU would: false where it is not pending, or not enabled as far as
    /// the redistributor knows.
    pub fn take(&self, interrupt: u32) -> bool {
        self.on(|cpu, config, bus| {
            cpu.is_pending(interrupt, config, bus)
                && cpu.is_enabled(interrupt, config, bus)
                && cpu.set_pending(interrupt, false, config, bus)
        })
    }

    /// It looks at an interrupt's configuration, as it may at any time, and remembers it.
    pub fn look_at(&self, interrupt: u32) {
        self.on(|cpu, config, bus| cpu.is_enabled(interrupt, config, bus));
    }

    fn on<T>(
        &self,
        act: impl FnOnce(&mut super::redistributor::Redistributor, &ItsConfig, &mut Bus<'_>) -> T,
    ) -> T {
        self.its.with(|its, bus| {
            let config = its.config;
            act(&mut its.redistributors[usize::from(self.cpu)], &config, bus)
        })
    }
}

impl Mmio for SimRedistributor {
    fn read32(&self, offset: u64) -> u32 {
        self.read64(offset) as u32
    }

    fn read64(&self, offset: u64) -> u64 {
        self.its.machine.advance(READ_TIME);
        self.on(|cpu, config, _| cpu.get(offset, self.cpu, config))
    }

    fn write32(&self, offset: u64, value: u32) {
        self.write64(offset, value.into());
    }

    fn write64(&self, offset: u64, value: u64) {
        self.on(|cpu, config, bus| cpu.set(offset, value, config, bus));
    }
}
