//! The model beside the kernel, call by call.

mod reasons;

use std::borrow::Cow;

use super::agreement::{Agreement, Disagreement, Reason};
use super::demand::{Demand, OpKind, Outcome, Owner, Recorded};
use super::reports::reports_of;
use super::unseen::Unseen;
use super::{Area, Place, PlaceSource};
use crate::cma::FailureReport;

const ENOMEM: i32 = -12;
const EBUSY: i32 = -16;

/// Compares the model with what the kernel answered.
///
/// O(operations × pages / 64), more only where calls overlap. `reports` are used for
/// [`Agreement::bitmaps`] and nothing else.
pub fn agree(
    demand: &Demand,
    recorded: &Recorded,
    places: &[Place],
    reports: &[FailureReport],
) -> Agreement {
    let mut referee = Referee::new(demand, recorded, places, reports);
    for op in &demand.ops {
        referee.step(op.kind);
    }
    referee.finish()
}

/// A call that has begun.
struct Running {
    call: u32,
    /// Page of the area from which the search went on.
    from: u64,
    /// Where it is said to be.
    at: Option<u64>,
    /// Where it is believed to be since somebody else was seen there.
    believed: Option<u64>,
    /// Other places where it would be if it had looked at another moment of its life.
    others: Vec<Option<u64>>,
    /// Whether another call began, ended or gave back meanwhile.
    has_company: bool,
    /// Ranges found busy so far.
    busy: usize,
    /// What the busy ranges showed.
    so_far: SoFar,
}

/// What the ranges that a call found busy show.
#[derive(Clone, Copy, PartialEq, Eq)]
enum SoFar {
    /// They are those that the model tried.
    Equal,
    /// Some other order gives them.
    OrderOpen,
    /// The first of another place told of pages claimed before the recording.
    Told,
    /// They are others.
    Other,
}

struct Referee<'a> {
    demand: &'a Demand,
    recorded: &'a Recorded,
    areas: Vec<Area>,
    unseen: Vec<Unseen>,
    running: Vec<Running>,
    /// Where each call's pages are.
    placed: Vec<Option<u64>>,
    /// Whether the size of each area is known, not inferred.
    is_sized: Vec<bool>,
    /// The report of each call that has one.
    reports: Vec<Option<&'a FailureReport>>,
    agreement: Agreement,
}

impl<'a> Referee<'a> {
    fn new(
        demand: &'a Demand,
        recorded: &'a Recorded,
        places: &[Place],
        reports: &'a [FailureReport],
    ) -> Self {
        let mut areas: Vec<Area> = places.iter().map(Place::area).collect();
        let mut unseen: Vec<Unseen> = areas.iter().map(Unseen::new).collect();
        for holding in &demand.holdings {
            areas[holding.area as usize].take(holding.pfn, holding.pages);
            unseen[holding.area as usize].settle(holding.pfn, holding.pages);
        }
        for holding in &demand.holdings {
            unseen[holding.area as usize].assume_below(holding.pfn, holding.pages);
        }
        Self {
            demand,
            recorded,
            areas,
            unseen,
            running: Vec::new(),
            placed: vec![None; demand.calls.len()],
            is_sized: places
                .iter()
                .map(|place| place.source == PlaceSource::Log)
                .collect(),
            reports: reports_of(demand, recorded, reports),
            agreement: Agreement::default(),
        }
    }

    fn step(&mut self, kind: OpKind) {
        match kind {
            OpKind::Start(call) => self.start(call),
            OpKind::Busy(call) => self.busy(call),
            OpKind::Finish(call) => self.end(call),
            OpKind::Release {
                from,
                offset,
                pages,
            } => self.release(from, offset, pages),
            OpKind::PhaseBegin(_) | OpKind::PhaseEnd(_) => {}
        }
    }

    /// Whether the kernel refuses the call before it searches: nothing is asked, or more than the
    /// area has.
    fn is_refused_at_once(&self, call: u32) -> bool {
        let call = &self.demand.calls[call as usize];
        let area = call.area as usize;
        call.wish.pages == 0 || self.is_sized[area] && call.wish.pages > self.areas[area].pages()
    }

    fn start(&mut self, call: u32) {
        if self.is_refused_at_once(call) {
            return;
        }
        let at = self.find(call, 0);
        let mut running = Running {
            call,
            from: 0,
            at,
            believed: at,
            others: Vec::new(),
            has_company: false,
            busy: 0,
            so_far: SoFar::Equal,
        };
        // Had this call looked before one that began earlier did, that one's place was free, and
        // that one found the next.
        let pages = self.demand.calls[call as usize].wish.pages;
        let as_it_was = self.find_in(call, 0, &self.beside(call, |other| self.place_of(other)));
        for index in 0..self.running.len() {
            if !self.shares_area(index, call) {
                continue;
            }
            let Running {
                call: earlier,
                from,
                ..
            } = self.running[index];
            let without = |other: &Running| other.believed.filter(|_| other.call != earlier);
            let first = self.find_in(call, 0, &self.beside(call, without));
            let mut area = self.beside(earlier, |other| other.believed).into_owned();
            area.take(first.unwrap_or(0), first.map_or(0, |_| pages));
            let second = self.find_in(earlier, from, &area);
            running.others.extend([first, as_it_was]);
            running.has_company = true;
            self.running[index].others.push(second);
            self.running[index].has_company = true;
        }
        self.running.push(running);
        self.look_again(call);
    }

