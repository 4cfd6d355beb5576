//! Address by address, with the orders that the recording leaves open told apart.

use std::collections::{BTreeMap, HashSet};

use crate::agreement::Beginning;
use crate::agreement::learn::grown_pool_starts;
use crate::demand::{Demand, Op, OpKind, Recorded, RecordedAddresses};
use crate::replay::{Driver, Placed, ReplayConfig};
use crate::swiotlb::{PoolId, SLOT_BYTES, Slots};

/// Orders that are tried for one mapping.
const ORDERS_MAX: usize = 64;

/// How many addresses agree.
///
/// A mapping's slot depends on which releases of other CPUs, or of interrupts, came before it.
/// Where the recording leaves that open *and* it changes the predicted slot, the mapping is
/// counted as unknowable, never as agreeing; the order under which the recorded result comes out,
/// if there is one, is then used to go on. Nothing else is taken from the recorded addresses.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Agreement {
    /// Mappings with a recorded address.
    pub compared: u64,
    /// Those that told where the pool lies and its searches stood.
    pub told: u64,
    /// Those whose slot depends on an order that the recording leaves open.
    pub unknowable: u64,
    /// Pools of a dynamic kernel whose place the recorded addresses told.
    pub pools_told: u64,
    /// Unknowable ones for which some order gives the recorded slot.
    pub explained: u64,
    /// Those in a pool made for them alone, whose address the page allocator chose.
    pub transient: u64,
    /// The others: their slot follows from the recording.
    pub knowable: u64,
    /// Knowable ones at the recorded slot.
    pub equal: u64,
    /// Knowable ones that are not, at most the first hundred.
    pub misses: Vec<Miss>,
    /// Unknowable ones that no order tried explains, at most the first hundred.
    pub unexplained: Vec<Miss>,
}

impl Agreement {
    /// Equal per knowable, in percent; `None` if nothing is knowable.
    pub fn percent(&self) -> Option<f64> {
        (self.knowable > 0).then(|| 100.0 * self.equal as f64 / self.knowable as f64)
    }
}

/// A knowable mapping at another slot than recorded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Miss {
    /// Index into the demand's mappings.
    pub mapping: u32,
    /// Where the model put it.
    pub placed: Placed,
    /// The recorded address.
    pub recorded: u64,
}

/// Replays with the recorded addresses as a referee.
///
/// O(operations × orders tried); orders are tried only where releases overlap a mapping.
pub fn agree(
    demand: &Demand,
    recorded: &RecordedAddresses,
    config: &ReplayConfig,
    beginning: &Beginning,
) -> Agreement {
    let mut config = config.clone();
    config.keeps_places = true;
    config.cursors.clone_from(&beginning.cursors);
    let mut referee = Referee::new(demand, recorded, &config, beginning);
    for index in 0..demand.ops.len() {
        referee.step(index);
    }
    referee.agreement
}

/// A change to the likely order in front of one mapping.
#[derive(Clone, Debug)]
enum Change {
    /// These come earlier.
    Advance(Vec<usize>),
    /// These, done already, come later.
    Delay(Vec<usize>),
}

/// What the pool answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Answer {
    At(PoolId, u64),
    No,
}

struct Referee<'a> {
    demand: &'a Demand,
    recorded: &'a RecordedAddresses,
    beginning: &'a Beginning,
    driver: Driver<'a>,
    done: Vec<bool>,
    /// Where pools that were added lie, in order of first use.
    grown_starts: Vec<u64>,
    /// The model's pools that were added, as far as they have been used.
    grown_pools: Vec<PoolId>,
    /// Per area of the boot pool whether an attempt without an address left its cursor open.
    doubtful: Vec<bool>,
    /// Attempts with which a list was given up.
    gave_up: HashSet<u32>,
    /// Releases by the earliest moment, and how many of them have been looked at.
    releases: Vec<usize>,
    seen: usize,
    /// Releases whose window may overlap the next mapping.
    open: Vec<usize>,
    agreement: Agreement,
}

