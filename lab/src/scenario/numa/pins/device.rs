//! The driver of a device that shares pages, and holds them in one way or another.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use dmakit_addr::{DmaAddr, PfnRange};
use dmakit_phys::{Account, ClaimLimits, LeaseHolder, LeaseTerms, Pin, PinId, PinOwner};
use dmakit_platform::Instant;
use dmakit_sim::{LineLoan, PageId, Programs, Rng, SimDevice, Transfer};

use crate::scenario::numa::shared::{Shared, iova};
use crate::scenario::numa::system::Movable;
use crate::scenario::page::HoldWord;

/// How long the driver may take to let its device rest.
const HOLD_MAX: Duration = Duration::from_micros(50);
const LIMITS: ClaimLimits = ClaimLimits {
    deadline: Instant::from_nanos(u64::MAX),
    tries: 4,
};
/// Tries of a write that faults.
const TRIES_MAX: u32 = 1000;

/// Leases that were called in.
type Ended = Arc<Mutex<BTreeSet<PinId>>>;

/// Lets the device rest when the memory system asks, and gives the lease back.
struct Holder {
    memory: Weak<Movable<Shared>>,
    device: SimDevice,
    rests: bool,
    ended: Ended,
}

impl LeaseHolder for Holder {
    fn recall(&self, lease: PinId, _: Instant) {
        let Some(memory) = self.memory.upgrade() else {
            return;
        };
        if self.rests {
            // What is on its way lands where the entry still leads, and nothing new is begun.
            self.device.drain();
        }
        if memory.end_lease(lease).is_ok() {
            let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
            ended.insert(lease);
        }
    }
}

/// A page that the device shares.
struct SharedPage {
    page: PageId,
    pin: Option<Pin>,
}

/// A write on its way.
struct Write {
    at: DmaAddr,
    bytes: Vec<u8>,
    loans: Vec<LineLoan>,
    transfer: Transfer,
}

/// The driver.
pub struct Sharer {
    memory: Arc<Movable<Shared>>,
    programs: Programs,
    by: HoldWord,
    rests: bool,
    owner: PinOwner,
    rng: Rng,
    pages: Vec<SharedPage>,
    under_way: Vec<Write>,
    ended: Ended,
    recalled: u64,
    pub writes: u64,
    pub written_bytes: u64,
    /// Times that the device met a page on its way elsewhere.
    pub faults: u64,
}