    fn busy(&mut self, call: u32) {
        let Some(index) = self.running.iter().position(|r| r.call == call) else {
            return;
        };
        let Running {
            from,
            at,
            busy,
            so_far,
            ..
        } = self.running[index];
        let asked = &self.demand.calls[call as usize];
        let kernel = self.recorded.busy[call as usize].get(busy).copied();
        let others = std::mem::take(&mut self.running[index].others);
        let so_far = match (so_far, kernel) {
            (SoFar::Equal, _) if at == kernel => SoFar::Equal,
            (SoFar::Equal, _) if others.contains(&kernel) => SoFar::OrderOpen,
            (SoFar::Equal, Some(pfn)) if self.learns(call, from, pfn) => SoFar::Told,
            (SoFar::Equal, _) if others.iter().any(|other| *other != at) => SoFar::OrderOpen,
            (SoFar::Equal, _) => SoFar::Other,
            (known, _) => known,
        };
        let from = kernel
            .or(at)
            .map(|pfn| self.areas[asked.area as usize].after_busy(asked.wish, pfn));
        let running = &mut self.running[index];
        running.so_far = so_far;
        running.busy += 1;
        running.from = from.unwrap_or(running.from);
        let from = running.from;
        let at = self.find(call, from);
        self.running[index].at = at;
        self.running[index].believed = at;
        self.look_again(call);
    }

    fn release(&mut self, from: Owner, offset: u64, pages: u64) {
        let (area, pfn) = match from {
            Owner::Holding(index) => {
                let holding = &self.demand.holdings[index as usize];
                (holding.area, Some(holding.pfn))
            }
            Owner::Call(call) => {
                let area = self.demand.calls[call as usize].area;
                (area, self.placed[call as usize])
            }
        };
        if let Some(pfn) = pfn {
            self.areas[area as usize].release(pfn + offset, pages);
        }
        for index in 0..self.running.len() {
            if self.demand.calls[self.running[index].call as usize].area == area {
                self.look_now(index);
            }
        }
    }

    /// What the other calls under way would find now that `call` has changed something.
    fn look_again(&mut self, call: u32) {
        for index in 0..self.running.len() {
            if self.running[index].call != call && self.shares_area(index, call) {
                self.look_now(index);
            }
        }
    }

    fn look_now(&mut self, index: usize) {
        let Running {
            call,
            from,
            believed,
            ..
        } = self.running[index];
        let asked = &self.demand.calls[call as usize];
        let found = self.find(call, from);
        let as_it_was = self.find_in(call, from, &self.beside(call, |other| self.place_of(other)));
        let area = &self.areas[asked.area as usize];
        let is_possible = believed.is_some_and(|pfn| area.is_free(pfn, asked.wish.pages));
        let running = &mut self.running[index];
        running.others.extend([found, as_it_was]);
        running.has_company = true;
        running.believed = if is_possible { believed } else { found };
    }

    fn shares_area(&self, index: usize, call: u32) -> bool {
        self.is_of_area(self.running[index].call, call)
    }

    fn is_of_area(&self, one: u32, other: u32) -> bool {
        let area = |call: u32| self.demand.calls[call as usize].area;
        area(one) == area(other)
    }

