//! Linking another device's memory to a request or window.

use core::panic::Location;

use dmakit_addr::{Address, Attributes, DirectionType, DmaAddr};
use dmakit_platform::Platform;

use super::state::{Flag, State};
use super::{LinkError, PageWindow, Request};
use crate::check::{Checker, Event, Kind};
use crate::fragments::Piece;
use crate::{
    BounceCause, Device, DmaSegment, DomainError, MapError, PeerError, PeerMemory, PeerPaths,
    PeerRoute, StrictDomain, Translate, Trust,
};

impl<'m, P: Platform, M, C: Checker<'m>, T: Translate> Device<'m, P, M, C, T> {
    /// Links another device's memory behind what is linked already, by the way that `paths`, those
    /// from this device, has for it; otherwise as [`link`](Self::link). The topology is asked once for
    /// each provider, however many parts of its window a request has. Never bounced, no cache
    /// maintenance: a device that goes past the CPU's caches reserves with `SKIP_CPU_SYNC`.
    ///
    /// The request does not own the memory, as it owns none: what ends the request takes it, as a
    /// [`PeerList`](crate::PeerList) where there is more, and gives it back after a sync.
    ///
    /// # Errors
    /// [`PeerError`]: the request is as before, and nothing of the memory is linked.
    #[track_caller]
    pub fn link_peer<D: DirectionType>(
        &self,
        request: &mut Request<D>,
        memory: &PeerMemory,
        paths: &mut PeerPaths<'_>,
    ) -> Result<DmaSegment, PeerError> {
        let caller = Location::caller();
        let dma = self.try_link_peer(request, memory, paths)?;
        if C::IS_WATCHING {
            let event = Event::new(Kind::Request, dma, D::DIRECTION).by(caller);
            let event = event.at(memory.provider());
            match request.is_contiguous() {
                true => self.checker.linked(&self.info, &event, memory.range()),
                false => {
                    let runs = core::iter::once(memory.range());
                    self.checker.began(&self.info, &event, runs);
                }
            }
        }
        Ok(dma)
    }

    /// As [`link_page`](Self::link_page), of another device's memory: whole granules of it, by the way
    /// that `paths` has; otherwise as [`link_peer`](Self::link_peer). What
    /// [unlinks](Self::unlink_pages) the pages takes the memory, and gives it back after a sync.
    ///
    /// # Errors
    /// [`PeerError`]: the window is as before.
    #[track_caller]
    pub fn link_peer_page<D: DirectionType>(
        &self,
        window: &mut PageWindow<D>,
        offset: u64,
        memory: &PeerMemory,
        paths: &mut PeerPaths<'_>,
    ) -> Result<DmaSegment, PeerError> {
        let caller = Location::caller();
        let (state, pages) = (&mut window.state, memory.range());
        let route = self.find_way(state, memory, paths)?;
        let dma = match (self.translation(), route) {
            (None, route) => {
                let dma = self.find_peer(memory, route)?;
                self.check_peer(memory, dma)?;
                dma.into()
            }
            (Some(_), PeerRoute::Bus) => {
                let provider = memory.place();
                return Err(PeerError::OnBus { provider });
            }
            (Some(domain), PeerRoute::HostBridge) => {
                self.link_at::<D>(domain, state, offset, pages, Attributes::MMIO)?
            }
        };
        state.set_linked(state.linked() + pages.len());
        if C::IS_WATCHING {
            let event = Event::new(Kind::Window, dma, D::DIRECTION).by(caller);
            let event = event.at(memory.provider());
            self.checker.linked(&self.info, &event, pages);
        }
        Ok(dma)
    }

    /// Which way a state's device has to another's memory.
    fn find_way(
        &self,
        state: &mut State,
        memory: &PeerMemory,
        paths: &mut PeerPaths<'_>,
    ) -> Result<PeerRoute, PeerError> {
        self.check_state(state)?;
        self.refuse_bounced()?;
        if !self.info.is_coherent() && !state.has(Flag::SKIPS_SYNC) {
            return Err(PeerError::Caches);
        }
        let path = paths.to(memory.place())?;
        self.make_fresh(state)?;
        Ok(path.route())
    }

    fn try_link_peer<D: DirectionType>(
        &self,
        request: &mut Request<D>,
        memory: &PeerMemory,
        paths: &mut PeerPaths<'_>,
    ) -> Result<DmaSegment, PeerError> {
        let route = self.find_way(&mut request.state, memory, paths)?;
        let end = request.state.linked() + memory.range().len();
        let Some(domain) = self.translation() else {
            let reserved = super::state::BYTES_MAX;
            if end > reserved {
                return Err(LinkError::Full { reserved, end }.into());
            }
            let dma = self.find_peer(memory, route)?;
            self.check_peer(memory, dma)?;
            request.state.set_linked(end);
            return Ok(dma.into());
        };
        if route == PeerRoute::Bus {
            let provider = memory.place();
            return Err(PeerError::OnBus { provider });
        }
        self.link_peer_run::<D>(domain, request, memory)
    }

    fn link_peer_run<D: DirectionType>(
        &self,
        domain: &T::Domain,
        request: &mut Request<D>,
        memory: &PeerMemory,
    ) -> Result<DmaSegment, PeerError> {
        let (granule, state, run) = (domain.granule(), &mut request.state, memory.range());
        let start = run.start().raw() & granule.mask();
        if state.linked() != 0 && (start != 0 || state.is_ragged(granule)) {
            let granule = granule.bytes();
            return Err(LinkError::Ragged { run, granule }.into());
        }
        let range = state.range(granule);
        let base = match state.linked() {
            0 => 0,
            _ => state.span(granule),
        };
        let piece = Piece { run, at: 0, base };
        let span = piece.span(granule);
        if self.info.trust == Trust::Untrusted && span != run.len() {
            return Err(PeerError::WouldBounce(BounceCause::SharedPage { run }));
        }
        let part = range.slice(base, span).ok_or(LinkError::Full {
            reserved: range.len(),
            end: base + span,
        })?;
        let permissions = self.permissions(D::DIRECTION, Attributes::MMIO);
        domain
            .link(part, run.start().align_down(granule.bytes()), permissions)
            .map_err(|error| MapError::Domain(DomainError::Table(error.failure)))?;
        if state.linked() == 0 {
            state.set_offset(start, granule);
        }
        state.set_linked(state.linked() + run.len());
        Ok(DmaSegment {
            addr: DmaAddr::new(part.start().raw() + start),
            len: run.len(),
        })
    }
}
