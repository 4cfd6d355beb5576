//! Giving coherent memory to drivers, and sending it home.

use core::fmt;
use core::marker::PhantomData;
use core::panic::Location;

use dmakit_addr::{
    Address, Attributes, Direction, DmaAddr, DmaMask, DmaRange, Iova, IovaRange, PAGE_BYTES,
    PhysRange,
};
use dmakit_platform::{NoMemory, Platform, Segment, SegmentRequest, TableMemory};
use dmakit_swiotlb::BouncePool;

use crate::bounce;
use crate::check::{Checker, Event, Kind};
use crate::coherent::{Home, Memory};
use crate::{
    BounceError, Coherent, CoherentSource, CoherentView, Device, DeviceId, DeviceInfo,
    DeviceShared, DomainError, MaskKind, Path, PoolId, SharedConstraints, StrictDomain, Translate,
};

/// What an allocation can be asked for. Coherent memory is contiguous and needs no syncs whatever
/// is asked, and the other licences (combined or weakly ordered writes, no CPU mapping, single
/// pages, privileged use) have no use here. `SKIP_CPU_SYNC` and `MMIO` make no sense of it and are
/// refused, as are unknown bits.
const COHERENT: Attributes = Attributes::WEAK_ORDERING
    .union(Attributes::WRITE_COMBINE)
    .union(Attributes::NO_KERNEL_MAPPING)
    .union(Attributes::FORCE_CONTIGUOUS)
    .union(Attributes::ALLOC_SINGLE_PAGES)
    .union(Attributes::NO_WARN)
    .union(Attributes::PRIVILEGED)
    .union(Attributes::REQUIRE_COHERENT);

/// Why there is no coherent memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum CoherentError {
    /// No values, or values without bytes.
    Empty,
    /// So many values of this size are more than the address space holds.
    TooLarge {
        /// How many.
        count: usize,
        /// Bytes in each.
        size: usize,
    },
    /// These attributes cannot be honoured here.
    Attributes(Attributes),
    /// The device was given no source.
    NoSource,
    /// The device goes past the CPU's caches, and its source gives memory that the CPU uses through
    /// them.
    NotCoherent,
    /// The device's bus shows no memory below its mask.
    NoReach {
        /// The highest DMA address that the device and its bus can carry.
        reach: DmaMask,
    },
    /// The source gave memory that lies aligned for the CPU and not for the device, because the bus
    /// shifts it; it was given back.
    Misaligned {
        /// Where the device would see it.
        dma: DmaRange,
        /// The alignment wanted, in bytes.
        align: u64,
    },
    /// The pool to be filled is another device's.
    Foreign {
        /// Whose it is.
        owner: DeviceId,
        /// Who was to fill it.
        device: DeviceId,
    },
    /// The source has none.
    NoMemory(NoMemory),
    /// The bounce pool has none.
    Pool(BounceError),
    /// The domain has no addresses or table pages, or its hardware takes no commands.
    Domain(DomainError),
    /// The source is a bounce pool, whose memory cannot be divided among blocks.
    Indivisible,
    /// The source gave memory that the device cannot reach; it was given back.
    OutOfReach {
        /// What the source gave.
        given: PhysRange,
        /// The highest DMA address that the device and its bus can carry.
        reach: DmaMask,
    },
}

impl fmt::Display for CoherentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("there are no bytes to allocate"),
            Self::TooLarge { count, size } => {
                write!(f, "{count} values of {size} bytes are too many")
            }
            Self::Attributes(which) => write!(f, "{} cannot be honoured here", which.names()),
            Self::NoSource => f.write_str("the device has no source of coherent memory"),
            Self::NotCoherent => f.write_str(
                "the device is not coherent and its source gives memory that the CPU caches",
            ),
            Self::NoReach { reach } => {
                write!(f, "the device's bus shows no memory at or below {reach}")
            }
            Self::Misaligned { dma, align } => {
                write!(
                    f,
                    "the device sees the memory at {dma}, not aligned to {align} bytes"
                )
            }
            Self::Foreign { owner, device } => {
                write!(f, "the pool belongs to {owner} and was given to {device}")
            }
            Self::NoMemory(none) => none.fmt(f),
            Self::Pool(error) => error.fmt(f),
            Self::Domain(error) => error.fmt(f),
            Self::Indivisible => f.write_str("memory of a bounce pool cannot be divided"),
            Self::OutOfReach { given, reach } => {
                write!(
                    f,
                    "the memory at {given} is out of the device's reach ({reach})"
                )
            }
        }
    }
}

impl core::error::Error for CoherentError {}