    /// The call's area with the other calls under way at these places.
    fn beside(&self, call: u32, place: impl Fn(&Running) -> Option<u64>) -> Cow<'_, Area> {
        let index = self.demand.calls[call as usize].area as usize;
        let mut area = Cow::Borrowed(&self.areas[index]);
        for other in &self.running {
            if other.call != call && self.is_of_area(other.call, call) {
                let pages = self.demand.calls[other.call as usize].wish.pages;
                if let Some(pfn) = place(other) {
                    area.to_mut().take(pfn, pages);
                }
            }
        }
        area
    }

    /// Where the kernel has a call under way, which its end will show. It explains answers and
    /// predicts none.
    fn place_of(&self, running: &Running) -> Option<u64> {
        let call = running.call as usize;
        let tried = self.recorded.busy[call].get(running.busy).copied();
        tried.or(match self.recorded.outcomes[call] {
            Some(Outcome::At(pfn)) => Some(pfn),
            _ => None,
        })
    }

    /// Where the model says that the call finds its place.
    fn find(&self, call: u32, from: u64) -> Option<u64> {
        self.find_in(call, from, &self.beside(call, |other| other.believed))
    }

    fn find_in(&self, call: u32, from: u64, area: &Area) -> Option<u64> {
        let call = &self.demand.calls[call as usize];
        self.unseen[call.area as usize].find(area, call.wish, from)
    }

    fn end(&mut self, call: u32) {
        let Some(index) = self.running.iter().position(|r| r.call == call) else {
            return;
        };
        let running = self.running.swap_remove(index);
        if let Some(kernel) = self.recorded.outcomes[call as usize] {
            self.judge(&running, kernel);
            self.follow(call, kernel);
            // What is printed while others claim or release is of no certain moment.
            if let Some(report) = self.reports[call as usize].filter(|_| !running.has_company) {
                self.compare_runs(call, report);
            }
        }
        self.look_again(call);
    }

    /// Goes on from the kernel's answer.
    fn follow(&mut self, call: u32, kernel: Outcome) {
        let asked = &self.demand.calls[call as usize];
        let area = asked.area as usize;
        if let Outcome::At(pfn) = kernel {
            self.areas[area].take(pfn, asked.wish.pages);
            self.unseen[area].settle(pfn, asked.wish.pages);
            self.placed[call as usize] = Some(pfn);
        }
    }

    fn judge(&mut self, running: &Running, kernel: Outcome) {
        let busy = self.demand.calls[running.call as usize].busy;
        let exhausted = Outcome::Failed(Some(if busy == 0 { ENOMEM } else { EBUSY }));
        let model = running.at.map_or(exhausted, Outcome::At);
        let depends = running.so_far == SoFar::OrderOpen
            || running.others.iter().any(|other| *other != running.at);
        let is_equal = model == kernel || running.at.is_none() && kernel == Outcome::Failed(None);
        let entry = |reason| Disagreement {
            call: running.call,
            kernel,
            model,
            reason,
        };
        let answer = match kernel {
            Outcome::At(pfn) => Some(pfn),
            Outcome::Failed(_) => None,
        };
        let is_explained = running.so_far == SoFar::OrderOpen || running.others.contains(&answer);
        if is_equal && running.so_far == SoFar::Equal {
            self.agreement.calls += 1;
            self.agreement.agree += 1;
        } else if depends && is_explained {
            self.agreement.unknowable.push(entry(Reason::OrderOpen));
        } else if self.has_told(running, kernel) {
            self.agreement.told += 1;
        } else if depends {
            self.agreement.unknowable.push(entry(Reason::OrderOpen));
        } else {
            let reason = self.reason(running, kernel);
            if reason == Reason::BeforeRecording {
                self.agreement.unknowable.push(entry(reason));
            } else {
                self.agreement.calls += 1;
                self.agreement.disagree.push(entry(reason));
            }
        }
    }

    fn compare_runs(&mut self, call: u32, report: &FailureReport) {
        let index = self.demand.calls[call as usize].area as usize;
        let (Some(runs), bitmaps) = (&report.free_runs, &mut self.agreement.bitmaps) else {
            return;
        };
        let (area, unseen) = (&self.areas[index], &self.unseen[index]);
        bitmaps.compared += 1;
        if area.free_runs().eq(runs.iter().copied()) {
            bitmaps.equal += 1;
            return;
        }
        // Free for the kernel is free for the model, and the other way round where it is known.
        let mut printed = Area::new(area.base(), area.pages(), 0);
        printed.take(area.base(), area.pages());
        for (at, pages) in runs {
            printed.release(area.base() + at, *pages);
        }
        let differs = (0..area.pages()).any(|page| {
            let free = |area: &Area| area.is_free(area.base() + page, 1);
            free(area) != free(&printed) && (free(&printed) || unseen.is_settled(page))
        });
        if differs {
            bitmaps.differ.push(call);
        } else {
            bitmaps.equal_where_known += 1;
        }
    }

    /// The model's answer is that there is none.
    fn refused_at_once(&mut self, call: u32) {
        self.agreement.calls += 1;
        match self.recorded.outcomes[call as usize] {
            None | Some(Outcome::Failed(_)) => {
                self.agreement.agree += 1;
                self.agreement.refused_at_once.push(call);
            }
            Some(kernel) => self.agreement.disagree.push(Disagreement {
                call,
                kernel,
                model: Outcome::Failed(None),
                reason: Reason::LargerThanArea,
            }),
        }
    }

    fn finish(mut self) -> Agreement {
        for call in 0..self.demand.calls.len() as u32 {
            if self.is_refused_at_once(call) {
                self.refused_at_once(call);
            } else if self.recorded.outcomes[call as usize].is_none() {
                self.agreement.unfinished += 1;
            }
        }
        for (area, unseen) in self.unseen.iter().enumerate() {
            let held = unseen.held().into_iter();
            self.agreement
                .held_before
                .extend(held.map(|pfn| (area as u32, pfn)));
        }
        self.agreement
    }
}
