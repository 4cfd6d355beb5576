//! What a demand is replayed on.

use crate::swiotlb::{Counters, DeviceLimits, MapFailure, Request, Slots, Swiotlb};

/// Bounce memory with slots to hand out: the model, or whatever is to be compared with it.
pub trait BounceMemory {
    /// Time has come to `now_ns`.
    fn advance(&mut self, _now_ns: u64) {}

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
    fn unmap(&mut self, slots: &Slots);

    /// Begins the high water anew, at 0.
    fn reset_high_water(&mut self);

    /// The counters now.
    fn counters(&self) -> &Counters;

    /// The CPU on which the mapping before this call asked for growth, if it did.
    fn take_growth_request(&mut self) -> Option<u32> {
        None
    }

    /// When that growth can begin.
    fn start_growth_at(&mut self, _start_ns: u64) {}
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

    fn unmap(&mut self, slots: &Slots) {
        Self::unmap(self, slots);
    }

    fn reset_high_water(&mut self) {
        Self::reset_high_water(self);
    }

    fn counters(&self) -> &Counters {
        Self::counters(self)
    }

    fn take_growth_request(&mut self) -> Option<u32> {
        Self::take_growth_request(self)
    }

    fn start_growth_at(&mut self, start_ns: u64) {
        Self::start_growth_at(self, start_ns);
    }
}

impl<M: BounceMemory> BounceMemory for &mut M {
    fn advance(&mut self, now_ns: u64) {
        (**self).advance(now_ns);
    }

    fn map(
        &mut self,
        now_ns: u64,
        device: &DeviceLimits,
        request: &Request,
    ) -> Result<Slots, MapFailure> {
        (**self).map(now_ns, device, request)
    }

    fn unmap(&mut self, slots: &Slots) {
        (**self).unmap(slots);
    }

    fn reset_high_water(&mut self) {
        (**self).reset_high_water();
    }

    fn counters(&self) -> &Counters {
        (**self).counters()
    }

    fn take_growth_request(&mut self) -> Option<u32> {
        (**self).take_growth_request()
    }

    fn start_growth_at(&mut self, start_ns: u64) {
        (**self).start_growth_at(start_ns);
    }
}