/// A block that is not taken back, given back as it was.
pub struct NotHere<T> {
    /// The device that it was made for.
    pub owner: DeviceId,
    /// The block.
    pub block: Coherent<T>,
}

impl<T> fmt::Debug for NotHere<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NotHere({:?})", self.block)
    }
}

impl<T> fmt::Display for NotHere<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the block of {} did not come from here", self.owner)
    }
}

impl<T> core::error::Error for NotHere<T> {}

impl<'m, P: Platform, M, C: Checker<'m>, T: Translate> Device<'m, P, M, C, T> {
    /// Coherent memory for `count` values, zeroed, aligned to the power of two at or above its
    /// size (at least a page), within the device's coherent mask. May sleep.
    ///
    /// # Errors
    /// [`CoherentError`]; nothing has changed then.
    #[track_caller]
    pub fn alloc_coherent<V: DeviceShared>(
        &self,
        count: usize,
        attributes: Attributes,
    ) -> Result<Coherent<V>, CoherentError> {
        let caller = Location::caller();
        let refused = Attributes::from_bits(attributes.bits() & !COHERENT.bits());
        if refused != Attributes::NONE {
            return Err(CoherentError::Attributes(refused));
        }
        let size = size_of::<V>();
        if count == 0 || size == 0 {
            return Err(CoherentError::Empty);
        }
        let too_large = CoherentError::TooLarge { count, size };
        let bytes = (count as u64).checked_mul(size as u64);
        // Whole granules too: nothing else may share one with what the device sees.
        let unit = self.translation().map_or(PAGE_BYTES, |domain| {
            domain.granule().bytes().max(PAGE_BYTES)
        });
        let len = bytes.and_then(|bytes| bytes.checked_next_multiple_of(unit));
        let len = len.ok_or(too_large)?;
        let align = len.checked_next_power_of_two().ok_or(too_large)?;
        let (memory, dma) = match self.coherent_source()? {
            Source::Provider(source) => {
                let (segment, dma) = match self.translation() {
                    Some(domain) => self.allocate_translated(domain, source, len, align)?,
                    None => allocate(source, &self.info, len, align)?,
                };
                (Memory::Owned(segment), dma)
            }
            Source::Pool(pool, id) => {
                let (slots, dma) = bounce::alloc_coherent(pool, id, &self.info, len)?;
                (Memory::Slots(slots), dma)
            }
        };
        let block = Coherent {
            memory,
            dma,
            count,
            home: Home::Source,
            device: self.info.id,
            values: PhantomData,
        };
        self.counters.coherent_allocated();
        let both = Direction::Bidirectional;
        let event = Event::new(Kind::Coherent, block.dma.into(), both).by(caller);
        let run = match &block.memory {
            Memory::Owned(segment) => Some(segment.range()),
            Memory::Slots(_) => self.info.memory_behind(block.dma),
        };
        self.checker.began(&self.info, &event, run.into_iter());
        Ok(block)
    }

    /// The values of a block of this device, from wherever it came; `None` where it is another
    /// device's.
    #[inline]
    pub fn view<'a, V: DeviceShared>(
        &'a self,
        block: &'a Coherent<V>,
    ) -> Option<CoherentView<'a, V>> {
        let window = match (&block.memory, self.path) {
            (Memory::Owned(segment), _) => segment.window(),
            (Memory::Slots(slots), Path::Bounced { pool, .. }) => pool.coherent_window(slots)?,
            (Memory::Slots(_), _) => return None,
        };
        (block.device == self.info.id).then_some(CoherentView {
            window,
            count: block.count,
            values: PhantomData,
        })
    }

    /// Sends a block home that [`alloc_coherent`](Self::alloc_coherent) gave. The device has
    /// forgotten its address. May sleep.
    ///
    /// # Errors
    /// [`NotHere`] with the block where it came from elsewhere.
    pub fn free_coherent<V>(&self, block: Coherent<V>) -> Result<(), NotHere<V>> {
        let owner = block.device;
        if owner != self.info.id || block.home != Home::Source {
            return Err(NotHere { owner, block });
        }
        let dma = block.dma;
        // The source of a device is fixed when it is made, so it is still where the block is from.
        match (block.memory, self.coherent, self.path) {
            (
                Memory::Owned(segment),
                CoherentSource::Cached(source) | CoherentSource::Uncached(source),
                _,
            ) => {
                if self.is_out_of_reach(dma) {
                    source.free_table(segment);
                } else {
                    self.counters.lost();
                }
            }
            (Memory::Slots(slots), CoherentSource::Pool, Path::Bounced { pool, .. }) => {
                let freed = pool.free_coherent(slots);
                debug_assert!(freed.is_ok());
            }
            (memory, ..) => {
                return Err(NotHere {
                    owner,
                    block: Coherent { memory, ..block },
                });
            }
        }
        let event = Event::new(Kind::Coherent, dma.into(), Direction::Bidirectional);
        self.checker.ended(&self.info, &event);
        self.counters.coherent_freed();
        Ok(())
    }

    /// Memory from `source`, wherever it lies, mapped below the device's coherent mask.
    fn allocate_translated(
        &self,
        domain: &'m T::Domain,
        source: &(dyn TableMemory + Sync),
        len: u64,
        align: u64,
    ) -> Result<(Segment, DmaRange), CoherentError> {
        let request = SegmentRequest {
            len,
            align,
            node: self.info.node,
            limit: DmaMask::ALL,
        };
        let segment = source
            .allocate_table(&request)
            .map_err(CoherentError::NoMemory)?;
        let limit = self.info.reach(MaskKind::Coherent);
        let permissions = self.permissions(Direction::Bidirectional, Attributes::NONE);
        let mapped = {
            let cpu = self.platform.enter_cpu();
            let runs = core::iter::once(segment.range());
            domain.map(&cpu, runs, permissions, align, limit)
        };
        let dma = mapped
            .map_err(|error| CoherentError::Domain(error.into()))
            .and_then(|range| dma_of(range).ok_or(CoherentError::NoReach { reach: limit }));
        match dma {
            Ok(dma) => Ok((segment, dma)),
            Err(error) => {
                source.free_table(segment);
                Err(error)
            }
        }
    }

    /// Takes coherent memory out of the device's reach, and waits for that, also where the domain is
    /// lazy; false where it may reach it for ever. Without translation the driver's word counts.
    fn is_out_of_reach(&self, dma: DmaRange) -> bool {
        let Some(domain) = self.translation() else {
            return true;
        };
        let Ok(range) = IovaRange::new(Iova::new(dma.start().raw()), dma.len()) else {
            return false;
        };
        let Ok(ticket) = domain.unmap_strict(range, range.len()) else {
            return false;
        };
        domain.sync().is_ok_and(|proof| {
            let cpu = self.platform.enter_cpu();
            domain.redeem(&cpu, ticket, &proof).is_ok()
        })
    }

    fn coherent_source(&self) -> Result<Source<'m, P, M>, CoherentError> {
        let is_coherent = self.info.is_coherent();
        match (self.coherent, self.path) {
            (CoherentSource::Uncached(source), _) => Ok(Source::Provider(source)),
            (CoherentSource::Cached(_) | CoherentSource::Pool, _) if !is_coherent => {
                Err(CoherentError::NotCoherent)
            }
            (CoherentSource::Cached(source), _) => Ok(Source::Provider(source)),
            (CoherentSource::Pool, Path::Bounced { pool, id, .. }) => Ok(Source::Pool(pool, id)),
            (CoherentSource::Pool | CoherentSource::None, _) => Err(CoherentError::NoSource),
        }
    }
}

