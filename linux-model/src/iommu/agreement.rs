//! The model's operations against the recorded ones, flow by flow.

use std::collections::{BTreeMap, HashMap};

use crate::calls::{
    Buffer, BufferKind, Call, CallKind, CallSource, Calls, Flow, RecordedOp, RecordedOpKind,
    RecordedTranslation,
};
use crate::iommu::referee::{self, AddressAgreement};
use crate::iommu::runs::{Runs, total};
use crate::iommu::setup::TranslationSetup;

/// Differences that are kept.
const DIFFERENCES_MAX: usize = 100;

/// How the model's operations agree with the recorded `iommu` events.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct TranslationAgreement {
    /// Recorded events.
    pub recorded: u64,
    /// Those that the model gives too: kind, physical address, bytes, and place in the order of
    /// their flow of control. Where the calls do not show each run's length, runs are compared by
    /// their physical addresses and the sum of their lengths; where a kernel records no calls, the
    /// runs are the input, and a map is equal if its address is.
    pub equal: u64,
    /// Runs among the equal whose own length no call shows.
    pub lengths_by_sum: u64,
    /// Events of coherent memory among the equal, of which the calls show only the sum.
    pub coherent: u64,
    /// Equal events that another CPU's came before, against the order of the calls' events, which
    /// are written before or after what they report.
    pub reordered: u64,
    /// Everything else, by reason, and the first of them.
    pub reasons: BTreeMap<DifferenceReason, u64>,
    /// At most the first hundred.
    pub differences: Vec<Difference>,
    /// Addresses.
    pub addresses: AddressAgreement,
}

/// Why an operation is not equal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum DifferenceReason {
    /// The model has it, the recording has not.
    NotRecorded,
    /// The recording has it, and no call accounts for it.
    NoCall,
    /// The call began or ended outside the recording.
    CutByTheRecording,
    /// The address is another one, though the calls fix the order that decides about it.
    Address,
    /// The address depends on an order that the recording leaves open.
    OpenOrder,
}

impl DifferenceReason {
    /// One line.
    pub const fn text(self) -> &'static str {
        match self {
            Self::NotRecorded => "the model has it, the recording has not",
            Self::NoCall => "no call of the mapping API accounts for it",
            Self::CutByTheRecording => "its call began before the recording or ended after it",
            Self::Address => "another address than the recorded one",
            Self::OpenOrder => "its address depends on an order that the recording leaves open",
        }
    }
}

/// One operation that is not equal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Difference {
    /// The index of the recorded event, or of the call's.
    pub event: u64,
    /// Whether it maps.
    pub is_map: bool,
    /// Recorded address; the model's where nothing was recorded.
    pub iova: Option<u64>,
    /// Bytes.
    pub bytes: u64,
    /// Why.
    pub reason: DifferenceReason,
}

impl TranslationAgreement {
    /// Equal per recorded, in percent; `None` if nothing was recorded.
    pub fn percent(&self) -> Option<f64> {
        (self.recorded > 0).then(|| 100.0 * self.equal as f64 / self.recorded as f64)
    }

    fn differs(&mut self, difference: Difference) {
        *self.reasons.entry(difference.reason).or_default() += 1;
        if self.differences.len() < DIFFERENCES_MAX {
            self.differences.push(difference);
        }
    }
}

/// Compares what the model makes of the calls with what was recorded. O(n log n).
pub fn agree_on_translation(
    calls: &Calls,
    recorded: &RecordedTranslation,
    setup: &TranslationSetup,
) -> TranslationAgreement {
    let addresses = referee::agree(calls, recorded, setup);
    let mut matching = Matching::new(calls, recorded, setup);
    match calls.source {
        CallSource::Calls => matching.by_calls(),
        CallSource::Translations => matching.by_addresses(&addresses),
    }
    let mut agreement = matching.finish();
    agreement.addresses = addresses.agreement;
    agreement
}

/// The recorded events of one flow, with those already accounted for.
#[derive(Default)]
struct Recorded {
    ops: Vec<RecordedOp>,
    is_taken: Vec<bool>,
    /// Everything before this is taken.
    first: usize,
    /// Event of this flow's previous call.
    previous_call: u64,
}

struct Matching<'a> {
    calls: &'a Calls,
    recorded: &'a RecordedTranslation,
    setup: &'a TranslationSetup,
    flows: HashMap<Flow, Recorded>,
    /// The last recorded event of each call, in the order of the calls, by device.
    places: HashMap<u32, Vec<(u64, Flow)>>,
    agreement: TranslationAgreement,
}

