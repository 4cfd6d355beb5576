//! One operation on the DMA mapping layer, put together from its events.

use dmakit_addr::{Attributes, Direction, DmaAddr, DmaMask, PhysAddr};

use crate::{Context, Name, Task};

/// An attempt to bounce, named by the index of its event.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct AttemptId(pub u64);

/// A mapping that succeeded, numbered in the order of the map events.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct MappingId(pub u64);

/// A scatterlist that was mapped, named by the index of its event.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SgId(pub u64);

/// One operation, in the best order that the events allow.
#[derive(Clone, PartialEq, Debug)]
pub struct Op {
    /// The index of the event that it was read from.
    pub event: u64,
    /// That event's time.
    pub time_ns: u64,
    /// That event's CPU. The operation itself ran there too.
    pub cpu: u32,
    /// The task that was running.
    pub task: Task,
    /// The context, where the trace says it.
    pub context: Option<Context>,
    /// Between which events the operation itself happened.
    pub span: Span,
    /// Whether its place among the others is certain.
    pub order: Order,
    /// What was done.
    pub kind: OpKind,
}

/// The operation happened after the event of index `after` was recorded and before that of index
/// `before` was. The two are equal where the operation is the event.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Span {
    /// The last event known to be earlier.
    pub after: u64,
    /// The first event known to be later.
    pub before: u64,
}

/// Whether the order of an operation relative to its neighbours can be known.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Order {
    /// No operation of another context overlaps its [`Span`].
    Known,
    /// At least one does: another order explains the trace as well.
    Concurrent,
}

/// What was done.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub enum OpKind {
    /// A slot was searched.
    Attempt(Attempt),
    /// A mapping was handed to a driver.
    Map(Map),
    /// A mapping ended.
    Unmap(Unmap),
    /// Something that was mapped before the trace began ended.
    UnmapUnseen(UnmapUnseen),
    /// A mapping failed; what its attempts had got was given back.
    Fail(Fail),
    /// A marked phase of the load began.
    PhaseBegin(Name),
    /// A marked phase of the load ended.
    PhaseEnd(Name),
}

/// A search for slots.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attempt {
    /// Its name.
    pub id: AttemptId,
    /// The device.
    pub device: Name,
    /// What it can reach.
    pub dma_mask: DmaMask,
    /// The original address.
    pub original: PhysAddr,
    /// Bytes.
    pub size: u64,
    /// Whether bouncing was forced.
    pub forced: bool,
    /// What became of it, from later events.
    pub fate: Fate,
}

/// What became of an attempt.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Fate {
    /// It became this mapping.
    Mapped(MappingId),
    /// A map event shows that it failed.
    Failed,
    /// No map event followed: it failed, or an entry after it in its scatterlist did.
    Orphaned {
        /// The first attempt of the scatterlist that it seems to belong to.
        first: AttemptId,
    },
    /// The trace has no map events, so nothing is known.
    Unknown,
}

/// A mapping handed to a driver.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Map {
    /// Its name.
    pub id: MappingId,
    /// The attempt that became it; `None` where nothing was bounced.
    pub attempt: Option<AttemptId>,
    /// The device.
    pub device: Name,
    /// Who writes.
    pub direction: Direction,
    /// Where the device finds it; `None` for an entry that a truncated list does not show.
    pub dma: Option<DmaAddr>,
    /// The original address; `None` where an IOMMU merged entries and hid the seams.
    pub phys: Option<PhysAddr>,
    /// Bytes.
    pub size: u64,
    /// What the caller asked beyond.
    pub attributes: Attributes,
    /// Alone or of a scatterlist.
    pub part: Part,
}

/// Alone or of a scatterlist.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Part {
    /// A single buffer.
    Page,
    /// A segment of a scatterlist.
    Sg {
        /// Which.
        sg: SgId,
        /// Its place, from 0.
        entry: u32,
        /// How many there are.
        entries: u32,
    },
}

/// The end of a mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unmap {
    /// The mapping.
    pub id: MappingId,
    /// How its place in the order is known.
    pub evidence: UnmapEvidence,
}

/// How an unmap is known.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum UnmapEvidence {
    /// By its event, in its place.
    Event,
    /// By its event, which came after the next user of the same address had been recorded: moved
    /// before that user's attempt. Linux lowers its counter of used slots only after it has given
    /// the slots free, so its high water may have counted both users.
    Moved,
    /// No event: the next user of the same address proves it. The event was lost.
    Reuse,
}

/// An unmap whose map the trace does not have.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnmapUnseen {
    /// The device.
    pub device: Name,
    /// The direction.
    pub direction: Direction,
    /// The address; `None` for a scatterlist, which is named by its entries.
    pub dma: Option<DmaAddr>,
    /// Bytes; `None` for a scatterlist.
    pub size: Option<u64>,
    /// How many entries; 1 for a single buffer.
    pub entries: u32,
}

/// A mapping that failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fail {
    /// The device.
    pub device: Name,
    /// The attempts that belonged to it, in order; empty where it failed without bouncing.
    pub attempts: Vec<AttemptId>,
    /// Bytes of the last attempt, the one that failed.
    pub size: u64,
    /// Whether an event says so.
    pub how: Failure,
}

/// How a failure is known.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Failure {
    /// A map event without an address.
    Visible,
    /// Only by attempts that led to no map event.
    Silent,
}
