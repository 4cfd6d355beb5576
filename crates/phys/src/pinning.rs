//! Pinning, and giving back.

use alloc::sync::Arc;
use alloc::vec::Vec;

use dmakit_addr::{Pfn, PfnRange};
use dmakit_platform::{Instant, Platform};

use crate::account::Account;
use crate::buddy::{Hold, NotHeld, frame_range};
use crate::claim::ClaimLimits;
use crate::claim_error::Obstacle;
use crate::frame::{Frame, MigrateType};
use crate::migration::{Migrate, MigrationCause};
use crate::movable_memory::{Destination, Failed, MovableMemory};
use crate::pin::{
    LeaseTerms, NoPin, Pin, PinError, PinId, PinInfo, PinKind, PinOwner, PinOwnerInfo,
};
use crate::pin_table::Entry;

/// Goes where nothing has to be kept clear, and is held from the moment it is there.
const TO_STAY: Destination = Destination {
    node: None,
    only_node: false,
    blocks: MigrateType::Unmovable,
    hold: Some(Hold::LongTerm),
};

/// Busy frames are asked once more, no longer.
const AT_ONCE: ClaimLimits = ClaimLimits {
    deadline: Instant::from_nanos(u64::MAX),
    tries: 1,
};

impl PinKind {
    pub(crate) fn hold(self) -> Hold {
        match self {
            Self::LongTerm => Hold::LongTerm,
            Self::ShortTerm { .. } => Hold::ShortTerm,
            Self::Lease { .. } => Hold::Lease,
        }
    }
}

impl<P: Platform, S: AsRef<[Frame]> + AsMut<[Frame]>, M: Migrate> MovableMemory<P, S, M> {
    /// Makes an owner of pins known, whose frames are charged to `account`. Several may share one.
    ///
    /// # Errors
    /// [`PinError::NoMemory`].
    pub fn add_pin_owner(&self, account: Arc<Account>) -> Result<PinOwner, PinError> {
        self.pins.locked(|books| books.add_owner(account))
    }

    /// An owner goes, and all its pins and leases with it. Its devices must not reach the frames any
    /// more. May sleep.
    pub fn remove_pin_owner(&self, owner: PinOwner) {
        while let Some(entry) = self.pins.locked(|books| books.remove_from(owner)) {
            self.unhold_all(&entry.ranges, entry.kind.hold());
        }
    }

    /// Pins frames without an end, all or none. They are charged to the owner, each once however
    /// often it pins it, and stay where they are until the pin is given back; the whole allocations
    /// that they lie in stay with them. What lies in a contiguous area or a movable range moves out
    /// first, so [`Pin::ranges`] says where the frames are now.
    ///
    /// Frames are pinned, whoever's they are: memory that moved away just before may have left its
    /// place to another. Whoever pins what others may move looks once more who owns it afterwards,
    /// and gives the pin back where that has changed; the other's free is refused meanwhile
    /// ([`FreeReason::Pinned`](crate::FreeReason::Pinned)).
    ///
    /// `limits` say how often what is busy is asked again, and until when. May sleep.
    ///
    /// # Errors
    /// [`PinError`] names the frames and what is wrong. Nothing is pinned or charged; what has
    /// moved stays where it is now.
    pub fn pin_long_term(
        &self,
        owner: PinOwner,
        ranges: &[PfnRange],
        limits: &ClaimLimits,
    ) -> Result<Pin, PinError> {
        self.pin(owner, ranges, PinKind::LongTerm, None, limits)
    }

    /// Pins frames for one transfer, where they are, also in areas. A claim meets them as an
    /// obstacle; nobody breaks them, and once `deadline` has passed [`overdue_pins`] reports them.
    /// May sleep.
    ///
    /// [`overdue_pins`]: Self::overdue_pins
    ///
    /// # Errors
    /// [`PinError`]; nothing has changed then.
    pub fn pin_short_term(
        &self,
        owner: PinOwner,
        ranges: &[PfnRange],
        deadline: Instant,
    ) -> Result<Pin, PinError> {
        self.pin(
            owner,
            ranges,
            PinKind::ShortTerm { deadline },
            None,
            &AT_ONCE,
        )
    }

