//! From recorded events to demand.

use std::collections::HashMap;

use dmakit_addr::Direction;

use crate::demand::event::{Context, Event, EventKind, SgEntry};
use crate::demand::load::{
    Demand, Device, Known, Mapping, Op, OpKind, Phase, Recorded, RecordedAddresses, Switch,
    Unpaired,
};
use crate::demand::pairing::{ListKey, Live, PageKey};
use crate::demand::probes::Probes;
use crate::demand::timing::{Durations, NEAR_NS, STANDSTILL_NS, Standstills, Window, spread};
use crate::swiotlb::DeviceLimits;

/// A flow of control whose events follow one another: a task wherever it runs, or one interrupt
/// level of one CPU.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Thread {
    Task(u32),
    Cpu(u32, Context),
}

#[derive(Debug, Default)]
struct ThreadState {
    /// Attempts that no mapping event has claimed.
    pending: Vec<u32>,
    /// Operations that ended no later than this thread's next event.
    open_ops: Vec<usize>,
    /// Releases under way.
    window: Option<Window>,
    /// Whether an interrupt came on top of this thread's open operations.
    was_interrupted: bool,
    /// When the last one was over, if its events tell.
    interruption: Option<u64>,
    last_event_ns: u64,
}

/// Builds a [`Demand`] from events in recorded order.
#[derive(Debug)]
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
    switches: Vec<Vec<Switch>>,
    /// Task and time of each CPU's last event.
    running: Vec<Option<(u32, u64)>>,
    phase_is_open: bool,
    lists: u32,
    has_dma_events: bool,
    unpaired: Unpaired,
    last_ns: u64,
}

impl Ingest {
    /// `devices` are the names that [`Event`]s number; more can be added by
    /// [`Ingest::add_device`].
    pub fn new() -> Self {
        Self {
            threads: HashMap::new(),
            live: Live::default(),
            probes: Probes::default(),
            devices: Vec::new(),
            mappings: Vec::new(),
            dma: Vec::new(),
            mapped_ns: Vec::new(),
            ops: Vec::new(),
            windows: Vec::new(),
            standstills: Standstills::default(),
            durations: Durations::default(),
            phases: Vec::new(),
            switches: Vec::new(),
            running: Vec::new(),
            phase_is_open: false,
            lists: 0,
            has_dma_events: false,
            unpaired: Unpaired::default(),
            last_ns: 0,
        }
    }

    /// Takes the next event. Amortised O(1); a scatterlist costs its length.
    pub fn push(&mut self, event: &Event) {
        // Events share a microsecond but are in order, so each is a little later than the last.
        let at_ns = event.at_ns.max(self.last_ns + 1);
        let before_ns = std::mem::replace(&mut self.last_ns, at_ns);
        let thread = match (event.context, event.pid) {
            (Context::Task, 1..) => Thread::Task(event.pid),
            (context, _) => Thread::Cpu(event.cpu, context),
        };
        let mut state = self.threads.remove(&thread).unwrap_or_default();
        self.close_interrupts_above(event, at_ns);
        self.note_switch(event, at_ns);
        self.note_interrupt(event, at_ns);
        if before_ns > 0 && at_ns - before_ns > STANDSTILL_NS && !state.pending.is_empty() {
            // A thread in the midst of mapping does not sleep: nothing ran.
            self.standstills.add(before_ns, at_ns);
        }
        if event.kind == EventKind::SlotWanted {
            state.was_interrupted = true;
            state.interruption = None;
            for op in &state.open_ops {
                self.ops[*op].earliest_ns = at_ns;
                self.ops[*op].likely_ns = at_ns + NEAR_NS;
            }
        } else if !self.continues_window(&mut state, event, at_ns) {
            self.close(&mut state, at_ns);
        }
        self.handle(&mut state, event, at_ns);
        state.last_event_ns = at_ns;
        self.threads.insert(thread, state);
    }

