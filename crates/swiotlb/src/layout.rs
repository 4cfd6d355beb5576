//! How many slots a request takes, and where its bytes lie in them.

use dmakit_addr::{AlignMask, BoundaryMask, PAGE_BYTES, PhysAddr, PhysRange};

use crate::{DeviceLimits, Fit, MapError};

/// The largest alignment mask, so that what is recorded of a mapping fits two bytes.
pub(crate) const ALIGN_MASK_MAX: u64 = 0xffff;

/// The size of a slot, as a shift.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SlotShift(u32);

impl SlotShift {
    /// Slots of `bytes`: a power of two from 512 to 64 KiB.
    pub(crate) fn of_bytes(bytes: u32) -> Option<Self> {
        let allowed = bytes.is_power_of_two() && (512..=65536).contains(&bytes);
        allowed.then(|| Self(bytes.trailing_zeros()))
    }

    #[inline]
    pub(crate) fn bytes(self) -> u64 {
        1 << self.0
    }

    #[inline]
    fn mask(self) -> u64 {
        self.bytes() - 1
    }

    /// As many slots as hold `bytes`.
    #[inline]
    pub(crate) fn slots(self, bytes: u64) -> u64 {
        (bytes >> self.0) + u64::from(bytes & self.mask() != 0)
    }

    #[inline]
    pub(crate) fn address(self, slot: u32) -> u64 {
        u64::from(slot) << self.0
    }

    #[inline]
    pub(crate) fn slot(self, offset: u64) -> u32 {
        (offset >> self.0) as u32
    }
}

/// Where the bytes of a mapping lie in its slots.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Layout {
    pub(crate) slots: u32,
    /// From the first slot's first byte to the first mapped byte.
    pub(crate) offset: u16,
    /// From the last mapped byte to the last slot's end.
    pub(crate) tail: u16,
    align: u32,
    phase: u32,
}

impl Layout {
    /// The slots for `len` bytes whose original lies at `original`.
    ///
    /// The mapped bytes keep the low bits of the original under the device's mask; the slots as a
    /// whole start and end at a multiple of the caller's alignment. Where both ask for something,
    /// whole slots of padding precede the bytes. A page or more without any wish starts at a page.
    #[inline]
    pub(crate) fn new(
        shift: SlotShift,
        original: PhysAddr,
        len: u64,
        min_align: AlignMask,
        align: AlignMask,
    ) -> Result<Self, MapError> {
        let (keep, edge) = (min_align.raw(), align.raw());
        if (keep | edge) > ALIGN_MASK_MAX {
            return Err(MapError::Alignment { mask: keep | edge });
        }
        if len == 0 {
            return Err(MapError::Empty);
        }
        let low = original.raw();
        let offset = low & keep & (edge | shift.mask());
        let too_large = MapError::TooLarge { len };
        let total = len.checked_add(offset).ok_or(too_large)?;
        let total = total.checked_add(edge).ok_or(too_large)? & !edge;
        let slots = u32::try_from(shift.slots(total)).map_err(|_| too_large)?;
        // An alignment that the whole of the slots has anyway need not be matched again.
        let edge = edge | shift.mask();
        let keep = keep & !edge;
        let mut aligned = edge | keep;
        if min_align == AlignMask::NONE && align == AlignMask::NONE && total >= PAGE_BYTES {
            aligned |= PAGE_BYTES - 1;
        }
        Ok(Self {
            slots,
            offset: offset as u16,
            tail: (shift.address(slots) - offset - len) as u16,
            align: shift.slots(aligned + 1) as u32,
            phase: shift.slot(low & keep),
        })
    }

    /// A naturally aligned block of at least `len` bytes, whole pages.
    pub(crate) fn natural(shift: SlotShift, len: u64) -> Result<Self, MapError> {
        let too_large = MapError::TooLarge { len };
        if len == 0 {
            return Err(MapError::Empty);
        }
        let total = len.checked_add(PAGE_BYTES - 1).ok_or(too_large)? & !(PAGE_BYTES - 1);
        let natural = total.checked_next_power_of_two().ok_or(too_large)?;
        let slots = u32::try_from(shift.slots(total)).map_err(|_| too_large)?;
        let align = u32::try_from(shift.slots(natural)).map_err(|_| too_large)?;
        Ok(Self {
            slots,
            offset: 0,
            tail: 0,
            align,
            phase: 0,
        })
    }

