//! All pins of a machine.

use alloc::sync::Arc;
use alloc::vec::Vec;

use dmakit_addr::PfnRange;
use dmakit_platform::{Instant, Platform, SleepMutex};

use crate::account::Account;
use crate::coverage::Coverage;
use crate::pin::{LeaseTerms, PinError, PinId, PinInfo, PinKind, PinOwner, PinOwnerInfo};

/// Who holds what. A sleeping lock under which no other is taken and nobody is called.
pub(crate) struct PinTable<P: Platform> {
    books: SleepMutex<P, Books>,
}

#[derive(Default)]
pub(crate) struct Books {
    /// By number, ascending: numbers are given out in order.
    owners: Vec<Owner>,
    pins: Vec<Entry>,
    last: u64,
}

struct Owner {
    number: u64,
    account: Arc<Account>,
    coverage: Coverage,
}

/// One pin.
pub(crate) struct Entry {
    pub(crate) id: PinId,
    pub(crate) owner: PinOwner,
    pub(crate) kind: PinKind,
    pub(crate) ranges: Vec<PfnRange>,
    pub(crate) since: Instant,
    pub(crate) expires: Option<Instant>,
    pub(crate) terms: Option<LeaseTerms>,
}

impl Entry {
    pub(crate) fn info(&self) -> PinInfo {
        PinInfo {
            id: self.id,
            owner: self.owner,
            kind: self.kind,
            frames: self.ranges.iter().map(PfnRange::len).sum(),
            since: self.since,
            expires: self.expires,
        }
    }

    pub(crate) fn overlaps(&self, frames: PfnRange) -> bool {
        self.ranges.iter().any(|range| range.overlaps(&frames))
    }
}

impl<P: Platform> PinTable<P> {
    pub(crate) fn new() -> Self {
        Self {
            books: SleepMutex::<P, _>::new(Books::default()),
        }
    }

    /// One step under the lock.
    pub(crate) fn locked<T>(&self, step: impl FnOnce(&mut Books) -> T) -> T {
        step(&mut self.books.lock())
    }
}

impl Books {
    pub(crate) fn add_owner(&mut self, account: Arc<Account>) -> Result<PinOwner, PinError> {
        self.owners.try_reserve(1).map_err(|_| PinError::NoMemory)?;
        self.last += 1;
        self.owners.push(Owner {
            number: self.last,
            account,
            coverage: Coverage::default(),
        });
        Ok(PinOwner(self.last))
    }

    fn owner(&mut self, owner: PinOwner) -> Result<&mut Owner, PinError> {
        let found = self
            .owners
            .binary_search_by_key(&owner.0, |owner| owner.number);
        let index = found.map_err(|_| PinError::NoOwner(owner))?;
        Ok(&mut self.owners[index])
    }

    pub(crate) fn owner_info(&self, owner: PinOwner) -> Option<PinOwnerInfo> {
        let found = self
            .owners
            .binary_search_by_key(&owner.0, |owner| owner.number);
        let frames = self.owners[found.ok()?].coverage.frames();
        let pins = self.pins.iter().filter(|pin| pin.owner == owner).count();
        Some(PinOwnerInfo { frames, pins })
    }

    /// Takes out one pin of an owner, or the owner itself once it has none.
    pub(crate) fn remove_from(&mut self, owner: PinOwner) -> Option<Entry> {
        if let Some(index) = self.pins.iter().rposition(|pin| pin.owner == owner) {
            let id = self.pins[index].id;
            return self.take(id);
        }
        let found = self
            .owners
            .binary_search_by_key(&owner.0, |owner| owner.number);
        let owner = self.owners.remove(found.ok()?);
        // Charged for pins that are only being made.
        owner.account.uncharge(owner.coverage.frames());
        None
    }

    /// Charges an owner for frames, each once however often it holds them.
    pub(crate) fn charge(&mut self, owner: PinOwner, ranges: &[PfnRange]) -> Result<(), PinError> {
        let owner = self.owner(owner)?;
        let room = owner.coverage.reserve(ranges.len());
        room.map_err(|_| PinError::NoMemory)?;
        let fresh = ranges.iter().map(|range| owner.coverage.add(*range)).sum();
        owner.account.charge(fresh).map_err(|error| {
            for range in ranges {
                owner.coverage.remove(*range);
            }
            PinError::Limit(error)
        })
    }

    pub(crate) fn uncharge(&mut self, owner: PinOwner, ranges: &[PfnRange]) {
        if let Ok(owner) = self.owner(owner) {
            let gone = ranges.iter().map(|range| owner.coverage.remove(*range));
            owner.account.uncharge(gone.sum());
        }
    }

    /// Enters a pin, whose owner was charged for `asked`, frames that may have moved meanwhile.
    pub(crate) fn enter(&mut self, entry: Entry, asked: &[PfnRange]) -> Result<PinId, PinError> {
        self.pins.try_reserve(1).map_err(|_| PinError::NoMemory)?;
        if entry.ranges != asked {
            self.move_charge(entry.owner, asked, &entry.ranges)?;
        } else {
            self.owner(entry.owner)?;
        }
        self.last += 1;
        let id = PinId(self.last);
        self.pins.push(Entry { id, ..entry });
        Ok(id)
    }

    /// As many frames, so the charge is the same, unless the owner holds some of them otherwise.
    fn move_charge(
        &mut self,
        owner: PinOwner,
        from: &[PfnRange],
        to: &[PfnRange],
    ) -> Result<(), PinError> {
        let Owner {
            account, coverage, ..
        } = self.owner(owner)?;
        let room = coverage.reserve(to.len());
        room.map_err(|_| PinError::NoMemory)?;
        let fresh: u64 = to.iter().map(|range| coverage.add(*range)).sum();
        let gone: u64 = from.iter().map(|range| coverage.remove(*range)).sum();
        let charged = account.charge(fresh.saturating_sub(gone));
        if let Err(error) = charged {
            from.iter().for_each(|range| {
                coverage.add(*range);
            });
            to.iter().for_each(|range| {
                coverage.remove(*range);
            });
            return Err(PinError::Limit(error));
        }
        account.uncharge(gone.saturating_sub(fresh));
        Ok(())
    }

    /// Takes a pin out and its charge back.
    pub(crate) fn take(&mut self, id: PinId) -> Option<Entry> {
        let found = self.pins.binary_search_by_key(&id, |pin| pin.id);
        let entry = self.pins.remove(found.ok()?);
        self.uncharge(entry.owner, &entry.ranges);
        Some(entry)
    }

    pub(crate) fn has_leases(&self) -> bool {
        self.pins.iter().any(|pin| pin.terms.is_some())
    }

    pub(crate) fn pins(&self) -> &[Entry] {
        &self.pins
    }

    pub(crate) fn pins_mut(&mut self) -> &mut [Entry] {
        &mut self.pins
    }
}