    fn handle(&mut self, state: &mut ThreadState, event: &Event, at_ns: u64) {
        match &event.kind {
            EventKind::Bounced {
                device,
                dma_mask,
                original,
                bytes,
                is_forced,
            } => {
                self.device(*device).limits.dma_mask = *dma_mask;
                if !self.has_dma_events {
                    state
                        .pending
                        .retain(|mapping| !self.probes.has_result(*mapping));
                }
                let mapping = self.add_mapping(Mapping {
                    device: *device,
                    cpu: event.cpu,
                    context: event.context,
                    original: *original,
                    bytes: *bytes,
                    direction: None,
                    list: None,
                    recorded: Recorded::Unknown,
                    was_bounced: true,
                    was_forced: *is_forced,
                    skips_sync: false,
                });
                state.pending.push(mapping);
                state.open_ops.push(self.ops.len());
                self.add_op(at_ns, at_ns + NEAR_NS, u64::MAX, OpKind::Map(mapping));
            }
            EventKind::MapPage {
                device,
                direction,
                dma,
                bytes,
                original,
            } => {
                self.has_dma_events = true;
                let entry = SgEntry {
                    original: *original,
                    dma: dma.unwrap_or(u64::MAX),
                    bytes: *bytes,
                };
                let mapping = self.claim(state, event, at_ns, *device, *direction, &[entry], 1)[0];
                if dma.is_some() {
                    let key = PageKey {
                        device: *device,
                        dma: entry.dma,
                        bytes: *bytes,
                        direction: *direction,
                    };
                    self.live.add_page(key, mapping);
                }
            }
            EventKind::MapSg {
                device,
                direction,
                entries,
                count,
            } => {
                self.has_dma_events = true;
                let mappings =
                    self.claim(state, event, at_ns, *device, *direction, entries, *count);
                let list = self.new_list();
                for mapping in &mappings {
                    self.mappings[*mapping as usize].list = Some(list);
                }
                let originals = entries.iter().map(|entry| entry.original);
                self.live.add_list(
                    ListKey::new(*device, *direction, *count, originals),
                    mappings,
                );
            }
            EventKind::UnmapPage {
                device,
                direction,
                dma,
                bytes,
                skips_sync,
            } => {
                let key = PageKey {
                    device: *device,
                    dma: *dma,
                    bytes: *bytes,
                    direction: *direction,
                };
                match self.live.take_page(&key) {
                    Some(mapping) => {
                        self.mappings[mapping as usize].skips_sync = *skips_sync;
                        let mapped_ns = self.mapped_ns[mapping as usize];
                        let earliest = state.last_event_ns.max(mapped_ns);
                        let likely = at_ns.saturating_sub(NEAR_NS).max(earliest);
                        self.add_op(earliest, likely, at_ns, OpKind::Unmap(mapping));
                    }
                    None => self.unpaired.unmaps += 1,
                }
            }
            EventKind::UnmapSg {
                device,
                direction,
                originals,
                skips_sync,
            } => {
                let key = ListKey::new(
                    *device,
                    *direction,
                    originals.len(),
                    originals.iter().copied(),
                );
                match self.live.take_list(&key) {
                    Some(mappings) => self.open_window(state, at_ns, &mappings, *skips_sync),
                    None => self.unpaired.unmaps += originals.len() as u64,
                }
            }
            EventKind::Sync {
                direction,
                bytes,
                is_for_cpu,
                ..
            } => {
                let copies = if *is_for_cpu {
                    direction.device_writes()
                } else {
                    direction.device_reads()
                };
                if copies && self.has_dma_events {
                    self.add_op(at_ns, at_ns, at_ns, OpKind::Sync(*bytes));
                }
            }
            EventKind::SlotReturned { tlb } => self.slot_returned(state, *tlb),
            EventKind::SlotReleased {
                device,
                direction,
                tlb,
                bytes,
            } => {
                if !self.has_dma_events {
                    self.slot_released(state, at_ns, *device, *direction, *tlb, *bytes);
                }
            }
            EventKind::PhaseBegin { name } => self.begin_phase(name, at_ns),
            EventKind::PhaseEnd => self.end_phase(at_ns),
            EventKind::SlotWanted | EventKind::Other => {}
        }
    }

