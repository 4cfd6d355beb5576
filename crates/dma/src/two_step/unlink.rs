//! Taking a request out of the device's reach, and giving its addresses back.

use dmakit_addr::{DirectionType, DmaRange, Iova, PhysRange};
use dmakit_iommu::Batch;
use dmakit_platform::{CopyTarget, Platform};

use super::request::{Request, Sealed};
use super::state::{Flag, State};
use super::{LinkError, Unmoved};
use crate::check::{Checker, Kind};
use crate::debt::Owed;
use crate::mapping::Slots;
use crate::translated::{OneRun, Part, Translated};
use crate::{Debt, Device, DmaSegment, StrictDomain, SyncError, Translate, cache};

impl<'m, P: Platform, M, C: Checker<'m>, T: Translate> Device<'m, P, M, C, T> {
    /// Whether [`destroy`](Self::destroy) and the like must be given the segments that linking gave:
    /// never with an IOMMU, and without one only where something bounced, caches must be maintained,
    /// or somebody watches.
    pub fn needs_segments<D>(&self, request: &Sealed<D>) -> bool {
        self.looks_at_segments(&request.request.state)
    }

    fn looks_at_segments(&self, state: &State) -> bool {
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
        if let Err(error) = self.check_end(state, segments.clone()) {
            let state = (request, owned);
            return Err(Unmoved { error, state });
        }
        let owed = match self.translation() {
            None => self.end_alone::<D, B>(state, &mut owned, segments),
            Some(domain) => match self.end_linked::<D, B>(domain, state, &mut owned) {
                Some(owed) => {
                    if let Owed::Paid = owed {
                        let range = state.range(domain.granule());
                        domain.release(&self.platform.enter_cpu(), range);
                    }
                    owed
                }
                None => {
                    let granule = domain.granule();
                    self.retire(state.range(granule), state.span(granule))
                }
            },
        };
        self.ended_state(Kind::Request, state, &self.platform.enter_cpu());
        Ok(self.debt(owned, owed))
    }

    /// As [`destroy`](Self::destroy), but that the addresses stay the request's, to be linked again;
    /// the next [`seal`](Self::seal) waits until hardware has forgotten what was linked before.
    ///
    /// # Errors
    /// As [`destroy`](Self::destroy).
    #[allow(clippy::type_complexity)]
    pub fn unlink<D: DirectionType, B: CopyTarget>(
        &self,
        request: Sealed<D>,
        mut owned: B,
        segments: impl Iterator<Item = DmaSegment> + Clone,
    ) -> Result<(Request<D>, Debt<B>), Unmoved<(Sealed<D>, B)>> {
        if let Err(error) = self.check_end(&request.request.state, segments.clone()) {
            let state = (request, owned);
            return Err(Unmoved { error, state });
        }
        let Sealed { mut request } = request;
        let state = &mut request.state;
        let owed = match self.translation() {
            None => self.end_alone::<D, B>(state, &mut owned, segments),
            Some(domain) => match self.end_linked::<D, B>(domain, state, &mut owned) {
                Some(owed) => owed,
                None => {
                    state.set(Flag::STALE);
                    let granule = domain.granule();
                    let range = state.range(granule);
                    let linked = range.slice(0, state.span(granule)).unwrap_or(range);
                    self.unlinked(domain, linked)
                }
            },
        };
        if C::IS_WATCHING {
            if let Some(domain) = self.translation() {
                let range = state.range(domain.granule());
                let start = dmakit_addr::DmaAddr::new(range.start().raw());
                let kind = Kind::Request;
                self.checker.unlinked(&self.info, kind, start, range.len());
            }
        }
        state.set_linked(0);
        state.clear(Flag::BOUNCED);
        let debt = self.debt(owned, owed);
        Ok((request, debt))
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
        let domain = self.strict_domain().filter(|_| !state.has(Flag::BOUNCED));
        let Some(domain) = domain else {
            let debt = self.destroy(request, owned, segments)?;
            return Ok(self.pay_alone(debt).map(give));
        };
        let mut checked = self.check_end(state, segments);
        if checked.is_ok() && batch.is_full() {
            let closed = batch.close(domain, &self.platform.enter_cpu(), &mut give);
            checked = closed.map_err(LinkError::Hardware);
        }
        if checked.is_ok() && batch.domain() != domain.id() {
            checked = Err(self.wrong_domain());
        }
        if let Err(error) = checked {
            let state = (request, owned);
            return Err(Unmoved { error, state });
        }
        let granule = domain.granule();
        self.invalidate_lines::<D>(domain, state);
        let mapped = (state.range(granule), state.span(granule));
        let cpu = self.platform.enter_cpu();
        self.ended_state(Kind::Request, state, &cpu);
        let now = || self.platform.now();
        match batch.unmap_range(domain, &cpu, now, mapped, owned, give) {
            Ok(()) => Ok(Ok(())),
            Err(dmakit_iommu::BatchFailure::Sync(error)) => Ok(Err(error)),
            // It was not full, and is of this domain.
            Err(_) => {
                self.counters.lost();
                Ok(Ok(()))
            }
        }
    }

    /// Whether a request can be ended.
    #[inline]
    fn check_end(
        &self,
        state: &State,
        segments: impl Iterator<Item = DmaSegment>,
    ) -> Result<(), LinkError> {
        self.check_state(state)?;
        if !self.looks_at_segments(state) {
            return Ok(());
        }
        let given = segments.fold(0, |sum: u64, segment| sum.saturating_add(segment.len));
        match state.linked().checked_sub(given) {
            Some(0) => Ok(()),
            Some(missing) => Err(LinkError::Segments { missing }),
            None => Err(LinkError::Segments { missing: 0 }),
        }
    }

    /// What memory of an ended request owes.
    #[inline]
    pub(super) fn debt<B>(&self, memory: B, owed: Owed) -> Debt<B> {
        Debt {
            memory,
            device: self.info.id,
            domain: self.domain(),
            owed,
        }
    }

    fn pay_alone<B>(&self, debt: Debt<B>) -> Result<B, SyncError> {
        let proof = self.sync()?;
        self.redeem(debt, &proof).map_err(|_| SyncError {
            waited: core::time::Duration::ZERO,
        })
    }

    /// Ends links one by one, where the device has no IOMMU.
    fn end_alone<D: DirectionType, B: CopyTarget>(
        &self,
        state: &State,
        target: &mut B,
        segments: impl Iterator<Item = DmaSegment>,
    ) -> Owed {
        if !self.looks_at_segments(state) {
            return Owed::Since(self.epoch());
        }
        let wants_data = D::DIRECTION.device_writes() && !state.has(Flag::SKIPS_SYNC);
        let drops_lines = wants_data && !self.info.is_coherent();
        let mut at = 0;
        for segment in segments {
            let dma = DmaRange::new(segment.addr, segment.len).ok();
            if let Some(behind) = dma.and_then(|dma| self.info.memory_behind(dma)) {
                let mine = self.pool().and_then(|(pool, _)| {
                    let found = pool.find(behind.start())?;
                    (found.start == behind.start()).then_some(pool)
                });
                match mine.map(|pool| pool.claim::<D>(behind.start())) {
                    Some(Ok(buffer)) => {
                        let len = if wants_data { segment.len } else { 0 };
                        let mut part = Part {
                            of: &mut *target,
                            at,
                        };
                        self.end_bounced(buffer, &mut part, len, drops_lines);
                    }
                    // Somebody else's slots.
                    Some(Err(_)) => {}
                    None if drops_lines => cache::before_cpu_reads(&self.platform, behind),
                    None => {}
                }
            }
            self.checker
                .ended(&self.info, Kind::Request, segment.addr, segment.len);
            at += segment.len;
        }
        Owed::Since(self.epoch())
    }

    /// Ends what is linked where part of it lies in slots: `None` where none does, or nothing is
    /// linked, and it has only to be unmapped.
    #[inline]
    fn end_linked<D: DirectionType, B: CopyTarget>(
        &self,
        domain: &'m T::Domain,
        state: &State,
        target: &mut B,
    ) -> Option<Owed> {
        self.invalidate_lines::<D>(domain, state);
        let is_bounced = state.has(Flag::BOUNCED);
        is_bounced.then(|| self.end_edges::<D, B>(domain, state, target))
    }

    /// Ends what is linked, part of which lies in slots.
    #[cold]
    fn end_edges<D: DirectionType, B: CopyTarget>(
        &self,
        domain: &'m T::Domain,
        state: &State,
        target: &mut B,
    ) -> Owed {
        let granule = domain.granule();
        let translated = Translated {
            range: state.range(granule),
            slots: Slots::Edges,
        };
        let first = dmakit_addr::PhysAddr::new(state.offset(granule));
        let Ok(run) = PhysRange::new(first, state.linked()) else {
            return Owed::Lost;
        };
        let mut original = OneRun { run, bytes: target };
        let wants_data = D::DIRECTION.device_writes() && !state.has(Flag::SKIPS_SYNC);
        let wanted = wants_data.then(|| state.linked());
        let done = state.span(granule);
        let apart = self.take_apart::<D, _>(domain, translated, &mut original, done, wanted);
        if apart {
            return Owed::Paid;
        }
        self.counters.lost();
        Owed::Lost
    }

    /// Drops the lines of what the device wrote past the CPU's caches, where the table says that it
    /// lies.
    #[inline]
    fn invalidate_lines<D: DirectionType>(&self, domain: &T::Domain, state: &State) {
        let wants_data = D::DIRECTION.device_writes() && !state.has(Flag::SKIPS_SYNC);
        if wants_data && !self.info.is_coherent() {
            self.drop_linked_lines(domain, state);
        }
    }

    #[inline(never)]
    fn drop_linked_lines(&self, domain: &T::Domain, state: &State) {
        let granule = domain.granule();
        let (mut at, end) = (state.address(), state.address() + state.linked());
        while at < end {
            let next = ((at | granule.mask()) + 1).min(end);
            let phys = domain.lookup(Iova::new(at));
            let run = phys.and_then(|phys| PhysRange::new(phys, next - at).ok());
            if let Some(run) = run {
                cache::before_cpu_reads(&self.platform, run);
            }
            at = next;
        }
    }

    /// Unmaps a part whose addresses stay reserved.
    pub(super) fn unlinked(&self, domain: &T::Domain, part: dmakit_addr::IovaRange) -> Owed {
        match domain.unlink(part) {
            Ok(ticket) => Owed::Ticket(ticket),
            Err(_) => {
                self.counters.lost();
                Owed::Lost
            }
        }
    }
}
