//! Linking memory to a request.

use core::panic::Location;

use dmakit_addr::{
    Attributes, DirectionType, DmaAddr, DmaRange, Iova, IovaRange, PhysAddr, PhysRange,
};
use dmakit_iommu::LinkCursor;
use dmakit_platform::{CopySource, Platform};

use super::state::{Flag, State, attributes_of};
use super::{LinkError, Request};
use crate::bounce::Ask;
use crate::cache;
use crate::check::{Checker, Event, Kind};
use crate::fragments::Piece;
use crate::mapping::Route;
use crate::{Device, DmaSegment, MapError, StrictDomain, Translate};

/// Links many runs to a request, one after the other, with what the first had to find out at hand:
/// see [`Device::linker`].
pub struct Linker<'a, 'm, D, P: Platform, M, C, T: Translate>
where
    T::Domain: 'm,
{
    device: &'a Device<'m, P, M, C, T>,
    request: &'a mut Request<D>,
    /// The short way, for whole granules that nothing has to be done about.
    plain: Option<Plain<'m, T>>,
}

struct Plain<'m, T: Translate>
where
    T::Domain: 'm,
{
    cursor: <T::Domain as StrictDomain>::Cursor<'m>,
    /// Where the next granule is, and where the last ends.
    at: u64,
    end: u64,
    mask: u64,
}

impl<T: Translate> Plain<'_, T> {
    /// Links any number of granules to the next addresses; false where the long way has to say why not.
    #[inline]
    fn map_granules(&mut self, len: u64, phys: PhysAddr) -> bool {
        let part = IovaRange::new(Iova::new(self.at), len);
        let part = part.ok().filter(|part| !part.is_empty());
        part.is_some_and(|part| self.cursor.map(part, phys).is_ok())
    }
}

impl<'m, D: DirectionType, P: Platform, M, C: Checker<'m>, T: Translate>
    Linker<'_, 'm, D, P, M, C, T>
{
    /// As [`Device::link`].
    ///
    /// # Errors
    /// As [`Device::link`].
    #[track_caller]
    #[inline(always)]
    pub fn link<S: CopySource + ?Sized>(
        &mut self,
        run: PhysRange,
        source: &S,
    ) -> Result<DmaSegment, LinkError> {
        self.link_as(run, source, Location::caller())
    }

    /// The same, for `caller`.
    #[inline(always)]
    pub(super) fn link_as<S: CopySource + ?Sized>(
        &mut self,
        run: PhysRange,
        source: &S,
        caller: &'static Location<'static>,
    ) -> Result<DmaSegment, LinkError> {
        if let Some(plain) = &mut self.plain {
            let (at, len) = (plain.at, run.len());
            let is_whole = (run.start().raw() | len) & plain.mask == 0;
            if is_whole && len <= plain.end - at && source.len_bytes() == len {
                let is_linked = match len == plain.mask + 1 {
                    true => plain.cursor.map_granule(Iova::new(at), run.start()),
                    false => plain.map_granules(len, run.start()),
                };
                if is_linked {
                    plain.at += len;
                    self.request.state.add_linked(len);
                    let addr = DmaAddr::new(at);
                    return Ok(DmaSegment { addr, len });
                }
            }
        }
        self.link_slow(run, source, caller)
    }

    /// The long way, which also says what is wrong.
    #[inline(never)]
    fn link_slow<S: CopySource + ?Sized>(
        &mut self,
        run: PhysRange,
        source: &S,
        caller: &'static Location<'static>,
    ) -> Result<DmaSegment, LinkError> {
        let segment = self.device.link_from(self.request, run, source, caller)?;
        self.plain = self.device.plain(self.request);
        Ok(segment)
    }
}

