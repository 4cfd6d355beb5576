//! Who is asked to move the pages of programs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use std::time::Duration;

use dmakit_addr::PfnRange;
use dmakit_phys::{
    DeviceMappings, Frames, Migrate, Migration, MigrationCause, MoverId, Refusal, Refused,
    migrate_mapped,
};
use dmakit_platform::{Instant, Platform};

use super::{NoDevices, Programs};
use crate::{Machine, Rng, Step};

/// A page refuses at most so many times in a row without a reason that lasts.
const REFUSED_MAX: u32 = 2;

/// The embedder's part of every migration, for the pages of [`Programs`].
///
/// Beside that it is the gate, which can be closed for a cause, and the bad luck of moving what is
/// in use: a page may be busy or dirty for a moment, and each migration is a
/// [`Step::MIGRATE`] of the machine's [`FaultPlan`](crate::FaultPlan). `D` is how devices reach the
/// pages.
#[derive(Debug)]
pub struct Mover<D = NoDevices> {
    machine: Machine,
    programs: Programs,
    devices: D,
    gate: Arc<Mutex<Gate>>,
    agenda: Arc<Mutex<Agenda>>,
}

/// What is to be done when it is time.
#[derive(Default)]
struct Agenda(Vec<(Instant, Box<dyn FnOnce() + Send>)>);

impl std::fmt::Debug for Agenda {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let times = self.0.iter().map(|(when, _)| when);
        f.debug_list().entries(times).finish()
    }
}

/// Whoever waits sleeps no longer than this at once.
const NAP: Duration = Duration::from_micros(5);

#[derive(Debug)]
struct Gate {
    rng: Rng,
    closed: BTreeSet<MigrationCause>,
    refused_of_256: u32,
    /// How often each page was refused in a row, by its first frame.
    refused: BTreeMap<u64, u32>,
    /// What was let through and has not come yet.
    permitted: Vec<(PfnRange, MigrationCause)>,
    counts: BTreeMap<MigrationCause, GateCounts>,
    past_the_gate: u64,
}

/// What the gate was asked for one cause.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct GateCounts {
    /// How often something was let through.
    pub permitted: u64,
    /// How often not.
    pub refused: u64,
}

impl Mover {
    /// The mover of `programs` whose pages no device reaches, with the gate open and nothing in bad
    /// luck.
    pub fn new(machine: &Machine, programs: &Programs) -> Self {
        Self::with_devices(machine, programs, NoDevices)
    }

    /// All movable memory of a simulated machine is of one mover.
    pub const ID: MoverId = MoverId::new(1);
}

impl<D> Mover<D> {
    /// The mover of `programs` whose pages devices reach through `devices`.
    pub fn with_devices(machine: &Machine, programs: &Programs, devices: D) -> Self {
        let gate = Gate {
            rng: Rng::derived(machine.seed(), 0x6a7e),
            closed: BTreeSet::new(),
            refused_of_256: 0,
            refused: BTreeMap::new(),
            permitted: Vec::new(),
            counts: BTreeMap::new(),
            past_the_gate: 0,
        };
        Self {
            machine: machine.clone(),
            programs: programs.clone(),
            devices,
            gate: Arc::new(Mutex::new(gate)),
            agenda: Arc::default(),
        }
    }

    /// How many nodes the machine has.
    pub(super) fn nodes(&self) -> usize {
        self.machine.nodes()
    }

    /// Whose pages are moved.
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// The way of devices to the pages.
    pub fn devices(&self) -> &D {
        &self.devices
    }

    /// Does something once it is time: while memory is moved, or somebody waits for it to become
    /// free.
    pub fn later(&self, when: Instant, act: impl FnOnce() + Send + 'static) {
        self.lock_agenda().0.push((when, Box::new(act)));
    }

