//! Bring-up, attaching streams, invalidation.

use core::fmt;
use core::sync::atomic::Ordering;
use core::time::Duration;

use dmakit_addr::{DmaMask, NodeId};
use dmakit_io_pgtable::lpae::{Lpae, MAIR, Stage};
use dmakit_io_pgtable::{Format, PageTable};
use dmakit_iommu::Invalidation;
use dmakit_platform::{
    Barrier, IrqMutex, Mmio, NoMemory, Platform, Segment, SegmentRequest, SleepMutex, TableMemory,
};

use crate::entry::replace;
use crate::events::EventQueue;
use crate::invalidate::Commands;
use crate::queue::{CommandQueue, RefusedCommand, SyncTimeout};
use crate::spec::cd::{self, Cd};
use crate::spec::command::{self, Command};
use crate::spec::event::Event;
use crate::spec::registers as reg;
use crate::spec::ste::{self, Ste};
use crate::stream_table::StreamTable;
use crate::tags::Tags;
use crate::{Features, ProbeError, Tag};

/// The longest that a change of `CR0` or `GBPA` may take.
const CONTROL_TIME_MAX: Duration = Duration::from_millis(100);

/// Ranges of more commands than this are forgotten with the whole tag instead.
///
/// One command costs the SMMU at least a look at its caches; forgetting a tag costs each later
/// transaction a walk of about four reads. A thousand commands are dearer than refilling the few
/// hundred entries that such caches hold.
const COMMANDS_MAX: usize = 1024;

/// What the embedder decides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// The node that tables and queues should lie on.
    pub node: Option<NodeId>,
    /// log2 of the commands in the queue; less where the SMMU or memory has less.
    pub command_shift: u32,
    /// log2 of the records in the event queue; likewise.
    pub event_shift: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            node: None,
            command_shift: 12,
            event_shift: 10,
        }
    }
}

/// An SMMU that did not come up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StartError {
    /// Not one that can be used.
    Probe(ProbeError),
    /// No memory for tables or queues.
    Memory(NoMemory),
    /// A control register that did not take a value in time.
    Control {
        /// Its offset.
        register: u64,
        /// What was written.
        value: u32,
    },
    /// Commands that did not complete.
    Sync(SyncTimeout),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Probe(error) => error.fmt(f),
            Self::Memory(error) => write!(f, "no memory for the SMMU's tables: {error}"),
            Self::Control { register, value } => {
                write!(f, "SMMU register {register:#x} did not take {value:#x}")
            }
            Self::Sync(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for StartError {}

/// A stream that was not attached, or not detached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AttachError {
    /// A stream ID with more bits than the SMMU's.
    UnknownStream {
        /// The stream.
        stream: u32,
        /// Bits of a stream ID.
        bits: u32,
    },
    /// No memory for a table.
    Memory(NoMemory),
    /// All ASIDs are in use.
    NoTag,
    /// Tables of a shape that this SMMU does not walk.
    Shape,
    /// The SMMU did not say that it has forgotten the old entry.
    Sync(SyncTimeout),
}

impl fmt::Display for AttachError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownStream { stream, bits } => {
                write!(f, "stream {stream:#x} has more than the SMMU's {bits} bits")
            }
            Self::Memory(error) => write!(f, "no memory for a stream's table: {error}"),
            Self::NoTag => f.write_str("all ASIDs are in use"),
            Self::Shape => f.write_str("this SMMU does not walk tables of that shape"),
            Self::Sync(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for AttachError {}

/// A stage 1 translation that streams can be attached to: a context descriptor and its ASID.
///
/// It does not own the page table; whoever drops that has detached all streams and released this.
#[derive(Debug)]
pub struct Context {
    descriptor: Segment,
    asid: u16,
}

impl Context {
    /// The tag of its translations.
    pub fn tag(&self) -> Tag {
        Tag::Asid(self.asid)
    }
}

/// What taking events found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct EventCount {
    /// Records read.
    pub records: u64,
    /// Whether the queue was full, and records were lost.
    pub lost: bool,
}

/// A running SMMU.
pub struct Smmu<P: Platform, R: Mmio, M: TableMemory> {
    platform: P,
    regs: R,
    memory: M,
    node: Option<NodeId>,
    features: Features,
    commands: CommandQueue<P>,
    events: IrqMutex<P, EventQueue>,
    streams: SleepMutex<P, StreamTable>,
    asids: SleepMutex<P, Tags>,
}