impl<'m, P: Platform, M, C: Checker<'m>, T: Translate> Device<'m, P, M, C, T> {
    /// Links many runs to a request: each by [`Linker::link`], which costs little more than the table
    /// entry for memory that the device may see as it lies.
    ///
    /// # Errors
    /// [`LinkError::WrongDomain`]; [`LinkError::Hardware`] where something was unlinked and is not
    /// forgotten in time.
    #[inline]
    pub fn linker<'a, D: DirectionType>(
        &'a self,
        request: &'a mut Request<D>,
    ) -> Result<Linker<'a, 'm, D, P, M, C, T>, LinkError> {
        self.check_state(&request.state)?;
        self.make_fresh(&mut request.state)?;
        Ok(Linker {
            plain: self.plain(request),
            device: self,
            request,
        })
    }

    /// The short way to the next granules of a request, where there is one.
    #[inline]
    fn plain<D: DirectionType>(&self, request: &Request<D>) -> Option<Plain<'m, T>> {
        let domain = self.translation()?;
        let (state, granule) = (&request.state, domain.granule());
        let is_plain = self.info.is_coherent() && !C::IS_WATCHING;
        if !is_plain || self.guards(D::DIRECTION) || state.is_ragged(granule) {
            return None;
        }
        let range = state.range(granule);
        let permissions = self.permissions(D::DIRECTION, attributes_of(state));
        Some(Plain {
            cursor: domain.cursor(permissions),
            at: range.start().raw() + state.span(granule),
            end: range.end().raw(),
            mask: granule.mask(),
        })
    }

    /// Links a run of memory, whose bytes are `source`, behind what is linked already; says where the
    /// device finds it once the request is [sealed](Self::seal). Runs of a request that
    /// [is contiguous](Request::is_contiguous) follow one another there. For many, a
    /// [`linker`](Self::linker) is cheaper.
    ///
    /// What shares a granule with other data and must not be shown to the device is copied into bounce
    /// slots: the head of the first run, the tail of the last, and nothing between. Without an IOMMU a
    /// run that the device cannot use as it lies is copied as a whole. Cleans caches as
    /// [`map`](Self::map). Never sleeps; O(granules).
    ///
    /// # Errors
    /// [`LinkError`]: the request is as before, and nothing of the run is linked.
    #[track_caller]
    #[inline]
    pub fn link<D: DirectionType, S: CopySource + ?Sized>(
        &self,
        request: &mut Request<D>,
        run: PhysRange,
        source: &S,
    ) -> Result<DmaSegment, LinkError> {
        self.linker(request)?.link(run, source)
    }

    fn link_from<D: DirectionType, S: CopySource + ?Sized>(
        &self,
        request: &mut Request<D>,
        run: PhysRange,
        source: &S,
        caller: &'static Location<'static>,
    ) -> Result<DmaSegment, LinkError> {
        let linked = if source.len_bytes() == run.len() {
            match self.translation() {
                Some(domain) => self.link_run::<D, S>(domain, &mut request.state, run, source),
                None => self.link_alone::<D, S>(&mut request.state, run, source),
            }
        } else {
            let len = source.len_bytes();
            Err(MapError::LengthMismatch { run, len }.into())
        };
        let dma = linked.inspect_err(|error| {
            self.counters.step_failed(error, Attributes::NONE);
        })?;
        if C::IS_WATCHING {
            let event = Event::new(Kind::Request, dma, D::DIRECTION).by(caller);
            match request.is_contiguous() {
                true => self.checker.linked(&self.info, &event, run),
                false => {
                    let runs = core::iter::once(run);
                    self.checker.began(&self.info, &event, runs);
                }
            }
        }
        Ok(dma)
    }

    #[inline]
    fn link_run<D: DirectionType, S: CopySource + ?Sized>(
        &self,
        domain: &'m T::Domain,
        state: &mut State,
        run: PhysRange,
        source: &S,
    ) -> Result<DmaSegment, LinkError> {
        let granule = domain.granule();
        let (linked, mask) = (state.linked(), granule.mask());
        let start = run.start().raw() & mask;
        if linked != 0 && (start != 0 || state.is_ragged(granule)) {
            let granule = granule.bytes();
            return Err(LinkError::Ragged { run, granule });
        }
        if run.is_empty() {
            return Err(MapError::Empty.into());
        }
        let range = state.range(granule);
        let base = if linked == 0 { 0 } else { state.span(granule) };
        let piece = Piece { run, at: 0, base };
        let span = piece.span(granule);
        if span > range.len() - base {
            return Err(LinkError::Full {
                reserved: range.len(),
                end: base + span,
            });
        }
        let attributes = attributes_of(state);
        let bounced = self.link_piece::<D, S>(domain, range, piece, source, attributes)?;
        if linked == 0 {
            state.set_offset(start, granule);
        }
        state.set_linked(linked + run.len());
        if bounced && !state.has(Flag::BOUNCED) {
            self.counters.bounced();
            state.set(Flag::BOUNCED);
        }
        Ok(DmaSegment {
            addr: DmaAddr::new(range.start().raw() + base + start),
            len: run.len(),
        })
    }

    /// A run that the device is told of by itself, because it has no IOMMU.
    fn link_alone<D: DirectionType, S: CopySource + ?Sized>(
        &self,
        state: &mut State,
        run: PhysRange,
        source: &S,
    ) -> Result<DmaSegment, LinkError> {
        let end = state.linked() + run.len();
        let reserved = super::state::BYTES_MAX;
        if end > reserved {
            return Err(LinkError::Full { reserved, end });
        }
        self.check_request(run.len(), Attributes::NONE)?;
        let attributes = attributes_of(state);
        let mut first: Option<DmaRange> = None;
        let runs = core::iter::once(run);
        let cause = self.find_cause(runs, D::DIRECTION, |dma| first = Some(dma));
        let dma = if let Some(cause) = cause {
            let ask = Ask {
                cause,
                original: run.start(),
                len: run.len(),
                is_single: true,
            };
            let cut = |slots| self.cut_none(slots);
            let record = self.bounce::<D, S>(source, attributes, &ask, cut)?;
            let dma = record.segment();
            if let (Route::Bounced(buffer), Some((pool, _))) = (record.route, self.pool()) {
                // The pool has just given it, so it takes it.
                let given_up = pool.into_address(buffer);
                debug_assert!(given_up.is_ok());
            }
            state.set(Flag::BOUNCED);
            dma
        } else {
            let segment = first.ok_or(MapError::Empty)?;
            let limits = self.info.limits;
            if !limits.allows(segment) {
                return Err(MapError::Limits { segment, limits }.into());
            }
            if !self.info.is_coherent() && !state.has(Flag::SKIPS_SYNC) {
                cache::before_device(&self.platform, run, D::DIRECTION);
            }
            segment.into()
        };
        state.set_linked(end);
        Ok(dma)
    }
}
