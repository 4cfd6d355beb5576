//! Taking memory of a request out of the device's reach, while its addresses stay.

use dmakit_addr::{DirectionType, DmaAddr, Iova};
use dmakit_platform::{CopyTarget, Platform};

use super::request::{Request, Sealed};
use super::state::{Flag, State};
use super::{LinkError, Unmoved};
use crate::check::{Checker, Event, Kind};
use crate::debt::Owed;
use crate::{Debt, Device, DmaSegment, StrictDomain, Translate};

impl<'m, P: Platform, M, C: Checker<'m>, T: Translate> Device<'m, P, M, C, T> {
    /// As [`destroy`](Self::destroy), but that the addresses stay the request's, to be linked again;
    /// the next [`link`](Self::link) waits until hardware has forgotten what was linked before.
    ///
    /// # Errors
    /// As [`destroy`](Self::destroy).
    #[allow(clippy::type_complexity)]
    pub fn unlink<D: DirectionType, B: CopyTarget>(
        &self,
        request: Sealed<D>,
        owned: B,
        segments: impl Iterator<Item = DmaSegment> + Clone,
    ) -> Result<(Request<D>, Debt<B>), Unmoved<(Sealed<D>, B)>> {
        let mut request = request.reopen();
        match self.unlink_tail(&mut request, 0, owned, segments) {
            Ok(debt) => Ok((request, debt)),
            Err(Unmoved { error, state }) => Err(Unmoved {
                error,
                state: (Sealed { request }, state),
            }),
        }
    }

    /// Takes what is linked from byte `from` of a request on out of the device's reach: `owned`, the
    /// memory that was linked there, in order, is owed until a sync. What is before it stays, and the
    /// next link goes where the tail began. So a driver undoes what it linked too much, and one that
    /// [reopened](Sealed::reopen) a request gives a part of its memory back while the device goes on
    /// with the rest. Nothing at all is unlinked, or all of the tail.
    ///
    /// A request is filled and emptied at its end; what has to go from its middle is linked to a
    /// [`PageWindow`](crate::PageWindow). What a tail needs beyond is as in
    /// [`destroy`](Self::destroy): copies out of slots, caches, and `segments`, those of the tail. Never
    /// sleeps.
    ///
    /// # Errors
    /// [`Unmoved`] with what was owned, where the request is of another domain or shorter than `from`,
    /// or `from` lies inside a granule or a larger leaf.
    pub fn unlink_tail<D: DirectionType, B: CopyTarget>(
        &self,
        request: &mut Request<D>,
        from: u64,
        mut owned: B,
        segments: impl Iterator<Item = DmaSegment> + Clone,
    ) -> Result<Debt<B>, Unmoved<B>> {
        let state = &mut request.state;
        if let Err(error) = self.check_tail(state, from, segments.clone()) {
            let state = owned;
            return Err(Unmoved { error, state });
        }
        let owed = match self.translation() {
            None => self.end_alone::<D, B>(state, &mut owned, segments),
            Some(_) if from == state.linked() => Owed::Paid,
            Some(domain) => {
                let owed = self.end_part::<D, B>(domain, state, from, &mut owned);
                if C::IS_WATCHING {
                    let dma = DmaSegment {
                        addr: DmaAddr::new(state.address() + from),
                        len: state.linked() - from,
                    };
                    let event = Event::new(Kind::Request, dma, D::DIRECTION);
                    self.checker.unlinked(&self.info, &event);
                }
                match owed {
                    Owed::Lost => state.set(Flag::LOST),
                    Owed::Paid => {}
                    Owed::Ticket(_) | Owed::Since(_) => state.set(Flag::STALE),
                }
                if state.has(Flag::BOUNCED) && (from == 0 || !self.begins_in_slots(domain, state)) {
                    state.clear(Flag::BOUNCED);
                }
                owed
            }
        };
        state.set_linked(from);
        Ok(self.debt(owned, owed))
    }

    /// Whether what is linked from byte `from` on can be unlinked.
    fn check_tail(
        &self,
        state: &State,
        from: u64,
        segments: impl Iterator<Item = DmaSegment>,
    ) -> Result<(), LinkError> {
        self.check_end(state, from, segments)?;
        let Some(domain) = self
            .translation()
            .filter(|_| 0 < from && from < state.linked())
        else {
            return Ok(());
        };
        let edge = Iova::new(state.address() + from);
        match domain.unit(edge) {
            Some(leaf) if leaf.start() != edge => Err(LinkError::PartOfLeaf { offset: from, leaf }),
            _ => Ok(()),
        }
    }
}
