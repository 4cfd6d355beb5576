//! What an event says, typed.
//!
//! Sizes are bytes unless a name says otherwise. Lists keep the kernel's order.

use dmakit_addr::{Attributes, Direction, DmaAddr, DmaMask, Iova, Pfn, PhysAddr};

use crate::{Name, Stage};

/// What happened.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub enum Body {
    /// `swiotlb_bounced`: a slot is about to be searched.
    Bounced(Bounced),
    /// `dma_map_page`, `dma_map_resource`, `dma_map_phys`.
    Map(MapPage),
    /// `dma_unmap_page`, `dma_unmap_resource`, `dma_unmap_phys`.
    Unmap(UnmapPage),
    /// `dma_map_sg`.
    MapSg(Box<MapSg>),
    /// `dma_map_sg_err`.
    MapSgError(Box<MapSgError>),
    /// `dma_unmap_sg`.
    UnmapSg(Box<UnmapSg>),
    /// `dma_sync_single_for_cpu`, `dma_sync_single_for_device`.
    Sync(Sync),
    /// `dma_sync_sg_for_cpu`, `dma_sync_sg_for_device`.
    SyncSg(Box<SyncSg>),
    /// `dma_alloc`, `dma_alloc_pages`, `dma_alloc_sgt` and its failure.
    Alloc(Box<Allocation>),
    /// `dma_free`, `dma_free_pages`, `dma_free_sgt`.
    Free(Box<Allocation>),
    /// The `cma` events.
    Cma(Cma),
    /// The `iommu` events.
    Iommu(IommuEvent),
    /// VT-d's invalidation events.
    Flush(FlushEvent),
    /// The steps that this project's own stack writes down.
    Stage(Stage),
    /// A line that user space wrote into the trace.
    Marker(Marker),
    /// A kprobe or uprobe, under the name that its user gave it.
    Probe(Box<Probe>),
    /// Any other event, by name.
    Other(Name),
}

/// A bounce attempt: it says nothing about success, and fires again for every retry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bounced {
    /// The device.
    pub device: Name,
    /// What it can reach.
    pub dma_mask: DmaMask,
    /// The original address. Linux's direct path passes the DMA address that it would have used,
    /// its IOMMU path the physical one; they differ on buses with an offset.
    pub original: PhysAddr,
    /// Bytes.
    pub size: u64,
    /// Whether bouncing was forced; else the address was out of the device's reach.
    pub forced: bool,
}

/// Which function mapped.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum MapCall {
    /// `dma_map_page` and `dma_map_single`.
    Page,
    /// `dma_map_resource`.
    Resource,
    /// `dma_map_phys`, which replaced both.
    Phys,
}

/// A streaming mapping, successful or not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MapPage {
    /// The device.
    pub device: Name,
    /// Who writes.
    pub direction: Direction,
    /// The result; `None` for the all-ones address that means failure.
    pub dma: Option<DmaAddr>,
    /// The memory.
    pub phys: PhysAddr,
    /// Bytes.
    pub size: u64,
    /// What the caller asked beyond.
    pub attributes: Attributes,
    /// Which function.
    pub call: MapCall,
}

/// The end of a streaming mapping. Recorded *after* the unmap.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnmapPage {
    /// The device.
    pub device: Name,
    /// Who wrote.
    pub direction: Direction,
    /// What the mapping was known by.
    pub dma: DmaAddr,
    /// Bytes.
    pub size: u64,
    /// What the caller asked beyond.
    pub attributes: Attributes,
    /// Which function.
    pub call: MapCall,
}

/// How many entries a list has and how many of them the event shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shown {
    /// Entries in the event.
    pub shown: u32,
    /// Entries there were.
    pub total: u32,
}

/// A scatterlist that was mapped. (One that failed leaves no event.)
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MapSg {
    /// The device.
    pub device: Name,
    /// Who writes.
    pub direction: Direction,
    /// Device addresses, one for each segment; fewer than `phys` where an IOMMU merged.
    pub dma: Vec<DmaAddr>,
    /// Bytes of each segment, as many as `dma`.
    pub sizes: Vec<u64>,
    /// The first byte of each entry.
    pub phys: Vec<PhysAddr>,
    /// Entries shown and in all; `None` where the kernel does not say (it then shows all).
    pub entries: Option<Shown>,
    /// Segments shown and in all.
    pub segments: Option<Shown>,
    /// What the caller asked beyond.
    pub attributes: Attributes,
}

impl MapSg {
    /// Entries of the scatterlist that the event does not show.
    pub fn hidden_entries(&self) -> u32 {
        self.entries.map_or(0, |e| e.total.saturating_sub(e.shown))
    }
}

/// A scatterlist whose mapping failed with an unusual error.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MapSgError {
    /// The device.
    pub device: Name,
    /// Who would have written.
    pub direction: Direction,
    /// The first byte of each entry.
    pub phys: Vec<PhysAddr>,
    /// The error, negative.
    pub error: i32,
    /// What the caller asked beyond.
    pub attributes: Attributes,
}

/// The end of a scatterlist's mapping, by its physical addresses. Recorded *before* the unmap.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnmapSg {
    /// The device.
    pub device: Name,
    /// Who wrote.
    pub direction: Direction,
    /// The first byte of each entry, all of them.
    pub phys: Vec<PhysAddr>,
    /// What the caller asked beyond.
    pub attributes: Attributes,
}

