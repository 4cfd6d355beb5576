//! What a demand is replayed on.

use crate::swiotlb::{Counters, DeviceLimits, MapFailure, Request, Slots, Swiotlb};

/// Bounce memory with slots to hand out: the model, or whatever is to be compared with it.
pub trait BounceMemory {
    /// Maps at time `now_ns`.
    ///
    /// # Errors
    /// As [`MapFailure`] says; nothing is held then.
    fn map(
        &mut self,
        now_ns: u64,
        device: &DeviceLimits,
        request: &Request,
    ) -> Result<Slots, MapFailure>;

    /// Unmaps what [`BounceMemory::map`] returned, once.
    fn unmap(&mut self, now_ns: u64, slots: &Slots);

    /// Begins the high water anew, at 0.
    fn reset_high_water(&mut self);

    /// The counters now.
    fn counters(&self) -> Counters;
}

impl BounceMemory for Swiotlb {
    fn map(
        &mut self,
        now_ns: u64,
        device: &DeviceLimits,
        request: &Request,
    ) -> Result<Slots, MapFailure> {
        Self::map(self, now_ns, device, request)
    }

    fn unmap(&mut self, _now_ns: u64, slots: &Slots) {
        Self::unmap(self, slots);
    }

    fn reset_high_water(&mut self) {
        Self::reset_high_water(self);
    }

    fn counters(&self) -> Counters {
        *Self::counters(self)
    }
}
