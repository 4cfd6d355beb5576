//! Mappings of every kind at random on an adversarial SMMU, beside a model of every byte; and stacks
//! with one step missing, which must be found out.
//!
//! Some mappings end with a write in flight. If the SMMU translated it while the mapping was there,
//! it lands by the end of the sync and the CPU must see it. If not, it faults. It must be over before
//! its address is anybody else's: otherwise it is simply a write to whatever lies there by then, as
//! every device may do to its own mappings. So the model lets it end as soon as the sync is done.
//!
//! Every direction, one step and two, tails of requests and pages of windows; strict, batched and lazy;
//! devices that are trusted or not, and that go past the CPU's caches or not. A lazy domain's devices
//! are done when they say so, except where they are not trusted.
//!
//! `DMAKIT_STEPS` sets the number of steps, `DMAKIT_SEED` the only seed to run.

mod lent;
mod pages;
mod slot;

use dmakit::addr::{DmaAddr, Iova};
use dmakit::dma::{Batch, BatchConfig, DeviceInfo, StrictDomain, Translate};
use dmakit::platform::Platform;
use dmakit_sim::Rng;

use self::lent::List;
use self::pages::Pages;
use self::slot::{Slot, State};
use crate::rig::{BOTH, Mutant, Rig, TestDevice};

const SLOTS: usize = 12;
/// Every fourth on a machine where devices go past the CPU's caches.
const SEEDS: u64 = 4;
const STEPS: u64 = 120_000;
/// Within how many steps a missing one must be found.
const MUTANT_STEPS: u64 = 20_000;

struct World<'r, T: Translate> {
    rig: &'r Rig,
    domain: &'r T,
    devices: [TestDevice<'r, T>; 2],
    batches: [Batch<List>; 2],
    slots: Vec<Slot>,
    pages: Vec<Pages>,
    rng: Rng,
}

impl<'r, T: Translate> World<'r, T> {
    fn new(rig: &'r Rig, domain: &'r T, seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0x10c5);
        rig.sim.confine();
        rig.sim.grant(rig.pool_memory, BOTH);
        let infos: [DeviceInfo<'_>; 2] = [rig.info(), rig.untrusted()];
        let devices = infos.map(|info| rig.device(info, domain));
        let config = BatchConfig {
            debts: 5,
            ..BatchConfig::default()
        };
        let batch = |device: &TestDevice<'_, T>| Batch::new(device.domain(), config).unwrap();
        let batches = [batch(&devices[0]), batch(&devices[1])];
        let slots = (0..SLOTS).map(|_| Slot::new(rig, &mut rng)).collect();
        let pages = (0..2).map(|index| Pages::new(rig, &devices[index], index, &mut rng));
        let pages = pages.collect();
        Self {
            rig,
            domain,
            devices,
            batches,
            slots,
            pages,
            rng,
        }
    }

    fn step(&mut self) {
        if self.rng.chance(48) {
            self.rig.machine.disturb();
        }
        if self.rng.chance(24) {
            let pages = &mut self.pages[self.rng.below(2) as usize];
            return pages.step(self.rig, &self.devices[pages.device], &mut self.rng);
        }
        if self.rng.chance(4) {
            let device = self.rng.below(2) as usize;
            return self.close(device);
        }
        let index = self.rng.below(SLOTS as u64) as usize;
        let (rig, rng) = (self.rig, &mut self.rng);
        let slot = &mut self.slots[index];
        let state = core::mem::replace(&mut slot.state, State::Taken);
        slot.state = match state {
            State::Idle(list) => {
                slot.device = rng.below(2) as usize;
                slot.lend(rig, &self.devices[slot.device], list, rng)
            }
            State::Mapped(_) | State::Linked(..) if rng.chance(150) => {
                slot.transfer(rig, rng);
                state
            }
            State::Mapped(mapped) if rng.chance(80) => {
                slot.look(&self.devices[slot.device], mapped, rng)
            }
            State::Linked(linked, list) if slot.run_count() > 1 && rng.chance(80) => {
                slot.relink(rig, &self.devices[slot.device], linked, list, rng)
            }
            State::Mapped(_) | State::Linked(..) => return self.end(index, state),
            State::Owed(debt, late) => {
                let device = &self.devices[slot.device];
                let proof = device.sync().unwrap();
                slot.forbid(rig);
                slot.end_late(rig, late);
                let list = device.redeem(debt, &proof).unwrap();
                return self.back(index, list);
            }
            State::Waiting(late) => State::Waiting(late),
            State::Taken => unreachable!("a step puts back what it takes"),
        };
    }