impl<'a> Referee<'a> {
    fn new(
        demand: &'a Demand,
        recorded: &'a RecordedAddresses,
        config: &'a ReplayConfig,
        beginning: &'a Beginning,
    ) -> Self {
        let is_release = |op: &Op| matches!(op.kind, OpKind::Unmap(_));
        let mut releases: Vec<usize> = (0..demand.ops.len())
            .filter(|op| is_release(&demand.ops[*op]))
            .collect();
        releases.sort_by_key(|op| demand.ops[*op].earliest_ns);
        Self {
            demand,
            recorded,
            beginning,
            driver: Driver::on_model(demand, config),
            done: vec![false; demand.ops.len()],
            grown_starts: grown_pool_starts(demand, recorded, &config.swiotlb, beginning.start),
            grown_pools: Vec::new(),
            doubtful: vec![false; config.swiotlb.areas as usize],
            gave_up: last_attempts(demand),
            releases,
            seen: 0,
            open: Vec::new(),
            agreement: Agreement::default(),
        }
    }

    fn step(&mut self, index: usize) {
        if self.done[index] {
            return;
        }
        let op = &self.demand.ops[index];
        let OpKind::Map(mapping) = op.kind else {
            self.run(index);
            return;
        };
        if !self.driver.will_ask(mapping) {
            self.run(index);
            return;
        }
        self.driver.catch_up(op.likely_ns);
        let mut is_open = self.settle_growth(op.likely_ns, mapping);
        let wanted = self.wanted(mapping);
        let likely = self.answer(mapping);
        let mut chosen = None;
        for change in self.changes(op) {
            let answer = self.answer_after(&change, mapping);
            is_open |= answer != likely;
            if chosen.is_none() && wanted.is_some_and(|w| w != likely && w == answer) {
                chosen = Some(change);
            }
        }
        let is_settled = wanted.is_some_and(|wanted| wanted == likely) || chosen.is_some();
        let mut delayed = Vec::new();
        match chosen {
            Some(Change::Advance(ops)) => ops.into_iter().for_each(|op| self.run(op)),
            Some(Change::Delay(ops)) => {
                for op in ops.iter().rev() {
                    self.driver.unrelease(self.released(*op));
                }
                delayed = ops;
            }
            None => {}
        }
        is_open |= self.settle_doubt(mapping, is_open && !is_settled);
        self.run(index);
        for op in delayed {
            self.driver.release_again(self.released(op));
        }
        self.count(mapping, is_open);
    }

    /// An attempt of a list that was given up left no address, so an order that its answer
    /// depended on stays open, and with it where its area's search went on. The next recorded
    /// address in the area tells that; its mapping counts as unknowable. Returns whether it was
    /// such a one.
    fn settle_doubt(&mut self, mapping: u32, is_unsettled: bool) -> bool {
        let config = *self.driver.memory().config();
        let area_slots = config.slots / config.areas;
        let Some(dma) = self.recorded.dma[mapping as usize] else {
            if is_unsettled {
                self.doubtful.fill(true);
            }
            return false;
        };
        if !self.is_in_boot_pool(dma) {
            return false;
        }
        let slot = ((dma - self.beginning.start) / SLOT_BYTES) as u32;
        let area = slot / area_slots;
        if !std::mem::take(&mut self.doubtful[area as usize]) {
            return false;
        }
        if Some(self.answer(mapping)) != self.wanted(mapping) {
            self.driver.memory_mut().set_cursor(area, slot % area_slots);
        }
        true
    }

    fn run(&mut self, index: usize) {
        self.done[index] = true;
        let op = &self.demand.ops[index];
        self.driver.step(op.likely_ns, op);
    }

    fn released(&self, op: usize) -> u32 {
        match self.demand.ops[op].kind {
            OpKind::Unmap(mapping) => mapping,
            _ => u32::MAX,
        }
    }

