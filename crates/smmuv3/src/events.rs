//! The event queue.

use core::sync::atomic::Ordering;

use dmakit_platform::{Barrier, Mmio, Platform, Segment};

use crate::spec::event::{Event, WORDS};
use crate::spec::registers::{EVENTQ_CONS, EVENTQ_PROD, INDEX_OVERFLOW};

/// Records that the SMMU writes and one reader takes.
pub(crate) struct EventQueue {
    segment: Segment,
    shift: u32,
    consumed: u32,
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
            invalidates,
        }
    }

    pub(crate) fn base(&self) -> u64 {
        self.segment.range().start().raw()
    }

    pub(crate) fn shift(&self) -> u32 {
        self.shift
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
        let lost = (producer ^ self.consumed) & INDEX_OVERFLOW != 0;
        self.consumed = (self.consumed & mask) | (producer & INDEX_OVERFLOW);
        platform.barrier(Barrier::Full);
        regs.write32(EVENTQ_CONS, self.consumed);
        lost
    }
}
