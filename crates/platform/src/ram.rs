//! The one unsafe act of an embedder: saying where RAM is.

use core::ptr::NonNull;

use dmakit_addr::PhysRange;

use crate::Segment;

/// A run of RAM and where the CPU sees it.
#[derive(Clone, Copy, Debug)]
pub struct RamRange {
    /// The physical run.
    pub range: PhysRange,
    /// Where the CPU sees the first byte.
    pub start: NonNull<u8>,
}

// SAFETY: the pointer is a place, not a reference; using it is `Ram::new`'s promise.
unsafe impl Send for RamRange {}

/// All RAM that the stack may use, before anything owns a part of it.
///
/// It is the root of ownership: each range is handed out once, as a [`Segment`], and whoever holds
/// a segment is the only one who can reach its bytes.
pub struct Ram<I> {
    ranges: I,
}

impl<I: Iterator<Item = RamRange>> Ram<I> {
    /// RAM made of `ranges`.
    ///
    /// # Safety
    /// For every range, for as long as anything made from it lives:
    /// 1. `start` is valid for reads and writes of the whole length, and stays mapped there;
    /// 2. the bytes hold no Rust object: nothing but the stack and devices reads or writes them;
    /// 3. no two ranges, of this or another `Ram`, share a byte, seen from the CPU or physically;
    /// 4. `range` is the physical memory behind `start`, contiguous.
    pub unsafe fn new(ranges: I) -> Self {
        Self { ranges }
    }
}

impl<I: Iterator<Item = RamRange>> Iterator for Ram<I> {
    type Item = Segment;

    /// The next range as one owning segment.
    fn next(&mut self) -> Option<Segment> {
        let RamRange { range, start } = self.ranges.next()?;
        // SAFETY: `Ram::new`'s caller promised conditions 1 to 4, which are `Segment::from_raw`'s,
        // and an iterator's item is handed out once.
        Some(unsafe { Segment::from_raw(start, range) })
    }
}