/// Whose turn a sync begins.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum SyncFor {
    /// The CPU may look.
    Cpu,
    /// The device may go on.
    Device,
}

/// A change of ownership inside a mapping.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sync {
    /// The device.
    pub device: Name,
    /// The mapping's direction.
    pub direction: Direction,
    /// Where it begins, perhaps inside the mapping.
    pub dma: DmaAddr,
    /// Bytes.
    pub size: u64,
    /// Whose turn it is.
    pub whose: SyncFor,
}

/// A change of ownership of a scatterlist.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SyncSg {
    /// The device.
    pub device: Name,
    /// The mapping's direction.
    pub direction: Direction,
    /// Where each segment begins.
    pub dma: Vec<DmaAddr>,
    /// Bytes of each.
    pub sizes: Vec<u64>,
    /// Whose turn it is.
    pub whose: SyncFor,
}

/// Which allocator.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum AllocCall {
    /// Coherent memory.
    Coherent,
    /// `dma_alloc_pages`.
    Pages,
    /// Non-contiguous memory as a table of pieces.
    Sgt,
}

/// Memory allocated for a device, or freed. (Linux records a free of nothing at address 0 too.)
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Allocation {
    /// The device.
    pub device: Name,
    /// Who writes; coherent memory says both.
    pub direction: Direction,
    /// The device address; `None` where the allocation failed.
    pub dma: Option<DmaAddr>,
    /// Bytes.
    pub size: u64,
    /// The pieces of a table.
    pub phys: Vec<PhysAddr>,
    /// Which allocator.
    pub call: AllocCall,
    /// What the caller asked beyond.
    pub attributes: Attributes,
}

/// What a contiguous area was asked. Kernels that record no area's name leave it empty.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Cma {
    /// A search begins.
    AllocStart {
        /// The area.
        area: Name,
        /// Pages asked.
        count_pages: u64,
        /// log2 of the alignment in pages.
        align_order: u32,
    },
    /// It ended. (`cma_alloc` of kernels that record no beginning is this too.)
    AllocFinish {
        /// The area.
        area: Name,
        /// The first page, or `None`.
        pfn: Option<Pfn>,
        /// Pages asked.
        count_pages: u64,
        /// log2 of the alignment in pages.
        align_order: u32,
        /// 0 or the error, negative; `None` where the kernel does not record it.
        error: Option<i32>,
    },
    /// A range was busy, the search goes on.
    BusyRetry {
        /// The area.
        area: Name,
        /// The first page tried.
        pfn: Pfn,
        /// Pages asked.
        count_pages: u64,
        /// log2 of the alignment in pages.
        align_order: u32,
    },
    /// Pages came back.
    Release {
        /// The area.
        area: Name,
        /// The first page.
        pfn: Pfn,
        /// Pages.
        count_pages: u64,
    },
}

/// What the IOMMU layer did. `map` and `unmap` name no device and no domain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum IommuEvent {
    /// A contiguous run entered a table.
    Map {
        /// Its first input address.
        iova: Iova,
        /// What it translates to.
        phys: PhysAddr,
        /// Bytes.
        size: u64,
    },
    /// A range left a table.
    Unmap {
        /// Its first input address.
        iova: Iova,
        /// Bytes asked.
        size: u64,
        /// Bytes that were mapped.
        unmapped: u64,
    },
    /// A device joined a group.
    AddToGroup {
        /// The group.
        group: u32,
        /// The device.
        device: Name,
    },
    /// A device left its group.
    RemoveFromGroup {
        /// The group.
        group: u32,
        /// The device.
        device: Name,
    },
    /// A device got a domain.
    Attach {
        /// The device.
        device: Name,
    },
    /// A device was refused.
    Fault {
        /// The device.
        device: Name,
        /// The input address.
        iova: Iova,
    },
}

/// What VT-d invalidated.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FlushEvent {
    /// One range of one domain.
    Range {
        /// The IOMMU.
        iommu: Name,
        /// The domain's number.
        domain: u32,
        /// The first address.
        start: Iova,
        /// The *last* address.
        last: Iova,
    },
    /// Everything of one domain.
    All {
        /// The IOMMU.
        iommu: Name,
        /// The domain's number.
        domain: u32,
    },
    /// A descriptor entered the invalidation queue.
    Submit {
        /// What it invalidates, in Linux's word (`iotlb_inv`).
        what: Name,
        /// The IOMMU.
        iommu: Name,
        /// Its four quadwords.
        descriptor: [u64; 4],
    },
}

/// A line that user space wrote.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Marker {
    /// `PHASE_BEGIN name`.
    PhaseBegin(Name),
    /// `PHASE_END name`.
    PhaseEnd(Name),
    /// Anything else.
    Text(Box<str>),
}

/// A probe with its arguments in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Probe {
    /// The probe.
    pub name: Name,
    /// Where it stands, as printed between parentheses; empty where the format has none.
    pub location: Box<str>,
    /// Arguments.
    pub fields: Vec<(Name, Value)>,
}

impl Probe {
    /// The argument of this name.
    pub fn field(&self, name: &str) -> Option<&Value> {
        self.fields
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value)
    }

    /// The argument of this name, where it is a number.
    pub fn number(&self, name: &str) -> Option<u64> {
        match self.field(name)? {
            Value::Number(number) => Some(*number),
            Value::Text(_) => None,
        }
    }
}

/// A probe's argument.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Value {
    /// A number; a negative one in two's complement.
    Number(u64),
    /// A string, or what is no number.
    Text(Name),
}