    /// Bounds what this thread had under way by its next event.
    fn close(&mut self, state: &mut ThreadState, at_ns: u64) {
        let was_interrupted = std::mem::take(&mut state.was_interrupted);
        let interruption = state.interruption.take();
        for op in state.open_ops.drain(..) {
            self.ops[op].latest_ns = at_ns;
            if let OpKind::Map(mapping) = self.ops[op].kind {
                let bytes = self.mappings[mapping as usize].bytes;
                let op = &mut self.ops[op];
                if !was_interrupted {
                    self.durations.note(bytes, at_ns - op.earliest_ns);
                } else if let (Some(over_ns), Some(usual_ns)) =
                    (interruption, self.durations.usual_ns(bytes))
                {
                    // All of the copying came after the interrupt, so the search did, too.
                    if at_ns - over_ns >= usual_ns {
                        op.likely_ns = at_ns - usual_ns;
                    }
                }
            }
        }
        if let Some(window) = state.window.take().filter(|window| window.count > 0) {
            self.windows.push(Window {
                end_ns: at_ns,
                ..window
            });
        }
    }

    fn note_switch(&mut self, event: &Event, at_ns: u64) {
        let cpu = event.cpu as usize;
        if cpu >= self.running.len() {
            self.running.resize(cpu + 1, None);
            self.switches.resize(cpu + 1, Vec::new());
        }
        match self.running[cpu].replace((event.pid, at_ns)) {
            Some((pid, from_ns)) if pid != event.pid => {
                self.switches[cpu].push(Switch {
                    cpu: event.cpu,
                    from_ns,
                    to_ns: at_ns,
                });
            }
            _ => {}
        }
    }

    /// Whatever a CPU does outside an interrupt shows that the interrupt is over.
    fn close_interrupts_above(&mut self, event: &Event, at_ns: u64) {
        for level in [Context::Softirq, Context::Hardirq] {
            if level > event.context {
                let thread = Thread::Cpu(event.cpu, level);
                if let Some(mut state) = self.threads.remove(&thread) {
                    self.close(&mut state, at_ns);
                    self.threads.insert(thread, state);
                }
            }
        }
    }

    /// Interrupts carry the number of the task that they interrupted.
    fn note_interrupt(&mut self, event: &Event, at_ns: u64) {
        if event.context == Context::Task {
            return;
        }
        let thread = match event.pid {
            0 => Thread::Cpu(event.cpu, Context::Task),
            pid => Thread::Task(pid),
        };
        if let Some(state) = self.threads.get_mut(&thread) {
            if !state.open_ops.is_empty() {
                // Other events come before the work that they tell of, so it is not over.
                let is_over = matches!(event.kind, EventKind::UnmapPage { .. });
                let is_probed = state.was_interrupted && state.interruption.is_none();
                state.interruption = if is_over && !is_probed {
                    Some(at_ns)
                } else {
                    None
                };
                state.was_interrupted = true;
            }
        }
    }

    /// A probed release inside a window tells when one of its operations happens.
    fn continues_window(&mut self, state: &mut ThreadState, event: &Event, at_ns: u64) -> bool {
        let (EventKind::SlotReleased { tlb, .. }, Some(window)) =
            (&event.kind, state.window.as_mut())
        else {
            return false;
        };
        let last = window.first_op + window.count;
        let is_this =
            |op: &Op| matches!(op.kind, OpKind::Unmap(m) if self.dma[m as usize] == Some(*tlb));
        let Some(found) = (window.first_op..last).find(|op| is_this(&self.ops[*op])) else {
            return false;
        };
        for op in state.open_ops.drain(..) {
            self.ops[op].latest_ns = at_ns;
        }
        self.ops[found] = Op {
            earliest_ns: at_ns,
            likely_ns: at_ns + NEAR_NS,
            ..self.ops[found]
        };
        state.open_ops.push(found);
        // Those before it that the probe missed lie between its neighbours.
        for op in window.first_op..found {
            self.ops[op].earliest_ns = window.begin_ns;
            self.ops[op].likely_ns = at_ns - 1;
            self.ops[op].latest_ns = at_ns;
        }
        window.count = last - found - 1;
        window.first_op = found + 1;
        window.begin_ns = at_ns;
        true
    }

