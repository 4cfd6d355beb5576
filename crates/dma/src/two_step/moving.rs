//! Memory that moves under a sealed request.

use core::fmt;
use core::marker::PhantomData;
use core::panic::Location;

use dmakit_addr::{Direction, DirectionType, DmaAddr, PhysAddr, PhysRange};
use dmakit_iommu::WithholdError;
use dmakit_platform::Platform;

use super::state::{Flag, State};
use super::{LinkError, Sealed};
use crate::check::{Checker, Event, Kind};
use crate::{Device, DmaSegment, StrictDomain, SyncError, Translate};

/// Memory of a request that its device does not reach, so that it can move.
///
/// It borrows the request, which cannot be ended meanwhile. Forgetting one leaves the memory out of
/// the device's reach.
#[must_use = "a dropped one leaves the memory out of reach; readmit it"]
#[derive(Debug)]
pub struct Moving<'r> {
    withheld: dmakit_iommu::Withheld,
    direction: Direction,
    request: PhantomData<&'r State>,
}

impl Moving<'_> {
    /// Where the device will find it.
    pub fn memory(&self) -> PhysAddr {
        self.withheld.memory()
    }

    /// Lets the request lead to `to`, where every byte has been copied.
    ///
    /// # Errors
    /// [`StaysPut::Domain`]: it leads where it led.
    pub fn redirect(&mut self, to: PhysAddr) -> Result<(), StaysPut> {
        self.withheld.redirect(to).map_err(StaysPut::Domain)
    }
}

/// Why memory cannot move under its mapping. Nothing has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum StaysPut {
    /// The device reaches it where it is: no IOMMU stands between.
    Untranslated,
    /// Part of the request lies in slots.
    Bounced,
    /// The device goes past the CPU's caches, which the copy leaves as they are.
    NotCoherent,
    /// Not a part of the request, or not this device's.
    Request(LinkError),
    /// The domain cannot.
    Domain(WithholdError),
}

impl fmt::Display for StaysPut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Untranslated => f.write_str("no IOMMU stands between"),
            Self::Bounced => f.write_str("part of it lies in bounce slots"),
            Self::NotCoherent => f.write_str("the device goes past the CPU's caches"),
            Self::Request(error) => error.fmt(f),
            Self::Domain(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for StaysPut {}

impl<'m, P: Platform, M, C: Checker<'m>, T: Translate> Device<'m, P, M, C, T> {
    /// Keeps the device from `len` bytes of a request, counted from its first granule, whole leaves
    /// of contiguous memory: by calling this a driver allows them to move. When this returns, what
    /// the device wrote there has landed, and until they are [readmitted](Self::readmit) all that it
    /// tries there faults: its driver starts nothing meanwhile, or starts again what faulted.
    ///
    /// Copy, [redirect](Moving::redirect), readmit; the device goes on with the same addresses. What
    /// is not given here stays put: one-step mappings, whose memory the token owns where it is;
    /// coherent, bounced and identity-mapped memory. Never sleeps; spins, for a bounded time.
    ///
    /// # Errors
    /// [`StaysPut`].
    #[track_caller]
    pub fn withhold<'r, D: DirectionType>(
        &self,
        request: &'r Sealed<D>,
        offset: u64,
        len: u64,
    ) -> Result<Moving<'r>, StaysPut> {
        let state = &request.request.state;
        self.check_state(state).map_err(StaysPut::Request)?;
        let domain = self.translation().ok_or(StaysPut::Untranslated)?;
        if state.has(Flag::BOUNCED) {
            return Err(StaysPut::Bounced);
        }
        if !self.info.is_coherent() {
            return Err(StaysPut::NotCoherent);
        }
        let granule = domain.granule();
        let linked = state.range(granule).slice(0, state.span(granule));
        let part = linked.and_then(|linked| linked.slice(offset, len));
        let part = part.ok_or(StaysPut::Request(LinkError::NotLinked { offset, len }))?;
        let withheld = domain.withhold(part).map_err(StaysPut::Domain)?;
        let caller = Location::caller();
        if C::IS_WATCHING {
            let event = event_of(&withheld, D::DIRECTION).by(caller);
            self.checker.withheld(&self.info, &event);
        }
        Ok(Moving {
            withheld,
            direction: D::DIRECTION,
            request: PhantomData,
        })
    }

    /// Lets the device in again, to wherever the request leads now.
    ///
    /// # Errors
    /// What moves, where it is another domain's. The inner error, where hardware that caches the
    /// absence of mappings takes no commands.
    pub fn readmit<'r>(&self, moving: Moving<'r>) -> Result<Result<(), SyncError>, Moving<'r>> {
        let Some(domain) = self.translation() else {
            return Err(moving);
        };
        let Moving {
            withheld,
            direction,
            request,
        } = moving;
        let event = event_of(&withheld, direction);
        let memory = PhysRange::new(withheld.memory(), event.len);
        let readmitted = domain.readmit(withheld).map_err(|withheld| Moving {
            withheld,
            direction,
            request,
        })?;
        if let (Ok(memory), true) = (memory, C::IS_WATCHING) {
            self.checker.readmitted(&self.info, &event, memory);
        }
        Ok(readmitted)
    }
}

/// The addresses that are out of reach.
fn event_of(withheld: &dmakit_iommu::Withheld, direction: Direction) -> Event {
    let range = withheld.range();
    let segment = DmaSegment {
        addr: DmaAddr::new(range.start().raw()),
        len: range.len(),
    };
    Event::new(Kind::Request, segment, direction)
}
