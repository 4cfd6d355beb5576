//! A demand on any memory: how far it fills, how it breaks up, what fails.

use super::demand::{Demand, OpKind, Outcome, Owner, Recorded};
use super::{Area, Place, Wish};

/// Contiguous areas that can be replayed on: the kernel's as modelled here, or others.
pub trait Memory {
    /// Claims pages of an area: the first of them, counted from its base. The kernel found `busy`
    /// places not to be had; who knows which before looking may leave that aside.
    fn claim(&mut self, area: usize, wish: Wish, busy: u32) -> Option<u64>;
    /// Claims exactly these, if they are free.
    fn claim_at(&mut self, area: usize, at: u64, pages: u64) -> bool;
    /// Gives back claimed pages.
    fn release(&mut self, area: usize, at: u64, pages: u64);
    /// Pages that are free, and the longest run of them.
    fn free(&self, area: usize) -> (u64, u64);
}

/// The model's areas.
#[derive(Clone, Debug)]
pub struct LinuxAreas(Vec<Area>);

impl LinuxAreas {
    /// Areas at these places, all free.
    pub fn new(places: &[Place]) -> Self {
        Self(places.iter().map(Place::area).collect())
    }
}

impl Memory for LinuxAreas {
    fn claim(&mut self, area: usize, wish: Wish, busy: u32) -> Option<u64> {
        let area = &mut self.0[area];
        area.claim(wish, busy).map(|pfn| pfn - area.base())
    }

    fn claim_at(&mut self, area: usize, at: u64, pages: u64) -> bool {
        let area = &mut self.0[area];
        let is_free = area.is_free(area.base() + at, pages);
        if is_free {
            area.take(area.base() + at, pages);
        }
        is_free
    }

    fn release(&mut self, area: usize, at: u64, pages: u64) {
        let area = &mut self.0[area];
        area.release(area.base() + at, pages);
    }

    fn free(&self, area: usize) -> (u64, u64) {
        let runs = self.0[area].free_runs();
        runs.fold((0, 0), |(free, longest), (_, pages)| {
            (free + pages, longest.max(pages))
        })
    }
}

/// What to replay.
#[derive(Clone, Copy, Debug)]
pub struct Replay<'a> {
    /// What is asked.
    pub demand: &'a Demand,
    /// Used for one thing: whether a claim was served while recording, and so has a lifetime.
    pub recorded: &'a Recorded,
    /// Where the areas lay, for what was claimed before the recording.
    pub places: &'a [Place],
    /// Pages that calls told were held all along: area and page number.
    pub held_before: &'a [(u32, u64)],
    /// Samples of each area over time; 0 for none.
    pub samples_max: usize,
}

/// What came of it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// One for each area.
    pub areas: Vec<AreaReport>,
    /// One for each client.
    pub clients: Vec<ClientReport>,
    /// For each phase, what was claimed in it.
    pub phases: Vec<Counts>,
    /// Claims that were not served.
    pub failed: Vec<Failed>,
}

/// Claims and failures.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Claims.
    pub calls: u64,
    /// Those not served.
    pub failed: u64,
    /// The most pages in use at once, of all areas.
    pub high_water_pages: u64,
}

/// One area.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AreaReport {
    /// Claims, failures, high water.
    pub counts: Counts,
    /// Failures although enough pages were free in all.
    pub failed_fragmented: u64,
    /// Claims served that failed while recording: how long they would have lived is not known, so
    /// they are released at once.
    pub served_beyond_recording: u64,
    /// Holdings from before the recording that do not fit.
    pub holdings_refused: u64,
    /// The longest free run at its shortest.
    pub longest_free_min: u64,
    /// Use over time.
    pub samples: Vec<Sample>,
}

/// One client.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ClientReport {
    /// Claims, failures, own high water.
    pub counts: Counts,
    /// Pages that it had when all areas together were fullest.
    pub pages_at_peak: u64,
}

