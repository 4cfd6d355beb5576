//! Buffers that a device may use, and the same buffers in the CPU's hands.

use core::fmt;

use dmakit_addr::{
    Direction, DirectionType, DmaAddr, IovaRange, ReadableByCpu, ToDevice, WritableByCpu,
};
use dmakit_platform::CpuBuffer;
use dmakit_swiotlb::BounceBuffer;

use crate::{DeviceId, DmaMemory, DmaSegment};

/// How a mapping reaches its device, as decided when it was made. Whatever ends or syncs it goes by
/// this record, never by the device's present settings.
pub(crate) enum Route<D> {
    /// The device uses the memory itself.
    Direct,
    /// The device uses these slots.
    Bounced(BounceBuffer<D>),
    /// The device uses addresses of a domain.
    Translated {
        /// Which, whole granules.
        range: IovaRange,
        /// What of the memory lies in slots.
        slots: Slots,
    },
}

/// What of a translated mapping lies in bounce slots.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Slots {
    /// Nothing.
    None,
    /// Edges that share their granules: the page table says which.
    Edges,
    /// All of it, in one piece.
    All,
}

/// Small on purpose: tokens are moved at every step, and what fits 128 bytes moves in registers.
pub(crate) struct Record<D> {
    pub(crate) device: DeviceId,
    /// Where the first segment starts.
    pub(crate) start: DmaAddr,
    /// All segments together.
    pub(crate) len: u64,
    pub(crate) segments: u32,
    pub(crate) route: Route<D>,
    /// Nothing bounced, and coherent: syncs have nothing to do.
    pub(crate) is_quiet: bool,
    /// The device goes past the CPU's caches.
    pub(crate) needs_caches: bool,
    /// The caller does without the syncs that map and unmap include.
    pub(crate) skips_sync: bool,
}

impl<D> Record<D> {
    /// The only segment, of a mapping that has one.
    pub(crate) fn segment(&self) -> DmaSegment {
        DmaSegment {
            addr: self.start,
            len: self.len,
        }
    }

    /// Whether the CPU may hold lines of what the device wrote, and is to drop them when the mapping
    /// ends.
    #[inline]
    pub(crate) fn leaves_stale_lines(&self) -> bool
    where
        D: DirectionType,
    {
        self.needs_caches && !self.skips_sync && D::DIRECTION.device_writes()
    }

    #[inline]
    pub(crate) fn is_bounced(&self) -> bool {
        match self.route {
            Route::Direct => false,
            Route::Bounced(_) => true,
            Route::Translated { slots, .. } => slots != Slots::None,
        }
    }
}

/// Memory that a device owns: it may use it at any moment, and the CPU has no way to its bytes.
///
/// The token owns the memory and holds no reference, so it can be kept anywhere, sent to another
/// CPU and ended there. Dropping or forgetting it leaks the memory and its bounce slots;
/// [`DeviceStats::live`](crate::DeviceStats::live) goes on counting it.
#[must_use = "a dropped mapping leaks its memory; unmap it"]
pub struct Mapping<D: DirectionType, B = CpuBuffer> {
    pub(crate) memory: B,
    pub(crate) record: Record<D>,
}

impl<D: DirectionType, B> Mapping<D, B> {
    /// The address to write into the device's descriptor; of a list, that of the first segment.
    #[inline]
    pub fn dma_addr(&self) -> DmaAddr {
        self.record.start
    }

    /// How many bytes are mapped, all segments together.
    #[inline]
    pub fn len(&self) -> u64 {
        self.record.len
    }

    /// Whether nothing is mapped; never, because an empty mapping is refused.
    pub fn is_empty(&self) -> bool {
        self.record.len == 0
    }

    /// How many segments the device was given: those written at the front of the caller's slice.
    #[inline]
    pub fn segment_count(&self) -> usize {
        self.record.segments as usize
    }

    /// Whether the device works on a copy, or on copies of edges.
    pub fn is_bounced(&self) -> bool {
        self.record.is_bounced()
    }

