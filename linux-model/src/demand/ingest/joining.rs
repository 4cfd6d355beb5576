//! Joins attempts with what became of them.

use dmakit_addr::Direction;

use crate::demand::event::{Event, EventKind, SgEntry};
use crate::demand::ingest::Ingest;
use crate::demand::ingest::pairing::{ListKey, PageKey};
use crate::demand::ingest::threads::ThreadState;
use crate::demand::ingest::timing::NEAR_NS;
use crate::demand::load::{Mapping, OpKind, Recorded};

impl Ingest {
    pub(super) fn bounced(&mut self, state: &mut ThreadState, event: &Event, at_ns: u64) {
        let EventKind::Bounced {
            device,
            dma_mask,
            original,
            bytes,
            is_forced,
        } = event.kind
        else {
            return;
        };
        self.device(device).limits.dma_mask = dma_mask;
        if !self.has_dma_events {
            // Probes told what became of the last one; nothing else will claim it.
            while state
                .pending
                .last()
                .is_some_and(|last| self.probes.has_result(*last))
            {
                state.pending.pop();
            }
        }
        let mapping = self.add_mapping(Mapping {
            device,
            cpu: event.cpu,
            context: event.context,
            may_sleep: event.may_sleep,
            original,
            bytes,
            direction: None,
            list: None,
            recorded: Recorded::Unknown,
            was_bounced: true,
            was_forced: is_forced,
            skips_sync: false,
        });
        state.pending.push(mapping);
        state.open_ops.push(self.ops.len());
        self.add_op(at_ns, at_ns + NEAR_NS, u64::MAX, OpKind::Map(mapping));
    }

    pub(super) fn mapped(&mut self, state: &mut ThreadState, event: &Event, at_ns: u64) {
        match &event.kind {
            EventKind::MapPage {
                device,
                direction,
                dma,
                bytes,
                original,
            } => {
                let entry = SgEntry {
                    original: *original,
                    dma: *dma,
                    bytes: *bytes,
                };
                let claimed = self.claim(state, event, at_ns, (*device, *direction), &[entry], 1);
                let Some(mapping) = claimed.first().copied() else {
                    return;
                };
                match *dma {
                    Some(dma) => {
                        let key = PageKey {
                            device: *device,
                            dma,
                            bytes: *bytes,
                            direction: *direction,
                        };
                        let was_bounced = self.mappings[mapping as usize].was_bounced;
                        self.live.add_page(key, mapping, was_bounced);
                    }
                    None => self.mappings[mapping as usize].recorded = Recorded::Failed,
                }
            }
            EventKind::MapSg {
                device,
                direction,
                entries,
                count,
            } => {
                let user = (*device, *direction);
                let claimed = self.claim(state, event, at_ns, user, entries, *count);
                let list = self.new_list();
                for mapping in &claimed {
                    self.mappings[*mapping as usize].list = Some(list);
                }
                let shown = entries.iter().map(|entry| entry.original);
                self.live
                    .add_list(ListKey::new(*device, *direction, *count, shown), claimed);
            }
            _ => {}
        }
    }

    pub(super) fn unmapped_page(&mut self, state: &mut ThreadState, event: &Event, at_ns: u64) {
        let EventKind::UnmapPage {
            device,
            direction,
            dma,
            bytes,
            skips_sync,
        } = event.kind
        else {
            return;
        };
        match self.live.take_page(&PageKey {
            device,
            dma,
            bytes,
            direction,
        }) {
            Some(mapping) => {
                self.mappings[mapping as usize].skips_sync = skips_sync;
                let earliest = state.last_event_ns.max(self.mapped_ns[mapping as usize]);
                let likely = at_ns.saturating_sub(NEAR_NS).max(earliest);
                self.add_op(earliest, likely, at_ns, OpKind::Unmap(mapping));
            }
            None => self.unpaired.unmaps += 1,
        }
    }

