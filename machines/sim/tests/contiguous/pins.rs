//! Pins and leases of every kind, and a naive count of them.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use dmakit_addr::PfnRange;
use dmakit_phys::{
    Account, LeaseHolder, LeaseTerms, MigrateType, NotRevoked, Pin, PinError, PinId, PinOwner,
    Revoke,
};
use dmakit_platform::Instant;
use dmakit_sim::{PageId, Programs, Rng};

use crate::world::{LIMITS, Memory};

/// How a holder answers a recall.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Manner {
    /// It lets go at once.
    Prompt,
    /// It lets go before it has to.
    Late,
    /// It never does; the lease can be revoked.
    Stubborn,
    /// It never does, and it cannot.
    Immovable,
}

const HOLD_MAX: Duration = Duration::from_micros(50);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Long,
    Short,
    Lease(Manner),
}

struct Held {
    pin: Pin,
    page: PageId,
    owner: usize,
    kind: Kind,
}

/// Leases that have ended without their holder's [`Pin`].
type Ended = Arc<Mutex<BTreeSet<PinId>>>;

struct Holder {
    memory: Weak<Memory>,
    manner: Manner,
    ended: Ended,
}

impl LeaseHolder for Holder {
    fn recall(&self, lease: PinId, until: Instant) {
        let Some(memory) = self.memory.upgrade() else {
            return;
        };
        let (weak, ended) = (self.memory.clone(), self.ended.clone());
        let end = move || {
            if let Some(memory) = weak.upgrade() {
                if memory.end_lease(lease).is_ok() {
                    ended.lock().unwrap().insert(lease);
                }
            }
        };
        match self.manner {
            Manner::Prompt => end(),
            Manner::Late => {
                let half = Duration::from_nanos(HOLD_MAX.as_nanos() as u64 / 2);
                let now = Instant::from_nanos(until.as_nanos() - half.as_nanos() as u64);
                memory.movers().later(now, end);
            }
            Manner::Stubborn | Manner::Immovable => {}
        }
    }
}

struct Revoker {
    ended: Ended,
}

impl Revoke for Revoker {
    fn revoke(&self, lease: PinId, _: &[PfnRange]) -> Result<(), NotRevoked> {
        self.ended.lock().unwrap().insert(lease);
        Ok(())
    }
}

pub struct Pins {
    memory: Arc<Memory>,
    programs: Programs,
    rng: Rng,
    owners: Vec<PinOwner>,
    account: Arc<Account>,
    held: Vec<Held>,
    ended: Ended,
    /// Long-term pins that had to leave an area first.
    pub moved_out: u64,
    /// Leases that ended because somebody wanted the frames.
    pub recalled: u64,
}

/// Frames that all owners may hold together.
const LIMIT: u64 = 96;
const PINS_MAX: usize = 48;

impl Pins {
    pub fn new(seed: u64, memory: &Arc<Memory>) -> Self {
        let account = Arc::new(Account::new(LIMIT));
        let owner = |_| memory.add_pin_owner(account.clone()).unwrap();
        Self {
            owners: (0..3).map(owner).collect(),
            memory: memory.clone(),
            programs: memory.movers().programs().clone(),
            rng: Rng::derived(seed, 0x9175),
            account,
            held: Vec::new(),
            ended: Ended::default(),
            moved_out: 0,
            recalled: 0,
        }
    }

    /// Whether a pin on the page stays whatever a claim does.
    pub fn is_in_the_way(&self, page: PageId) -> bool {
        let stays = |kind| {
            matches!(
                kind,
                Kind::Long | Kind::Short | Kind::Lease(Manner::Immovable)
            )
        };
        let mut held = self.held.iter();
        held.any(|held| held.page == page && stays(held.kind))
    }

    /// A pin more, or one less.
    pub fn step(&mut self, areas: &[PfnRange]) {
        self.forget_ended();
        match self.rng.below(3) {
            0 if !self.held.is_empty() => {
                let index = self.rng.below(self.held.len() as u64) as usize;
                let held = self.held.swap_remove(index);
                self.release(held);
            }
            _ if self.held.len() < PINS_MAX => self.pin(areas),
            _ => {}
        }
    }

