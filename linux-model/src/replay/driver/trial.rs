//! Looking ahead and taking back, for whoever tries other orders.

use super::{Driver, State, request};
use crate::demand::Recorded;
use crate::replay::report::Placed;
use crate::swiotlb::{PoolId, Slots, Swiotlb};

impl Driver<'_> {
    /// Whether mapping this would reach the pool now.
    pub fn will_ask(&self, index: u32) -> bool {
        let mapping = &self.demand.mappings[index as usize];
        let goes_on = mapping.recorded == Recorded::FailedSilently
            || mapping
                .list
                .is_none_or(|list| !self.given_up[list as usize]);
        mapping.bytes > 0 && self.bounces(mapping) && goes_on
    }

    /// Lets pools appear that are due.
    pub fn catch_up(&mut self, now_ns: u64) {
        self.memory.run_worker(now_ns);
    }

    /// Where it would be put now.
    pub fn peek(&self, index: u32) -> Option<(PoolId, u64)> {
        let mapping = &self.demand.mappings[index as usize];
        self.memory.peek(
            &self.demand.devices[mapping.device as usize].limits,
            &request(mapping),
        )
    }

    /// The slots that a mapping holds.
    pub fn held(&self, index: u32) -> Option<Slots> {
        match self.states.get(index as usize) {
            Some(State::Held(slots)) if !slots.is_transient => Some(*slots),
            _ => None,
        }
    }

    /// The slots that a mapping held before its release.
    pub fn last_slots(&self, index: u32) -> Option<Slots> {
        match (
            self.states.get(index as usize),
            self.report.placed.get(index as usize),
        ) {
            (Some(State::Ended), Some(Placed::At(slots))) if !slots.is_transient => Some(*slots),
            _ => None,
        }
    }

    /// Takes a release back; does nothing if the slots have another owner.
    pub fn unrelease(&mut self, index: u32) {
        if let Some(slots) = self.last_slots(index) {
            if self.memory.retake(&slots) {
                self.states[index as usize] = State::Held(slots);
                let device = self.demand.mappings[index as usize].device;
                self.report.devices[device as usize].used += slots.count;
            }
        }
    }

    /// Releases what [`Driver::unrelease`] took back.
    pub fn release_again(&mut self, index: u32) {
        self.release(index);
    }

    /// Where a mapping was put.
    pub fn placed(&self, index: u32) -> Placed {
        self.report.placed[index as usize]
    }

    /// The pools.
    pub fn memory(&self) -> &Swiotlb {
        &self.memory
    }

    /// The pools, to try orders on.
    pub fn memory_mut(&mut self) -> &mut Swiotlb {
        &mut self.memory
    }
}