    /// Joins a mapping event with the attempts of its thread, newest last; attempts before them
    /// belong to lists that were given up. Entries that were not bounced get a mapping of their
    /// own. Returns one mapping per entry.
    fn claim(
        &mut self,
        state: &mut ThreadState,
        event: &Event,
        at_ns: u64,
        (device, direction): (u32, Direction),
        entries: &[SgEntry],
        count: usize,
    ) -> Vec<u32> {
        let mut claimed = Vec::with_capacity(entries.len());
        let mut left = state.pending.len();
        // Entries past the shown ones can only be told by their place.
        for _ in entries.len()..count {
            if left == 0 || self.mappings[state.pending[left - 1] as usize].device != device {
                break;
            }
            left -= 1;
            claimed.push(state.pending[left]);
        }
        for entry in entries.iter().rev() {
            let last = left.checked_sub(1).map(|index| state.pending[index]);
            let attempt = last.filter(|mapping| {
                let attempt = &self.mappings[*mapping as usize];
                attempt.device == device && attempt.original == entry.original
            });
            claimed.push(match attempt {
                Some(mapping) => {
                    left -= 1;
                    self.dma[mapping as usize] = entry.dma;
                    mapping
                }
                None => self.add_unbounced(event, at_ns, device, entry),
            });
        }
        claimed.reverse();
        for mapping in &claimed {
            self.mapped_ns[*mapping as usize] = at_ns;
            let mapping = &mut self.mappings[*mapping as usize];
            mapping.direction = Some(direction);
            mapping.recorded = Recorded::Served;
        }
        state.pending.truncate(left);
        self.give_up(state);
        claimed
    }

    /// Attempts that no event claimed: lists that were given up. A list begins anew where its
    /// first entry is tried again or a probe saw the failure.
    fn give_up(&mut self, state: &mut ThreadState) {
        let pending = std::mem::take(&mut state.pending);
        let mut first = 0;
        for index in 1..=pending.len() {
            let ends = match pending.get(index) {
                None => true,
                Some(next) => {
                    let begin = &self.mappings[pending[first] as usize];
                    let next = &self.mappings[*next as usize];
                    (next.device, next.original) == (begin.device, begin.original)
                        || self.probes.failed(pending[index - 1])
                }
            };
            if ends {
                self.give_up_list(&pending[first..index]);
                first = index;
            }
        }
    }

    fn give_up_list(&mut self, mappings: &[u32]) {
        let list = self.new_list();
        for mapping in mappings {
            let mapping = &mut self.mappings[*mapping as usize];
            mapping.list = Some(list);
            mapping.recorded = Recorded::FailedSilently;
        }
        // Nothing follows the attempt that failed, so the time after it tells nothing about it;
        // undoing the others follows at once.
        let last = mappings.last().map(|last| OpKind::Map(*last));
        let op = self.ops.iter_mut().rev().find(|op| Some(op.kind) == last);
        if let Some(op) = op {
            op.likely_ns = op.earliest_ns + NEAR_NS;
            let (failed_ns, latest_ns) = (op.likely_ns, op.latest_ns);
            let likely_ns = (failed_ns + NEAR_NS).min(latest_ns);
            self.add_op(failed_ns, likely_ns, latest_ns, OpKind::GiveUp(list));
        }
    }

    fn add_unbounced(&mut self, event: &Event, at_ns: u64, device: u32, entry: &SgEntry) -> u32 {
        self.device(device);
        let mapping = self.add_mapping(Mapping {
            device,
            cpu: event.cpu,
            context: event.context,
            may_sleep: event.may_sleep,
            original: entry.original,
            bytes: entry.bytes,
            direction: None,
            list: None,
            recorded: Recorded::Served,
            was_bounced: false,
            was_forced: false,
            skips_sync: false,
        });
        self.add_op(at_ns, at_ns, at_ns, OpKind::Map(mapping));
        mapping
    }
}
