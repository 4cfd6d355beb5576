//! From events to claims and releases.

use std::collections::{BTreeMap, HashMap};

use dmakit_addr::PAGE_BYTES;
use dmakit_trace::{Body, Cma, Event, Level, Marker};

use super::Wish;
use super::demand::{Call, Client, Demand, Holding, Op, OpKind, Outcome, Owner, Phase, Recorded};

/// A release whose event comes after the pages were claimed again is at most so much later: both
/// are recorded within one call each.
const RACE_NS: u64 = 10_000_000;
/// Physical addresses have at most 64 bits: a larger number is damage.
const PFN_MAX: u64 = 1 << 52;

/// Puts claims together from their events, and says whose pages a release gives back.
///
/// A claim's beginning and end are of one task, which sleeps in between. Releases are matched by
/// page, so that a part of a claim, or several, can come back at once. What is released and was
/// not claimed in the recording was claimed before it.
#[derive(Debug, Default)]
pub struct Ingest {
    demand: Demand,
    recorded: Recorded,
    areas: HashMap<String, u32>,
    clients: HashMap<Client, u32>,
    /// Claims under way, by task.
    open: HashMap<u32, Vec<u32>>,
    /// The last claims of each task, until an allocation for a device shows whose they were: where
    /// one area has no room, the next is asked for as much.
    unattributed: HashMap<u32, Vec<u32>>,
    /// For each area, pages that are held: from the first page on so many, of this claim from this
    /// page on.
    held: Vec<BTreeMap<u64, Piece>>,
    /// For each area, pages that came back without having been claimed in the recording.
    freed: Vec<BTreeMap<u64, u64>>,
    /// Releases that a claim proved before their event.
    owed: Vec<Owed>,
    /// Operations with the number of their event.
    ops: Vec<(u64, Op)>,
    /// The number of the event that began each call.
    began: Vec<u64>,
    phase_is_open: bool,
}

#[derive(Clone, Copy, Debug)]
struct Piece {
    pages: u64,
    call: u32,
    offset: u64,
}

#[derive(Clone, Copy, Debug)]
struct Owed {
    area: u32,
    pfn: u64,
    pages: u64,
    at_ns: u64,
}

impl Ingest {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next event.
    pub fn push(&mut self, event: &Event) {
        match &event.body {
            Body::Cma(cma) => self.cma(event, cma),
            // An interrupt's allocation is not that of the task it came upon.
            Body::Alloc(alloc) if event.context.is_none_or(|c| c.level == Level::Task) => {
                self.abandon(event);
                let calls = self.unattributed.remove(&event.task.pid);
                let pages = alloc.size.div_ceil(PAGE_BYTES);
                for call in calls.unwrap_or_default() {
                    if self.call(call).wish.pages == pages {
                        let client = self.client(alloc.device.as_str(), true);
                        self.demand.calls[call as usize].client = client;
                    }
                }
            }
            Body::Marker(Marker::PhaseBegin(name)) => {
                self.end_phase(event);
                let index = self.demand.phases.len() as u32;
                self.demand.phases.push(Phase {
                    name: name.as_str().to_owned(),
                    begin_ns: event.time_ns,
                    end_ns: event.time_ns,
                });
                self.phase_is_open = true;
                self.op(event, OpKind::PhaseBegin(index));
            }
            Body::Marker(Marker::PhaseEnd(_)) => self.end_phase(event),
            _ => {}
        }
        if let (true, Some(phase)) = (self.phase_is_open, self.demand.phases.last_mut()) {
            phase.end_ns = event.time_ns;
        }
    }

    /// Ends the trace.
    pub fn finish(mut self) -> (Demand, Recorded) {
        let unfinished = |outcome: &&Option<Outcome>| outcome.is_none();
        self.demand.unpaired.starts =
            self.recorded.outcomes.iter().filter(unfinished).count() as u64;
        self.demand.unpaired.held_at_end = self.held.iter().map(|held| held.len() as u64).sum();
        // What a claim proved was released stands before that claim; all else keeps its place.
        self.ops.sort_by_key(|(place, _)| *place);
        self.demand.ops = self.ops.into_iter().map(|(_, op)| op).collect();
        (self.demand, self.recorded)
    }

    fn call(&self, call: u32) -> &Call {
        &self.demand.calls[call as usize]
    }

    fn op(&mut self, event: &Event, kind: OpKind) {
        self.op_at(event.index * 2 + 1, event, kind);
    }

    fn op_at(&mut self, place: u64, event: &Event, kind: OpKind) {
        let op = Op {
            at_ns: event.time_ns,
            pid: event.task.pid,
            kind,
        };
        self.ops.push((place, op));
    }

    fn end_phase(&mut self, event: &Event) {
        if self.phase_is_open {
            let index = self.demand.phases.len() as u32 - 1;
            self.demand.phases[index as usize].end_ns = event.time_ns;
            self.op(event, OpKind::PhaseEnd(index));
        }
        self.phase_is_open = false;
    }

