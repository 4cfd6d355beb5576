//! A running SMMU: attaching streams, invalidation, events.

use core::sync::atomic::Ordering;

use dmakit_addr::{DmaMask, NodeId};
use dmakit_io_pgtable::lpae::{Lpae, MAIR, Stage};
use dmakit_io_pgtable::{Format, PageTable};
use dmakit_iommu::{Invalidation, InvalidationCosts};
use dmakit_platform::{
    IrqMutex, Mmio, NoMemory, Platform, Segment, SegmentRequest, SleepMutex, TableMemory,
};

use crate::context::Streams;
use crate::entry::replace;
use crate::events::EventQueue;
use crate::invalidate::{Commands, count};
use crate::queue::{CommandCounts, CommandQueue};
use crate::spec::cd::{self, Cd};
use crate::spec::command::{self, Command};
use crate::spec::event::Event;
use crate::spec::registers as reg;
use crate::spec::ste::{self, Ste};
use crate::{AttachError, Context, Features, ReleaseFailure, SyncFailure, Tag};

/// What taking events found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct EventCount {
    /// Records read.
    pub records: u64,
    /// Whether the queue was full, and records were lost.
    pub lost: bool,
    /// Whether the SMMU has gone into service failure mode, from which only a new start leads.
    pub failed: bool,
}

/// A running SMMU.
pub struct Smmu<P: Platform, R: Mmio, M: TableMemory> {
    pub(crate) platform: P,
    pub(crate) regs: R,
    pub(crate) memory: M,
    pub(crate) node: Option<NodeId>,
    pub(crate) features: Features,
    pub(crate) costs: InvalidationCosts,
    pub(crate) commands: CommandQueue<P>,
    pub(crate) events: IrqMutex<P, EventQueue>,
    pub(crate) streams: SleepMutex<P, Streams>,
}

impl<P: Platform, R: Mmio, M: TableMemory> Smmu<P, R, M> {
    /// What it can do.
    pub fn features(&self) -> &Features {
        &self.features
    }

    /// Makes a translation of a page table: stage 1 under an ASID, stage 2 under a VMID. May sleep.
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn create_context<Q: Platform, N: TableMemory>(
        &self,
        table: &PageTable<Lpae, Q, N>,
    ) -> Result<Context, AttachError> {
        let geometry = table.format().geometry();
        let (stage, has_stage) = match table.format().stage() {
            Stage::One => (Stage::One, self.features.stage_1),
            Stage::Two => (Stage::Two, self.features.stage_2),
        };
        let is_walkable = has_stage
            && self.features.walks(geometry.granule())
            && geometry.input_bits() <= self.features.input_bits
            && geometry.output_bits() <= self.features.output_bits;
        if !is_walkable {
            return Err(AttachError::Shape);
        }
        let mut streams = self.streams.lock();
        streams.reserve()?;
        let context = match stage {
            Stage::One => self.stage_1(&mut streams, table)?,
            Stage::Two => self.stage_2(&mut streams, table)?,
        };
        drop(streams);
        // Whatever an earlier life of the tag left.
        match self.run([whole(context.tag)]) {
            Ok(()) => Ok(context),
            Err(error) => Err(AttachError::Sync(error)),
        }
    }

    /// Ends a translation. Its tag is given out again only after this, and after all others. May
    /// sleep.
    ///
    /// Whoever calls this holds no debt of it: a [`Domain`](dmakit_iommu::Domain) gives its
    /// [`Translation`](crate::Translation), and so the context, only when all tickets are redeemed.
    ///
    /// # Errors
    /// [`ReleaseFailure`].
    pub fn release_context(&self, context: Context) -> Result<(), ReleaseFailure> {
        let mut streams = self.streams.lock();
        if let Some(stream) = streams.attached_to(context.tag) {
            return Err(ReleaseFailure::InUse { context, stream });
        }
        self.run([whole(context.tag)])
            .map_err(ReleaseFailure::Sync)?;
        match context.tag {
            Tag::Asid(asid) => {
                streams.asids.give(asid);
                if let Some(descriptor) = streams.take(asid) {
                    self.memory.free_table(descriptor);
                }
            }
            Tag::Vmid(vmid) => streams.vmids.give(vmid),
        }
        Ok(())
    }

    /// Lets a stream translate through a context. May sleep.
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn attach(&self, stream: u32, context: &Context) -> Result<(), AttachError> {
        self.set_stream(stream, &context.entry, Some(context.tag))
    }

    /// Aborts a stream's transactions. May sleep.
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn detach(&self, stream: u32) -> Result<(), AttachError> {
        self.set_stream(stream, &ste::ABORT, None)
    }

    /// Lets a stream pass untranslated. May sleep.
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn bypass(&self, stream: u32) -> Result<(), AttachError> {
        self.set_stream(stream, &ste::BYPASS, None)
    }

    /// Queues what forgets a range of a tag. The SMMU hears of it with the next sync, or when the
    /// queue is full: one doorbell for all. Usable in any context.
    ///
    /// # Errors
    /// [`SyncFailure`] where the queue stayed full; part of the range may have been forgotten.
    #[inline]
    pub fn invalidate(&self, tag: Tag, what: &Invalidation) -> Result<(), SyncFailure> {
        let ranges = self.features.ranges;
        let mut queue = self.commands.produce(&self.platform, &self.regs);
        if self.costs.is_whole_cheaper(count(what, ranges)) {
            return queue.push([whole(tag)]);
        }
        queue.push(Commands::new(tag, *what, ranges))
    }