impl Sharer {
    pub fn new(
        memory: &Arc<Movable<Shared>>,
        by: HoldWord,
        rests: bool,
        account: Arc<Account>,
        seed: u64,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            memory: memory.clone(),
            programs: memory.movers().programs().clone(),
            by,
            rests,
            owner: memory.add_pin_owner(account)?,
            rng: Rng::derived(seed, 0x5ba9),
            pages: Vec::new(),
            under_way: Vec::new(),
            ended: Ended::default(),
            recalled: 0,
            writes: 0,
            written_bytes: 0,
            faults: 0,
        })
    }

    /// Shares pages with the device, held as they are to be; says how many left the area for that.
    pub fn share(&mut self, pages: &[PageId], area: &[PfnRange]) -> anyhow::Result<u64> {
        let mut left = 0;
        for &page in pages {
            let pin = self.hold(page)?;
            let range = self.range_of(page)?;
            left += u64::from(!area.iter().any(|area| area.overlaps(&range)));
            self.memory.movers().devices().share(page, range)?;
            self.pages.push(SharedPage { page, pin });
        }
        Ok(left)
    }

    fn range_of(&self, page: PageId) -> anyhow::Result<PfnRange> {
        let range = self.programs.range_of(page);
        range.ok_or_else(|| anyhow::anyhow!("{page} is gone"))
    }

    fn hold(&self, page: PageId) -> anyhow::Result<Option<Pin>> {
        let range = [self.range_of(page)?];
        let pin = match self.by {
            HoldWord::Nothing => return Ok(None),
            HoldWord::Pin => self.memory.pin_long_term(self.owner, &range, &LIMITS)?,
            HoldWord::ShortPin => {
                let deadline = Instant::from_nanos(u64::MAX);
                self.memory.pin_short_term(self.owner, &range, deadline)?
            }
            HoldWord::Lease => {
                let holder = Holder {
                    memory: Arc::downgrade(&self.memory),
                    device: self.memory.movers().devices().device().clone(),
                    rests: self.rests,
                    ended: self.ended.clone(),
                };
                let terms = LeaseTerms {
                    holder: Arc::new(holder),
                    hold_max: HOLD_MAX,
                    revoker: None,
                };
                self.memory.lease(self.owner, &range, terms)?
            }
        };
        Ok(Some(pin))
    }

    /// Pages that a claim finds in its way.
    pub fn in_the_way(&self) -> BTreeSet<PageId> {
        let pages = self.pages.iter().map(|shared| shared.page);
        match self.by {
            HoldWord::Pin | HoldWord::ShortPin => pages.collect(),
            HoldWord::Lease | HoldWord::Nothing => BTreeSet::new(),
        }
    }

    /// The frames of long-term pins.
    pub fn long_term(&self) -> impl Iterator<Item = PfnRange> + '_ {
        let pins = self.pages.iter().filter_map(|shared| shared.pin.as_ref());
        let pins = pins.filter(|_| self.by == HoldWord::Pin);
        pins.flat_map(|pin| pin.ranges().iter().copied())
    }

    /// How many leases were called in.
    pub fn recalled(&self) -> u64 {
        self.recalled
    }

    /// The device begins to write to some of its pages.
    pub fn begin_writes(&mut self, count: u64) -> anyhow::Result<()> {
        for _ in 0..count {
            let index = self.rng.below(self.pages.len() as u64) as usize;
            let Some(page) = self.pages.get(index).map(|shared| shared.page) else {
                return Ok(());
            };
            let first = self.rng.below(64) as usize;
            let lines = first..64;
            let loans = lines.map_while(|line| self.programs.lend_line(page, line));
            let loans: Vec<LineLoan> = loans.collect();
            let Some(offset) = loans.first().map(LineLoan::offset) else {
                continue;
            };
            let bytes: Vec<u8> = loans
                .iter()
                .flat_map(|loan| loan.bytes())
                .copied()
                .collect();
            let at = DmaAddr::new(iova(page).raw() + offset);
            let device = self.memory.movers().devices().device();
            let transfer = device.start_write(at, &bytes);
            self.writes += 1;
            self.written_bytes += bytes.len() as u64;
            self.under_way.push(Write {
                at,
                bytes,
                loans,
                transfer,
            });
        }
        Ok(())
    }

    /// Every write to its end: one that faults is tried again, as with page requests.
    pub fn end_writes(&mut self) -> anyhow::Result<()> {
        let device = self.memory.movers().devices().device().clone();
        for write in std::mem::take(&mut self.under_way) {
            let mut outcome = device.complete(write.transfer).map(|_| ());
            let mut tries = 0;
            while let Err(fault) = outcome {
                self.faults += 1;
                tries += 1;
                if tries > TRIES_MAX {
                    anyhow::bail!("the device does not get through: {fault}");
                }
                outcome = device.write(write.at, &write.bytes);
            }
            for loan in write.loans {
                self.programs.finish_line(loan, true);
            }
        }
        self.memory.movers().devices().drop_events();
        Ok(())
    }

    /// Leases that were called in are taken anew, wherever the pages are now.
    pub fn hold_again(&mut self) -> anyhow::Result<()> {
        let ended = std::mem::take(&mut *self.ended.lock().unwrap_or_else(PoisonError::into_inner));
        for index in 0..self.pages.len() {
            let shared = &mut self.pages[index];
            let is_over = |pin: &Pin| ended.contains(&pin.id());
            if shared.pin.as_ref().is_some_and(is_over) {
                self.recalled += 1;
                let page = shared.page;
                self.pages[index].pin = self.hold(page)?;
            }
        }
        Ok(())
    }

    /// The driver goes, and its pins with it.
    pub fn leave(mut self) {
        for shared in self.pages.drain(..) {
            // A pin that is over already is no news.
            let _ = shared.pin.map(|pin| self.memory.unpin(pin));
        }
        self.memory.remove_pin_owner(self.owner);
    }
}
