//! The model's addresses against the recorded ones.
//!
//! Which address a mapping gets depends on what its CPU freed last. Where interrupts free or map in
//! the midst of another mapping, and where a flush on one CPU races with unmaps on another, the
//! events leave the order open: such an address is counted as open, never as equal, and the
//! recorded one is used to go on. Where no flush is recorded, an open address also tells that there was
//! one. Nothing else is taken from the recorded addresses.

use std::collections::{HashMap, VecDeque};

use crate::calls::{Call, CallKind, Calls, DeviceCalls, Flow, RecordedTranslation};
use crate::iommu::agreement::DifferenceReason;
use crate::iommu::domain::{Domain, Timer, Translated};
use crate::iommu::runs::total;
use crate::iommu::setup::TranslationSetup;

/// Calls of other flows that are looked at for another order.
const NEAR_CALLS: usize = 16;
/// The most calls of one interrupt.
const INTERRUPT_CALLS: usize = 512;
/// Mappings after which two orders of a flush are told apart.
const TRIED_MAPS: usize = 256;
/// Unmaps of other CPUs just before a flush that it may not cover.
const LATE_UNMAPS: usize = 6;
/// The level of soft interrupts, in which timers run.
const SOFTIRQ: u8 = 1;
/// A CPU that unmaps this soon after another CPU's flush may be the one that frees its own.
const RACE_NS: u64 = 2_000_000;

/// How the model's addresses agree with the recorded ones.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AddressAgreement {
    /// Buffers with a recorded address.
    pub compared: u64,
    /// Those at the recorded address.
    pub equal: u64,
    /// Others whose address another order gives that the recording leaves open.
    pub open: u64,
    /// The rest.
    pub missed: u64,
    /// Flushes whose order with another CPU's unmaps the recorded addresses told.
    pub flushes_told: u64,
}

impl AddressAgreement {
    /// Equal per knowable, in percent; `None` if nothing is knowable.
    pub fn percent(&self) -> Option<f64> {
        let knowable = self.compared - self.open;
        (knowable > 0).then(|| 100.0 * self.equal as f64 / knowable as f64)
    }
}

/// What was found out about each buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    Equal,
    Open,
    Missed,
    /// No recorded address, or not translated.
    Uncompared,
}

impl Verdict {
    pub fn difference(self) -> Option<DifferenceReason> {
        match self {
            Self::Equal => None,
            Self::Open => Some(DifferenceReason::OpenOrder),
            Self::Missed => Some(DifferenceReason::Address),
            Self::Uncompared => Some(DifferenceReason::CutByTheRecording),
        }
    }
}

/// All verdicts, by buffer.
pub(super) struct Addresses {
    pub of: Vec<Verdict>,
    pub agreement: AddressAgreement,
}

impl Addresses {
    fn note(&mut self, call: &Call, verdict: Verdict) {
        let CallKind::Map(buffer) = call.kind else {
            return;
        };
        self.of[buffer as usize] = verdict;
        let agreement = &mut self.agreement;
        agreement.compared += u64::from(verdict != Verdict::Uncompared);
        match verdict {
            Verdict::Equal => agreement.equal += 1,
            Verdict::Open => agreement.open += 1,
            Verdict::Missed => agreement.missed += 1,
            Verdict::Uncompared => {}
        }
    }
}

/// Runs the calls through the model with the recorded addresses as a referee.
pub(super) fn agree(
    calls: &Calls,
    recorded: &RecordedTranslation,
    setup: &TranslationSetup,
) -> Addresses {
    let domains = domains_of(calls, setup);
    let facts = Facts {
        calls,
        recorded,
        setup,
        numbers: domain_numbers(calls, &domains, setup),
        domains,
    };
    let mut state = State::default();
    let mut addresses = Addresses {
        of: vec![Verdict::Uncompared; calls.buffers.len()],
        agreement: AddressAgreement::default(),
    };
    let mut done = vec![false; calls.order.len()];
    for index in 0..calls.order.len() {
        if std::mem::replace(&mut done[index], true) {
            continue;
        }
        if let Some(first) = facts.interrupted(&state, index) {
            // Its address was taken before the interrupt, which only the address itself tells.
            done[first] = true;
            facts.step(&mut state, first);
            addresses.note(&calls.order[first], Verdict::Open);
        }
        let call = &calls.order[index];
        let verdict = match call.kind {
            CallKind::Flush { domain } => {
                let told = facts.flush(&mut state, index, domain);
                addresses.agreement.flushes_told += u64::from(told);
                Verdict::Uncompared
            }
            _ => facts.step(&mut state, index),
        };
        addresses.note(call, verdict);
    }
    addresses
}