    fn answer(&self, mapping: u32) -> Answer {
        self.driver
            .peek(mapping)
            .map_or(Answer::No, |(pool, offset)| Answer::At(pool, offset))
    }

    /// What the recording says came out, as far as it says so.
    fn wanted(&self, mapping: u32) -> Option<Answer> {
        match (
            self.recorded.dma[mapping as usize],
            self.demand.mappings[mapping as usize].recorded,
        ) {
            (Some(dma), _) => Some(match self.grown_index(dma) {
                Some(index) => match self.grown_pools.get(index) {
                    Some(pool) => Answer::At(*pool, dma - self.grown_starts[index]),
                    None => Answer::No,
                },
                None if self.is_in_boot_pool(dma) => {
                    Answer::At(PoolId(0), dma - self.beginning.start)
                }
                None => Answer::No,
            }),
            (None, Recorded::Failed) => Some(Answer::No),
            (None, _) if self.gave_up.contains(&mapping) => Some(Answer::No),
            _ => None,
        }
    }

    fn is_in_boot_pool(&self, dma: u64) -> bool {
        let config = self.driver.memory().config();
        dma.checked_sub(self.beginning.start)
            .is_some_and(|offset| offset < u64::from(config.slots) * SLOT_BYTES)
    }

    /// Which of the added pools an address lies in.
    fn grown_index(&self, dma: u64) -> Option<usize> {
        let bytes = u64::from(self.driver.memory().config().grown_slots()) * SLOT_BYTES;
        self.grown_starts
            .iter()
            .position(|start| dma.wrapping_sub(*start) < bytes)
    }

    /// When the worker had finished is not recorded: until a pool's first use it may be there or
    /// not. Returns whether that leaves the answer open.
    fn settle_growth(&mut self, now_ns: u64, mapping: u32) -> bool {
        let dma = self.recorded.dma[mapping as usize];
        let wanted = dma.and_then(|dma| self.grown_index(dma));
        let memory = self.driver.memory_mut();
        let mut is_open = memory.is_growing();
        // Not there yet, or the recording would have used it.
        while let Some(newest) = memory.newest_grown() {
            if self.grown_pools.contains(&newest) {
                break;
            }
            is_open = true;
            if wanted.is_some_and(|index| index >= self.grown_pools.len()) || dma.is_none() {
                break;
            }
            memory.withdraw_newest(now_ns);
        }
        while let Some(index) = wanted {
            if index < self.grown_pools.len() {
                break;
            }
            let newest = memory
                .newest_grown()
                .filter(|pool| !self.grown_pools.contains(pool));
            match newest {
                Some(pool) => {
                    self.grown_pools.push(pool);
                    self.agreement.pools_told += 1;
                }
                None if memory.is_growing() => memory.finish_growth(now_ns),
                None => break,
            }
        }
        is_open
    }

    /// The orders other than the likely one that the windows allow.
    fn changes(&mut self, op: &Op) -> Vec<Change> {
        while let Some(release) = self.releases.get(self.seen) {
            if self.demand.ops[*release].earliest_ns >= op.latest_ns {
                break;
            }
            self.open.push(*release);
            self.seen += 1;
        }
        let ops = &self.demand.ops;
        self.open
            .retain(|release| ops[*release].latest_ns > op.earliest_ns);
        let overlaps = |release: &&usize| ops[**release].earliest_ns < op.latest_ns;
        let (mut done, mut waiting): (Vec<usize>, Vec<usize>) = self
            .open
            .iter()
            .filter(overlaps)
            .partition(|release| self.done[**release]);
        waiting.retain(|release| self.driver.held(self.released(*release)).is_some());
        done.sort_unstable();
        waiting.sort_unstable();
        let mut changes = Vec::new();
        for count in counts(waiting.len()) {
            changes.push(Change::Advance(waiting[..count].to_vec()));
        }
        changes.extend(
            waiting
                .iter()
                .skip(1)
                .take(ORDERS_MAX)
                .map(|r| Change::Advance(vec![*r])),
        );
        for count in counts(done.len()) {
            changes.push(Change::Delay(done[done.len() - count..].to_vec()));
        }
        changes.extend(
            done.iter()
                .rev()
                .skip(1)
                .take(ORDERS_MAX)
                .map(|r| Change::Delay(vec![*r])),
        );
        changes
    }

