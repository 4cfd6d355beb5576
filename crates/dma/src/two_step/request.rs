//! One stretch of device addresses, filled from its start.

use core::fmt;
use core::marker::PhantomData;
use core::panic::Location;

use dmakit_addr::{Attributes, DirectionType, DmaAddr, Granule, PhysAddr};
use dmakit_platform::{CpuGuard, Platform};

use super::state::{BYTES_MAX, DOMAINS_MAX, Flag, State};
use super::{LinkError, Unmoved};
use crate::check::{Checker, Event, Kind};
use crate::{Device, DmaSegment, DomainError, MapError, MaskKind, StrictDomain, Translate};

/// A request that is being filled: see [`Device::reserve`].
///
/// Sixteen bytes, whatever it holds. Forgetting one leaks its addresses, and slots where it has some.
#[must_use = "a dropped request leaks its addresses; cancel it"]
pub struct Request<D> {
    pub(super) state: State,
    direction: PhantomData<fn() -> D>,
}

/// A request that the device may use.
///
/// Forgetting one leaks its addresses, and slots where it has some.
#[must_use = "a dropped request leaks its addresses; destroy it"]
pub struct Sealed<D> {
    pub(super) request: Request<D>,
}

const _: () = assert!(size_of::<Request<dmakit_addr::ToDevice>>() == 16);
const _: () = assert!(size_of::<Sealed<dmakit_addr::ToDevice>>() == 16);

impl<D> Request<D> {
    pub(super) fn of(state: State) -> Self {
        Self {
            state,
            direction: PhantomData,
        }
    }

    /// Bytes that are linked.
    pub fn len(&self) -> u64 {
        self.state.linked()
    }

    /// Whether nothing is linked yet.
    pub fn is_empty(&self) -> bool {
        self.state.linked() == 0
    }

    /// Whether there is a stretch of device addresses for it; where not, the device has no IOMMU, and
    /// each link says where it finds that memory.
    pub fn is_contiguous(&self) -> bool {
        self.state.has(Flag::TRANSLATED)
    }
}

impl<D> Sealed<D> {
    /// Bytes that are linked.
    pub fn len(&self) -> u64 {
        self.request.state.linked()
    }

    /// Whether nothing is linked; never.
    pub fn is_empty(&self) -> bool {
        self.request.is_empty()
    }

    /// Where the device finds all of it, as one segment; `None` without an IOMMU, where each link
    /// said so for its run.
    pub fn segment(&self) -> Option<DmaSegment> {
        let state = &self.request.state;
        state.has(Flag::TRANSLATED).then(|| DmaSegment {
            addr: DmaAddr::new(state.address()),
            len: state.linked(),
        })
    }

    /// The request, to link more behind what it has or to [unlink](Device::unlink_tail) some of that.
    /// The device may go on with what it has, and is told of nothing new until the request is sealed
    /// again.
    pub fn reopen(self) -> Request<D> {
        self.request
    }

    /// Whether part of it lies in bounce slots.
    pub fn is_bounced(&self) -> bool {
        self.request.state.has(Flag::BOUNCED)
    }
}

impl<D: DirectionType> fmt::Debug for Request<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = &self.state;
        let at = DmaAddr::new(state.address());
        match state.has(Flag::TRANSLATED) {
            true => write!(f, "Request({} {} at {at})", D::DIRECTION, state.linked()),
            false => write!(f, "Request({} {})", D::DIRECTION, state.linked()),
        }
    }
}

impl<D: DirectionType> fmt::Debug for Sealed<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed{:?}", self.request)
    }
}

/// What a [`Request`] or a [`PageWindow`](super::PageWindow) can be asked for.
const STEPS: Attributes = Attributes::SKIP_CPU_SYNC
    .union(Attributes::REQUIRE_COHERENT)
    .union(Attributes::NO_WARN)
    .union(Attributes::WEAK_ORDERING)
    .union(Attributes::PRIVILEGED);

