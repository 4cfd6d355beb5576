//! Ending requests: out of the device's reach, and the addresses given back.

use dmakit_addr::DirectionType;
use dmakit_iommu::Batch;
use dmakit_platform::{CopyTarget, Platform};

use super::request::{Request, Sealed};
use super::state::{Flag, State};
use super::{LinkError, Unmoved};
use crate::check::{Checker, Kind};
use crate::debt::Owed;
use crate::{Debt, Device, DmaSegment, StrictDomain, SyncError, Translate};

impl<'m, P: Platform, M, C: Checker<'m>, T: Translate> Device<'m, P, M, C, T> {
    /// Whether [`destroy`](Self::destroy) and the like must be given the segments that linking gave:
    /// never with an IOMMU, and without one only where something bounced, caches must be maintained,
    /// or somebody watches.
    pub fn needs_segments<D>(&self, request: &Sealed<D>) -> bool {
        self.looks_at_segments(&request.request.state)
    }

    #[inline]
    pub(super) fn looks_at_segments(&self, state: &State) -> bool {
        let has_work = state.has(Flag::BOUNCED) || !self.info.is_coherent() || C::IS_WATCHING;
        !state.has(Flag::TRANSLATED) && has_work
    }

    /// Ends a request that the device is done with: `owned`, the memory that was linked, in order,
    /// is owed until a sync, and so are the addresses.
    ///
    /// What the device wrote to slots is copied to it, and caches are maintained, as
    /// [`unmap`](Self::unmap) does. `segments` are those that linking gave, in order; they are looked
    /// at only where [`needs_segments`](Self::needs_segments) says so. Never sleeps.
    ///
    /// # Errors
    /// [`Unmoved`] with both, where the request is of another domain.
    #[inline]
    pub fn destroy<D: DirectionType, B: CopyTarget>(
        &self,
        request: Sealed<D>,
        owned: B,
        segments: impl Iterator<Item = DmaSegment> + Clone,
    ) -> Result<Debt<B>, Unmoved<(Sealed<D>, B)>> {
        self.cancel(request.request, owned, segments)
            .map_err(|unmoved| {
                let (request, owned) = unmoved.state;
                Unmoved {
                    error: unmoved.error,
                    state: (Sealed { request }, owned),
                }
            })
    }

    /// Ends a request that was not sealed, whatever was linked to it: otherwise as
    /// [`destroy`](Self::destroy). Hardware may have seen it, so the memory is owed all the same.
    ///
    /// # Errors
    /// As [`destroy`](Self::destroy).
    #[inline]
    pub fn cancel<D: DirectionType, B: CopyTarget>(
        &self,
        request: Request<D>,
        mut owned: B,
        segments: impl Iterator<Item = DmaSegment> + Clone,
    ) -> Result<Debt<B>, Unmoved<(Request<D>, B)>> {
        let state = &request.state;
        if let Err(error) = self.check_end(state, 0, segments.clone()) {
            let state = (request, owned);
            return Err(Unmoved { error, state });
        }
        let owed = match self.translation() {
            None => self.end_alone::<D, B>(state, &mut owned, segments),
            Some(domain) => self.end_all::<D, B>(domain, state, &mut owned),
        };
        self.ended_state::<D>(Kind::Request, state, &self.platform.enter_cpu());
        Ok(self.debt(owned, owed))
    }

    /// Ends all that is linked, and gives the addresses back.
    #[inline]
    fn end_all<D: DirectionType, B: CopyTarget>(
        &self,
        domain: &'m T::Domain,
        state: &State,
        target: &mut B,
    ) -> Owed {
        let granule = domain.granule();
        let (range, span) = (state.range(granule), state.span(granule));
        if state.is_plain() && !self.leaves_stale_lines::<D>(state) {
            return self.retire(range, span);
        }
        self.end_all_with_work::<D, B>(domain, state, target)
    }

    /// As [`end_all`](Self::end_all), where there is more to do.
    #[cold]
    fn end_all_with_work<D: DirectionType, B: CopyTarget>(
        &self,
        domain: &'m T::Domain,
        state: &State,
        target: &mut B,
    ) -> Owed {
        let granule = domain.granule();
        let (range, span) = (state.range(granule), state.span(granule));
        if state.has(Flag::LOST) {
            // Hardware may know a part of it still: nobody gets the addresses.
            return match span {
                0 => Owed::Paid,
                _ => self.end_part::<D, B>(domain, state, 0, target),
            };
        }
        if span == 0 || !self.works_after_sync::<D>(state) {
            if self.leaves_stale_lines::<D>(state) {
                self.drop_lines_now(domain, state);
            }
            return self.retire(range, span);
        }
        let owed = self.end_part::<D, B>(domain, state, 0, target);
        if let Owed::Paid = owed {
            domain.release(&self.platform.enter_cpu(), range);
        }
        owed
    }

    /// As [`destroy`](Self::destroy); `owned` waits in `batch`, as in
    /// [`unmap_batched`](Self::unmap_batched), and goes to `give`. At once where there is nothing to
    /// wait for, or no time.
    ///
    /// # Errors
    /// [`Unmoved`] with both, where request or batch is of another domain, or the batch is full and
    /// cannot be closed. The inner result: [`SyncError`] where they wait, and the batch that they
    /// filled did not close; where they could not wait, what was `owned` is lost.
    #[allow(clippy::type_complexity)]
    #[inline]
    pub fn destroy_batched<D: DirectionType, B: CopyTarget>(
        &self,
        batch: &mut Batch<B>,
        request: Sealed<D>,
        owned: B,
        segments: impl Iterator<Item = DmaSegment> + Clone,
        mut give: impl FnMut(B),
    ) -> Result<Result<(), SyncError>, Unmoved<(Sealed<D>, B)>> {
        let state = &request.request.state;
        let leaves_work = !state.is_plain() || self.leaves_stale_lines::<D>(state);
        match self.strict_domain() {
            // What has to be true in the end, and mostly is.
            Some(domain)
                if !leaves_work
                    && self.owner.owns(state)
                    && !batch.is_full()
                    && batch.domain() == domain.id() =>
            {
                Ok(self.destroy_in_batch(domain, batch, request, owned, give))
            }
            Some(domain) if !leaves_work => {
                match self.check_batched(domain, batch, state, segments, &mut give) {
                    Ok(()) => Ok(self.destroy_in_batch(domain, batch, request, owned, give)),
                    Err(error) => {
                        let state = (request, owned);
                        Err(Unmoved { error, state })
                    }
                }
            }
            _ => {
                let debt = self.destroy(request, owned, segments)?;
                Ok(self.pay_alone(debt).map(give))
            }
        }
    }

    /// Makes room in a batch where it is full; whether a request can then wait there.
    #[cold]
    fn check_batched<B>(
        &self,
        domain: &T::Domain,
        batch: &mut Batch<B>,
        state: &State,
        segments: impl Iterator<Item = DmaSegment>,
        give: &mut impl FnMut(B),
    ) -> Result<(), LinkError> {
        self.check_end(state, 0, segments)?;
        if batch.is_full() {
            let closed = batch.close(domain, &self.platform.enter_cpu(), give);
            closed.map_err(LinkError::Hardware)?;
        }
        match batch.domain() == domain.id() {
            true => Ok(()),
            false => Err(self.wrong_domain()),
        }
    }

    /// Ends a request of this device whose memory can wait in a batch that has room and is of its
    /// domain.
    #[inline]
    fn destroy_in_batch<D: DirectionType, B>(
        &self,
        domain: &T::Domain,
        batch: &mut Batch<B>,
        request: Sealed<D>,
        owned: B,
        give: impl FnMut(B),
    ) -> Result<(), SyncError> {
        let (state, granule) = (&request.request.state, domain.granule());
        let mapped = (state.range(granule), state.span(granule));
        let cpu = self.platform.enter_cpu();
        self.ended_state::<D>(Kind::Request, state, &cpu);
        let now = || self.platform.now();
        match batch.unmap_range(domain, &cpu, now, mapped, owned, give) {
            Ok(()) => Ok(()),
            Err(dmakit_iommu::BatchFailure::Sync(error)) => Err(error),
            // It was not full, and is of this domain.
            Err(_) => {
                self.counters.lost();
                Ok(())
            }
        }
    }

    /// Whether what is linked from byte `from` on can be ended.
    #[inline]
    pub(super) fn check_end(
        &self,
        state: &State,
        from: u64,
        segments: impl Iterator<Item = DmaSegment>,
    ) -> Result<(), LinkError> {
        self.check_state(state)?;
        let linked = state.linked();
        let Some(len) = linked.checked_sub(from) else {
            let len = 0;
            return Err(LinkError::NotLinked { offset: from, len });
        };
        if !self.looks_at_segments(state) {
            return Ok(());
        }
        let given = segments.fold(0, |sum: u64, segment| sum.saturating_add(segment.len));
        match len.checked_sub(given) {
            Some(0) => Ok(()),
            Some(missing) => Err(LinkError::Segments { missing }),
            None => Err(LinkError::Segments { missing: 0 }),
        }
    }

    fn pay_alone<B>(&self, debt: Debt<B>) -> Result<B, SyncError> {
        let proof = self.sync()?;
        // The proof is of a later sync of the same domain: what it does not pay is lost.
        self.redeem(debt, &proof).map_err(|_| SyncError::Lost)
    }
}
