//! From recorded events to demand.

mod joining;
mod pairing;
mod probes;
mod slots;
mod threads;
mod timing;

use std::collections::{BTreeMap, HashMap};

use crate::demand::event::{Event, EventKind};
use crate::demand::ingest::pairing::{ListKey, Live};
use crate::demand::ingest::probes::Probes;
use crate::demand::ingest::threads::{Thread, ThreadState};
use crate::demand::ingest::timing::{Durations, Standstills, Window, spread};
use crate::demand::load::{
    Demand, Device, Known, Mapping, Op, OpKind, Phase, RecordedAddresses, Switch, Unpaired,
};
use crate::swiotlb::DeviceLimits;

/// Later times are taken for this one, so that adding to a time cannot overflow.
const TIME_MAX_NS: u64 = 1 << 62;

/// Builds a [`Demand`] from events in recorded order.
#[derive(Debug, Default)]
pub struct Ingest {
    threads: HashMap<Thread, ThreadState>,
    live: Live,
    probes: Probes,
    devices: Vec<Device>,
    mappings: Vec<Mapping>,
    dma: Vec<Option<u64>>,
    /// When each mapping's own event was written: no release comes before it.
    mapped_ns: Vec<u64>,
    ops: Vec<Op>,
    windows: Vec<Window>,
    standstills: Standstills,
    durations: Durations,
    phases: Vec<Phase>,
    switches: BTreeMap<u32, Vec<Switch>>,
    /// Task and time of each CPU's last event.
    running: HashMap<u32, (u32, u64)>,
    phase_is_open: bool,
    lists: u32,
    has_dma_events: bool,
    is_translated: bool,
    unpaired: Unpaired,
    last_ns: u64,
}

impl Ingest {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next event. Amortised O(1); a scatterlist costs its length.
    pub fn push(&mut self, event: &Event) {
        // Events share a microsecond but are in order, so each is a little later than the last.
        let before_ns = self.last_ns;
        let at_ns = event.at_ns.min(TIME_MAX_NS).max(before_ns + 1);
        self.last_ns = at_ns;
        let gap_ns = if before_ns == 0 { 0 } else { at_ns - before_ns };
        let thread = Thread::of(event.context, event.cpu, event.pid);
        let mut state = self.threads.remove(&thread).unwrap_or_default();
        self.bound(&mut state, event, at_ns, gap_ns);
        self.handle(&mut state, event, at_ns);
        state.last_event_ns = at_ns;
        self.threads.insert(thread, state);
    }

    fn handle(&mut self, state: &mut ThreadState, event: &Event, at_ns: u64) {
        match &event.kind {
            EventKind::Bounced { .. } => self.bounced(state, event, at_ns),
            EventKind::MapPage { .. } | EventKind::MapSg { .. } => {
                self.has_dma_events = true;
                self.mapped(state, event, at_ns);
            }
            EventKind::UnmapPage { .. } => self.unmapped_page(state, event, at_ns),
            EventKind::UnmapSg {
                device,
                direction,
                originals,
                skips_sync,
            } => {
                let shown = originals.iter().copied();
                let key = ListKey::new(*device, *direction, originals.len(), shown);
                match self.live.take_list(&key) {
                    Some(mappings) => self.open_window(state, at_ns, &mappings, event, *skips_sync),
                    None => self.unpaired.unmaps += originals.len() as u64,
                }
            }
            EventKind::Sync {
                device,
                direction,
                dma,
                bytes,
                is_for_cpu,
            } => {
                let copies = if *is_for_cpu {
                    direction.device_writes()
                } else {
                    direction.device_reads()
                };
                if let (true, Some(mapping)) = (copies, self.live.at(*device, *dma)) {
                    self.add_op(
                        at_ns,
                        at_ns,
                        at_ns,
                        OpKind::Sync {
                            mapping,
                            bytes: *bytes,
                        },
                    );
                }
            }
            EventKind::SlotReturned { tlb } => self.slot_returned(state, *tlb),
            EventKind::SlotReleased { direction, tlb } => {
                if !self.has_dma_events {
                    self.slot_released(state, at_ns, *direction, *tlb);
                }
            }
            EventKind::PhaseBegin { name } => self.begin_phase(name, at_ns),
            EventKind::PhaseEnd => self.end_phase(at_ns),
            EventKind::Translated => self.is_translated = true,
            EventKind::SlotWanted | EventKind::Other => {}
        }
    }