impl<P: Platform, R: Mmio, M: TableMemory> Smmu<P, R, M> {
    /// Brings an SMMU up: every stream is aborted until it is attached. May sleep.
    ///
    /// The order is that of 3.11 and 6.3: everything off, tables and queues described, the command
    /// queue on, all caches forgotten, the event queue on, interrupts, translation on.
    ///
    /// # Errors
    /// [`StartError`]; the SMMU is then left as far as it came, with translation off.
    pub fn start(platform: P, regs: R, memory: M, config: Config) -> Result<Self, StartError> {
        let features = Features::probe(&regs).map_err(StartError::Probe)?;
        let streams =
            StreamTable::new(&features, &memory, config.node).map_err(StartError::Memory)?;
        let queue = |shift: u32, most: u32, bytes: u64| {
            let shift = shift.min(most);
            allocate(&memory, &features, config.node, bytes << shift)
                .map(|segment| (segment, shift))
        };
        let (segment, shift) = queue(config.command_shift, features.command_shift_max, 16)
            .map_err(StartError::Memory)?;
        let commands = CommandQueue::new(segment, shift);
        let (segment, shift) =
            queue(config.event_shift, features.event_shift_max, 32).map_err(StartError::Memory)?;
        let events = EventQueue::new(segment, shift);
        let this = Self {
            platform,
            regs,
            memory,
            node: config.node,
            features,
            commands,
            events: IrqMutex::<P, _>::new(events),
            streams: SleepMutex::<P, _>::new(streams),
            asids: SleepMutex::<P, _>::new(Tags::new(features.asid_16)),
        };
        this.reset()?;
        Ok(this)
    }

    /// What it can do.
    pub fn features(&self) -> &Features {
        &self.features
    }

    /// Makes a translation of a page table. May sleep.
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn create_context<Q: Platform, N: TableMemory>(
        &self,
        table: &PageTable<Lpae, Q, N>,
    ) -> Result<Context, AttachError> {
        let format = table.format();
        let geometry = format.geometry();
        let walkable = format.stage() == Stage::One
            && self.features.stage_1
            && self.features.walks(geometry.granule())
            && geometry.output_bits() <= self.features.output_bits;
        if !walkable {
            return Err(AttachError::Shape);
        }
        let descriptor =
            allocate(&self.memory, &self.features, self.node, 4096).map_err(AttachError::Memory)?;
        let Some(asid) = self.asids.lock().take() else {
            self.memory.free_table(descriptor);
            return Err(AttachError::NoTag);
        };
        let cd = cd::stage_1(cd::Stage1 {
            asid,
            input_bits: geometry.input_bits(),
            granule: granule_field(geometry.granule().shift()),
            output: cd::output_size(geometry.output_bits()),
            table: table.root_phys().raw(),
            mair: MAIR,
            coherent: self.features.coherent,
        });
        store(&descriptor, &cd);
        self.platform.clean(descriptor.range());
        let context = Context { descriptor, asid };
        // Whatever an earlier life of the ASID left.
        match self.run([command::tlbi_nh_asid(asid)]) {
            Ok(()) => Ok(context),
            Err(error) => Err(AttachError::Sync(error)),
        }
    }

    /// Ends a translation: no stream is attached to it any more. May sleep.
    ///
    /// # Errors
    /// [`SyncTimeout`]: then neither its memory nor its ASID can be used again, and both are lost.
    pub fn release_context(&self, context: Context) -> Result<(), SyncTimeout> {
        self.run([command::tlbi_nh_asid(context.asid)])?;
        self.asids.lock().give(context.asid);
        self.memory.free_table(context.descriptor);
        Ok(())
    }

    /// Lets a stream translate through a context. May sleep.
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn attach(&self, stream: u32, context: &Context) -> Result<(), AttachError> {
        let base = context.descriptor.range().start().raw();
        self.run([command::cfgi_cd(stream, 0)])
            .map_err(AttachError::Sync)?;
        self.set_stream(stream, &ste::stage_1(base, self.features.stalls))
    }

    /// Aborts a stream's transactions. May sleep.
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn detach(&self, stream: u32) -> Result<(), AttachError> {
        self.set_stream(stream, &ste::ABORT)
    }

    /// Lets a stream pass untranslated. May sleep.
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn bypass(&self, stream: u32) -> Result<(), AttachError> {
        self.set_stream(stream, &ste::BYPASS)
    }

    /// Queues what forgets a range of a tag. Usable in any context.
    ///
    /// # Errors
    /// [`SyncTimeout`] where the queue stayed full; part of the range may have been forgotten.
    pub fn invalidate(&self, tag: Tag, what: &Invalidation) -> Result<(), SyncTimeout> {
        let mut queue = self.commands.produce(&self.platform, &self.regs);
        if !self.features.ranges && is_long(what) {
            queue.push(whole(tag))?;
        } else {
            for command in Commands::new(tag, *what, self.features.ranges) {
                queue.push(command)?;
            }
        }
        queue.publish();
        Ok(())
    }