    /// Whether `len` bytes cross a boundary that is closer than slots are: no choice of slots
    /// would help.
    #[inline]
    pub(crate) fn is_cut(&self, shift: SlotShift, boundary: BoundaryMask, len: u64) -> bool {
        let boundary = boundary.raw();
        boundary < shift.mask() && (u64::from(self.offset) & boundary) + len - 1 > boundary
    }

    /// As many slots as hold the run in an empty pool, which starts at a page.
    pub(crate) fn slots_with_slack(&self, shift: SlotShift) -> u32 {
        let ahead = if u64::from(self.align) <= shift.slots(PAGE_BYTES) {
            self.phase
        } else {
            self.align - 1
        };
        self.slots.saturating_add(ahead)
    }

    pub(crate) fn align(&self) -> u32 {
        self.align
    }

    /// The wish for slots of a pool at `pool`, for a device.
    #[inline]
    pub(crate) fn fit(&self, shift: SlotShift, limits: &DeviceLimits, pool: &Reach) -> Fit {
        let origin = pool.first.wrapping_add(limits.dma_offset);
        let last = pool.last.wrapping_add(limits.dma_offset);
        let boundary = limits.boundary.raw();
        let is_cut = (origin ^ last) & !boundary != 0;
        let limit = if last <= limits.mask.last() && origin <= last {
            u32::MAX
        } else {
            reachable(shift, origin, last, limits.mask.last())
        };
        Fit {
            slots: self.slots,
            align: self.align,
            phase: self.phase,
            boundary: if is_cut { (boundary >> shift.0) + 1 } else { 0 },
            origin: origin >> shift.0,
            limit,
        }
    }
}

/// How many slots from the first on a device can address.
#[cold]
fn reachable(shift: SlotShift, origin: u64, last: u64, limit: u64) -> u32 {
    // Device addresses that wrap inside the pool end there.
    let last = if origin <= last { last } else { u64::MAX };
    match limit.min(last).checked_sub(origin) {
        Some(reach) if reach == u64::MAX => u32::MAX,
        Some(reach) => u32::try_from((reach + 1) >> shift.0).unwrap_or(u32::MAX),
        None => 0,
    }
}

/// The first and the last byte of a pool.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reach {
    pub(crate) first: u64,
    pub(crate) last: u64,
}

impl Reach {
    pub(crate) fn of(range: PhysRange) -> Self {
        Self {
            first: range.start().raw(),
            last: range.last().map_or(range.start().raw(), PhysAddr::raw),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(original: u64, len: u64, min_align: u64, align: u64) -> Layout {
        let mask = |raw| AlignMask::new(raw).unwrap();
        let shift = SlotShift::of_bytes(2048).unwrap();
        Layout::new(
            shift,
            PhysAddr::new(original),
            len,
            mask(min_align),
            mask(align),
        )
        .unwrap()
    }

    #[test]
    fn worked_examples_of_offset_and_padding_agree() {
        let nvme = layout(0x1e00, 4096, 4095, 0);
        assert_eq!(
            (nvme.offset, nvme.slots, nvme.align, nvme.phase),
            (1536, 3, 2, 1)
        );
        let granule = layout(0xe00, 0x300, 0, 4095);
        assert_eq!((granule.offset, granule.slots, granule.align), (0, 2, 2));
        let both = layout(0xe00, 0x300, 4095, 4095);
        assert_eq!(
            (both.offset, both.slots, both.align, both.phase),
            (3584, 4, 2, 0)
        );
        let page = layout(0xe00, 4096, 0, 0);
        assert_eq!((page.offset, page.slots, page.align), (0, 2, 2));
        let less = layout(0xe00, 4095, 0, 0);
        assert_eq!((less.offset, less.slots, less.align), (0, 2, 1));
    }

    #[test]
    fn the_tail_ends_where_the_slots_end() {
        let both = layout(0xe00, 0x300, 4095, 4095);
        assert_eq!(
            u64::from(both.offset) + 0x300 + u64::from(both.tail),
            4 * 2048
        );
    }

    #[test]
    fn a_boundary_under_a_slot_is_kept_inside_the_slot() {
        let shift = SlotShift::of_bytes(2048).unwrap();
        let boundary = BoundaryMask::of_size(1024).unwrap();
        assert!(!layout(0, 1024, 0, 0).is_cut(shift, boundary, 1024));
        assert!(layout(0, 1025, 0, 0).is_cut(shift, boundary, 1025));
        assert!(layout(0x200, 1024, 0xfff, 0).is_cut(shift, boundary, 1024));
    }
}
