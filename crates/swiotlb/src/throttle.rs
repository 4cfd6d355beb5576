//! Admission of callers that may sleep, before they take anything.

use core::fmt;

use dmakit_addr::DirectionType;
use dmakit_platform::{CopySource, Instant, Platform};

use crate::layout::Layout;
use crate::sync::{AtomicU64, Ordering};
use crate::{BounceBuffer, BouncePool, DeviceId, DeviceLimits, MapError, MapRequest};

/// The part of all slots that only memory reclaim may reserve: one in eight.
const RECLAIM_SHARE: u64 = 8;

/// What a reservation is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// Anything that can wait for others to unmap.
    Ordinary,
    /// I/O by which memory is reclaimed. It may use the share that ordinary callers leave, because
    /// those may be waiting for the very memory that it frees.
    Reclaim,
}

/// Room for mappings to come, from [`BouncePool::try_reserve`].
///
/// It is room by count: a run for each mapping must still be found, and callers who do not reserve
/// take from the same slots. Give it back with [`BouncePool::release`]; dropping it leaks the room.
#[must_use = "dropping a reservation leaks its room"]
#[derive(Debug)]
pub struct Reservation {
    slots: u64,
}

impl Reservation {
    /// How many slots are left of it.
    pub fn slots(&self) -> u64 {
        self.slots
    }
}

/// Why there is no room yet, or never.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReserveError {
    /// Wait for somebody to unmap, holding nothing, and try again.
    Busy {
        /// How many slots were asked for.
        slots: u64,
        /// How many could be had.
        free: u64,
    },
    /// As busy, and the deadline has passed.
    DeadlinePassed {
        /// How many slots were asked for.
        slots: u64,
        /// How many could be had.
        free: u64,
    },
    /// More than an empty set of pools would grant.
    NeverFits {
        /// How many slots were asked for.
        slots: u64,
        /// The most that is granted.
        limit: u64,
    },
}

impl fmt::Display for ReserveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy { slots, free } => write!(f, "{slots} slots asked, {free} to be had now"),
            Self::DeadlinePassed { slots, free } => {
                write!(
                    f,
                    "{slots} slots asked, {free} to be had when the deadline passed"
                )
            }
            Self::NeverFits { slots, limit } => {
                write!(f, "{slots} slots asked, {limit} granted at most")
            }
        }
    }
}

impl core::error::Error for ReserveError {}

pub(crate) struct Throttle {
    /// Slots reserved and not yet mapped.
    reserved: AtomicU64,
}

impl Throttle {
    pub(crate) fn new() -> Self {
        Self {
            reserved: AtomicU64::new(0),
        }
    }

    /// Adds `slots` where `used` and what is reserved leave room under `limit`.
    fn admit(&self, slots: u64, limit: u64, used: impl Fn() -> u64) -> Result<(), u64> {
        let relaxed = Ordering::Relaxed;
        let room = |reserved: u64| limit.saturating_sub(used().saturating_add(reserved));
        let add = |reserved: u64| (slots <= room(reserved)).then_some(reserved + slots);
        match self.reserved.fetch_update(relaxed, relaxed, add) {
            Ok(_) => Ok(()),
            Err(reserved) => Err(room(reserved)),
        }
    }

    fn leave(&self, slots: u64) {
        self.reserved.fetch_sub(slots, Ordering::Relaxed);
    }
}

impl<P: Platform, M> BouncePool<P, M> {
    /// Reserves room for all mappings that a caller is about to make, before it makes the first:
    /// so nobody holds slots while it waits for more. For callers that may sleep; it does not sleep
    /// itself, the caller waits as its system does and calls again until the deadline. Takes the
    /// lock of each area in turn.
    ///
    /// # Errors
    /// [`ReserveError`]; nothing has changed then.
    pub fn try_reserve(
        &self,
        slots: u64,
        purpose: Purpose,
        now: Instant,
        deadline: Instant,
    ) -> Result<Reservation, ReserveError> {
        let total = self.capacity().regular_slots;
        let limit = match purpose {
            Purpose::Ordinary => total - total / RECLAIM_SHARE,
            Purpose::Reclaim => total,
        };
        if slots > limit {
            return Err(ReserveError::NeverFits { slots, limit });
        }
        match self.throttle.admit(slots, limit, || self.used_exactly()) {
            Ok(()) => Ok(Reservation { slots }),
            Err(free) if now >= deadline => Err(ReserveError::DeadlinePassed { slots, free }),
            Err(free) => Err(ReserveError::Busy { slots, free }),
        }
    }

    /// Gives back what is left of a reservation.
    pub fn release(&self, reservation: Reservation) {
        self.throttle.leave(reservation.slots);
    }

    /// As [`map`](Self::map), on a reservation: its room shrinks by the slots of the mapping.
    ///
    /// # Errors
    /// [`MapError::Reserved`] where the room does not suffice, else as [`map`](Self::map); the
    /// reservation is as before then.
    pub fn map_reserved<D: DirectionType, S: CopySource + ?Sized>(
        &self,
        reservation: &mut Reservation,
        device: DeviceId,
        limits: &DeviceLimits,
        source: &S,
        request: &MapRequest,
    ) -> Result<BounceBuffer<D>, MapError> {
        let MapRequest {
            original,
            len,
            align,
            ..
        } = *request;
        let layout = Layout::new(self.shift, original, len, limits.min_align, align)?;
        let slots = u64::from(layout.slots);
        if slots > reservation.slots {
            return Err(MapError::Reserved {
                slots,
                left: reservation.slots,
            });
        }
        let buffer = self.map(device, limits, source, request)?;
        reservation.slots -= slots;
        self.throttle.leave(slots);
        Ok(buffer)
    }

    /// How many slots a mapping takes, to know how many to reserve.
    ///
    /// # Errors
    /// As [`map`](Self::map) for a request that no pool could serve.
    pub fn slots_of(&self, limits: &DeviceLimits, request: &MapRequest) -> Result<u32, MapError> {
        let MapRequest {
            original,
            len,
            align,
            ..
        } = *request;
        Layout::new(self.shift, original, len, limits.min_align, align).map(|layout| layout.slots)
    }
}