    /// Joins a mapping event with the attempts of its thread, newest last; attempts before them
    /// belong to lists that were given up. Entries that were not bounced get a mapping of their
    /// own. Returns one mapping per entry.
    #[expect(clippy::too_many_arguments, reason = "one call per field of one event")]
    fn claim(
        &mut self,
        state: &mut ThreadState,
        event: &Event,
        at_ns: u64,
        device: u32,
        direction: Direction,
        entries: &[SgEntry],
        count: usize,
    ) -> Vec<u32> {
        let mut claimed = Vec::with_capacity(count.max(entries.len()));
        let mut left = state.pending.len();
        // Entries past the shown ones can only be told by their place.
        for _ in entries.len()..count {
            if left > 0 && self.mappings[state.pending[left - 1] as usize].device == device {
                left -= 1;
                claimed.push(state.pending[left]);
            }
        }
        for entry in entries.iter().rev() {
            let attempt = left
                .checked_sub(1)
                .map(|index| state.pending[index])
                .filter(|mapping| {
                    let attempt = &self.mappings[*mapping as usize];
                    attempt.device == device && attempt.original == entry.original
                });
            let mapping = match attempt {
                Some(mapping) => {
                    left -= 1;
                    if entry.dma != u64::MAX {
                        self.dma[mapping as usize] = Some(entry.dma);
                    }
                    mapping
                }
                None => self.add_unbounced(event, at_ns, device, entry),
            };
            claimed.push(mapping);
        }
        claimed.reverse();
        for (index, mapping) in claimed.iter().enumerate() {
            let failed = entries
                .get(index)
                .is_some_and(|entry| entry.dma == u64::MAX);
            self.mapped_ns[*mapping as usize] = at_ns;
            let mapping = &mut self.mappings[*mapping as usize];
            mapping.direction = Some(direction);
            mapping.recorded = if failed {
                Recorded::Failed
            } else {
                Recorded::Served
            };
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
        let last = mappings[mappings.len() - 1];
        let op = self
            .ops
            .iter_mut()
            .rev()
            .find(|op| op.kind == OpKind::Map(last));
        if let Some(op) = op {
            op.likely_ns = op.earliest_ns + NEAR_NS;
            let (failed_ns, latest_ns) = (op.likely_ns, op.latest_ns);
            let likely_ns = (failed_ns + NEAR_NS).min(latest_ns);
            self.add_op(failed_ns, likely_ns, latest_ns, OpKind::GiveUp(list));
        }
    }

    fn add_unbounced(&mut self, event: &Event, at_ns: u64, device: u32, entry: &SgEntry) -> u32 {
        let mapping = self.add_mapping(Mapping {
            device,
            cpu: event.cpu,
            context: event.context,
            original: entry.original,
            bytes: entry.bytes,
            direction: None,
            list: None,
            recorded: Recorded::Served,
            was_bounced: false,
            was_forced: false,
            skips_sync: false,
        });
        self.device(device);
        self.add_op(at_ns, at_ns, at_ns, OpKind::Map(mapping));
        mapping
    }

    fn open_window(
        &mut self,
        state: &mut ThreadState,
        at_ns: u64,
        mappings: &[u32],
        skips_sync: bool,
    ) {
        let first_op = self.ops.len();
        for mapping in mappings {
            self.mappings[*mapping as usize].skips_sync = skips_sync;
            self.add_op(at_ns, at_ns, at_ns, OpKind::Unmap(*mapping));
        }
        let copied_bytes = mappings
            .iter()
            .map(|m| copied_back(&self.mappings[*m as usize]))
            .sum();
        let count = mappings.len();
        state.window = Some(Window {
            first_op,
            count,
            copied_bytes,
            begin_ns: at_ns,
            end_ns: u64::MAX,
        });
    }

    fn slot_returned(&mut self, state: &ThreadState, tlb: Option<u64>) {
        let Some(mapping) = state.pending.last().copied() else {
            return;
        };
        self.probes.note_result(mapping, tlb);
        if self.has_dma_events {
            return;
        }
        let slots_bytes = {
            let entry = &mut self.mappings[mapping as usize];
            entry.recorded = if tlb.is_some() {
                Recorded::Served
            } else {
                Recorded::Failed
            };
            entry.bytes
        };
        self.dma[mapping as usize] = tlb;
        self.mapped_ns[mapping as usize] = self.last_ns;
        let Some(tlb) = tlb else { return };
        for stale in self.probes.occupy(tlb, slots_bytes, mapping) {
            self.unpaired.releases_inferred += 1;
            self.probes.note_lost(stale, self.ops.len());
            let before = self.attempt_ns(mapping);
            let earliest = self.mapped_ns[stale as usize];
            self.add_op(earliest, before, before, OpKind::Unmap(stale));
        }
    }

    fn slot_released(
        &mut self,
        state: &mut ThreadState,
        at_ns: u64,
        device: u32,
        direction: Direction,
        tlb: u64,
        bytes: u64,
    ) {
        let _ = (device, bytes);
        match self.probes.release(tlb) {
            Some(mapping) => {
                self.mappings[mapping as usize].direction = Some(direction);
                self.probes
                    .note_lifetime(at_ns.saturating_sub(self.attempt_ns(mapping)));
                state.open_ops.push(self.ops.len());
                self.add_op(at_ns, at_ns + NEAR_NS, u64::MAX, OpKind::Unmap(mapping));
            }
            None => self.unpaired.unmaps += 1,
        }
    }

    fn attempt_ns(&self, mapping: u32) -> u64 {
        self.probes.attempt_ns(mapping)
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
            likely_ns,
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
        spread(&mut self.ops, &self.windows, &self.standstills, |m| {
            copied_back(&self.mappings[m as usize])
        });
        self.ops.sort_by_key(|op| op.likely_ns);
        let demand = Demand {
            devices: self.devices,
            mappings: self.mappings,
            ops: self.ops,
            phases: self.phases,
            switches: self.switches,
            known,
            unpaired: self.unpaired,
        };
        (demand, RecordedAddresses { dma: self.dma })
    }

    /// A release that the probe missed happened after the usual lifetime, but before the slot's
    /// next use.
    fn settle_lost_releases(&mut self, end_ns: u64) {
        let usual_ns = self.probes.usual_lifetime_ns();
        for (mapping, op) in self.probes.take_lost() {
            let likely = (self.attempt_ns(mapping) + usual_ns).min(self.ops[op].latest_ns);
            self.ops[op].likely_ns = likely;
        }
        for mapping in self.probes.take_open() {
            let begun = self.mapped_ns[mapping as usize];
            if begun + 100 * usual_ns < end_ns {
                self.unpaired.releases_inferred += 1;
                self.add_op(begun, begun + usual_ns, end_ns, OpKind::Unmap(mapping));
            } else {
                self.unpaired.maps_open_at_end += 1;
            }
        }
    }
}

impl Default for Ingest {
    fn default() -> Self {
        Self::new()
    }
}

fn copied_back(mapping: &Mapping) -> u64 {
    let writes = mapping.direction.is_some_and(Direction::device_writes);
    if writes && mapping.was_bounced && !mapping.skips_sync {
        mapping.bytes
    } else {
        0
    }
}