struct Facts<'a> {
    calls: &'a Calls,
    recorded: &'a RecordedTranslation,
    setup: &'a TranslationSetup,
    /// The domain of each device: the first device that has it.
    domains: Vec<u32>,
    /// Domains by the numbers that the kernel gives them.
    numbers: HashMap<u32, u32>,
}

/// The run so far.
#[derive(Clone, Default)]
struct State {
    domains: HashMap<u32, Domain>,
    held: HashMap<u32, Translated>,
    /// Buffers by domain and address.
    holders: HashMap<(u32, u64), u32>,
    /// The last call of each flow, by event.
    previous: HashMap<Flow, u64>,
    /// Recent frees: address, event, flow, CPU.
    freed: VecDeque<(u64, u64, Flow, u32)>,
}

const FREED_KEPT: usize = 64;

impl Facts<'_> {
    /// One call.
    fn step(&self, state: &mut State, index: usize) -> Verdict {
        let call = &self.calls.order[index];
        let verdict = match call.kind {
            CallKind::Map(buffer) if self.calls.is_translated(buffer) => {
                self.map(state, index, buffer)
            }
            CallKind::Unmap(buffer) => {
                self.unmap(state, call, buffer);
                Verdict::Uncompared
            }
            _ => Verdict::Uncompared,
        };
        state.previous.insert(call.flow, call.event);
        verdict
    }

    /// A mapping that this call's interrupt, or one around it, came in the midst of, where its
    /// recorded address is what it would get now and not what it would get at its own event.
    fn interrupted(&self, state: &State, index: usize) -> Option<usize> {
        let call = &self.calls.order[index];
        let level = level(call.flow);
        if level == 0 {
            return None;
        }
        let on_cpu = |other: &usize| self.calls.order[*other].cpu == call.cpu;
        let after = index + 1..self.calls.order.len().min(index + INTERRUPT_CALLS);
        let below = after
            .filter(on_cpu)
            .find(|at| self::level(self.calls.order[*at].flow) < level)?;
        let mapping = &self.calls.order[below];
        let CallKind::Map(buffer) = mapping.kind else {
            return None;
        };
        let since = state.previous.get(&mapping.flow).copied().unwrap_or(0);
        let device = self.domain_of(buffer);
        let bytes = total(&self.calls.buffers[buffer as usize], self.setup.granule);
        let now = state.domains.get(&device)?.next_kept(mapping.cpu, bytes)?;
        if since > call.event || Some(now) != self.address(buffer) {
            return None;
        }
        let mut usual = state.clone();
        for between in index..below {
            match self.calls.order[between].kind {
                CallKind::Flush { domain } => drop(self.flush(&mut usual, between, domain)),
                _ => drop(self.step(&mut usual, between)),
            }
        }
        (self.step(&mut usual, below) != Verdict::Equal).then_some(below)
    }

    fn map(&self, state: &mut State, index: usize, number: u32) -> Verdict {
        let call = &self.calls.order[index];
        let buffer = &self.calls.buffers[number as usize];
        let key = self.domain_of(number);
        let domain = state
            .domains
            .entry(key)
            .or_insert_with(|| self.first_domain(call, buffer.device));
        let bytes = total(buffer, self.setup.granule);
        let Ok(mut translated) = domain.reserve(call.cpu, call.at_ns, bytes) else {
            return Verdict::Missed;
        };
        let recorded = self.recorded.dma[number as usize];
        let recorded = recorded.map(|dma| dma - dma % self.setup.granule);
        let verdict = match recorded {
            None => Verdict::Uncompared,
            Some(recorded) if recorded == translated.iova => Verdict::Equal,
            Some(recorded) if self.flushed_unseen(state, index, &mut translated, recorded) => {
                Verdict::Open
            }
            Some(recorded) => {
                let is_open = self.is_open(state, index, translated.iova, recorded);
                self.correct(state, key, call.cpu, translated, recorded);
                translated.iova = recorded;
                match is_open {
                    true => Verdict::Open,
                    false => Verdict::Missed,
                }
            }
        };
        let place = (key, translated.iova);
        state.holders.insert(place, number);
        state.held.insert(number, translated);
        verdict
    }

    fn unmap(&self, state: &mut State, call: &Call, number: u32) {
        let key = self.domain_of(number);
        let (Some(translated), Some(domain)) =
            (state.held.remove(&number), state.domains.get_mut(&key))
        else {
            return;
        };
        state.holders.remove(&(key, translated.iova));
        domain.release(call.cpu, call.at_ns, translated);
        if state.freed.len() == FREED_KEPT {
            state.freed.pop_front();
        }
        let freed = (translated.iova, call.event, call.flow, call.cpu);
        state.freed.push_back(freed);
    }

    /// Whether another order gives the recorded address: one in which other flows' frees or
    /// mappings come on the other side of this mapping, whose own moment lies between the last
    /// event of its flow and its event.
    fn is_open(&self, state: &State, index: usize, predicted: u64, recorded: u64) -> bool {
        let call = &self.calls.order[index];
        let since = state.previous.get(&call.flow).copied().unwrap_or(0);
        // What is predicted was freed within that time, so perhaps only after this mapping.
        let late = state.freed.iter().any(|(iova, event, flow, _)| {
            *iova == predicted && *event > since && *flow != call.flow
        });
        let soon = |wanted: &dyn Fn(&Call) -> bool| {
            let others = self.calls.order[index + 1..].iter();
            let mut others = others.filter(|other| other.flow != call.flow);
            others.by_ref().take(NEAR_CALLS).any(wanted)
        };
        // What is recorded is freed by a call whose event is still to come.
        let early = soon(&|other| match other.kind {
            CallKind::Unmap(buffer) => self.address(buffer) == Some(recorded),
            _ => false,
        });
        // What is predicted is what another flow gets whose mapping is under way.
        let swapped = soon(&|other| match other.kind {
            CallKind::Map(buffer) => self.address(buffer) == Some(predicted),
            _ => false,
        });
        late || early || swapped
    }

    fn domain_of(&self, buffer: u32) -> u32 {
        self.domains[self.calls.buffers[buffer as usize].device as usize]
    }

    fn address(&self, buffer: u32) -> Option<u64> {
        let dma = self.recorded.dma[buffer as usize]?;
        Some(dma - dma % self.setup.granule)
    }

    /// Where no recording says when a lazy queue was flushed, an address that waits there but is
    /// mapped again says so. Whether it did; what was taken is then taken anew.
    fn flushed_unseen(
        &self,
        state: &mut State,
        index: usize,
        taken: &mut Translated,
        recorded: u64,
    ) -> bool {
        let call = &self.calls.order[index];
        let CallKind::Map(buffer) = call.kind else {
            return false;
        };
        let key = self.domain_of(buffer);
        let Some(domain) = state.domains.get_mut(&key) else {
            return false;
        };
        if !self.numbers.is_empty() || !domain.is_waiting(recorded) {
            return false;
        }
        domain.put_back(call.cpu, *taken);
        domain.flushed_unseen(call.cpu, call.at_ns, recorded);
        match domain.reserve(call.cpu, call.at_ns, taken.bytes) {
            Ok(anew) => *taken = anew,
            Err(_) => return false,
        }
        if taken.iova != recorded {
            self.correct(state, key, call.cpu, *taken, recorded);
            taken.iova = recorded;
        }
        true
    }

    fn correct(&self, state: &mut State, key: u32, cpu: u32, taken: Translated, recorded: u64) {
        if let Some(domain) = state.domains.get_mut(&key) {
            domain.correct(cpu, taken, recorded);
        }
        // Whoever held it has given it back already.
        if let Some(holder) = state.holders.remove(&(key, recorded)) {
            state.held.remove(&holder);
        }
    }

    /// A flush of a domain that the recording tells. Whether the recorded addresses told who freed
    /// what waited on other CPUs: the CPU that flushed, or each its own with its next unmap.
    fn flush(&self, state: &mut State, index: usize, number: u32) -> bool {
        let call = &self.calls.order[index];
        let Some(device) = self.numbers.get(&number) else {
            return false;
        };
        let Some(domain) = state.domains.get_mut(device) else {
            return false;
        };
        // A full queue is flushed by the unmap under way, unless the timer comes first, which runs
        // in a soft interrupt.
        let is_either = domain.is_full(call.cpu) && level(call.flow) == SOFTIRQ;
        if !is_either && !self.is_raced(call, index) {
            domain.flushed(call.cpu, call.at_ns);
            return false;
        }
        let before = state.clone();
        // As usual; each other CPU frees its own; the last unmaps of other CPUs came too late.
        let tried = |order: usize| {
            let mut tried = before.clone();
            if let Some(domain) = tried.domains.get_mut(device) {
                match order {
                    0 => domain.flushed(call.cpu, call.at_ns),
                    1 if is_either => domain.flushed_by_timer(call.cpu, call.at_ns),
                    1 => domain.flushed_alone(call.cpu, call.at_ns),
                    late => domain.flushed_but(call.cpu, call.at_ns, late - 1),
                }
            }
            let differing = self.differing_after(&tried, index);
            (differing, tried)
        };
        let usual = tried(0);
        let (mut best, mut is_told) = (usual, false);
        for order in 1..2 + LATE_UNMAPS {
            if best.0 == 0 {
                break;
            }
            let other = tried(order);
            is_told |= other.0 != best.0;
            if other.0 < best.0 {
                best = other;
            }
        }
        *state = best.1;
        is_told
    }

    /// Whether another CPU unmaps soon after a flush.
    fn is_raced(&self, call: &Call, index: usize) -> bool {
        let soon = self.calls.order[index + 1..].iter();
        let mut soon = soon.take_while(|other| other.at_ns <= call.at_ns + RACE_NS);
        soon.any(|other| other.cpu != call.cpu && matches!(other.kind, CallKind::Unmap(_)))
    }

    /// How many of the next mappings do not get the recorded address.
    fn differing_after(&self, state: &State, index: usize) -> usize {
        let mut state = state.clone();
        let (mut maps, mut differing) = (0, 0);
        for next in index + 1..self.calls.order.len() {
            if matches!(self.calls.order[next].kind, CallKind::Flush { .. }) {
                break;
            }
            let verdict = self.step(&mut state, next);
            maps += usize::from(verdict != Verdict::Uncompared);
            differing += usize::from(matches!(verdict, Verdict::Open | Verdict::Missed));
            if maps == TRIED_MAPS {
                break;
            }
        }
        differing
    }

    fn first_domain(&self, call: &Call, device: u32) -> Domain {
        let setup = self.setup;
        let mut config = setup.domain(setup.engine, setup.invalidation);
        let name = &self.calls.devices[device as usize].name;
        if let Some(mask) = setup.masks.get(name.as_str()) {
            config.last = config.last.min(*mask);
        }
        config.timer = Timer::Told;
        let mut domain = Domain::new(config);
        if setup.has_doorbells {
            // The doorbell is mapped before the driver's first buffer; it stays.
            let _ = domain.reserve(call.cpu, call.at_ns, setup.granule);
        }
        domain
    }
}