/// A part of the recording's time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sample {
    /// When it begins.
    pub at_ns: u64,
    /// The most pages in use.
    pub used_pages: u64,
    /// The shortest that the longest free run was, and the pages free then.
    pub longest_free: u64,
    /// Pages free then.
    pub free_pages: u64,
}

/// A claim that was not served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Failed {
    /// Its index.
    pub call: u32,
    /// Pages that were free in its area.
    pub free_pages: u64,
    /// The longest run of them.
    pub longest_free: u64,
}

/// Replays. Where its pages are is the memory's own affair; the recorded answers are not used,
/// apart from what [`Replay::recorded`] says.
pub fn replay(what: &Replay<'_>, memory: &mut impl Memory) -> Report {
    let mut driver = Driver::new(what, memory);
    for op in &what.demand.ops {
        driver.step(op.kind);
        driver.sample(op.at_ns);
    }
    driver.report
}

struct Driver<'a, M> {
    what: &'a Replay<'a>,
    memory: &'a mut M,
    /// Where calls and holdings are.
    calls: Vec<Option<u64>>,
    holdings: Vec<Option<u64>>,
    used: Vec<u64>,
    by_client: Vec<u64>,
    phase: Option<usize>,
    peak: u64,
    begin_ns: u64,
    part_ns: u64,
    report: Report,
}

impl<'a, M: Memory> Driver<'a, M> {
    fn new(what: &'a Replay<'a>, memory: &'a mut M) -> Self {
        let demand = what.demand;
        let begin_ns = demand.ops.first().map_or(0, |op| op.at_ns);
        let end_ns = demand.ops.iter().map(|op| op.at_ns).max().unwrap_or(0);
        let mut driver = Self {
            what,
            memory,
            calls: vec![None; demand.calls.len()],
            holdings: vec![None; demand.holdings.len()],
            used: vec![0; demand.areas.len()],
            by_client: vec![0; demand.clients.len()],
            phase: None,
            peak: 0,
            begin_ns,
            part_ns: end_ns.saturating_sub(begin_ns) / (what.samples_max.max(1) as u64) + 1,
            report: Report {
                areas: vec![AreaReport::default(); demand.areas.len()],
                clients: vec![ClientReport::default(); demand.clients.len()],
                phases: vec![Counts::default(); demand.phases.len()],
                failed: Vec::new(),
            },
        };
        driver.begin();
        driver
    }

    /// What was claimed before the recording stands where it stood; in an area of another size, or
    /// where somebody else is, anywhere.
    fn begin(&mut self) {
        for (area, pfn) in self.what.held_before {
            let _ = self.hold(*area as usize, *pfn, 1);
        }
        for index in 0..self.holdings.len() {
            let holding = &self.what.demand.holdings[index];
            let area = holding.area as usize;
            self.holdings[index] = self.hold(area, holding.pfn, holding.pages);
        }
        for area in 0..self.used.len() {
            let report = &mut self.report.areas[area];
            report.counts.high_water_pages = self.used[area];
            report.longest_free_min = self.memory.free(area).1;
        }
        self.note_peak();
    }

    fn hold(&mut self, area: usize, pfn: u64, pages: u64) -> Option<u64> {
        let at = pfn.checked_sub(self.what.places[area].base);
        let exact = at.filter(|at| self.memory.claim_at(area, *at, pages));
        let order = pages.max(1).next_power_of_two().ilog2();
        let wish = Wish {
            pages,
            align_order: order.min(super::ALIGN_ORDER_MAX),
        };
        let placed = exact.or_else(|| self.memory.claim(area, wish, 0));
        match placed {
            Some(_) => self.used[area] += pages,
            None => self.report.areas[area].holdings_refused += 1,
        }
        placed
    }

    fn step(&mut self, kind: OpKind) {
        match kind {
            OpKind::Start(call) => self.claim(call),
            OpKind::Finish(call) => self.finish(call),
            OpKind::Release {
                from,
                offset,
                pages,
            } => self.release(from, offset, pages),
            OpKind::PhaseBegin(phase) => {
                self.phase = Some(phase as usize);
                self.note_peak();
            }
            OpKind::PhaseEnd(_) => self.phase = None,
            OpKind::Busy(_) => {}
        }
    }

