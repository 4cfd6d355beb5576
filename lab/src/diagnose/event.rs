//! What one line of evidence says, as numbers.

/// Typed content of a recognised line. Sizes are bytes unless named
/// otherwise.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A bounce mapping failed.
    PoolFull {
        size: u64,
        pool: Option<PoolUse>,
    },
    /// The last fallback of a coherent allocation failed.
    CoherentFailed {
        size: u64,
    },
    /// A coherent buffer was given out.
    CoherentServed {
        size: u64,
    },
    /// An address is beyond a mask.
    Overflow {
        stage: Stage,
        address: u64,
        size: u64,
        mask: u64,
        /// Bus limit; 0 is none.
        limit: u64,
    },
    /// A mapping was refused because bouncing is off.
    BounceRefused {
        address: u64,
    },
    PoolMapped {
        bytes: u64,
    },
    /// The pool could not be set up at boot.
    PoolAbsent,
    /// A counter of debugfs `swiotlb/`.
    PoolCounter {
        name: PoolCounter,
        slots: u64,
    },
    CommandLine {
        text: String,
    },
    /// An option the kernel did not understand.
    OptionRefused {
        option: String,
    },
    /// `cma_alloc` gave up.
    CmaFailed {
        generation: CmaGeneration,
        pages: u64,
        /// Positive.
        errno: u32,
    },
    /// Free runs of an area, or its end, or both.
    CmaRuns {
        /// (pages, first bit)
        runs: Vec<(u64, u64)>,
        by_range: bool,
        sum: Option<CmaSum>,
    },
    /// A counter of debugfs `cma/AREA/`, in pages.
    AreaCounter {
        name: AreaCounter,
        pages: u64,
    },
    /// A free candidate range could not be emptied.
    CmaRetry,
    PfnsBusy {
        start: u64,
        end: u64,
    },
    CmaReserving {
        bytes: u64,
    },
    CmaReserveFailed {
        bytes: Option<u64>,
        node: Option<i64>,
    },
    CmaActivationFailed,
    /// One area reserved at boot.
    CmaReserved {
        bytes: u64,
    },
    /// All areas: `cma-reserved` of the boot line or `CmaTotal`.
    CmaTotal {
        bytes: u64,
    },
    CmaFree {
        bytes: u64,
    },
    /// Some driver or the page allocator says that memory was refused.
    AllocationFailed {
        size: Option<u64>,
    },
    Memlock {
        limit: u64,
        task: Option<String>,
    },
    /// A library warns of a low limit.
    MemlockWarned {
        limit: u64,
    },
    VfioMapFailed {
        errno: u32,
    },
    VfioFatal,
    GuestRunning,
    ContextFault {
        status: Option<u32>,
        address: Option<u64>,
        syndrome: Option<u32>,
    },
    /// The status on a line of its own.
    FaultStatus {
        status: u32,
    },
    /// A page fault without a decoded reason.
    PageFault {
        address: u64,
    },
    SmmuFault {
        id: u8,
    },
    SmmuWord {
        value: u64,
    },
    SmmuDecoded {
        name: String,
        address: u64,
    },
    AmdFault {
        flags: u32,
        address: u64,
    },
    IommuEventOther {
        name: String,
    },
    VtdFault {
        is_write: bool,
        address: Option<u64>,
        reason: Option<u32>,
        text: String,
    },
    VtdReason {
        reason: u32,
        text: String,
    },
    PteAlreadySet {
        page: u64,
        old: u64,
        new: u64,
    },
    IovaFailed {
        size: Option<u64>,
        pages: Option<u64>,
        what: IovaWindow,
    },
    IovaWindowBytes {
        bytes: u64,
    },
    Iova64Bit,
    AtomicPool {
        bytes: Option<u64>,
    },
    /// A pool for atomic allocations is named in a failure that is not
    /// exhaustion.
    AtomicPoolMissing,
    DebugFree {
        what: DebugFault,
        text: String,
    },
    /// A DMA-API debug complaint that is neither a double unmap nor a leak.
    DebugOther {
        text: String,
    },
    DebugOverlap {
        overlaps: u64,
        line: u64,
    },
    ItsTooLarge {
        table: String,
        from: u64,
        to: u64,
        /// Unit of `from` and `to`.
        unit: ItsUnit,
        its: String,
    },
    ItsTable {
        table: String,
        its: String,
        entries: u64,
        is_flat: bool,
        entry_bytes: u64,
        page_bytes: u64,
    },
    NotLinearMemory,
    StackPointer {
        value: u64,
    },
    /// A notice that worries people without cause; `why` says so.
    Notice {
        why: &'static str,
    },
    /// A map of a trace that failed.
    TracedMapFailed {
        size: u64,
        /// Only the attempts to bounce it tell.
        is_silent: bool,
        /// Whether a bounce was tried.
        is_bounced: bool,
    },
}

/// Slots of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolUse {
    pub total: u64,
    pub used: u64,
}

/// Which address was beyond the mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The buffer's own; no pool was active.
    Direct,
    /// The buffer's own, in the wording of kernels that print it also when a
    /// pool exists and failed.
    Either,
    /// The bounce slot's.
    Bounced,
}

/// Counters of debugfs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolCounter {
    Total,
    Used,
    HighWater,
    Transient,
}

/// Counters of an area in debugfs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AreaCounter {
    Count,
    Used,
    LongestFree,
}

/// What the errno of `cma_alloc` means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CmaGeneration {
    /// Up to 6.11: it starts as -ENOMEM, so -EBUSY proves a candidate.
    Old,
    /// 6.12 to 6.14 read like old, later like new; the run list tells.
    Between,
    /// It starts as -EBUSY and proves nothing.
    New,
}

/// The end of a run list, in pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CmaSum {
    pub free: u64,
    pub total: u64,
}

/// Whose address space ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IovaWindow {
    Generic,
    /// The aperture of the AMD GART.
    Gart,
    /// The TCE table of POWER.
    Tce,
}

/// What the checker of the DMA API found at an unmap or at release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DebugFault {
    /// Freed and not, or no longer, mapped.
    NotMapped,
    /// Freed with another size, address, function, count or direction.
    Mismatch,
    /// Still mapped when the driver let go of the device.
    Pending,
}

/// What an ITS table was cut in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ItsUnit {
    IdBits,
    PageOrder,
    ItsPages,
}