    /// Ends a mapping, by itself or with others, and with a write on its way.
    fn end(&mut self, index: usize, state: State) {
        let (rig, rng, device) = (self.rig, &mut self.rng, self.slots[index].device);
        let is_strict = !self.domain.is_lazy() || device == 1;
        let late = match is_strict {
            true => self.slots[index].start_late(rig, 0, rng),
            false => None,
        };
        let (has_time, driver) = (rng.chance(128), &self.devices[device]);
        let mut given = Vec::new();
        let batch = &mut self.batches[device];
        let debt = match state {
            State::Mapped(mapped) if has_time => {
                lent::unmap_batched(driver, batch, mapped, |list| given.push(list));
                None
            }
            State::Linked(linked, list) if has_time => {
                lent::destroy_batched(driver, batch, linked, list, |list| given.push(list));
                None
            }
            State::Mapped(mapped) => Some(lent::unmap(driver, mapped)),
            State::Linked(linked, list) => Some(lent::destroy(driver, linked, list)),
            _ => unreachable!("what is not lent does not end"),
        };
        let slot = &mut self.slots[index];
        slot.state = match debt {
            None => State::Waiting(late),
            // Hardware has forgotten it, and its addresses are free.
            Some(debt) if debt.since().is_none() => {
                slot.forbid(rig);
                slot.end_late(rig, late);
                // Redeeming forbids it once more.
                slot.permit(rig);
                State::Owed(debt, None)
            }
            Some(debt) => State::Owed(debt, late),
        };
        self.given(given);
    }

    fn close(&mut self, device: usize) {
        let mut given = Vec::new();
        let batch = &mut self.batches[device];
        self.devices[device]
            .close_batch(batch, |list| given.push(list))
            .unwrap();
        self.given(given);
    }

    /// Memory that a batch gave back.
    fn given(&mut self, lists: Vec<List>) {
        // First all writes end, so that none hits what the others become.
        for list in &lists {
            let slot = self.slots.iter_mut().find(|slot| slot.owns(list)).unwrap();
            slot.forbid(self.rig);
            let State::Waiting(late) = core::mem::replace(&mut slot.state, State::Taken) else {
                panic!("it was not in a batch");
            };
            slot.end_late(self.rig, late);
        }
        for list in lists {
            let index = self.slots.iter().position(|slot| slot.owns(&list));
            self.back(index.unwrap(), list);
        }
    }

    /// Memory that is the CPU's again. Where its address is nobody's by now, nothing may be reached
    /// there: what others have unmapped meanwhile is to be forgotten first.
    fn back(&mut self, index: usize, list: List) {
        let slot = &mut self.slots[index];
        let (state, addr) = slot.check(list, &mut self.rng);
        slot.state = state;
        // A lazy domain may have given the address to others since, and not forgotten those.
        if !self.domain.is_lazy() {
            self.domain.domain().sync().unwrap();
            self.try_stale(addr);
        }
    }

    /// After a flush nothing is reached where nothing is mapped.
    fn try_idle(&self) {
        for slot in &self.slots {
            if let (State::Idle(_), Some(addr)) = (&slot.state, slot.addr()) {
                self.try_stale(addr);
            }
        }
    }

    /// What waits in a batch may be at an address that was free before, and is not forgotten.
    fn try_stale(&self, addr: DmaAddr) {
        if self.batches.iter().any(|batch| batch.held().debts > 0) {
            return;
        }
        if self.domain.domain().lookup(Iova::new(addr.raw())).is_none() {
            let stale = self.rig.sim.write(addr, &[0x99]);
            assert!(stale.is_err(), "a stale hit");
        }
    }

