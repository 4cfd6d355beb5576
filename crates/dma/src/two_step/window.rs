//! Pages of one stretch of device addresses, in any order.

use core::fmt;
use core::marker::PhantomData;
use core::panic::Location;

use dmakit_addr::{Address, Attributes, DirectionType, DmaAddr, IovaRange, PhysAddr, PhysRange};
use dmakit_platform::Platform;

use super::state::{Flag, State, attributes_of};
use super::{LinkError, Unmoved};
use crate::check::{Checker, Event, Kind};
use crate::debt::Owed;
use crate::{
    BounceCause, Debt, Device, DmaSegment, DomainError, MapError, Proof, StrictDomain, Translate,
    cache,
};

/// A stretch of device addresses of which pages are linked and unlinked in any order: what on-demand
/// paging needs, see [`Device::open_window`].
///
/// Sixteen bytes. Whoever keeps one sees to it that its calls take turns. Forgetting one leaks its
/// addresses.
#[must_use = "a dropped window leaks its addresses; close it"]
pub struct PageWindow<D> {
    pub(super) state: State,
    direction: PhantomData<fn() -> D>,
}

const _: () = assert!(size_of::<PageWindow<dmakit_addr::ToDevice>>() == 16);

impl<D> PageWindow<D> {
    /// Bytes that are linked.
    pub fn linked(&self) -> u64 {
        self.state.linked()
    }

    /// Whether hardware may know what was linked before.
    pub(crate) fn is_stale(&self) -> bool {
        self.state.has(Flag::STALE)
    }

    /// Where the device finds the byte at `offset`, once a page is linked there; `None` without an
    /// IOMMU, where each link says so for its pages.
    pub fn dma_addr(&self, offset: u64) -> Option<DmaAddr> {
        let start = DmaAddr::new(self.state.address());
        start
            .checked_add(offset)
            .filter(|_| self.state.has(Flag::TRANSLATED))
    }
}

impl<D: DirectionType> fmt::Debug for PageWindow<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (at, linked) = (DmaAddr::new(self.state.address()), self.state.linked());
        write!(f, "PageWindow({} at {at}, {linked} linked)", D::DIRECTION)
    }
}