    fn answer_after(&mut self, change: &Change, mapping: u32) -> Answer {
        match change {
            Change::Advance(ops) => {
                let slots: Vec<Slots> = ops
                    .iter()
                    .filter_map(|op| self.driver.held(self.released(*op)))
                    .collect();
                slots
                    .iter()
                    .for_each(|slots| self.driver.memory_mut().unmap(slots));
                let answer = self.answer(mapping);
                for slots in slots.iter().rev() {
                    self.driver.memory_mut().retake(slots);
                }
                answer
            }
            Change::Delay(ops) => {
                let mut taken = Vec::new();
                for op in ops.iter().rev() {
                    if let Some(slots) = self.driver.last_slots(self.released(*op)) {
                        if self.driver.memory_mut().retake(&slots) {
                            taken.push(slots);
                        }
                    }
                }
                let answer = self.answer(mapping);
                taken
                    .iter()
                    .for_each(|slots| self.driver.memory_mut().unmap(slots));
                answer
            }
        }
    }

    fn count(&mut self, mapping: u32, is_open: bool) {
        let Some(dma) = self.recorded.dma[mapping as usize] else {
            return;
        };
        let placed = self.driver.placed(mapping);
        let is_equal = match placed {
            Placed::At(slots) if slots.is_transient => false,
            Placed::At(slots) => {
                self.wanted(mapping) == Some(Answer::At(slots.pool, slots.offset_bytes))
            }
            _ => false,
        };
        let is_alone = self.grown_index(dma).is_none() && !self.is_in_boot_pool(dma);
        let agreement = &mut self.agreement;
        agreement.compared += 1;
        if self.beginning.used.contains(&mapping) {
            agreement.told += 1;
        } else if is_alone && matches!(placed, Placed::At(slots) if slots.is_transient) {
            agreement.transient += 1;
        } else if is_open {
            agreement.unknowable += 1;
            agreement.explained += u64::from(is_equal);
            if !is_equal && agreement.unexplained.len() < 100 {
                agreement.unexplained.push(Miss {
                    mapping,
                    placed,
                    recorded: dma,
                });
            }
        } else {
            agreement.knowable += 1;
            agreement.equal += u64::from(is_equal);
            if !is_equal && agreement.misses.len() < 100 {
                agreement.misses.push(Miss {
                    mapping,
                    placed,
                    recorded: dma,
                });
            }
        }
    }
}

/// How many of so many releases are tried together: each number up to [`ORDERS_MAX`], then as many
/// again up to all of them, for one interrupt may end many long lists.
fn counts(all: usize) -> impl Iterator<Item = usize> {
    let near = 1..=all.min(ORDERS_MAX);
    let step = (all - all.min(ORDERS_MAX)).div_ceil(ORDERS_MAX).max(1);
    let far = (ORDERS_MAX + step..all).step_by(step);
    near.chain(far).chain((all > ORDERS_MAX).then_some(all))
}

/// The last attempts of the lists that the recording gives up: those that failed.
fn last_attempts(demand: &Demand) -> HashSet<u32> {
    let mut last = BTreeMap::new();
    for (index, mapping) in demand.mappings.iter().enumerate() {
        if let (Some(list), Recorded::FailedSilently) = (mapping.list, mapping.recorded) {
            last.insert(list, index as u32);
        }
    }
    last.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lists_are_tried_to_their_end() {
        assert_eq!(counts(0).count(), 0);
        assert_eq!(counts(3).collect::<Vec<_>>(), [1, 2, 3]);
        let many: Vec<usize> = counts(1000).collect();
        assert_eq!(many.last(), Some(&1000));
        assert!(many.len() <= 2 * ORDERS_MAX);
        assert!(many.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