    /// Ends what is mapped, after which nothing is left.
    fn finish(mut self, steps: u64) {
        let landed: u64 = self.slots.iter().map(|slot| slot.landed).sum();
        let stopped: u64 = self.slots.iter().map(|slot| slot.stopped).sum();
        println!("late: {landed} landed, {stopped} stopped");
        assert!(landed >= steps / 1000, "too few landed late");
        assert!(stopped >= steps / 1000, "too few were stopped");
        for index in 0..SLOTS {
            let state = core::mem::replace(&mut self.slots[index].state, State::Taken);
            match state {
                State::Mapped(_) | State::Linked(..) => self.end(index, state),
                state => self.slots[index].state = state,
            }
        }
        (0..2).for_each(|device| self.close(device));
        for slot in &mut self.slots {
            let state = core::mem::replace(&mut slot.state, State::Taken);
            if let State::Owed(debt, late) = state {
                let device = &self.devices[slot.device];
                let proof = device.sync().unwrap();
                slot.end_late(self.rig, late);
                device.redeem(debt, &proof).unwrap();
            }
        }
        for pages in self.pages {
            let device = &self.devices[pages.device];
            pages.close(device);
        }
        for device in self.devices {
            assert_eq!(device.remove().unwrap().lost, 0);
        }
    }

    /// Whether nothing was reached that should not have been.
    fn is_good(&self) -> bool {
        self.rig.driver.take_events(|_| ());
        self.rig.machine.take_violations().total == 0
    }

    /// How many steps went well before one did not.
    fn run(&mut self, steps: u64) -> u64 {
        for step in 0..steps {
            self.step();
            if !self.is_good() {
                return step;
            }
        }
        steps
    }
}

fn rig(seed: u64) -> Rig {
    match seed % 4 < 3 {
        true => Rig::coherent(seed),
        false => Rig::non_coherent(seed),
    }
}

/// Steps on a strict domain, with something wrong or not.
fn run(seed: u64, mutant: Mutant, steps: u64) -> u64 {
    let rig = rig(seed);
    let domain = rig.broken_domain(1 << 40, mutant);
    let mut world = World::new(&rig, &domain, seed);
    let done = world.run(steps);
    if mutant == Mutant::Nothing && done == steps {
        world.finish(steps);
        rig.driver.take_events(|_| ());
        rig.close(domain);
    }
    done
}

/// Steps on a lazy domain, which is flushed now and then.
fn run_lazy(seed: u64, steps: u64) {
    let rig = rig(seed);
    let lazy = rig.lazy();
    let mut world = World::new(&rig, &lazy, seed);
    for _ in 0..steps / 500 {
        assert_eq!(world.run(500), 500, "seed {seed}");
        lazy.flush(&rig.machine.enter_cpu()).unwrap();
        assert_eq!(lazy.exposure().bytes, 0);
        world.try_idle();
        assert!(world.is_good());
    }
    world.finish(steps);
    rig.driver.take_events(|_| ());
    rig.close_lazy(lazy);
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().expect(name))
}

#[test]
fn every_byte_is_where_the_model_says() {
    let steps = number("DMAKIT_STEPS").unwrap_or(STEPS);
    let seeds = match number("DMAKIT_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..SEEDS,
    };
    let each = steps / (seeds.end - seeds.start);
    for seed in seeds {
        println!("replay: DMAKIT_SEED={seed} DMAKIT_STEPS={each}");
        assert_eq!(run(seed, Mutant::Nothing, each), each, "seed {seed}");
        run_lazy(seed, each / 4);
    }
}

#[test]
fn a_stack_with_a_step_missing_is_found_out() {
    for mutant in [
        Mutant::NoSync,
        Mutant::EarlyRedemption,
        Mutant::NoInvalidation,
    ] {
        for seed in 0..SEEDS {
            let done = std::panic::catch_unwind(|| run(seed, mutant, MUTANT_STEPS));
            assert!(
                done.is_err() || done.is_ok_and(|done| done < MUTANT_STEPS),
                "{mutant:?}, {seed}"
            );
        }
    }
}
