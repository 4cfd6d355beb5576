//! What there is to know about a device before it does DMA.

use core::fmt;

use dmakit_addr::{AlignMask, BoundaryMask, DmaMask, DmaRange, NodeId, PhysRange};

use crate::BusMap;

/// The number by which mappings remember their device, chosen by the embedder.
///
/// No two devices of a machine share one: debts, proofs and blocks are told apart by it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DeviceId(u64);

impl DeviceId {
    /// Device number `raw`.
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// Its number.
    pub const fn raw(self) -> u64 {
        self.0
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "device {}", self.0)
    }
}

/// Whether a device sees the CPU's caches.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Coherence {
    /// It does: no cache maintenance anywhere.
    Coherent,
    /// It goes past them: mappings clean and invalidate.
    NonCoherent,
}

/// Whether a device may be believed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Trust {
    /// It does what its driver asks.
    Trusted,
    /// It may read and write whatever it can reach, at any time: an external port, a host outside
    /// the confidential guest.
    Untrusted,
}

/// What a device can take as one segment, and how many.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentLimits {
    /// The longest segment in bytes; more than zero.
    pub max_bytes: u64,
    /// A boundary that no segment crosses.
    pub boundary: BoundaryMask,
    /// How many segments a list may have; more than zero.
    pub max_count: usize,
}

impl SegmentLimits {
    /// Any length, anywhere, any number.
    pub const NONE: Self = Self {
        max_bytes: u64::MAX,
        boundary: BoundaryMask::NONE,
        max_count: usize::MAX,
    };

    /// What devices with these limits all can take.
    #[must_use]
    pub fn intersect(self, other: Self) -> Self {
        Self {
            max_bytes: self.max_bytes.min(other.max_bytes),
            boundary: self.boundary.min(other.boundary),
            max_count: self.max_count.min(other.max_count),
        }
    }

    /// Whether `segment` is one that the device can take.
    #[inline]
    pub fn allows(&self, segment: DmaRange) -> bool {
        segment.len() <= self.max_bytes && !self.boundary.is_crossed_by(&segment)
    }
}

/// A device's use of memory: what its driver, its firmware description and its bus say together.
///
/// Made with [`new`](Self::new) and then changed field by field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeviceInfo<'m> {
    /// Its number.
    pub id: DeviceId,
    /// Its name in findings.
    pub name: &'m str,
    /// The highest DMA address of buffers.
    pub streaming_mask: DmaMask,
    /// The highest DMA address of coherent memory.
    pub coherent_mask: DmaMask,
    /// The highest DMA address that its bus carries.
    pub bus_limit: DmaMask,
    /// Where its bus shows memory.
    pub bus: BusMap<'m>,
    /// What it can take as one segment.
    pub limits: SegmentLimits,
    /// Low address bits that a bounce buffer must share with its original.
    pub min_align: AlignMask,
    /// Whether it sees the CPU's caches.
    pub coherence: Coherence,
    /// The NUMA node it hangs on, where one is named.
    pub node: Option<NodeId>,
    /// Whether it may be believed.
    pub trust: Trust,
}

/// Which of a device's two masks counts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum MaskKind {
    /// Buffers.
    Streaming,
    /// Coherent memory.
    Coherent,
}

impl<'m> DeviceInfo<'m> {
    /// A coherent, trusted device with one mask for everything, no offsets and no limits.
    pub const fn new(id: DeviceId, name: &'m str, mask: DmaMask) -> Self {
        Self {
            id,
            name,
            streaming_mask: mask,
            coherent_mask: mask,
            bus_limit: DmaMask::ALL,
            bus: BusMap::IDENTITY,
            limits: SegmentLimits::NONE,
            min_align: AlignMask::NONE,
            coherence: Coherence::Coherent,
            node: None,
            trust: Trust::Trusted,
        }
    }

    /// The highest DMA address of memory of this kind: the device's mask or the bus's limit.
    #[inline]
    pub fn reach(&self, kind: MaskKind) -> DmaMask {
        let mask = match kind {
            MaskKind::Streaming => self.streaming_mask,
            MaskKind::Coherent => self.coherent_mask,
        };
        mask.intersect(self.bus_limit)
    }

    /// Where the device finds `run` without help; `None` where it cannot reach all of it.
    #[inline]
    pub fn direct(&self, run: PhysRange, kind: MaskKind) -> Option<DmaRange> {
        let dma = self.bus.dma(run)?;
        self.reach(kind).reaches(&dma).then_some(dma)
    }

    /// The memory behind what the device was told; `None` where its bus shows none there.
    pub fn memory_behind(&self, dma: DmaRange) -> Option<PhysRange> {
        self.bus.phys(dma)
    }

    /// Whether the device reaches all of `ram` without help (Linux: not `addressing_limited`).
    pub fn reaches_all(&self, ram: impl IntoIterator<Item = PhysRange>) -> bool {
        ram.into_iter()
            .all(|run| self.direct(run, MaskKind::Streaming).is_some())
    }

    /// The least mask of address lines with which the device would reach all of `ram`; `None` where
    /// no mask would do, because its bus does not show all of it.
    pub fn required_mask(&self, ram: impl IntoIterator<Item = PhysRange>) -> Option<DmaMask> {
        let mut last = 0;
        for run in ram {
            let dma = self.bus.dma(run)?;
            last = last.max(dma.last().map_or(0, |last| last.raw()));
        }
        DmaMask::bits((u64::BITS - last.leading_zeros()).max(1))
    }

    pub(crate) fn is_coherent(&self) -> bool {
        self.coherence == Coherence::Coherent
    }
}