/// What a device is told of addresses of its domain.
fn dma_of(range: IovaRange) -> Option<DmaRange> {
    DmaRange::new(DmaAddr::new(range.start().raw()), range.len()).ok()
}

/// Where coherent memory is taken from.
enum Source<'m, P: Platform, M> {
    Provider(&'m (dyn TableMemory + Sync)),
    Pool(&'m BouncePool<P, M>, PoolId),
}

/// Memory from `source` within the device's coherent reach. A source takes an upper limit only, so
/// each stretch that the device's bus shows is tried from the highest, and what comes is checked.
fn allocate(
    source: &(dyn TableMemory + Sync),
    info: &DeviceInfo<'_>,
    len: u64,
    align: u64,
) -> Result<(Segment, DmaRange), CoherentError> {
    let reach = info.reach(MaskKind::Coherent);
    let devices = [info];
    let shared = SharedConstraints::new(&devices, MaskKind::Coherent);
    let mut error = CoherentError::NoReach { reach };
    for placement in shared.placements(len, align) {
        let request = SegmentRequest {
            node: info.node,
            ..placement.request
        };
        let segment = match source.allocate_table(&request) {
            Ok(segment) => segment,
            Err(none) => {
                error = CoherentError::NoMemory(none);
                continue;
            }
        };
        let given = segment.range();
        error = match info.direct(given, MaskKind::Coherent) {
            Some(dma) if dma.start().is_aligned(align) => return Ok((segment, dma)),
            Some(dma) => CoherentError::Misaligned { dma, align },
            None => CoherentError::OutOfReach { given, reach },
        };
        source.free_table(segment);
    }
    Err(error)
}