    fn area(&mut self, name: &str) -> u32 {
        if let Some(area) = self.areas.get(name) {
            return *area;
        }
        let area = self.areas.len() as u32;
        self.areas.insert(name.to_owned(), area);
        self.demand.areas.push(name.to_owned());
        self.held.push(BTreeMap::new());
        self.freed.push(BTreeMap::new());
        area
    }

    fn client(&mut self, name: &str, is_device: bool) -> u32 {
        let client = Client {
            name: name.to_owned(),
            is_device,
        };
        let next = self.demand.clients.len() as u32;
        let index = *self.clients.entry(client.clone()).or_insert(next);
        if index == next {
            self.demand.clients.push(client);
        }
        index
    }

    fn cma(&mut self, event: &Event, cma: &Cma) {
        match cma {
            Cma::AllocStart {
                area,
                count_pages,
                align_order,
            } => {
                self.abandon(event);
                let area = self.area(area.as_str());
                let call = self.begin(event, area, wish(*count_pages, *align_order));
                self.open.entry(event.task.pid).or_default().push(call);
            }
            Cma::BusyRetry {
                area,
                pfn,
                count_pages,
                align_order,
            } => {
                if pfn.raw() >= PFN_MAX {
                    return;
                }
                let area = self.area(area.as_str());
                let wish = wish(*count_pages, *align_order);
                let call = self.under_way(event, area, wish, false);
                self.demand.calls[call as usize].busy += 1;
                self.recorded.busy[call as usize].push(pfn.raw());
                self.op(event, OpKind::Busy(call));
            }
            Cma::AllocFinish {
                area,
                pfn,
                count_pages,
                align_order,
                error,
            } => {
                let area = self.area(area.as_str());
                let wish = wish(*count_pages, *align_order);
                let call = self.under_way(event, area, wish, true);
                let pfn = pfn.map(|pfn| pfn.raw()).filter(|pfn| *pfn < PFN_MAX);
                let outcome = match pfn {
                    Some(pfn) => Outcome::At(pfn),
                    None => Outcome::Failed(*error),
                };
                self.recorded.outcomes[call as usize] = Some(outcome);
                self.recorded.ended_ns[call as usize] = event.time_ns;
                self.op(event, OpKind::Finish(call));
                let calls = self.unattributed.entry(event.task.pid);
                calls.or_default().push(call);
                if let Some(pfn) = pfn {
                    self.hold(event, call, pfn);
                }
            }
            Cma::Release {
                area,
                pfn,
                count_pages,
            } => {
                let area = self.area(area.as_str());
                self.release(event, area, pfn.raw(), *count_pages);
            }
        }
    }

    fn begin(&mut self, event: &Event, area: u32, wish: Wish) -> u32 {
        let call = self.demand.calls.len() as u32;
        let client = self.client(event.task.comm.as_str(), false);
        self.demand.calls.push(Call {
            area,
            wish,
            client,
            busy: 0,
            at_ns: event.time_ns,
        });
        self.recorded.outcomes.push(None);
        self.recorded.busy.push(Vec::new());
        self.recorded.ended_ns.push(event.time_ns);
        self.began.push(event.index);
        if !self.is_next_area(event.task.pid, wish) {
            self.unattributed.remove(&event.task.pid);
        }
        self.op(event, OpKind::Start(call));
        call
    }

    /// Whether a claim of so much may be for the allocation that the task's last one failed for.
    fn is_next_area(&self, pid: u32, wish: Wish) -> bool {
        let last = self.unattributed.get(&pid).and_then(|calls| calls.last());
        last.is_some_and(|last| {
            let outcome = self.recorded.outcomes[*last as usize];
            self.call(*last).wish == wish && !matches!(outcome, Some(Outcome::At(_)))
        })
    }

    /// Ends what the task began and has left, as it does something else now. The kernel records no
    /// end of a claim that is larger than its area; any other lost its event.
    fn abandon(&mut self, event: &Event) {
        for call in self.open.remove(&event.task.pid).unwrap_or_default() {
            self.op(event, OpKind::Finish(call));
            let calls = self.unattributed.entry(event.task.pid);
            calls.or_default().push(call);
        }
    }

    /// The claim under way that this event belongs to; one that begins here where its beginning was
    /// not recorded.
    fn under_way(&mut self, event: &Event, area: u32, wish: Wish, ends: bool) -> u32 {
        let calls = &self.demand.calls;
        let open = self.open.entry(event.task.pid).or_default();
        let is_it = |call: &u32| {
            let call = &calls[*call as usize];
            (call.area, call.wish) == (area, wish)
        };
        if let Some(place) = open.iter().rposition(is_it) {
            let call = open[place];
            if ends {
                open.remove(place);
            }
            return call;
        }
        self.demand.unpaired.finishes += 1;
        let call = self.begin(event, area, wish);
        if !ends {
            self.open.entry(event.task.pid).or_default().push(call);
        }
        call
    }