/// 0 for tasks, more for what interrupts them.
fn level(flow: Flow) -> u8 {
    match flow {
        Flow::Task(_) => 0,
        Flow::Cpu { level, .. } => level,
    }
}

/// Devices of one group share a domain.
fn domains_of(calls: &Calls, setup: &TranslationSetup) -> Vec<u32> {
    let group = |device: &DeviceCalls| setup.groups.get(&device.name);
    let first = |(index, device)| {
        let mut before = calls.devices[..index].iter();
        let same =
            before.position(|other| group(device).is_some() && group(device) == group(other));
        same.unwrap_or(index) as u32
    };
    calls.devices.iter().enumerate().map(first).collect()
}

/// VT-d numbers domains from 2 on, in the order in which groups were found; where groups are not known,
/// or this is not so, by the names of the devices.
fn domain_numbers(calls: &Calls, domains: &[u32], setup: &TranslationSetup) -> HashMap<u32, u32> {
    let mut numbers: Vec<u32> = calls
        .order
        .iter()
        .filter_map(|call| match call.kind {
            CallKind::Flush { domain } => Some(domain),
            _ => None,
        })
        .collect();
    numbers.sort_unstable();
    numbers.dedup();
    let name = |device: u32| &calls.devices[device as usize].name;
    let mut devices: Vec<u32> = (0..calls.devices.len() as u32)
        .filter(|device| calls.devices[*device as usize].is_translated)
        .map(|device| domains[device as usize])
        .collect();
    devices.sort_by_key(|device| name(*device));
    devices.dedup();
    let by_group = |number: &u32| {
        let is_it =
            |device: &&u32| setup.groups.get(name(**device)) == number.checked_sub(2).as_ref();
        Some((*number, *devices.iter().find(is_it)?))
    };
    let by_group: Option<HashMap<u32, u32>> = numbers.iter().map(by_group).collect();
    by_group.unwrap_or_else(|| numbers.into_iter().zip(devices).collect())
}