    /// Leases frames, where they are: a pin that claims may recall. May sleep.
    ///
    /// # Errors
    /// [`PinError`]; nothing has changed then.
    pub fn lease(
        &self,
        owner: PinOwner,
        ranges: &[PfnRange],
        terms: LeaseTerms,
    ) -> Result<Pin, PinError> {
        let hold_max = terms.hold_max;
        let kind = PinKind::Lease { hold_max };
        self.pin(owner, ranges, kind, Some(terms), &AT_ONCE)
    }

    /// Gives a pin or lease back. Takes a step for each allocation. May sleep.
    ///
    /// # Errors
    /// [`NoPin`]: its owner went, or the lease was revoked; its frames are not held any more.
    pub fn unpin(&self, pin: Pin) -> Result<(), NoPin> {
        let entry = self.pins.locked(|books| books.take(pin.id));
        let entry = entry.ok_or(NoPin(pin.id))?;
        self.unhold_all(&entry.ranges, entry.kind.hold());
        Ok(())
    }

    /// The same for a lease that is only known by its number, as a recall says it.
    ///
    /// # Errors
    /// [`NoPin`], also where the number is that of a pin.
    pub fn end_lease(&self, lease: PinId) -> Result<(), NoPin> {
        let entry = self.pins.locked(|books| {
            let is_lease = |pin: &&Entry| pin.id == lease && pin.terms.is_some();
            books.pins().iter().find(is_lease)?;
            books.take(lease)
        });
        let entry = entry.ok_or(NoPin(lease))?;
        self.unhold_all(&entry.ranges, entry.kind.hold());
        Ok(())
    }

    /// All pins, in the order in which they were made. Allocates.
    pub fn pins(&self) -> Vec<PinInfo> {
        self.pins
            .locked(|books| books.pins().iter().map(Entry::info).collect())
    }

    /// The pins that hold a frame. Allocates.
    pub fn pins_on(&self, frame: Pfn) -> Vec<PinInfo> {
        let one = frame_range(frame.raw(), frame.raw() + 1);
        self.pins.locked(|books| {
            let pins = books.pins().iter().filter(|pin| pin.overlaps(one));
            pins.map(Entry::info).collect()
        })
    }

    /// Short-term pins past their deadline, and recalled leases past theirs. Allocates.
    pub fn overdue_pins(&self, now: Instant) -> Vec<PinInfo> {
        let mut pins = self.pins();
        pins.retain(|pin| pin.is_overdue(now));
        pins
    }

    /// What an owner holds; `None` where there is no such owner.
    pub fn pin_owner(&self, owner: PinOwner) -> Option<PinOwnerInfo> {
        self.pins.locked(|books| books.owner_info(owner))
    }

    fn pin(
        &self,
        owner: PinOwner,
        ranges: &[PfnRange],
        kind: PinKind,
        terms: Option<LeaseTerms>,
        limits: &ClaimLimits,
    ) -> Result<Pin, PinError> {
        check_ranges(ranges)?;
        self.pins.locked(|books| books.charge(owner, ranges))?;
        let mut held = Vec::new();
        let entered = self
            .hold_all(ranges, kind.hold(), limits, &mut held)
            .and_then(|()| {
                let entry = Entry {
                    id: PinId(0),
                    owner,
                    kind,
                    ranges: held.clone(),
                    since: self.platform.now(),
                    expires: None,
                    terms,
                };
                self.pins.locked(|books| books.enter(entry, ranges))
            });
        entered
            .map(|id| Pin {
                id,
                ranges: held.clone(),
            })
            .inspect_err(|_| {
                self.unhold_all(&held, kind.hold());
                self.pins.locked(|books| books.uncharge(owner, ranges));
            })
    }