    /// Notes the pages of a claim. Whoever had them before gave them back, whatever the events say.
    fn hold(&mut self, event: &Event, call: u32, pfn: u64) {
        let Call { area, wish, .. } = *self.call(call);
        let before = self.began[call as usize] * 2;
        for (at, piece) in self.cut(area, pfn, wish.pages) {
            self.demand.unpaired.releases_inferred += 1;
            self.owed.push(Owed {
                area,
                pfn: at,
                pages: piece.pages,
                at_ns: event.time_ns,
            });
            let from = Owner::Call(piece.call);
            let kind = OpKind::Release {
                from,
                offset: piece.offset,
                pages: piece.pages,
            };
            self.op_at(before, event, kind);
        }
        let piece = Piece {
            pages: wish.pages,
            call,
            offset: 0,
        };
        self.held[area as usize].insert(pfn, piece);
        self.forget_freed(area, pfn, wish.pages);
    }

    fn release(&mut self, event: &Event, area: u32, pfn: u64, pages: u64) {
        let pages = pages.min(PFN_MAX);
        if pfn >= PFN_MAX {
            self.demand.unpaired.released_pages += pages;
            return;
        }
        let late = |owed: &Owed| {
            (owed.area, owed.pfn, owed.pages) == (area, pfn, pages)
                && event.time_ns.saturating_sub(owed.at_ns) <= RACE_NS
        };
        if let Some(place) = self.owed.iter().position(late) {
            self.owed.remove(place);
            self.demand.unpaired.releases_inferred -= 1;
            return;
        }
        let mut from = pfn;
        let end = pfn.saturating_add(pages);
        for (at, piece) in self.cut(area, pfn, pages) {
            self.release_unclaimed(event, area, from, at - from);
            let kind = OpKind::Release {
                from: Owner::Call(piece.call),
                offset: piece.offset,
                pages: piece.pages,
            };
            self.op(event, kind);
            from = at + piece.pages;
        }
        self.release_unclaimed(event, area, from, end - from);
    }

    /// Pages that no claim of the recording got. They were claimed before it, unless they have come
    /// back already.
    fn release_unclaimed(&mut self, event: &Event, area: u32, pfn: u64, pages: u64) {
        if pages == 0 {
            return;
        }
        let freed = &mut self.freed[area as usize];
        let end = pfn.saturating_add(pages);
        let overlaps = freed
            .range(..end)
            .next_back()
            .is_some_and(|(at, len)| at.saturating_add(*len) > pfn);
        if overlaps {
            self.demand.unpaired.released_pages += pages;
            return;
        }
        freed.insert(pfn, pages);
        let index = self.demand.holdings.len() as u32;
        self.demand.holdings.push(Holding { area, pfn, pages });
        let kind = OpKind::Release {
            from: Owner::Holding(index),
            offset: 0,
            pages,
        };
        self.op(event, kind);
    }

    /// Pages that are claimed may come back again.
    fn forget_freed(&mut self, area: u32, pfn: u64, pages: u64) {
        let freed = &mut self.freed[area as usize];
        let end = pfn.saturating_add(pages);
        let overlapping: Vec<(u64, u64)> = freed
            .range(..end)
            .rev()
            .map(|(at, len)| (*at, *len))
            .take_while(|(at, len)| at.saturating_add(*len) > pfn)
            .collect();
        for (at, len) in overlapping {
            freed.remove(&at);
            if at < pfn {
                freed.insert(at, pfn - at);
            }
            if at + len > end {
                freed.insert(end, at + len - end);
            }
        }
    }

    /// Takes what is held of these pages, in order.
    fn cut(&mut self, area: u32, pfn: u64, pages: u64) -> Vec<(u64, Piece)> {
        let held = &mut self.held[area as usize];
        let end = pfn.saturating_add(pages);
        let overlapping: Vec<(u64, Piece)> = held
            .range(..end)
            .rev()
            .map(|(at, piece)| (*at, *piece))
            .take_while(|(at, piece)| at.saturating_add(piece.pages) > pfn)
            .collect();
        let mut taken = Vec::new();
        for (at, piece) in overlapping.into_iter().rev() {
            held.remove(&at);
            let (from, to) = (at.max(pfn), (at + piece.pages).min(end));
            let part = |from: u64, to: u64| Piece {
                pages: to - from,
                call: piece.call,
                offset: piece.offset + (from - at),
            };
            if at < from {
                held.insert(at, part(at, from));
            }
            if to < at + piece.pages {
                held.insert(to, part(to, at + piece.pages));
            }
            taken.push((from, part(from, to)));
        }
        taken
    }
}

fn wish(pages: u64, align_order: u32) -> Wish {
    Wish {
        pages: pages.min(PFN_MAX),
        align_order,
    }
}