    /// Which way the bytes move.
    pub fn direction(&self) -> Direction {
        D::DIRECTION
    }

    /// Whether syncing does anything at all (Linux: `dma_need_sync`).
    pub fn needs_sync(&self) -> bool {
        !self.record.is_quiet
    }
}

impl<B> Mapping<ToDevice, B> {
    /// Takes the memory back into the CPU's hands, to be filled again. The device only read, so
    /// there is nothing to sync.
    pub fn withdraw(self) -> CpuMapping<ToDevice, B> {
        CpuMapping { mapping: self }
    }
}

impl<D: DirectionType, B> fmt::Debug for Mapping<D, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Mapping({} at {} of {}, {} bytes)",
            D::DIRECTION,
            self.record.start,
            self.record.device,
            self.record.len
        )
    }
}

/// Memory that stays mapped while the CPU owns it. The driver has seen to it that the device does
/// not use it meanwhile.
#[must_use = "a dropped mapping leaks its memory; give it back to the device or unmap it"]
pub struct CpuMapping<D: DirectionType, B = CpuBuffer> {
    pub(crate) mapping: Mapping<D, B>,
}

impl<D: DirectionType, B> CpuMapping<D, B> {
    /// How many bytes are mapped.
    pub fn len(&self) -> u64 {
        self.mapping.record.len
    }

    /// Whether nothing is mapped; never.
    pub fn is_empty(&self) -> bool {
        self.mapping.record.len == 0
    }
}

impl<D: ReadableByCpu, B: DmaMemory> CpuMapping<D, B> {
    /// Copies what the device wrote at `offset` out, as far as both reach; says how many bytes.
    pub fn read(&self, offset: u64, bytes: &mut [u8]) -> usize {
        self.mapping.memory.read(offset, bytes)
    }
}

impl<D: WritableByCpu, B: DmaMemory> CpuMapping<D, B> {
    /// Overwrites the bytes at `offset`, as far as both reach; says how many.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> usize {
        self.mapping.memory.write(offset, bytes)
    }
}

impl<B> CpuMapping<dmakit_addr::FromDevice, B> {
    /// Gives the memory to the device again. The CPU could only read, so no line is dirty and there
    /// is nothing to sync; lines that the CPU holds are dropped by the next sync for the CPU.
    pub fn resubmit(self) -> Mapping<dmakit_addr::FromDevice, B> {
        self.mapping
    }
}

impl<D: DirectionType, B> fmt::Debug for CpuMapping<D, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cpu{:?}", self.mapping)
    }
}

/// A part of a mapping in the CPU's hands, while the device may go on using the rest.
///
/// It borrows the mapping. Dropping it gives the part back without a word to the device: what was
/// written is then seen by it or not.
pub struct CpuPart<'a, D: DirectionType, B = CpuBuffer> {
    pub(crate) mapping: &'a mut Mapping<D, B>,
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

impl<D: DirectionType, B> CpuPart<'_, D, B> {
    /// Where it starts in the mapping.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// How many bytes it has.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How much of an access to `len` bytes at `offset` of the part lies inside.
    fn clip(&self, offset: u64, len: usize) -> usize {
        let room = self.len.saturating_sub(offset);
        usize::try_from(room).map_or(len, |room| len.min(room))
    }
}

impl<D: ReadableByCpu, B: DmaMemory> CpuPart<'_, D, B> {
    /// Copies the bytes at `offset` of the part out, as far as both reach; says how many.
    pub fn read(&self, offset: u64, bytes: &mut [u8]) -> usize {
        let len = self.clip(offset, bytes.len());
        if len == 0 {
            return 0;
        }
        self.mapping
            .memory
            .read(self.offset + offset, &mut bytes[..len])
    }
}

impl<D: WritableByCpu, B: DmaMemory> CpuPart<'_, D, B> {
    /// Overwrites the bytes at `offset` of the part, as far as both reach; says how many.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> usize {
        let len = self.clip(offset, bytes.len());
        if len == 0 {
            return 0;
        }
        self.mapping
            .memory
            .write(self.offset + offset, &bytes[..len])
    }
}