    fn begin_phase(&mut self, name: &str, at_ns: u64) {
        if self.phase_is_open {
            self.end_phase(at_ns);
        }
        let index = self.phases.len() as u32;
        self.phases.push(Phase {
            name: name.to_owned(),
            begin_ns: at_ns,
            end_ns: u64::MAX,
        });
        self.phase_is_open = true;
        self.add_op(at_ns, at_ns, at_ns, OpKind::PhaseBegin(index));
    }

    fn end_phase(&mut self, at_ns: u64) {
        if let (true, Some(phase)) = (self.phase_is_open, self.phases.last_mut()) {
            phase.end_ns = at_ns;
            let index = self.phases.len() as u32 - 1;
            self.add_op(at_ns, at_ns, at_ns, OpKind::PhaseEnd(index));
        }
        self.phase_is_open = false;
    }

    fn device(&mut self, device: u32) -> &mut Device {
        while self.devices.len() <= device as usize {
            let name = format!("device {}", self.devices.len());
            self.devices.push(Device {
                name,
                limits: DeviceLimits::default(),
            });
        }
        &mut self.devices[device as usize]
    }

    fn add_mapping(&mut self, mapping: Mapping) -> u32 {
        let index = self.mappings.len() as u32;
        self.probes.note_attempt(index, self.last_ns);
        self.mappings.push(mapping);
        self.dma.push(None);
        self.mapped_ns.push(self.last_ns);
        index
    }

    fn add_op(&mut self, earliest_ns: u64, likely_ns: u64, latest_ns: u64, kind: OpKind) {
        self.ops.push(Op {
            earliest_ns,
            sooner_ns: earliest_ns,
            likely_ns,
            later_ns: latest_ns,
            latest_ns,
            kind,
        });
    }

    fn new_list(&mut self) -> u32 {
        self.lists += 1;
        self.lists - 1
    }

    /// Ends the recording. O(n log n) in the number of operations.
    pub fn finish(mut self) -> (Demand, RecordedAddresses) {
        let end_ns = self.last_ns;
        let mut threads: Vec<_> = std::mem::take(&mut self.threads).into_values().collect();
        threads.sort_by_key(|state| state.last_event_ns);
        for mut state in threads {
            self.close(&mut state, end_ns + 1);
            self.unpaired.attempts += state.pending.len() as u64;
        }
        if self.phase_is_open {
            self.end_phase(end_ns + 1);
        }
        let known = if self.has_dma_events {
            Known::Lifetimes
        } else if self.probes.any_result() {
            self.settle_lost_releases(end_ns);
            Known::Probes
        } else {
            Known::Attempts
        };
        if self.has_dma_events {
            self.unpaired.maps_open_at_end = self.live.count();
        }
        for op in &mut self.ops {
            op.latest_ns = op.latest_ns.max(op.earliest_ns);
            op.likely_ns = op.likely_ns.clamp(op.earliest_ns, op.latest_ns);
            (op.sooner_ns, op.later_ns) = (op.earliest_ns, op.latest_ns);
        }
        spread(
            &mut self.ops,
            &self.windows,
            &self.standstills,
            &self.durations,
            |m| self.mappings[m as usize].copied_back(),
        );
        self.ops.sort_by_key(|op| op.likely_ns);
        let demand = Demand {
            devices: self.devices,
            mappings: self.mappings,
            ops: self.ops,
            phases: self.phases,
            switches: self.switches,
            is_translated: self.is_translated,
            known,
            unpaired: self.unpaired,
        };
        (demand, RecordedAddresses { dma: self.dma })
    }
}
