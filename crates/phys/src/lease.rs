//! Leases, called in.

use alloc::collections::TryReserveError;
use alloc::sync::Arc;
use alloc::vec::Vec;

use dmakit_addr::PfnRange;
use dmakit_platform::{Instant, Platform};

use crate::buddy::Hold;
use crate::claim::ClaimLimits;
use crate::claim_error::Obstacle;
use crate::frame::Frame;
use crate::migration::Migrate;
use crate::movable_memory::{Failed, MovableMemory};
use crate::pin::{LeaseHolder, PinId, Revoke};
use crate::pin_table::Entry;

/// A lease in the way: the one that expires first.
struct Pending {
    id: PinId,
    expires: Instant,
    revoker: Option<Arc<dyn Revoke>>,
}

impl<P: Platform, S: AsRef<[Frame]> + AsMut<[Frame]>, M: Migrate> MovableMemory<P, S, M> {
    /// Asks the holders of all leases on frames of `range` to let go, each once.
    pub(crate) fn recall(&self, range: PfnRange) {
        while let Some((id, until, holder)) = self.next_to_recall(range) {
            holder.recall(id, until);
        }
    }

    /// The frames in `within` whose leases may last beyond `deadline` whatever is done.
    ///
    /// # Errors
    /// There is no memory to note them.
    pub(crate) fn unrecallable(
        &self,
        within: &[PfnRange],
        deadline: Instant,
    ) -> Result<Vec<PfnRange>, TryReserveError> {
        let mut frames = Vec::new();
        // Most often there are none, and no need for the time.
        if !self.pins.locked(|books| books.has_leases()) {
            return Ok(frames);
        }
        let now = self.platform.now();
        self.pins.locked(|books| {
            for pin in books.pins() {
                let Some(terms) = &pin.terms else { continue };
                let expires = pin.expires.unwrap_or(now.saturating_add(terms.hold_max));
                if expires >= deadline {
                    let inside =
                        |range: &&PfnRange| within.iter().any(|within| within.overlaps(range));
                    let inside = pin.ranges.iter().filter(inside);
                    frames.try_reserve(pin.ranges.len())?;
                    frames.extend(inside);
                }
            }
            Ok(frames)
        })
    }

    fn next_to_recall(&self, range: PfnRange) -> Option<(PinId, Instant, Arc<dyn LeaseHolder>)> {
        let now = self.platform.now();
        self.pins.locked(|books| {
            let mut pins = books.pins_mut().iter_mut();
            pins.find_map(|pin| {
                let terms = pin.terms.as_ref().filter(|_| pin.expires.is_none())?;
                if !pin.ranges.iter().any(|held| held.overlaps(&range)) {
                    return None;
                }
                let until = now.saturating_add(terms.hold_max);
                pin.expires = Some(until);
                Some((pin.id, until, terms.holder.clone()))
            })
        })
    }

    /// Waits until no lease holds any of `frames`, the frames of an allocation; revokes those that
    /// expired.
    pub(crate) fn end_leases(&self, frames: PfnRange, limits: &ClaimLimits) -> Result<(), Failed> {
        let (mut tried, mut last) = (0, None);
        loop {
            self.recall(frames);
            let Some(pending) = self.next_to_expire(frames) else {
                return Ok(());
            };
            let now = self.platform.now();
            if pending.expires <= now {
                self.revoke(&pending)?;
                continue;
            }
            // A clock that stands still is no reason to wait for ever.
            tried = if last == Some(now) { tried + 1 } else { 0 };
            if now >= limits.deadline || tried > limits.tries {
                return Err(Failed::For(Obstacle::Leased));
            }
            last = Some(now);
            self.movers.pause(pending.expires.min(limits.deadline));
        }
    }

    fn next_to_expire(&self, frames: PfnRange) -> Option<Pending> {
        self.pins.locked(|books| {
            let pins = books.pins().iter();
            let leases = pins.filter(|pin| pin.overlaps(frames));
            let recalled = leases.filter_map(|pin| Some((pin.expires?, pin)));
            let (expires, first) = recalled.min_by_key(|(expires, _)| *expires)?;
            Some(Pending {
                id: first.id,
                expires,
                revoker: first.terms.as_ref()?.revoker.clone(),
            })
        })
    }

    /// What a pin holds, as long as there is one, and memory to note it.
    fn frames_of(&self, id: PinId) -> Option<Result<Vec<PfnRange>, TryReserveError>> {
        self.pins.locked(|books| {
            let pin = books.pins().iter().find(|pin| pin.id == id)?;
            let mut ranges = Vec::new();
            let room = ranges.try_reserve_exact(pin.ranges.len());
            Some(room.map(|()| {
                ranges.extend_from_slice(&pin.ranges);
                ranges
            }))
        })
    }

    /// Takes the frames of an expired lease from the device, before anything moves.
    fn revoke(&self, lease: &Pending) -> Result<(), Failed> {
        let leased = Failed::For(Obstacle::Leased);
        let Some(revoker) = &lease.revoker else {
            return Err(leased);
        };
        // Its owner is called with no lock held, and the frames are in the table.
        let ranges = match self.frames_of(lease.id) {
            Some(Ok(ranges)) => ranges,
            Some(Err(_)) => return Err(leased),
            None => return Ok(()),
        };
        if revoker.revoke(lease.id, &ranges).is_err() {
            return Err(leased);
        }
        // Its holder may have given it back at the last moment.
        let entry: Option<Entry> = self.pins.locked(|books| books.take(lease.id));
        if let Some(entry) = entry {
            self.unhold_all(&entry.ranges, Hold::Lease);
        }
        Ok(())
    }
}