impl<'a> Matching<'a> {
    fn new(
        calls: &'a Calls,
        recorded: &'a RecordedTranslation,
        setup: &'a TranslationSetup,
    ) -> Self {
        let mut flows: HashMap<Flow, Recorded> = HashMap::new();
        for op in &recorded.ops {
            let flow = flows.entry(op.flow).or_default();
            flow.ops.push(*op);
            flow.is_taken.push(false);
        }
        Self {
            calls,
            recorded,
            setup,
            flows,
            places: HashMap::new(),
            agreement: TranslationAgreement {
                recorded: recorded.ops.len() as u64,
                ..TranslationAgreement::default()
            },
        }
    }

    fn by_calls(&mut self) {
        // A flow's own order is that of its events, wherever an operation was moved to.
        let mut order: Vec<&Call> = self.calls.order.iter().collect();
        order.sort_by_key(|call| call.event);
        for call in order {
            let buffer = match call.kind {
                CallKind::Map(buffer) | CallKind::Unmap(buffer) => buffer,
                _ => continue,
            };
            if !self.calls.is_translated(buffer) {
                continue;
            }
            let is_map = matches!(call.kind, CallKind::Map(_));
            let of = &self.calls.buffers[buffer as usize];
            let found = match (is_map, of.kind) {
                (true, BufferKind::Coherent) => self.coherent(call, of),
                (true, _) => self.mapped(call, of),
                (false, _) => self.unmapped(call, of),
            };
            let flow = self.flows.entry(call.flow).or_default();
            flow.previous_call = call.event;
            match found {
                Some(event) => self
                    .places
                    .entry(of.device)
                    .or_default()
                    .push((event, call.flow)),
                None => self.agreement.differs(Difference {
                    event: call.event,
                    is_map,
                    iova: self.recorded.dma[buffer as usize],
                    bytes: of.bytes,
                    reason: DifferenceReason::NotRecorded,
                }),
            }
        }
        self.count_reordered();
    }

    /// Runs of a streaming mapping: they were recorded before the call's event, in order.
    fn mapped(&mut self, call: &Call, buffer: &Buffer) -> Option<u64> {
        let runs = Runs::of(buffer, self.setup.granule);
        let flow = self.flows.get_mut(&call.flow)?;
        let begins = |op: &RecordedOp| matches!(op.kind, RecordedOpKind::Map { phys, .. } if phys == runs.starts[0]);
        let from = flow.find(call.event, begins)?;
        let mut at = from;
        let (mut taken, mut sum) = (Vec::new(), 0);
        let mut run = 0..0;
        for (index, start) in runs.starts.iter().enumerate() {
            // Neighbours enter the tables as one run.
            if runs.may_join.get(index) == Some(&true) && run.contains(start) && run.start != *start
            {
                continue;
            }
            // Interrupts have flows of their own, unless the format does not tell them apart.
            at += flow.ops[at..].iter().position(
                |op| matches!(op.kind, RecordedOpKind::Map { phys, .. } if phys == *start),
            )?;
            let op = flow.ops[at];
            let RecordedOpKind::Map { phys, bytes, .. } = op.kind else {
                return None;
            };
            run = phys..phys.saturating_add(bytes);
            if op.event > call.event || runs.lengths.get(index).is_some_and(|len| *len != bytes) {
                return None;
            }
            sum += bytes;
            taken.push(at);
            at += 1;
        }
        if sum != runs.bytes {
            return None;
        }
        if runs.lengths.is_empty() {
            self.agreement.lengths_by_sum += taken.len() as u64;
        }
        self.agreement.equal += taken.len() as u64;
        flow.take(&taken);
        taken.last().map(|at| flow.ops[*at].event)
    }

    /// Runs of coherent memory: some pages, of which the call shows the sum, at one range that was
    /// filled just before.
    fn coherent(&mut self, call: &Call, buffer: &Buffer) -> Option<u64> {
        let wanted = buffer.bytes.next_multiple_of(self.setup.granule);
        let flow = self.flows.get_mut(&call.flow)?;
        let end = flow.ops.partition_point(|op| op.event < call.event);
        let mut taken = Vec::new();
        let (mut sum, mut start) = (0, None);
        for at in (flow.first..end).rev().filter(|at| !flow.is_taken[*at]) {
            let RecordedOpKind::Map { iova, bytes, .. } = flow.ops[at].kind else {
                break;
            };
            if sum == wanted || start.is_some_and(|start| iova + bytes != start) {
                break;
            }
            start = Some(iova);
            sum += bytes;
            taken.push(at);
        }
        let event = taken.first().map(|at| flow.ops[*at].event)?;
        if sum != wanted {
            return None;
        }
        self.agreement.equal += taken.len() as u64;
        self.agreement.coherent += taken.len() as u64;
        flow.take(&taken);
        Some(event)
    }