    fn pin(&mut self, areas: &[PfnRange]) {
        let index = self.rng.below(self.programs.pages() as u64) as usize;
        let Some(page) = self.programs.page(index) else {
            return;
        };
        let Some(range) = self.programs.range_of(page) else {
            return;
        };
        let was_in_area = areas.iter().any(|area| area.overlaps(&range));
        let owner = self.rng.below(self.owners.len() as u64) as usize;
        let kind = self.rng.pick(&[
            Kind::Long,
            Kind::Short,
            Kind::Lease(Manner::Prompt),
            Kind::Lease(Manner::Late),
            Kind::Lease(Manner::Stubborn),
            Kind::Lease(Manner::Immovable),
        ]);
        let before = (self.memory.pins().len(), self.account.charged());
        self.programs.keep(page);
        match self.ask(owner, range, kind) {
            Ok(pin) => {
                if kind == Kind::Long && was_in_area {
                    self.moved_out += 1;
                    assert_ne!(pin.ranges(), &[range]);
                }
                self.held.push(Held {
                    pin,
                    page,
                    owner,
                    kind,
                });
            }
            Err(error) => {
                self.programs.unkeep(page);
                let after = (self.memory.pins().len(), self.account.charged());
                assert_eq!(before, after, "{error} left a trace");
                if let PinError::Limit(over) = error {
                    assert!(over.charged + over.asked > LIMIT, "{over}");
                }
            }
        }
    }

    fn ask(&self, owner: usize, range: PfnRange, kind: Kind) -> Result<Pin, PinError> {
        let owner = self.owners[owner];
        match kind {
            Kind::Long => self.memory.pin_long_term(owner, &[range], &LIMITS),
            Kind::Short => {
                let deadline = Instant::from_nanos(u64::MAX);
                self.memory.pin_short_term(owner, &[range], deadline)
            }
            Kind::Lease(manner) => {
                let ended = self.ended.clone();
                let revoker: Arc<dyn Revoke> = Arc::new(Revoker { ended });
                let holder = Holder {
                    memory: Arc::downgrade(&self.memory),
                    manner,
                    ended: self.ended.clone(),
                };
                let terms = LeaseTerms {
                    holder: Arc::new(holder),
                    hold_max: HOLD_MAX,
                    revoker: (manner == Manner::Stubborn).then_some(revoker),
                };
                self.memory.lease(owner, &[range], terms)
            }
        }
    }

    /// Lets go of what was recalled or revoked.
    pub fn forget_ended(&mut self) {
        let ended = std::mem::take(&mut *self.ended.lock().unwrap());
        for held in std::mem::take(&mut self.held) {
            if ended.contains(&held.pin.id()) {
                self.recalled += 1;
                self.programs.unkeep(held.page);
                assert!(self.memory.unpin(held.pin).is_err());
            } else {
                self.held.push(held);
            }
        }
    }

    fn release(&self, held: Held) {
        self.memory.unpin(held.pin).unwrap();
        self.programs.unkeep(held.page);
    }

    /// Accounts agree with a count, and no long-term pin is where it may not be.
    pub fn check(&self, memory: &Memory, areas: &[PfnRange]) {
        let ended = self.ended.lock().unwrap().clone();
        let live = || {
            let held = self.held.iter();
            held.filter(|held| !ended.contains(&held.pin.id()))
        };
        let mut sum = 0;
        for (index, owner) in self.owners.iter().enumerate() {
            let mut frames = BTreeSet::new();
            for held in live().filter(|held| held.owner == index) {
                for range in held.pin.ranges() {
                    frames.extend(range.start().raw()..range.end().raw());
                }
            }
            let info = memory.pin_owner(*owner).unwrap();
            assert_eq!(info.frames, frames.len() as u64, "owner {index}");
            sum += info.frames;
        }
        assert_eq!(self.account.charged(), sum);
        assert!(sum <= LIMIT);
        for held in live().filter(|held| held.kind == Kind::Long) {
            for range in held.pin.ranges() {
                assert!(!areas.iter().any(|area| area.overlaps(range)), "{range}");
                let of = memory.allocator().migrate_type(range.start());
                assert_ne!(of, Some(MigrateType::MovableOnly), "{range}");
                assert_ne!(of, Some(MigrateType::Contiguous), "{range}");
            }
            let now = self.programs.range_of(held.page);
            assert_eq!(
                now,
                held.pin.ranges().first().copied(),
                "a pinned page moved"
            );
        }
    }

    pub fn end(&mut self) {
        self.forget_ended();
        while let Some(held) = self.held.pop() {
            self.release(held);
        }
        assert_eq!(self.account.charged(), 0);
        assert!(self.memory.pins().is_empty());
    }
}
