//! What probes on the allocator show where there are no `dma:*` events.

use std::collections::{BTreeMap, HashMap};

use crate::swiotlb::SLOT_BYTES;

/// Slots in use by address, with the releases that a probe missed worked out from reuse.
#[derive(Debug, Default)]
pub(super) struct Probes {
    attempts_ns: Vec<u64>,
    results: HashMap<u32, bool>,
    /// First slot → (slot after the last, mapping).
    occupied: BTreeMap<u64, (u64, u32)>,
    lost: Vec<(u32, usize)>,
    lifetimes_ns: Vec<u64>,
}

impl Probes {
    pub fn note_attempt(&mut self, mapping: u32, at_ns: u64) {
        debug_assert_eq!(self.attempts_ns.len(), mapping as usize);
        self.attempts_ns.push(at_ns);
    }

    pub fn attempt_ns(&self, mapping: u32) -> u64 {
        self.attempts_ns[mapping as usize]
    }

    pub fn note_result(&mut self, mapping: u32, tlb: Option<u64>) {
        self.results.insert(mapping, tlb.is_some());
    }

    pub fn has_result(&self, mapping: u32) -> bool {
        self.results.contains_key(&mapping)
    }

    pub fn failed(&self, mapping: u32) -> bool {
        self.results.get(&mapping) == Some(&false)
    }

    pub fn any_result(&self) -> bool {
        !self.results.is_empty()
    }

    /// Takes the slots; returns mappings that must have been released unseen.
    pub fn occupy(&mut self, tlb: u64, bytes: u64, mapping: u32) -> Vec<u32> {
        let first = tlb / SLOT_BYTES;
        let after = tlb.saturating_add(bytes).div_ceil(SLOT_BYTES);
        let mut stale = Vec::new();
        while let Some((&begin, &(end, other))) = self.occupied.range(..after).next_back() {
            if end <= first {
                break;
            }
            self.occupied.remove(&begin);
            stale.push(other);
        }
        self.occupied.insert(first, (after, mapping));
        stale
    }

    pub fn release(&mut self, tlb: u64) -> Option<u32> {
        self.occupied
            .remove(&(tlb / SLOT_BYTES))
            .map(|(_, mapping)| mapping)
    }

    pub fn note_lost(&mut self, mapping: u32, op: usize) {
        self.lost.push((mapping, op));
    }

    pub fn take_lost(&mut self) -> Vec<(u32, usize)> {
        std::mem::take(&mut self.lost)
    }

    pub fn take_open(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.occupied)
            .into_values()
            .map(|(_, mapping)| mapping)
            .collect()
    }

    pub fn note_lifetime(&mut self, ns: u64) {
        self.lifetimes_ns.push(ns);
    }

    /// The median.
    pub fn usual_lifetime_ns(&mut self) -> u64 {
        self.lifetimes_ns.sort_unstable();
        self.lifetimes_ns
            .get(self.lifetimes_ns.len() / 2)
            .copied()
            .unwrap_or(0)
    }
}
