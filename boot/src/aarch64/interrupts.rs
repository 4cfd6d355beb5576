//! Interrupts: the GIC's CPU interface, and LPIs by way of the ITS.

use core::ptr::{NonNull, with_exposed_provenance_mut};

use arm_gic::gicv3::registers::Gicd;
use arm_gic::gicv3::{GicCpuInterface, GicV3};
use arm_gic::{InterruptGroup, UniqueMmioPointer, irq_enable};
use dmakit_addr::{PhysAddr, PhysRange};
use dmakit_its::{Config, Device, Its, LpiConfig, Lpis, Redistributor};
use dmakit_platform::{NoTables, TableMemory};

use crate::board::Board;
use crate::handlers::{self, Handler};
use crate::machine::Machine;
use crate::memory::{Coherent, EarlyMemory};
use crate::registers::Registers;

type Service<M> = Its<Board, Registers, M>;

/// The first number of an LPI (GIC architecture, 2.2.1).
const LPI_FIRST: u32 = 8192;

/// Takes what is pending; called with interrupts off.
pub fn take() {
    while let Some(id) = GicCpuInterface::get_and_acknowledge_interrupt(InterruptGroup::Group1) {
        if id.raw_value() >= LPI_FIRST {
            handlers::call(id.raw_value());
        }
        GicCpuInterface::end_interrupt(id, InterruptGroup::Group1);
    }
}

/// Interrupts, with memory for as long as the machine runs.
pub type Running = Interrupts<&'static Coherent>;

/// What a function's events come from.
pub type Source = Device;

/// The interrupt translation service, with its tables.
pub struct Interrupts<M: TableMemory> {
    its: Service<M>,
    lpis: Lpis<Board>,
    _redistributor: Redistributor,
}

impl Interrupts<NoTables> {
    /// Brings up the GIC and its ITS, before any device and any allocator; tables come from `memory`,
    /// and no more after that.
    ///
    /// # Safety
    /// The device tree tells the truth, and nobody else uses the GIC.
    pub unsafe fn start(machine: &Machine, memory: &EarlyMemory) -> Result<Self, &'static str> {
        let (distributor, redistributors) = machine.chips.gic.ok_or("no GICv3")?;
        let its = machine.chips.its.ok_or("no ITS")?;
        // SAFETY: the caller's promise; one instance uses them.
        unsafe { start_gic(distributor, redistributors) }?;
        let lpis = Lpis::new(Board, memory, LpiConfig::default()).map_err(|_| "no LPI table")?;
        let base = redistributors.start();
        // SAFETY: the caller's promise.
        let regs = unsafe { Registers::new(base.raw(), 0x2_0000) };
        let redistributor = Redistributor::start(&regs, base, None, &lpis, memory);
        let redistributor = redistributor.map_err(|_| "the redistributor has no LPIs")?;
        // SAFETY: the caller's promise.
        let regs = unsafe { Registers::new(its.start().raw(), its.len()) };
        let its = Its::start(Board, regs, memory, Config::new(its.start(), 1));
        let its = its.map_err(|_| "the ITS does not start")?;
        its.map_collection(0, redistributor.target())
            .map_err(|_| "no collection")?;
        irq_enable();
        println!(
            "its: {} bytes of tables from early areas",
            memory.taken_bytes()
        );
        Ok(Self {
            its: its.with_memory(NoTables),
            lpis,
            _redistributor: redistributor,
        })
    }
}

/// # Safety
/// A GICv3 is there, and nobody else uses it.
unsafe fn start_gic(distributor: PhysRange, redistributors: PhysRange) -> Result<(), &'static str> {
    let pointer =
        |at: PhysRange| NonNull::new(with_exposed_provenance_mut::<u8>(at.start().raw() as usize));
    let distributor = pointer(distributor).ok_or("no distributor")?;
    let first = pointer(redistributors).ok_or("no redistributor")?;
    // SAFETY: the caller's promise; one instance uses them.
    let gic = unsafe {
        let distributor = UniqueMmioPointer::new(distributor.cast::<Gicd>());
        GicV3::new(distributor, first.cast(), 1)
    };
    gic.map_err(|_| "no redistributor of this GIC")?.setup(0);
    GicCpuInterface::set_priority_mask(0xff);
    Ok(())
}

impl<M: TableMemory> Interrupts<M> {
    /// The same, which from now on takes its memory from `memory`. Nothing moves.
    pub fn with_memory<N: TableMemory>(self, memory: N) -> Interrupts<N> {
        Interrupts {
            its: self.its.with_memory(memory),
            lpis: self.lpis,
            _redistributor: self._redistributor,
        }
    }

    /// Where devices write to interrupt.
    pub fn doorbell(&self) -> PhysAddr {
        self.its.doorbell()
    }

    /// A function that interrupts with `events` events, none of them used yet.
    pub fn source(&self, id: u32, events: u32) -> Result<Source, &'static str> {
        self.its
            .create_device(id, events)
            .map_err(|_| "the ITS has no such device")
    }

    /// What a function writes to the doorbell for its first event; one more for each further one.
    pub fn message(&self, _source: &Source) -> u32 {
        0
    }

    /// Calls `handler` whenever the function raises `event`.
    pub fn handle(
        &self,
        source: &mut Source,
        event: u32,
        handler: Handler,
    ) -> Result<(), &'static str> {
        let lpi = self.lpis.allocate().map_err(|_| "no LPI left")?;
        handlers::add(lpi.number(), handler);
        self.its
            .map(source, event, lpi, 0)
            .map_err(|_| "the event is not mapped")?;
        self.its
            .enable(&self.lpis, source, event)
            .map_err(|_| "the event is not enabled")
    }
}
