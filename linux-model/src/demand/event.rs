//! The few recorded events that matter to bounce memory, in recorded order.

use dmakit_addr::Direction;

/// Where code ran.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Context {
    /// A task.
    Task,
    /// A soft interrupt.
    Softirq,
    /// A hard interrupt, also inside a soft one.
    Hardirq,
}

/// One recorded event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// Time in the recording's clock.
    pub at_ns: u64,
    /// CPU it was recorded on.
    pub cpu: u32,
    /// Task number; 0 is a CPU's idle task.
    pub pid: u32,
    /// What the CPU was doing.
    pub context: Context,
    /// Whether it could have slept: a task with interrupts and preemption on.
    pub may_sleep: bool,
    /// What happened.
    pub kind: EventKind,
}

/// One entry of a scatterlist.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct SgEntry {
    /// Physical address of the original.
    pub original: u64,
    /// DMA address handed out; `None` where segments were merged, behind an IOMMU.
    pub dma: Option<u64>,
    /// Bytes.
    pub bytes: u64,
}

/// What happened. Devices are numbers given by the caller, in order of first appearance.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EventKind {
    /// `swiotlb_bounced`: an attempt, before the search for slots.
    Bounced {
        /// The device.
        device: u32,
        /// Its streaming mask.
        dma_mask: u64,
        /// Physical address of the original.
        original: u64,
        /// Bytes wanted.
        bytes: u64,
        /// `FORCE`, as opposed to `NORMAL`.
        is_forced: bool,
    },
    /// `dma_map_page` or `dma_map_phys`, after the mapping.
    MapPage {
        /// The device.
        device: u32,
        /// Direction.
        direction: Direction,
        /// The address handed out; `None` when the mapping failed.
        dma: Option<u64>,
        /// Bytes.
        bytes: u64,
        /// Physical address of the original.
        original: u64,
    },
    /// `dma_unmap_page` or `dma_unmap_phys`, after the unmapping.
    UnmapPage {
        /// The device.
        device: u32,
        /// Direction.
        direction: Direction,
        /// The address given back.
        dma: u64,
        /// Bytes.
        bytes: u64,
        /// `SKIP_CPU_SYNC` was given, so nothing is copied back.
        skips_sync: bool,
    },
    /// `dma_map_sg`, after the mapping.
    MapSg {
        /// The device.
        device: u32,
        /// Direction.
        direction: Direction,
        /// The entries shown.
        entries: Vec<SgEntry>,
        /// How many there are, if more than shown.
        count: usize,
    },
    /// `dma_unmap_sg`, before the unmapping; it shows original addresses.
    UnmapSg {
        /// The device.
        device: u32,
        /// Direction.
        direction: Direction,
        /// Physical addresses of the originals.
        originals: Vec<u64>,
        /// `SKIP_CPU_SYNC` was given, so nothing is copied back.
        skips_sync: bool,
    },
    /// `dma_sync_single_for_cpu` or `_for_device`.
    Sync {
        /// The device.
        device: u32,
        /// Direction.
        direction: Direction,
        /// The mapping's address, or one inside it.
        dma: u64,
        /// Bytes.
        bytes: u64,
        /// Towards the CPU, as opposed to the device.
        is_for_cpu: bool,
    },
    /// A probe on the entry of the allocator: the search for slots begins.
    SlotWanted,
    /// A return probe on the allocator: the slot's address, `None` when there was none.
    SlotReturned {
        /// The address.
        tlb: Option<u64>,
    },
    /// A probe on the release of a mapping, before it happens.
    SlotReleased {
        /// Direction.
        direction: Direction,
        /// The mapping's address.
        tlb: u64,
    },
    /// The IOMMU layer mapped something: devices see translated addresses.
    Translated,
    /// A phase marker of the recording script.
    PhaseBegin {
        /// Its name.
        name: String,
    },
    /// The end of the phase that is open.
    PhaseEnd,
    /// Anything else: it still shows that its context had gone on.
    Other,
}
