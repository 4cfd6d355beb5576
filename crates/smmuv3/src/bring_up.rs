//! From registers to a running SMMU, and back.

use core::time::Duration;

use dmakit_platform::{
    Barrier, IrqMutex, Mmio, NoMemory, Platform, Segment, SleepMutex, TableMemory,
};

use crate::context::Streams;
use crate::events::EventQueue;
use crate::queue::CommandQueue;
use crate::smmu::allocate;
use crate::spec::command;
use crate::spec::registers as reg;
use crate::spec::ste::Ste;
use crate::stream_table::StreamTable;
use crate::tags::Tags;
use crate::{AttachError, Config, Features, Smmu, StartError};

/// The longest that a change of `CR0` or `GBPA` may take.
const CONTROL_TIME_MAX: Duration = Duration::from_millis(100);

/// log2 of the shortest queue: less holds no batch.
const QUEUE_SHIFT_MIN: u32 = 6;

/// What an earlier owner of the SMMU left that must live on: devices that nobody has stopped, and
/// regions that firmware uses.
#[derive(Clone, Copy, Debug, Default)]
pub struct Inherited<'a> {
    /// Stream table entries that are valid from the start, by stream; as the earlier owner had
    /// them, or [`BYPASS`](crate::spec::ste::BYPASS). What they refer to stays as it is.
    pub streams: &'a [(u32, Ste)],
    /// ASIDs that these use: never given out.
    pub asids: &'a [u16],
    /// VMIDs that these use: never given out.
    pub vmids: &'a [u16],
}

/// Memory of the queues, each with log2 of its length.
struct Queues {
    commands: (Segment, u32),
    events: (Segment, u32),
    /// Where syncs write.
    message: Option<Segment>,
}

impl Queues {
    fn allocate(
        features: &Features,
        memory: &impl TableMemory,
        config: &Config,
    ) -> Result<Self, NoMemory> {
        let queue = |shift: u32, most: u32, bytes: u64| {
            let mut shift = shift.min(most);
            loop {
                match allocate(memory, features, config.node, bytes << shift) {
                    Ok(segment) => return Ok((segment, shift)),
                    Err(error) if shift <= QUEUE_SHIFT_MIN => return Err(error),
                    Err(_) => shift -= 1,
                }
            }
        };
        let commands = queue(config.command_shift, features.command_shift_max, 16)?;
        let events = match queue(config.event_shift, features.event_shift_max, 32) {
            Ok(events) => events,
            Err(error) => {
                memory.free_table(commands.0);
                return Err(error);
            }
        };
        let mut message = None;
        if config.messages && features.messages && features.coherent {
            // Without memory for it, the consumer index says as much.
            message = allocate(memory, features, config.node, 4096).ok();
        }
        Ok(Self {
            commands,
            events,
            message,
        })
    }
}

impl<P: Platform, R: Mmio, M: TableMemory> Smmu<P, R, M> {
    /// Brings an SMMU up: every stream is aborted until it is attached. May sleep.
    ///
    /// An SMMU that is found running, after a crash, is first turned off so that live devices'
    /// transactions are aborted; the tables that it used are not touched.
    ///
    /// The order is that of 3.11 and 6.3: everything off, tables and queues described, the command
    /// queue on, all caches forgotten, the event queue on, interrupts, translation on.
    ///
    /// # Errors
    /// [`StartError`]; the SMMU is then left as far as it came, with translation off.
    pub fn start(platform: P, regs: R, memory: M, config: Config) -> Result<Self, StartError> {
        Self::take_over(platform, regs, memory, config, Inherited::default())
    }

    /// As [`start`](Self::start), with streams that translate as before as soon as the SMMU is on
    /// again. In between, where it was on, they are aborted: no SMMU changes its stream table while
    /// it translates (6.3.24).
    ///
    /// # Errors
    /// As [`start`](Self::start); [`StartError::Inherit`] for a stream that it does not have.
    pub fn take_over(
        platform: P,
        regs: R,
        memory: M,
        config: Config,
        inherited: Inherited<'_>,
    ) -> Result<Self, StartError> {
        let features = Features::probe(&regs).map_err(StartError::Probe)?;
        let this = Self::assemble(platform, regs, memory, config, features)?;
        if let Err(error) = this.inherit(inherited) {
            // It has seen nothing of this yet.
            this.free_all();
            return Err(error);
        }
        // From here on the SMMU may know the memory, which stays with it on failure.
        this.reset()?;
        Ok(this)
    }

    /// Turns translation and queues off; transactions are then aborted where the SMMU can do that.
    /// Gives the memory back, that of contexts included.
    ///
    /// # Errors
    /// [`StartError::Control`]: the memory stays with the SMMU, for it may still be in use.
    pub fn stop(self) -> Result<(), StartError> {
        self.turn_off()?;
        self.free_all();
        Ok(())
    }

