//! Peer memory in a device's reach, as one mapping.

use core::fmt;
use core::marker::PhantomData;
use core::panic::Location;

use dmakit_addr::{Address, Attributes, DirectionType, DmaRange, Granule, Iova, IovaRange};
use dmakit_platform::Platform;

use super::memory::PEER;
use super::{PeerError, PeerFailure, PeerMemory, PeerPaths, PeerRoute};
use crate::check::{Checker, Event, Kind};
use crate::debt::Owed;
use crate::device::BounceWhen;
use crate::{
    BounceCause, Debt, Device, DeviceId, DmaSegment, MapError, MaskKind, Path, Refused,
    StrictDomain, TokenError, Translate,
};

/// Peer memory that a device may use.
///
/// It owns the memory, and holds no reference. What ends it goes by what was recorded when it was
/// made: nothing is asked of the topology again. Dropping it leaks both.
#[must_use = "a dropped mapping leaks its memory; unmap it"]
pub struct PeerMapping<D> {
    memory: PeerMemory,
    device: DeviceId,
    segment: DmaSegment,
    /// The granule of the domain that it is mapped through; none where the client has no domain, or
    /// the memory is reached past it.
    granule: Option<Granule>,
    route: PeerRoute,
    direction: PhantomData<fn() -> D>,
}

impl<D> PeerMapping<D> {
    /// What to write into the device's descriptor.
    pub fn segment(&self) -> DmaSegment {
        self.segment
    }

    /// Which way requests go.
    pub fn route(&self) -> PeerRoute {
        self.route
    }

    /// The memory.
    pub fn memory(&self) -> &PeerMemory {
        &self.memory
    }

    /// Whether ending it takes it out of the device's reach: whether an IOMMU stands between. Where
    /// not, the device is done because its driver says so.
    pub fn is_translated(&self) -> bool {
        self.granule.is_some()
    }
}

impl<D: DirectionType> fmt::Debug for PeerMapping<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (segment, route) = (self.segment, self.route);
        write!(f, "PeerMapping({} {segment:?}, {route:?})", D::DIRECTION)
    }
}

/// The addresses of a domain that a segment lies in, whole granules.
fn granules(segment: DmaSegment, granule: Granule) -> Option<IovaRange> {
    let end = segment.addr.raw().checked_add(segment.len)?;
    let start = Iova::new(segment.addr.raw()).align_down(granule.bytes());
    IovaRange::between(start, Iova::new(end).align_up(granule.bytes())?)
}

