//! One contiguous area: which of its pages are claimed, and where the kernel looks next.

use super::bitmap::Bitmap;

/// log2 of the greatest alignment, in pages, that the mapping API asks for: `CONFIG_CMA_ALIGNMENT`,
/// 8 unless a kernel was built otherwise (1 MiB of 4 KiB pages).
pub const ALIGN_ORDER_MAX: u32 = 8;

/// A wish for contiguous pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wish {
    /// How many.
    pub pages: u64,
    /// log2 of the alignment of the first, in pages of physical memory.
    pub align_order: u32,
}

/// An area as Linux keeps it: one bit for each 2^`order_per_bit` pages, searched from the lowest up
/// for the first run of clear bits that is long enough.
///
/// Alignment is of the page's number in physical memory, not of its place in the area: where the
/// base is not aligned that far, the first place is not 0.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Area {
    base: u64,
    pages: u64,
    order_per_bit: u32,
    taken: Bitmap,
}

impl Area {
    /// An area of `pages` pages from page number `base` on, all free. Areas of the mapping API have
    /// an `order_per_bit` of 0, those of gigantic pages a larger one.
    pub fn new(base: u64, pages: u64, order_per_bit: u32) -> Self {
        let order_per_bit = order_per_bit.min(63);
        Self {
            base,
            pages,
            order_per_bit,
            taken: Bitmap::new(pages >> order_per_bit),
        }
    }

    /// The number of its first page.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// How many pages it has.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// How many pages are claimed, whole bits counted.
    pub fn used_pages(&self) -> u64 {
        self.taken.count() << self.order_per_bit
    }

    /// The first place where `wish` fits, as the number of its first page, from page `from` of the
    /// area on. Nothing changes.
    ///
    /// The run is found by its first clear bit, rounded up to the alignment; a set bit in it moves
    /// the search behind that bit. O(bits / 64).
    pub fn find(&self, wish: Wish, from: u64) -> Option<u64> {
        let bits = self.bits(wish.pages);
        let step = self.step_bits(wish);
        let offset = (self.base & align_mask(wish.align_order)) >> self.order_per_bit;
        let mut from = from.div_ceil(1 << self.order_per_bit);
        loop {
            let clear = self.taken.next(from, self.taken.len(), false)?;
            let at = (clear + offset).next_multiple_of(step) - offset;
            let end = at.checked_add(bits)?;
            if bits == 0 || end > self.taken.len() {
                return None;
            }
            match self.taken.next(at, end, true) {
                Some(set) => from = set + 1,
                None => return Some(self.base + (at << self.order_per_bit)),
            }
        }
    }

    /// Where the search goes on after the range at page number `pfn` was found busy, for
    /// [`find`](Self::find): the next aligned place.
    pub fn after_busy(&self, wish: Wish, pfn: u64) -> u64 {
        let step = self.step_bits(wish) << self.order_per_bit;
        pfn.saturating_sub(self.base).saturating_add(step)
    }

    /// The kernel's whole search when the first `busy` places found are busy: the places tried, and
    /// the one that it keeps, claimed.
    pub fn claim(&mut self, wish: Wish, busy: u32) -> Option<u64> {
        let mut from = 0;
        for _ in 0..busy {
            from = self.after_busy(wish, self.find(wish, from)?);
        }
        let pfn = self.find(wish, from)?;
        self.take(pfn, wish.pages);
        Some(pfn)
    }

    /// Marks pages as claimed. Those that are not of this area are left out.
    pub fn take(&mut self, pfn: u64, pages: u64) {
        self.write(pfn, pages, true);
    }

    /// Marks pages as free. Those that are not of this area are left out.
    pub fn release(&mut self, pfn: u64, pages: u64) {
        self.write(pfn, pages, false);
    }

    /// Whether all of these pages exist and are free.
    pub fn is_free(&self, pfn: u64, pages: u64) -> bool {
        let Some(at) = pfn.checked_sub(self.base) else {
            return false;
        };
        let (at, bits) = (at >> self.order_per_bit, self.bits(pages));
        let fits = at
            .checked_add(bits)
            .is_some_and(|end| end <= self.taken.len());
        fits && self.taken.next(at, at + bits, true).is_none()
    }

    /// Maximal free runs from the lowest up: first page, counted from the base, and pages. Linux
    /// prints these when a claim fails.
    pub fn free_runs(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let shift = self.order_per_bit;
        self.taken
            .clear_runs()
            .map(move |(at, len)| (at << shift, len << shift))
    }

    fn write(&mut self, pfn: u64, pages: u64, value: bool) {
        let skipped = self.base.saturating_sub(pfn).min(pages);
        let at = pfn.saturating_sub(self.base) >> self.order_per_bit;
        self.taken.write(at, self.bits(pages - skipped), value);
    }

    fn bits(&self, pages: u64) -> u64 {
        pages.div_ceil(1 << self.order_per_bit)
    }

    /// Bits between aligned places.
    fn step_bits(&self, wish: Wish) -> u64 {
        (align_mask(wish.align_order.saturating_sub(self.order_per_bit))).saturating_add(1)
    }
}

/// The low bits that are 0 in what is aligned to 2^`order`.
fn align_mask(order: u32) -> u64 {
    match order {
        // No area reaches so far.
        62.. => (1 << 62) - 1,
        order => (1 << order) - 1,
    }
}