    fn assemble(
        platform: P,
        regs: R,
        memory: M,
        config: Config,
        features: Features,
    ) -> Result<Self, StartError> {
        let cleans = !features.coherent;
        let table =
            StreamTable::new(&features, &platform, &memory, &config).map_err(StartError::Memory)?;
        let queues = match Queues::allocate(&features, &memory, &config) {
            Ok(queues) => queues,
            Err(error) => {
                table
                    .into_segments()
                    .for_each(|part| memory.free_table(part));
                return Err(StartError::Memory(error));
            }
        };
        let (commands, command_shift) = queues.commands;
        let (events, event_shift) = queues.events;
        let message = queues.message;
        let streams = Streams::new(
            table,
            Tags::new(features.asid_16),
            Tags::new(features.vmid_16),
        );
        Ok(Self {
            platform,
            regs,
            memory,
            node: config.node,
            features,
            costs: config.costs,
            commands: CommandQueue::new(commands, command_shift, message, cleans),
            events: IrqMutex::<P, _>::new(EventQueue::new(events, event_shift, cleans)),
            streams: SleepMutex::<P, _>::new(streams),
        })
    }

    fn inherit(&self, inherited: Inherited<'_>) -> Result<(), StartError> {
        let mut streams = self.streams.lock();
        for &(stream, entry) in inherited.streams {
            let slot = streams
                .table
                .entry(stream, &self.platform, &self.memory)
                .map_err(|error| match error {
                    AttachError::Memory(error) => StartError::Memory(error),
                    _ => StartError::Inherit { stream },
                })?;
            for (word, value) in slot.words.iter().zip(entry) {
                word.store(value, core::sync::atomic::Ordering::Relaxed);
            }
            if !self.features.coherent {
                self.platform.clean(slot.range);
            }
        }
        for &asid in inherited.asids {
            streams.asids.withhold(asid);
        }
        for &vmid in inherited.vmids {
            streams.vmids.withhold(vmid);
        }
        Ok(())
    }

    fn free_all(self) {
        let streams = self.streams.into_inner().into_segments();
        let events = [self.events.into_inner().into_segment()];
        for segment in streams.chain(self.commands.into_segments()).chain(events) {
            self.memory.free_table(segment);
        }
    }

    fn reset(&self) -> Result<(), StartError> {
        self.turn_off()?;
        let attributes = match self.features.coherent {
            true => reg::CR1_INNER_WRITE_BACK,
            false => reg::CR1_UNCACHED,
        };
        let regs = &self.regs;
        regs.write32(reg::CR1, attributes);
        regs.write32(reg::CR2, reg::CR2_PTM | reg::CR2_RECINVSID);
        {
            let streams = self.streams.lock();
            self.platform.barrier(Barrier::BeforeDevice);
            regs.write64(reg::STRTAB_BASE, streams.table.base() | reg::BASE_ALLOCATE);
            regs.write32(reg::STRTAB_BASE_CFG, streams.table.config());
        }
        let commands = u64::from(self.commands.shift()) | self.commands.base();
        regs.write64(reg::CMDQ_BASE, commands | reg::BASE_ALLOCATE);
        regs.write32(reg::CMDQ_PROD, 0);
        regs.write32(reg::CMDQ_CONS, 0);
        // Errors that an earlier owner left active would keep the command queue from starting.
        self.commands.acknowledge(regs, u32::MAX);
        let mut enabled = reg::CR0_CMDQEN;
        self.control(reg::CR0, reg::CR0ACK, enabled)?;
        for forget in [command::CFGI_ALL, command::TLBI_NSNH_ALL] {
            self.run([forget]).map_err(StartError::Sync)?;
        }
        {
            let events = self.events.lock();
            let base = u64::from(events.shift()) | events.base();
            regs.write64(reg::EVENTQ_BASE, base | reg::BASE_ALLOCATE);
            regs.write32(reg::EVENTQ_PROD, 0);
            regs.write32(reg::EVENTQ_CONS, 0);
        }
        enabled |= reg::CR0_EVENTQEN;
        self.control(reg::CR0, reg::CR0ACK, enabled)?;
        self.control(reg::IRQ_CTRL, reg::IRQ_CTRLACK, 0)?;
        regs.write64(reg::GERROR_IRQ_CFG0, 0);
        regs.write64(reg::EVENTQ_IRQ_CFG0, 0);
        let interrupts = reg::IRQ_CTRL_GERROR | reg::IRQ_CTRL_EVENTQ;
        self.control(reg::IRQ_CTRL, reg::IRQ_CTRLACK, interrupts)?;
        self.control(reg::CR0, reg::CR0ACK, enabled | reg::CR0_SMMUEN)
    }

    fn turn_off(&self) -> Result<(), StartError> {
        if self.regs.read32(reg::CR0) & reg::CR0_SMMUEN != 0 {
            // Live devices must not fall through untranslated.
            let abort = reg::GBPA_UPDATE | reg::GBPA_ABORT;
            self.regs.write32(reg::GBPA, abort);
            self.until(reg::GBPA, abort, |regs| {
                regs.read32(reg::GBPA) & reg::GBPA_UPDATE == 0
            })?;
        }
        self.control(reg::CR0, reg::CR0ACK, 0)
    }

    fn control(&self, register: u64, ack: u64, value: u32) -> Result<(), StartError> {
        self.regs.write32(register, value);
        self.until(register, value, |regs| regs.read32(ack) == value)
    }

    fn until(
        &self,
        register: u64,
        value: u32,
        done: impl Fn(&R) -> bool,
    ) -> Result<(), StartError> {
        let start = self.platform.now();
        while !done(&self.regs) {
            if self.platform.now().saturating_since(start) > CONTROL_TIME_MAX {
                return Err(StartError::Control { register, value });
            }
            core::hint::spin_loop();
        }
        Ok(())
    }
}