    fn claim(&mut self, index: u32) {
        let call = &self.what.demand.calls[index as usize];
        let (area, client) = (call.area as usize, call.client as usize);
        let placed = self.memory.claim(area, call.wish, call.busy);
        self.calls[index as usize] = placed;
        let failed = u64::from(placed.is_none());
        if placed.is_some() {
            self.used[area] += call.wish.pages;
            self.by_client[client] += call.wish.pages;
        } else {
            let (free_pages, longest_free) = self.memory.free(area);
            let is_fragmented = free_pages >= call.wish.pages;
            self.report.areas[area].failed_fragmented += u64::from(is_fragmented);
            self.report.failed.push(Failed {
                call: index,
                free_pages,
                longest_free,
            });
        }
        let phase = self.phase.map(|phase| &mut self.report.phases[phase]);
        let area_counts = &mut self.report.areas[area].counts;
        area_counts.high_water_pages = area_counts.high_water_pages.max(self.used[area]);
        let client_counts = &mut self.report.clients[client].counts;
        client_counts.high_water_pages = client_counts.high_water_pages.max(self.by_client[client]);
        for counts in [area_counts, client_counts].into_iter().chain(phase) {
            counts.calls += 1;
            counts.failed += failed;
        }
        self.note_peak();
    }

    /// A claim that was not served while recording has no life of its own.
    fn finish(&mut self, index: u32) {
        let had = matches!(
            self.what.recorded.outcomes[index as usize],
            Some(Outcome::At(_))
        );
        let call = &self.what.demand.calls[index as usize];
        if !had && self.calls[index as usize].is_some() {
            self.report.areas[call.area as usize].served_beyond_recording += 1;
            self.release(Owner::Call(index), 0, call.wish.pages);
        }
    }

    fn release(&mut self, from: Owner, offset: u64, pages: u64) {
        let demand = self.what.demand;
        let (area, placed) = match from {
            Owner::Call(index) => {
                let call = &demand.calls[index as usize];
                let placed = self.calls[index as usize];
                if placed.is_some() {
                    self.by_client[call.client as usize] -= pages;
                }
                (call.area as usize, placed)
            }
            Owner::Holding(index) => {
                let area = demand.holdings[index as usize].area as usize;
                (area, self.holdings[index as usize])
            }
        };
        if let Some(at) = placed {
            self.memory.release(area, at + offset, pages);
            self.used[area] -= pages;
        }
    }

    fn note_peak(&mut self) {
        let used = self.used.iter().sum();
        if let Some(phase) = self.phase {
            let high = &mut self.report.phases[phase].high_water_pages;
            *high = (*high).max(used);
        }
        if used > self.peak {
            self.peak = used;
            for (client, pages) in self.report.clients.iter_mut().zip(&self.by_client) {
                client.pages_at_peak = *pages;
            }
        }
    }

    fn sample(&mut self, at_ns: u64) {
        if self.what.samples_max == 0 {
            return;
        }
        let part = at_ns.saturating_sub(self.begin_ns) / self.part_ns;
        let at_ns = self.begin_ns + part * self.part_ns;
        for (area, report) in self.report.areas.iter_mut().enumerate() {
            let (free_pages, longest_free) = self.memory.free(area);
            let now = Sample {
                at_ns,
                used_pages: self.used[area],
                longest_free,
                free_pages,
            };
            report.longest_free_min = report.longest_free_min.min(longest_free);
            match report.samples.last_mut().filter(|last| last.at_ns == at_ns) {
                Some(last) => {
                    last.used_pages = last.used_pages.max(now.used_pages);
                    if now.longest_free < last.longest_free {
                        last.longest_free = now.longest_free;
                        last.free_pages = now.free_pages;
                    }
                }
                None => report.samples.push(now),
            }
        }
    }
}
