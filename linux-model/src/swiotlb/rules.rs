//! How many slots a request takes and where they may begin, per version.

use crate::engine::Engine;
use crate::swiotlb::SLOT_BYTES;

const SLOT_MASK: u64 = SLOT_BYTES - 1;
const SLOT_SHIFT: u32 = SLOT_BYTES.trailing_zeros();

/// What a device demands of a bounce address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeviceLimits {
    /// The highest address that the device reaches.
    pub dma_mask: u64,
    /// Low bits in which the bounce address must equal the original (`2^n - 1`).
    pub min_align_mask: u64,
    /// No mapping crosses a multiple of this mask plus one (`2^n - 1`).
    pub segment_boundary: u64,
}

impl Default for DeviceLimits {
    /// A PCI device whose driver asked for nothing: 64 bits, 4 GiB segment boundary.
    fn default() -> Self {
        Self {
            dma_mask: u64::MAX,
            min_align_mask: 0,
            segment_boundary: u64::from(u32::MAX),
        }
    }
}

/// One mapping that is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// The CPU that maps; it picks the first area.
    pub cpu: u32,
    /// Physical address of the original buffer; 0 means that there is none.
    pub original: u64,
    /// Bytes to map, not 0.
    pub bytes: u64,
    /// Start and end of the allocation are multiples of this plus one (`2^n - 1`; 0 from the
    /// direct path, the granule less one from an IOMMU).
    pub alloc_align_mask: u64,
}

/// A request turned into slots and a search pattern.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Need {
    /// Slots to take, padding included.
    pub slots: u32,
    /// Slots in front of the first one handed out.
    pub pad_slots: u32,
    /// Bytes into the first slot handed out.
    pub offset_bytes: u64,
    /// Bits of the slot's DMA address that must be zero.
    pub zero_bits: u64,
    /// Bits of the slot's DMA address that must equal the original's.
    pub equal_bits: u64,
    /// Step from a tried candidate to the next.
    pub stride: u32,
    /// Whether the cursor is rounded up to the stride before the first candidate.
    pub rounds_cursor: bool,
    /// The span that no mapping crosses, in slots; a power of two.
    pub boundary_slots: u64,
}

impl Need {
    /// `page_bytes` is the kernel's page size.
    pub fn new(engine: Engine, page_bytes: u64, device: &DeviceLimits, request: &Request) -> Self {
        match engine {
            Engine::Linux6_1 => Self::of_6_1(page_bytes, device, request),
            Engine::Linux6_12 | Engine::Linux6_12Dynamic => {
                Self::of_6_12(page_bytes, device, request)
            }
        }
    }

    /// The minimum-alignment bits below a slot become an offset into the first slot, those above
    /// it select candidates. Requests of a page or more multiply the stride by the slots of a
    /// page, on top of what the device's mask already asks: a 4 KiB buffer of a device with a
    /// 4095 mask steps by 8 KiB.
    fn of_6_1(page_bytes: u64, device: &DeviceLimits, request: &Request) -> Self {
        let offset = request.original & device.min_align_mask & SLOT_MASK;
        let total = request.bytes.saturating_add(offset);
        let equal_bits = device.min_align_mask & !SLOT_MASK;
        let mut stride = (equal_bits >> SLOT_SHIFT) + 1;
        if total >= page_bytes {
            stride = stride.max(stride << (page_bytes.trailing_zeros() - SLOT_SHIFT));
        }
        stride = stride.max((request.alloc_align_mask >> SLOT_SHIFT) + 1);
        Self {
            slots: slots_of(total),
            pad_slots: 0,
            offset_bytes: offset,
            zero_bits: 0,
            equal_bits: if request.original == 0 { 0 } else { equal_bits },
            stride: narrow(stride),
            rounds_cursor: true,
            boundary_slots: (device.segment_boundary >> SLOT_SHIFT) + 1,
        }
    }

    /// Allocation alignment beats the device's mask: bits that it covers come out zero and the
    /// difference becomes padding slots in front. A page or more without any mask keeps the old
    /// promise of page alignment.
    fn of_6_12(page_bytes: u64, device: &DeviceLimits, request: &Request) -> Self {
        let min_align = device.min_align_mask;
        let offset = request.original & min_align & (request.alloc_align_mask | SLOT_MASK);
        let granule = request.alloc_align_mask + 1;
        let bytes = request.bytes.saturating_add(offset);
        let total = bytes.div_ceil(granule).saturating_mul(granule);
        let mut zero_bits = request.alloc_align_mask;
        if zero_bits == 0 && min_align == 0 && total >= page_bytes {
            zero_bits = page_bytes - 1;
        }
        zero_bits |= SLOT_MASK;
        let equal_bits = min_align & !zero_bits;
        let stride = (zero_bits.max(equal_bits) >> SLOT_SHIFT) + 1;
        Self {
            slots: slots_of(total),
            pad_slots: narrow(offset >> SLOT_SHIFT),
            offset_bytes: offset & SLOT_MASK,
            zero_bits,
            equal_bits: if request.original == 0 { 0 } else { equal_bits },
            stride: narrow(stride),
            rounds_cursor: false,
            boundary_slots: (device.segment_boundary >> SLOT_SHIFT) + 1,
        }
    }

    /// Whether a slot at this DMA address may be the first one.
    #[inline]
    pub fn accepts(&self, dma: u64, original: u64) -> bool {
        dma & self.zero_bits == 0 && (dma ^ original) & self.equal_bits == 0
    }
}

fn slots_of(bytes: u64) -> u32 {
    narrow(bytes.div_ceil(SLOT_BYTES))
}

/// Values past 2^32 slots cannot be served by any pool, so saturating keeps the answer.
fn narrow(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}