    /// At most how many commands [`invalidate`](Self::invalidate) queues for a range.
    pub fn commands_for(&self, what: &Invalidation) -> u64 {
        count(what, self.features.ranges)
    }

    /// What commands cost, as configured.
    pub fn costs(&self) -> InvalidationCosts {
        self.costs
    }

    /// Queues what forgets everything of a tag.
    ///
    /// # Errors
    /// [`SyncFailure`] where the queue stayed full.
    pub fn invalidate_all(&self, tag: Tag) -> Result<(), SyncFailure> {
        let mut queue = self.commands.produce(&self.platform, &self.regs);
        queue.push([whole(tag)])
    }

    /// Waits until everything that any CPU queued before has taken effect. Usable in any context;
    /// spins.
    ///
    /// # Errors
    /// [`SyncFailure`]: nothing that waited for it may be used again.
    #[inline]
    pub fn sync(&self) -> Result<(), SyncFailure> {
        let queue = self.commands.produce(&self.platform, &self.regs);
        let target = queue.publish_with_sync()?;
        self.commands.wait(&self.platform, &self.regs, target)
    }

    /// Queues any commands, each as it comes, syncs and waits: for devices' own caches, prefetching,
    /// diagnosis.
    ///
    /// The queue is held while `commands` are asked for: they must come at once, and not from it.
    ///
    /// # Errors
    /// [`SyncFailure`].
    #[inline]
    pub fn execute(&self, commands: impl IntoIterator<Item = Command>) -> Result<(), SyncFailure> {
        let mut queue = self.commands.produce(&self.platform, &self.regs);
        queue.push(commands)?;
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
        let active = self.regs.read32(reg::GERROR) ^ self.regs.read32(reg::GERRORN);
        count.failed = active & reg::GERROR_SERVICE_FAILURE != 0;
        // An abort for want of room stays active until it is acknowledged.
        if active & reg::GERROR_EVENTQ_ABORT != 0 {
            count.lost = true;
            self.commands
                .acknowledge(&self.regs, reg::GERROR_EVENTQ_ABORT);
        }
        count
    }

    /// What went through the command queue.
    pub fn command_counts(&self) -> CommandCounts {
        self.commands.counts()
    }

    /// Queues commands and waits for them.
    pub(crate) fn run<const N: usize>(&self, commands: [Command; N]) -> Result<(), SyncFailure> {
        self.execute(commands)
    }

    fn stage_1<Q: Platform, N: TableMemory>(
        &self,
        streams: &mut Streams,
        table: &PageTable<Lpae, Q, N>,
    ) -> Result<Context, AttachError> {
        let geometry = table.format().geometry();
        let descriptor =
            allocate(&self.memory, &self.features, self.node, 4096).map_err(AttachError::Memory)?;
        let Some(asid) = streams.asids.take() else {
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
        if !self.features.coherent {
            self.platform.clean(descriptor.range());
        }
        let base = descriptor.range().start().raw();
        streams.keep(asid, descriptor);
        Ok(Context {
            tag: Tag::Asid(asid),
            entry: ste::stage_1(base, self.features.stalls),
        })
    }

    fn stage_2<Q: Platform, N: TableMemory>(
        &self,
        streams: &mut Streams,
        table: &PageTable<Lpae, Q, N>,
    ) -> Result<Context, AttachError> {
        let geometry = table.format().geometry();
        let shift = geometry.granule().shift();
        let vmid = streams.vmids.take().ok_or(AttachError::NoTag)?;
        // S2SL0 counts upwards from where the granule's shortest walk starts (5.2).
        let lowest = if shift == 12 { 2 } else { 3 };
        let entry = ste::stage_2(ste::Stage2 {
            vmid,
            input_bits: geometry.input_bits(),
            start: lowest - table.format().start_level(),
            granule: granule_field(shift),
            output: cd::output_size(geometry.output_bits()),
            table: table.root_phys().raw(),
            coherent: self.features.coherent,
        });
        Ok(Context {
            tag: Tag::Vmid(vmid),
            entry,
        })
    }

    pub(crate) fn set_stream(
        &self,
        stream: u32,
        words: &Ste,
        tag: Option<Tag>,
    ) -> Result<(), AttachError> {
        let mut streams = self.streams.lock();
        if streams.is_open(stream) {
            return Err(AttachError::Substreams { stream });
        }
        self.write_entry(&mut streams, stream, words, tag)
    }

    pub(crate) fn write_entry(
        &self,
        streams: &mut Streams,
        stream: u32,
        words: &Ste,
        tag: Option<Tag>,
    ) -> Result<(), AttachError> {
        streams.reserve()?;
        let before = streams.tag_of(stream);
        let slot = streams.table.entry(stream, &self.platform, &self.memory)?;
        let (cleans, range) = (!self.features.coherent, slot.range);
        // Of a new table the SMMU may know that there was none.
        let forget = match slot.is_new {
            true => command::cfgi_ste_and_table(stream),
            false => command::cfgi_ste(stream),
        };
        let result = replace(slot.words, words, || {
            if cleans {
                self.platform.clean(range);
            }
            // A descriptor that it read through the old entry goes too: only after the entry, for
            // commands between two syncs take effect in any order.
            self.run([forget])?;
            self.run([command::cfgi_cd(stream, 0)])
        });
        match result {
            Ok(()) => streams.note(stream, tag),
            // It may go on translating through the old context, which must stay.
            Err(_) => streams.note(stream, before.or(tag)),
        }
        result.map_err(AttachError::Sync)
    }
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

pub(crate) fn allocate(
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
