//! Lifetimes from probes on the allocator, where there are no `dma:*` events.

use dmakit_addr::Direction;

use crate::demand::ingest::Ingest;
use crate::demand::ingest::threads::ThreadState;
use crate::demand::ingest::timing::NEAR_NS;
use crate::demand::load::{OpKind, Recorded};

/// A mapping without a seen release is taken for released if the recording goes on for this many
/// usual lifetimes.
const LIFETIMES_UNSEEN: u64 = 100;

impl Ingest {
    pub(super) fn slot_returned(&mut self, state: &ThreadState, tlb: Option<u64>) {
        let Some(mapping) = state.pending.last().copied() else {
            return;
        };
        self.probes.note_result(mapping, tlb);
        if self.has_dma_events {
            return;
        }
        let entry = &mut self.mappings[mapping as usize];
        entry.recorded = if tlb.is_some() {
            Recorded::Served
        } else {
            Recorded::Failed
        };
        let bytes = entry.bytes;
        self.dma[mapping as usize] = tlb;
        self.mapped_ns[mapping as usize] = self.last_ns;
        let Some(tlb) = tlb else { return };
        for stale in self.probes.occupy(tlb, bytes, mapping) {
            self.unpaired.releases_inferred += 1;
            self.probes.note_lost(stale, self.ops.len());
            let before = self.probes.attempt_ns(mapping);
            let earliest = self.mapped_ns[stale as usize];
            self.add_op(earliest, before, before, OpKind::Unmap(stale));
        }
    }

    pub(super) fn slot_released(
        &mut self,
        state: &mut ThreadState,
        at_ns: u64,
        direction: Direction,
        tlb: u64,
    ) {
        match self.probes.release(tlb) {
            Some(mapping) => {
                self.mappings[mapping as usize].direction = Some(direction);
                let lifetime_ns = at_ns.saturating_sub(self.probes.attempt_ns(mapping));
                self.probes.note_lifetime(lifetime_ns);
                state.open_ops.push(self.ops.len());
                self.add_op(at_ns, at_ns + NEAR_NS, u64::MAX, OpKind::Unmap(mapping));
            }
            None => self.unpaired.unmaps += 1,
        }
    }

    /// A release that the probe missed happened after the usual lifetime, but before the slot's
    /// next use.
    pub(super) fn settle_lost_releases(&mut self, end_ns: u64) {
        let usual_ns = self.probes.usual_lifetime_ns();
        for (mapping, op) in self.probes.take_lost() {
            let op = &mut self.ops[op];
            let expected = self.probes.attempt_ns(mapping).saturating_add(usual_ns);
            op.likely_ns = expected.min(op.latest_ns);
        }
        for mapping in self.probes.take_open() {
            let begun = self.mapped_ns[mapping as usize];
            let unseen_ns = usual_ns.saturating_mul(LIFETIMES_UNSEEN);
            if begun.saturating_add(unseen_ns) < end_ns {
                self.unpaired.releases_inferred += 1;
                self.add_op(begun, begun + usual_ns, end_ns, OpKind::Unmap(mapping));
            } else {
                self.unpaired.maps_open_at_end += 1;
            }
        }
    }
}