impl<'m, P: Platform, M, C: Checker<'m>, T: Translate> Device<'m, P, M, C, T> {
    /// Takes device addresses for `len` bytes of memory of which the first lies at `first`, which
    /// counts only by its place in a granule. The addresses start at a multiple of `align` bytes, a
    /// power of two; 1 asks for the alignment that the length has by itself.
    ///
    /// Where the device has no IOMMU there are none to take, and the same code goes on. O(1), never
    /// sleeps.
    ///
    /// # Errors
    /// [`LinkError`]: nothing is reserved then.
    #[track_caller]
    #[inline]
    pub fn reserve<D: DirectionType>(
        &self,
        first: PhysAddr,
        len: u64,
        align: u64,
        attributes: Attributes,
    ) -> Result<Request<D>, LinkError> {
        let caller = Location::caller();
        match self.take_state(first, len, align, attributes) {
            Ok(state) => {
                self.began_state::<D>(Kind::Request, &state, caller);
                Ok(Request::of(state))
            }
            Err(error) => {
                self.counters.step_failed(&error, attributes);
                Err(error)
            }
        }
    }

    /// What reserving does, for requests and windows; counts them.
    #[inline]
    pub(super) fn take_state(
        &self,
        first: PhysAddr,
        len: u64,
        align: u64,
        attributes: Attributes,
    ) -> Result<State, LinkError> {
        let is_asked = attributes != Attributes::NONE;
        if is_asked || len.wrapping_sub(1) >= BYTES_MAX || !align.is_power_of_two() {
            self.check_state_request(len, align, attributes)?;
        }
        let mut state = match self.translation() {
            Some(domain) => self.take_addresses(domain, first, len, align)?,
            None => {
                self.counters.mapped();
                State::untranslated(self.info.id)
            }
        };
        if attributes.contains(Attributes::SKIP_CPU_SYNC) {
            state.set(Flag::SKIPS_SYNC);
        }
        Ok(state)
    }

    /// Whether a request or window can be asked for like this.
    #[cold]
    fn check_state_request(
        &self,
        len: u64,
        align: u64,
        attributes: Attributes,
    ) -> Result<(), LinkError> {
        let refused = Attributes::from_bits(attributes.bits() & !STEPS.bits());
        if refused != Attributes::NONE {
            return Err(MapError::Attributes(refused).into());
        }
        if len == 0 {
            return Err(MapError::Empty.into());
        }
        if attributes.contains(Attributes::REQUIRE_COHERENT) && !self.info.is_coherent() {
            return Err(MapError::NotCoherent.into());
        }
        let max = BYTES_MAX;
        if len > max || !align.is_power_of_two() {
            return Err(LinkError::Shape { len, align, max });
        }
        Ok(())
    }

    #[inline]
    fn take_addresses(
        &self,
        domain: &T::Domain,
        first: PhysAddr,
        len: u64,
        align: u64,
    ) -> Result<State, LinkError> {
        let (granule, number) = (domain.granule(), domain.id());
        if number.0 >= DOMAINS_MAX {
            return Err(LinkError::DomainNumber {
                domain: number,
                max: DOMAINS_MAX,
            });
        }
        let whole = (first.raw() & granule.mask()) + len;
        let limit = self.info.reach(MaskKind::Streaming);
        let cpu = self.platform.enter_cpu();
        let range = match domain.reserve(&cpu, whole, align, limit) {
            Ok(range) => range,
            Err(error) => return Err(MapError::Domain(DomainError::Space(error)).into()),
        };
        let Some(state) = State::translated(range, granule, &self.owner) else {
            domain.release(&cpu, range);
            let max = BYTES_MAX;
            return Err(LinkError::Shape { len, align, max });
        };
        self.counters.mapped_on(&cpu);
        Ok(state)
    }

    /// Tells the checker of a request or window.
    #[inline]
    pub(super) fn began_state<D: DirectionType>(
        &self,
        kind: Kind,
        state: &State,
        caller: &'static Location<'static>,
    ) {
        if let (Some(domain), true) = (self.translation(), C::IS_WATCHING) {
            let event = event_of::<D>(kind, state, domain.granule()).by(caller);
            self.checker.began(&self.info, &event, core::iter::empty());
        }
    }

    /// Counts a request or window that has ended, and tells the checker.
    #[inline]
    pub(super) fn ended_state<D: DirectionType>(
        &self,
        kind: Kind,
        state: &State,
        cpu: &impl CpuGuard,
    ) {
        self.counters.unmapped_on(cpu);
        if let (Some(domain), true) = (self.translation(), C::IS_WATCHING) {
            let event = event_of::<D>(kind, state, domain.granule());
            self.checker.ended(&self.info, &event);
        }
    }

    /// Whether a state is of this device's domain, or of this device where it has none.
    #[inline]
    pub(super) fn check_state(&self, state: &State) -> Result<(), LinkError> {
        if self.owner.owns(state) {
            return Ok(());
        }
        Err(self.wrong_domain())
    }

    #[cold]
    pub(super) fn wrong_domain(&self) -> LinkError {
        let domain = match self.translation() {
            Some(domain) => domain.id(),
            None => self.domain(),
        };
        LinkError::WrongDomain {
            device: self.info.id,
            domain,
        }
    }

    /// Makes all that was linked known to hardware, once: the device may use it from now on, and
    /// nothing can be linked any more. Never sleeps.
    ///
    /// # Errors
    /// [`Unmoved`] with the request: of another domain, without a link, or where hardware takes no
    /// commands.
    #[inline]
    pub fn seal<D: DirectionType>(
        &self,
        request: Request<D>,
    ) -> Result<Sealed<D>, Unmoved<Request<D>>> {
        match self.announce_linked(&request.state) {
            Ok(()) => Ok(Sealed { request }),
            Err(error) => Err(Unmoved {
                error,
                state: request,
            }),
        }
    }

    #[inline]
    fn announce_linked(&self, state: &State) -> Result<(), LinkError> {
        self.check_state(state)?;
        if state.linked() == 0 {
            return Err(LinkError::NotLinked { offset: 0, len: 0 });
        }
        let Some(domain) = self.translation() else {
            return Ok(());
        };
        let granule = domain.granule();
        let range = state.range(granule);
        let linked = range.slice(0, state.span(granule)).unwrap_or(range);
        domain.announce(linked).map_err(LinkError::Hardware)
    }
}

/// All the addresses of a state.
fn event_of<D: DirectionType>(kind: Kind, state: &State, granule: Granule) -> Event {
    let range = state.range(granule);
    let segment = DmaSegment {
        addr: DmaAddr::new(range.start().raw()),
        len: range.len(),
    };
    Event::new(kind, segment, D::DIRECTION)
}