impl<'m, P: Platform, M, C: Checker<'m>, T: Translate> Device<'m, P, M, C, T> {
    /// Takes device addresses for `len` bytes of pages, at a multiple of `align`. Nothing is linked.
    /// Never sleeps.
    ///
    /// # Errors
    /// As [`reserve`](Self::reserve).
    #[track_caller]
    pub fn open_window<D: DirectionType>(
        &self,
        len: u64,
        align: u64,
        attributes: Attributes,
    ) -> Result<PageWindow<D>, LinkError> {
        let caller = Location::caller();
        let state = self
            .take_state(PhysAddr::new(0), len, align, attributes)
            .inspect_err(|error| self.counters.step_failed(error, attributes))?;
        self.began_state::<D>(Kind::Window, &state, caller);
        Ok(PageWindow {
            state,
            direction: PhantomData,
        })
    }

    /// Links whole granules of memory at `offset` of a window, where nothing is linked; says where the
    /// device finds them after [`announce_pages`](Self::announce_pages). Pages never bounce: what
    /// would have to is refused. Where others were unlinked since the last sync this waits, for a
    /// bounded time, until hardware has forgotten what was there. Never sleeps.
    ///
    /// # Errors
    /// [`LinkError`]: the window is as before.
    #[track_caller]
    pub fn link_page<D: DirectionType>(
        &self,
        window: &mut PageWindow<D>,
        offset: u64,
        pages: PhysRange,
    ) -> Result<DmaSegment, LinkError> {
        let caller = Location::caller();
        let linked = self.check_state(&window.state).and_then(|()| {
            if pages.is_empty() {
                return Err(MapError::Empty.into());
            }
            self.make_fresh(&mut window.state)?;
            if !self.info.is_coherent() && !window.state.has(Flag::SKIPS_SYNC) {
                // Before there is an entry: a device that pages may be trying already.
                cache::before_device(&self.platform, pages, D::DIRECTION);
            }
            match self.translation() {
                Some(domain) => {
                    let attributes = attributes_of(&window.state);
                    self.link_at::<D>(domain, &window.state, offset, pages, attributes)
                }
                None => self.find_page::<D>(pages),
            }
        });
        let dma = linked.inspect_err(|error| {
            self.counters.step_failed(error, Attributes::NONE);
        })?;
        window.state.set_linked(window.state.linked() + pages.len());
        if C::IS_WATCHING {
            let event = Event::new(Kind::Window, dma, D::DIRECTION).by(caller);
            self.checker.linked(&self.info, &event, pages);
        }
        Ok(dma)
    }

    pub(super) fn link_at<D: DirectionType>(
        &self,
        domain: &T::Domain,
        state: &State,
        offset: u64,
        pages: PhysRange,
        attributes: Attributes,
    ) -> Result<DmaSegment, LinkError> {
        let granule = domain.granule();
        let range = state.range(granule);
        if (offset | pages.start().raw() | pages.len()) & granule.mask() != 0 {
            return Err(LinkError::Ragged {
                run: pages,
                granule: granule.bytes(),
            });
        }
        let part = range.slice(offset, pages.len()).ok_or(LinkError::Full {
            reserved: range.len(),
            end: offset.saturating_add(pages.len()),
        })?;
        let permissions = self.permissions(D::DIRECTION, attributes);
        domain
            .link(part, pages.start(), permissions)
            .map_err(|error| MapError::Domain(DomainError::Table(error.failure)))?;
        Ok(DmaSegment {
            addr: DmaAddr::new(part.start().raw()),
            len: part.len(),
        })
    }

    /// Where a device without an IOMMU finds pages.
    fn find_page<D: DirectionType>(&self, pages: PhysRange) -> Result<DmaSegment, LinkError> {
        let mut place = None;
        let runs = core::iter::once(pages);
        let cause = self.find_cause(runs, D::DIRECTION, |dma| place = Some(dma));
        match (cause, place) {
            (None, Some(dma)) => Ok(dma.into()),
            (Some(cause), _) => Err(MapError::WouldBounce(cause).into()),
            (None, None) => Err(MapError::WouldBounce(BounceCause::Forced).into()),
        }
    }

    /// Makes pages that were linked from `offset` on known to hardware: the device may use them from
    /// now on. Never sleeps.
    ///
    /// # Errors
    /// [`LinkError`].
    pub fn announce_pages<D: DirectionType>(
        &self,
        window: &mut PageWindow<D>,
        offset: u64,
        len: u64,
    ) -> Result<(), LinkError> {
        self.check_state(&window.state)?;
        let Some(domain) = self.translation() else {
            return Ok(());
        };
        let range = window.state.range(domain.granule());
        let part = range
            .slice(offset, len)
            .ok_or(LinkError::NotLinked { offset, len })?;
        domain.announce(part).map_err(LinkError::Hardware)
    }

    /// Waits until hardware has forgotten what was unlinked before: no entry is made where it may hold
    /// another.
    #[inline]
    pub(super) fn make_fresh(&self, state: &mut State) -> Result<(), LinkError> {
        match state.has(Flag::STALE) {
            true => self.forget_stale(state),
            false => Ok(()),
        }
    }

    /// Waits until hardware has forgotten all that was unlinked from a window.
    pub(crate) fn sync_window<D>(&self, window: &mut PageWindow<D>) -> Result<Proof, LinkError> {
        let synced = match self.translation() {
            Some(domain) => domain.sync(),
            None => self.sync(),
        };
        let proof = synced.map_err(LinkError::Hardware)?;
        window.state.clear(Flag::STALE);
        Ok(proof)
    }

    #[cold]
    fn forget_stale(&self, state: &mut State) -> Result<(), LinkError> {
        if let Some(domain) = self.translation() {
            domain.sync().map_err(LinkError::Hardware)?;
            state.clear(Flag::STALE);
        }
        Ok(())
    }

    /// Unlinks `len` bytes of pages from `offset` on, all of them linked: `owned`, which is or pins
    /// their memory, is owed until a sync. The device may be in the middle of using them. Never
    /// sleeps; O(leaves). One that writes past the CPU's caches is synced for at once.
    ///
    /// Pages that were linked together, contiguous and aligned, may be one leaf, which is unlinked as a
    /// whole or not at all. Without an IOMMU nothing can take a device's reach away: the driver has
    /// stopped it.
    ///
    /// # Errors
    /// [`Unmoved`] with what was owned: nothing was unlinked.
    pub fn unlink_pages<D: DirectionType, B>(
        &self,
        window: &mut PageWindow<D>,
        offset: u64,
        len: u64,
        owned: B,
    ) -> Result<Debt<B>, Unmoved<B>> {
        let part = match self.check_pages(&window.state, offset, len) {
            Ok(part) => part,
            Err(error) => {
                let state = owned;
                return Err(Unmoved { error, state });
            }
        };
        let owed = match (part, self.translation()) {
            (Some(part), Some(domain)) => {
                if C::IS_WATCHING {
                    let addr = DmaAddr::new(part.start().raw());
                    let event = Event::new(Kind::Window, DmaSegment { addr, len }, D::DIRECTION);
                    self.checker.unlinked(&self.info, &event);
                }
                self.end_pages::<D>(domain, &mut window.state, part)
            }
            _ => Owed::Since(self.epoch()),
        };
        window.state.set_linked(window.state.linked() - len);
        Ok(self.debt(owned, owed))
    }

    fn end_pages<D: DirectionType>(
        &self,
        domain: &T::Domain,
        state: &mut State,
        part: IovaRange,
    ) -> Owed {
        let owed = match self.leaves_stale_lines::<D>(state) {
            true => {
                let (pages, none) = (part.start().raw()..part.end().raw(), &mut [][..]);
                self.take_back::<D, [u8]>(domain, pages, false, none)
            }
            false => self.unlinked(domain, part),
        };
        match owed {
            Owed::Lost => state.set(Flag::LOST),
            Owed::Paid => {}
            Owed::Ticket(_) | Owed::Since(_) => state.set(Flag::STALE),
        }
        owed
    }

    /// Where pages of a window are, all of them linked; `None` without an IOMMU.
    fn check_pages(
        &self,
        state: &State,
        offset: u64,
        len: u64,
    ) -> Result<Option<IovaRange>, LinkError> {
        self.check_state(state)?;
        let missing = LinkError::NotLinked { offset, len };
        if len == 0 || len > state.linked() {
            return Err(missing);
        }
        let Some(domain) = self.translation() else {
            return Ok(None);
        };
        let granule = domain.granule();
        let part = state.range(granule).slice(offset, len).ok_or(missing)?;
        if (offset | len) & granule.mask() != 0 {
            return Err(missing);
        }
        let mut at = part.start();
        while at < part.end() {
            let leaf = domain.unit(at).ok_or(missing)?;
            if leaf.start() < part.start() || part.end() < leaf.end() {
                return Err(LinkError::PartOfLeaf { offset, leaf });
            }
            at = leaf.end();
        }
        Ok(Some(part))
    }

    /// Gives the addresses of a window back, to which nothing is linked, and of which hardware has
    /// forgotten everything: where pages were unlinked since the last sync this waits for that, for a
    /// bounded time.
    ///
    /// # Errors
    /// [`Unmoved`] with the window.
    pub fn close_window<D: DirectionType>(
        &self,
        mut window: PageWindow<D>,
    ) -> Result<(), Unmoved<PageWindow<D>>> {
        let checked = self.check_state(&window.state).and_then(|()| {
            let bytes = window.state.linked();
            if bytes > 0 {
                return Err(LinkError::StillLinked { bytes });
            }
            self.make_fresh(&mut window.state)
        });
        if let Err(error) = checked {
            let state = window;
            return Err(Unmoved { error, state });
        }
        // Addresses that hardware may know still are nobody's.
        let is_lost = window.state.has(Flag::LOST);
        let cpu = self.platform.enter_cpu();
        if let Some(domain) = self.translation().filter(|_| !is_lost) {
            domain.release(&cpu, window.state.range(domain.granule()));
        }
        self.ended_state::<D>(Kind::Window, &window.state, &cpu);
        Ok(())
    }
}
