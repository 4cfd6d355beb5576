//! The event queue.

use core::sync::atomic::Ordering;

use dmakit_platform::{Barrier, Mmio, Platform, Segment};

use crate::spec::event::{Event, WORDS};
use crate::spec::registers::{
    BASE_ALLOCATE, EVENTQ_BASE, EVENTQ_CONS, EVENTQ_PROD, INDEX_OVERFLOW,
};

/// Records that the SMMU writes and one reader takes.
pub(crate) struct EventQueue {
    segment: Segment,
    shift: u32,
    consumed: u32,
    /// Whether records were lost when the queue was begun anew.
    lost: bool,
    is_begun: bool,
    /// Whether the SMMU writes past the CPU's caches.
    invalidates: bool,
}

impl EventQueue {
    /// A queue of `2^shift` records in a zeroed segment.
    pub(crate) fn new(segment: Segment, shift: u32, invalidates: bool) -> Self {
        Self {
            segment,
            shift,
            consumed: 0,
            lost: false,
            is_begun: false,
            invalidates,
        }
    }

    /// Describes the queue to an SMMU whose event queue is off. Records that were not taken are lost.
    pub(crate) fn begin<R: Mmio>(&mut self, regs: &R) {
        let is_unread = || (regs.read32(EVENTQ_PROD) ^ self.consumed) & !INDEX_OVERFLOW != 0;
        self.lost |= self.is_begun && is_unread();
        self.is_begun = true;
        self.consumed = 0;
        let base = u64::from(self.shift) | self.segment.range().start().raw();
        regs.write64(EVENTQ_BASE, base | BASE_ALLOCATE);
        regs.write32(EVENTQ_PROD, 0);
        regs.write32(EVENTQ_CONS, 0);
    }

    /// Its memory, once the SMMU is off.
    pub(crate) fn into_segment(self) -> Segment {
        self.segment
    }

    /// Takes at most one queue's length of records, oldest first; says whether records were lost.
    pub(crate) fn take<P: Platform, R: Mmio>(
        &mut self,
        platform: &P,
        regs: &R,
        mut visit: impl FnMut(Event),
    ) -> bool {
        let mask = (1 << (self.shift + 1)) - 1;
        let producer = regs.read32(EVENTQ_PROD);
        let count = (producer & mask).wrapping_sub(self.consumed & mask) & mask;
        platform.barrier(Barrier::AfterDevice);
        if self.invalidates && count != 0 {
            platform.invalidate(self.segment.range());
        }
        for _ in 0..count.min(1 << self.shift) {
            let slot = (self.consumed & ((1 << self.shift) - 1)) as usize;
            if let Some(words) = self.segment.window().words64() {
                if let Some(record) = words.get(slot * WORDS..(slot + 1) * WORDS) {
                    // Copied once, then looked at.
                    let copy = core::array::from_fn(|i| record[i].load(Ordering::Relaxed));
                    visit(Event::from_words(copy));
                }
            }
            self.consumed = (self.consumed & INDEX_OVERFLOW) | ((self.consumed + 1) & mask);
        }
        // The overflow bit is acknowledged by copying it.
        let overflow = (producer ^ self.consumed) & INDEX_OVERFLOW != 0;
        let lost = core::mem::take(&mut self.lost) || overflow;
        self.consumed = (self.consumed & mask) | (producer & INDEX_OVERFLOW);
        platform.barrier(Barrier::Full);
        regs.write32(EVENTQ_CONS, self.consumed);
        lost
    }
}