    /// Holds every allocation that `ranges` have frames in, and says in `held` which frames these
    /// are now; on failure those held so far.
    fn hold_all(
        &self,
        ranges: &[PfnRange],
        hold: Hold,
        limits: &ClaimLimits,
        held: &mut Vec<PfnRange>,
    ) -> Result<(), PinError> {
        for range in ranges {
            let (mut at, end) = (range.start().raw(), range.end().raw());
            while at < end {
                let span = self.allocator.locked(|buddy| buddy.span_at(at));
                let stop = span.end.min(end);
                let start = self.hold_one(span.start, hold, limits)?;
                let here = start + (at - span.start);
                let piece = frame_range(here, here + (stop - at));
                // What starts inside an allocation may be its second hold.
                match held.last_mut().filter(|last| last.end() == piece.start()) {
                    Some(last) if here == start => {
                        *last = frame_range(last.start().raw(), piece.end().raw());
                    }
                    _ => {
                        held.try_reserve(1).map_err(|_| {
                            self.allocator.locked(|buddy| buddy.unhold(start, hold));
                            PinError::NoMemory
                        })?;
                        held.push(piece);
                    }
                }
                at = stop;
            }
        }
        Ok(())
    }

    /// Holds the allocation that starts at `start`, and says where it starts now.
    fn hold_one(&self, start: u64, hold: Hold, limits: &ClaimLimits) -> Result<u64, PinError> {
        let mut tried = 0;
        loop {
            let span = self.allocator.locked(|buddy| buddy.span_at(start));
            let frames = frame_range(span.start, span.end);
            let outcome = self.allocator.locked(|buddy| buddy.hold(start, hold));
            let why = match outcome {
                Ok(()) => return Ok(start),
                Err(NotHeld::TooMany) => return Err(PinError::TooMany(frames)),
                Err(NotHeld::NotTaken) => Err(Failed::For(Obstacle::NotHere)),
                Err(NotHeld::Passing) => Err(Failed::Now(Obstacle::BeingCleared)),
                Err(NotHeld::MustLeave) => {
                    self.vacate(&span, MigrationCause::LongTermPin, TO_STAY, limits)
                }
            };
            let why = match why {
                Ok(Some(start)) => return Ok(start),
                // Its owner freed it: nobody can pin it any more.
                Ok(None) => return Err(self.pin_blocked(frames, Obstacle::NotHere)),
                Err(Failed::For(why)) => return Err(self.pin_blocked(frames, why)),
                Err(Failed::NoRoom(error)) => return Err(PinError::NoRoom(error)),
                Err(Failed::Now(why)) => why,
            };
            let now = self.platform.now();
            if tried >= limits.tries || now >= limits.deadline {
                return Err(self.pin_blocked(frames, why));
            }
            tried += 1;
            self.movers.pause(now);
        }
    }

    fn pin_blocked(&self, frames: PfnRange, why: Obstacle) -> PinError {
        PinError::Blocked(self.name(frames, why))
    }

    /// Gives up one hold on every allocation that each of `ranges` has frames in.
    pub(crate) fn unhold_all(&self, ranges: &[PfnRange], hold: Hold) {
        for range in ranges {
            let (mut at, end) = (range.start().raw(), range.end().raw());
            while at < end {
                at = self.allocator.locked(|buddy| {
                    let span = buddy.span_at(at);
                    buddy.unhold(span.start, hold);
                    span.end
                });
            }
        }
    }
}

/// Ranges of a pin: some, none of them empty, no two of them overlapping.
fn check_ranges(ranges: &[PfnRange]) -> Result<(), PinError> {
    let mut sorted = Vec::new();
    let room = sorted.try_reserve_exact(ranges.len());
    room.map_err(|_| PinError::NoMemory)?;
    sorted.extend_from_slice(ranges);
    sorted.sort_unstable();
    let apart = sorted
        .windows(2)
        .all(|pair| pair[0].end() <= pair[1].start());
    let full = !sorted.is_empty() && sorted.iter().all(|range| !range.is_empty());
    (apart && full).then_some(()).ok_or(PinError::Ranges)
}