    /// Does what it is time for.
    fn keep_time(&self) {
        let now = self.machine.now();
        let mut agenda = self.lock_agenda();
        let all = std::mem::take(&mut agenda.0);
        let (due, rest) = all.into_iter().partition(|(when, _)| *when <= now);
        agenda.0 = rest;
        drop(agenda);
        let due: Vec<(Instant, Box<dyn FnOnce() + Send>)> = due;
        due.into_iter().for_each(|(_, act)| act());
    }

    fn lock_agenda(&self) -> MutexGuard<'_, Agenda> {
        self.agenda.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets no migration of this cause through from now on.
    pub fn close(&self, cause: MigrationCause) {
        self.lock().closed.insert(cause);
    }

    /// Lets migrations of this cause through again.
    pub fn open(&self, cause: MigrationCause) {
        self.lock().closed.remove(&cause);
    }

    /// From now on so many of 256 migrations meet a page that is busy or dirty, but never the same
    /// page three times in a row.
    pub fn refuse(&self, of_256: u32) {
        self.lock().refused_of_256 = of_256;
    }

    /// What the gate was asked so far.
    pub fn counts(&self, cause: MigrationCause) -> GateCounts {
        self.lock().counts.get(&cause).copied().unwrap_or_default()
    }

    /// Migrations that came without having asked the gate.
    pub fn past_the_gate(&self) -> u64 {
        self.lock().past_the_gate
    }

    fn lock(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn move_page(&self, migration: &Migration, to: PfnRange) -> Result<(), Refusal>
    where
        D: DeviceMappings,
    {
        self.lock().admit(migration)?;
        if self.machine.faults().fails(Step::MIGRATE) {
            return Err(Refusal::Busy);
        }
        migrate_mapped(&self.devices, &self.programs, migration.from, to)
    }
}

impl Gate {
    /// Whether the migration asked before it came, and meets the page in good luck.
    fn admit(&mut self, migration: &Migration) -> Result<(), Refusal> {
        let asked = (migration.from, migration.cause);
        match self.permitted.iter().position(|other| *other == asked) {
            Some(index) => drop(self.permitted.swap_remove(index)),
            None => self.past_the_gate += 1,
        }
        let of_256 = self.refused_of_256;
        let page = migration.from.start().raw();
        let in_a_row = self.refused.remove(&page).unwrap_or(0);
        if in_a_row < REFUSED_MAX && self.rng.chance(of_256) {
            self.refused.insert(page, in_a_row + 1);
            return Err(self.rng.pick(&[Refusal::Busy, Refusal::Dirty]));
        }
        Ok(())
    }
}

impl<D: DeviceMappings + Sync> Migrate for Mover<D> {
    fn permits_cause(&self, cause: MigrationCause) -> bool {
        let mut gate = self.lock();
        let is_open = !gate.closed.contains(&cause);
        if !is_open {
            gate.counts.entry(cause).or_default().refused += 1;
        }
        is_open
    }

    fn permits(&self, migration: &Migration) -> bool {
        let mut gate = self.lock();
        let is_open = !gate.closed.contains(&migration.cause);
        let counts = gate.counts.entry(migration.cause).or_default();
        match is_open {
            true => counts.permitted += 1,
            false => counts.refused += 1,
        }
        if is_open {
            // What was let through before and found no room is asked anew.
            gate.permitted
                .retain(|(from, _)| !from.overlaps(&migration.from));
            gate.permitted.push((migration.from, migration.cause));
        }
        is_open
    }

    /// Time passes, programs run, and who has said that he lets go later does.
    fn pause(&self, until: Instant) {
        let left = until.saturating_since(self.machine.now());
        self.machine.advance(left.min(NAP));
        self.machine.disturb();
        self.programs.run(1);
        self.keep_time();
    }

    fn migrate(&self, migration: &Migration, to: Frames) -> Result<Frames, Refused> {
        let moved = self.move_page(migration, to.range());
        // The copy took its time, in which others act.
        self.keep_time();
        match moved {
            Ok(()) => Ok(self.programs.exchange(to)),
            Err(reason) => Err(Refused { to, reason }),
        }
    }
}