    /// One event for the whole range: before that of a single buffer's unmap, after that of a
    /// list's or of freed memory.
    fn unmapped(&mut self, call: &Call, buffer: &Buffer) -> Option<u64> {
        let wanted = total(buffer, self.setup.granule);
        let ends = |op: &RecordedOp| matches!(op.kind, RecordedOpKind::Unmap { bytes, .. } if bytes == wanted);
        let flow = self.flows.get_mut(&call.flow)?;
        let at = match buffer.kind {
            BufferKind::Single => flow.find(call.event, ends)?,
            _ => {
                let from = flow.ops.partition_point(|op| op.event < call.event);
                from + flow.ops[from..].iter().position(ends)?
            }
        };
        flow.take(&[at]);
        self.agreement.equal += 1;
        Some(flow.ops[at].event)
    }

    /// Without calls the runs are the input: what can agree is where they went.
    fn by_addresses(&mut self, addresses: &referee::Addresses) {
        let mut accounted = 0;
        for call in &self.calls.order {
            match call.kind {
                CallKind::Map(buffer) => {
                    let of = &self.calls.buffers[buffer as usize];
                    let iova = self.recorded.dma[buffer as usize].unwrap_or(0);
                    let runs = of.pieces.len() as u64;
                    accounted += runs;
                    match addresses.of[buffer as usize].difference() {
                        None => self.agreement.equal += runs,
                        Some(reason) => {
                            let difference = Difference {
                                event: call.event,
                                is_map: true,
                                iova: Some(iova),
                                bytes: of.bytes,
                                reason,
                            };
                            for _ in 0..runs {
                                self.agreement.differs(difference);
                            }
                        }
                    }
                }
                CallKind::Unmap(buffer) => {
                    accounted += 1;
                    match addresses.of[buffer as usize].difference() {
                        None => self.agreement.equal += 1,
                        Some(reason) => self.agreement.differs(Difference {
                            event: call.event,
                            is_map: false,
                            iova: self.recorded.dma[buffer as usize],
                            bytes: self.calls.buffers[buffer as usize].bytes,
                            reason,
                        }),
                    }
                }
                _ => {}
            }
        }
        let left = self.agreement.recorded.saturating_sub(accounted);
        for _ in 0..left {
            self.agreement.differs(Difference {
                event: 0,
                is_map: false,
                iova: None,
                bytes: 0,
                reason: DifferenceReason::CutByTheRecording,
            });
        }
        for flow in self.flows.values_mut() {
            flow.is_taken.fill(true);
        }
    }

    /// The calls of one device in the order of what they did, against that of their events.
    fn count_reordered(&mut self) {
        for places in self.places.values() {
            let mut latest = (0, None);
            for (event, flow) in places {
                if *event < latest.0 && latest.1 != Some(*flow) {
                    self.agreement.reordered += 1;
                }
                if *event > latest.0 {
                    latest = (*event, Some(*flow));
                }
            }
        }
    }

    fn finish(mut self) -> TranslationAgreement {
        let mut doorbells = match self.setup.has_doorbells {
            true => self
                .calls
                .devices
                .iter()
                .filter(|d| d.is_translated)
                .count(),
            false => 0,
        };
        let mut left: Vec<RecordedOp> = self
            .flows
            .values()
            .flat_map(|flow| flow.ops.iter().zip(&flow.is_taken))
            .filter_map(|(op, is_taken)| (!is_taken).then_some(*op))
            .collect();
        left.sort_by_key(|op| op.event);
        for op in left {
            let (is_map, iova, bytes) = match op.kind {
                RecordedOpKind::Map { iova, bytes, .. } => (true, iova, bytes),
                RecordedOpKind::Unmap { iova, bytes } => (false, iova, bytes),
            };
            if is_map && bytes == self.setup.granule && doorbells > 0 {
                doorbells -= 1;
                self.agreement.equal += 1;
                continue;
            }
            self.agreement.differs(Difference {
                event: op.event,
                is_map,
                iova: Some(iova),
                bytes,
                reason: DifferenceReason::NoCall,
            });
        }
        self.agreement
    }
}

impl Recorded {
    /// The first event that is not accounted for, is written before `event`, and fits.
    fn find(&mut self, event: u64, fits: impl Fn(&RecordedOp) -> bool) -> Option<usize> {
        while self.is_taken.get(self.first) == Some(&true) {
            self.first += 1;
        }
        let before = |op: &&RecordedOp| op.event < event;
        let candidates = self.ops[self.first..].iter().take_while(before);
        candidates
            .zip(&self.is_taken[self.first..])
            .position(|(op, is_taken)| !is_taken && fits(op))
            .map(|at| self.first + at)
    }

    fn take(&mut self, which: &[usize]) {
        for at in which {
            self.is_taken[*at] = true;
        }
    }
}