    /// Queues what forgets everything of a tag.
    ///
    /// # Errors
    /// [`SyncTimeout`] where the queue stayed full.
    pub fn invalidate_all(&self, tag: Tag) -> Result<(), SyncTimeout> {
        let mut queue = self.commands.produce(&self.platform, &self.regs);
        queue.push(whole(tag))?;
        queue.publish();
        Ok(())
    }

    /// Waits until everything that any CPU queued before has taken effect. Usable in any context;
    /// spins.
    ///
    /// # Errors
    /// [`SyncTimeout`]: nothing that waited for it may be used again.
    pub fn sync(&self) -> Result<(), SyncTimeout> {
        let queue = self.commands.produce(&self.platform, &self.regs);
        let target = queue.publish_with_sync()?;
        self.commands.wait(&self.platform, &self.regs, target)
    }

    /// Takes records of faults, oldest first.
    pub fn take_events(&self, mut visit: impl FnMut(Event)) -> EventCount {
        let mut count = EventCount::default();
        let mut events = self.events.lock();
        count.lost = events.take(&self.platform, &self.regs, |event| {
            count.records += 1;
            visit(event);
        });
        // An abort for want of room stays active until it is acknowledged.
        let (error, seen) = (
            self.regs.read32(reg::GERROR),
            self.regs.read32(reg::GERRORN),
        );
        if (error ^ seen) & reg::GERROR_EVENTQ_ABORT != 0 {
            count.lost = true;
            self.regs
                .write32(reg::GERRORN, seen ^ reg::GERROR_EVENTQ_ABORT);
        }
        count
    }

    /// How many commands the SMMU refused, and the last of them.
    pub fn refused_commands(&self) -> (u64, Option<RefusedCommand>) {
        self.commands.refused()
    }

    /// Turns translation and queues off; transactions are then aborted where the SMMU can do that.
    /// Gives the memory back.
    ///
    /// # Errors
    /// [`StartError::Control`]: the memory stays with the SMMU, for it may still be in use.
    pub fn stop(self) -> Result<(), StartError> {
        self.turn_off()?;
        for segment in self.streams.into_inner().into_segments() {
            self.memory.free_table(segment);
        }
        Ok(())
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
            regs.write64(reg::STRTAB_BASE, streams.base() | reg::BASE_ALLOCATE);
            regs.write32(reg::STRTAB_BASE_CFG, streams.config());
        }
        let commands = u64::from(self.commands.shift()) | self.commands.base();
        regs.write64(reg::CMDQ_BASE, commands | reg::BASE_ALLOCATE);
        regs.write32(reg::CMDQ_PROD, 0);
        regs.write32(reg::CMDQ_CONS, 0);
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

    /// Queues commands and waits for them.
    fn run<const N: usize>(&self, commands: [Command; N]) -> Result<(), SyncTimeout> {
        let mut queue = self.commands.produce(&self.platform, &self.regs);
        for command in commands {
            queue.push(command)?;
        }
        let target = queue.publish_with_sync()?;
        self.commands.wait(&self.platform, &self.regs, target)
    }

    fn set_stream(&self, stream: u32, words: &Ste) -> Result<(), AttachError> {
        let mut streams = self.streams.lock();
        let entry = streams.entry(stream, &self.platform, &self.memory)?;
        replace(entry, words, || self.run([command::cfgi_ste(stream)])).map_err(AttachError::Sync)
    }
}

fn is_long(what: &Invalidation) -> bool {
    let shift = what.leaf_shift.unwrap_or(what.granule.shift());
    what.range.len() >> shift > COMMANDS_MAX as u64
}

fn whole(tag: Tag) -> Command {
    match tag {
        Tag::Asid(asid) => command::tlbi_nh_asid(asid),
        Tag::Vmid(vmid) => command::tlbi_s12_vmall(vmid),
    }
}

/// How `TG0` and `S2TG` write a granule.
fn granule_field(shift: u32) -> u32 {
    match shift {
        16 => 1,
        14 => 2,
        _ => 0,
    }
}

fn allocate(
    memory: &impl TableMemory,
    features: &Features,
    node: Option<NodeId>,
    len: u64,
) -> Result<Segment, NoMemory> {
    let len = len.max(4096);
    let limit = DmaMask::bits(features.output_bits).unwrap_or(DmaMask::ALL);
    memory.allocate_table(&SegmentRequest {
        len,
        align: len,
        node,
        limit,
    })
}

fn store(descriptor: &Segment, words: &Cd) {
    if let Some(slots) = descriptor.window().words64() {
        for (slot, word) in slots.iter().zip(words) {
            slot.store(*word, Ordering::Relaxed);
        }
    }
}