impl<'m, P: Platform, M, C: Checker<'m>, T: Translate> Device<'m, P, M, C, T> {
    /// Lends another device's memory to this one, by the way that `paths`, those from this device,
    /// has for it. Never bounced, no cache maintenance. Never sleeps; O(granules).
    ///
    /// # Errors
    /// [`PeerFailure`] with the memory: no way leads there, everything of this device bounces, it does
    /// not reach the address, an attribute other than `MMIO`, `NO_WARN` and `SKIP_CPU_SYNC` is asked
    /// for, or the domain is full; where the device is not trusted, for a part that shares a granule.
    #[track_caller]
    pub fn map_peer<D: DirectionType>(
        &self,
        memory: PeerMemory,
        paths: &mut PeerPaths<'_>,
        attributes: Attributes,
    ) -> Result<PeerMapping<D>, PeerFailure> {
        let caller = Location::caller();
        let mapped = self.try_map_peer::<D>(&memory, paths, attributes);
        let (dma, granule, route) = match mapped {
            Ok(mapped) => mapped,
            Err(error) => {
                if let PeerError::Map(error) = &error {
                    self.counters.failed(error, attributes);
                }
                return Err(PeerFailure { error, memory });
            }
        };
        self.counters.mapped();
        let event = Event::new(Kind::Peer, dma.into(), D::DIRECTION).by(caller);
        let event = event.at(memory.provider);
        let runs = core::iter::once(memory.range);
        self.checker.began(&self.info, &event, runs);
        Ok(PeerMapping {
            memory,
            device: self.info.id,
            segment: dma.into(),
            granule,
            route,
            direction: PhantomData,
        })
    }

    fn try_map_peer<D: DirectionType>(
        &self,
        memory: &PeerMemory,
        paths: &mut PeerPaths<'_>,
        attributes: Attributes,
    ) -> Result<(DmaRange, Option<Granule>, PeerRoute), PeerError> {
        let refused = Attributes::from_bits(attributes.bits() & !PEER.bits());
        if refused != Attributes::NONE {
            return Err(MapError::Attributes(refused).into());
        }
        self.refuse_bounced()?;
        let route = paths.to(memory.place)?.route();
        match (route, self.translation()) {
            (PeerRoute::HostBridge, Some(domain)) => {
                let dma = self.map_window(domain, memory.range, D::DIRECTION)?;
                let granule = domain.granule();
                let range = granules(dma.into(), granule);
                self.check_peer(memory, dma).inspect_err(|_| {
                    let ended = range.map(|range| domain.unmap_strict(range, range.len()));
                    let owed = match ended {
                        Some(Ok(ticket)) => Owed::Ticket(ticket),
                        _ => Owed::Lost,
                    };
                    self.settle(owed);
                })?;
                Ok((dma, Some(granule), route))
            }
            (route, _) => {
                let dma = self.find_peer(memory, route)?;
                self.check_peer(memory, dma)?;
                Ok((dma, None, route))
            }
        }
    }

    /// Whether all that this device is shown bounces.
    pub(crate) fn refuse_bounced(&self) -> Result<(), PeerError> {
        match self.path {
            Path::Bounced {
                when: BounceWhen::Always,
                ..
            } => Err(PeerError::WouldBounce(BounceCause::Forced)),
            _ => Ok(()),
        }
    }

    /// Where the device finds peer memory by itself.
    pub(crate) fn find_peer(
        &self,
        memory: &PeerMemory,
        route: PeerRoute,
    ) -> Result<DmaRange, PeerError> {
        let found = match route {
            PeerRoute::Bus => memory.bus_range(),
            PeerRoute::HostBridge => self.info.bus.dma(memory.range),
        };
        found.ok_or(PeerError::Map(MapError::Unreachable {
            window: memory.range,
            reach: self.info.reach(MaskKind::Streaming),
        }))
    }

    /// Whether the device takes `dma` as one segment, and reaches it.
    pub(crate) fn check_peer(&self, memory: &PeerMemory, dma: DmaRange) -> Result<(), PeerError> {
        let reach = self.info.reach(MaskKind::Streaming);
        if !reach.reaches(&dma) {
            let window = memory.range;
            return Err(MapError::Unreachable { window, reach }.into());
        }
        let limits = self.info.limits;
        match limits.allows(dma) {
            true => Ok(()),
            false => Err(MapError::Limits {
                segment: dma,
                limits,
            }
            .into()),
        }
    }

    /// Ends a mapping of [`map_peer`](Self::map_peer); the memory is owed until a sync. O(granules),
    /// and nothing is looked up: the mapping knows which way it went. Never sleeps; a lazy domain is
    /// synced at once, so that no window outlives its mapping there.
    ///
    /// Where no IOMMU stands between, nobody can take the window out of the device's reach: the
    /// driver knows it to be done.
    ///
    /// # Errors
    /// [`Refused`] with the mapping where it is another device's.
    pub fn unmap_peer<D: DirectionType>(
        &self,
        mapping: PeerMapping<D>,
    ) -> Result<Debt<PeerMemory>, Refused<PeerMapping<D>>> {
        if mapping.device != self.info.id {
            let error = TokenError::Foreign {
                owner: mapping.device,
                device: self.info.id,
            };
            let token = mapping;
            return Err(Refused { error, token });
        }
        let range = mapping
            .granule
            .and_then(|granule| granules(mapping.segment, granule));
        let owed = match (range, self.translation()) {
            (Some(range), Some(domain)) => {
                self.owed_strictly(domain.unmap_strict(range, range.len()))
            }
            _ => Owed::Paid,
        };
        self.counters.unmapped();
        let event = Event::new(Kind::Peer, mapping.segment, D::DIRECTION);
        let event = event.at(mapping.memory.provider);
        self.checker.ended(&self.info, &event);
        Ok(self.debt(mapping.memory, owed))
    }
}
