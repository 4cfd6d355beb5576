//! What this crate asks of bounce pools, in its own words.

use dmakit_addr::{
    AlignMask, BoundaryMask, DirectionType, DmaRange, PhysAddr, PhysRange, ReadableByCpu,
    WritableByCpu,
};
use dmakit_platform::{CopySource, CopyTarget, Platform};
use dmakit_swiotlb::{BounceBuffer, BouncePool, DeviceLimits, Lifetime, MapRequest};

use crate::fragments::Piece;
use crate::part::{Part, Touched};
use crate::{BounceCause, DeviceInfo, MapError, MaskKind, PoolId, SegmentLimits, Trust};

/// What a mapping needs of its slots.
pub(crate) struct Ask {
    pub(crate) cause: BounceCause,
    /// Where the original lies; its low bits matter.
    pub(crate) original: PhysAddr,
    pub(crate) len: u64,
    /// Whether the device gets one segment.
    pub(crate) is_single: bool,
}

/// The memory of a mapping's slots, from the first mapped byte to the last.
pub(crate) fn slots<D: DirectionType>(buffer: &BounceBuffer<D>) -> PhysRange {
    PhysRange::new(buffer.start(), buffer.len())
        // Slots are RAM, which does not lie at the end of the address space.
        .unwrap_or_else(|_| unreachable!("slots pass the end of the address space"))
}

/// What a pool has to know of a device whose bus shows memory `offset` higher, as far as `last`.
fn limits(
    info: &DeviceInfo<'_>,
    place: crate::bus::Offset,
    boundary: BoundaryMask,
    min_align: AlignMask,
) -> DeviceLimits {
    DeviceLimits {
        mask: place.reach,
        boundary,
        min_align,
        dma_offset: place.offset,
        trust: trust(info),
    }
}

/// Copies `source` into slots that the device can reach: the slots, and where the device sees them.
///
/// A pool knows one offset between its memory and the device's addresses. A device whose bus shows
/// memory at several is tried with each in turn, and what comes is checked.
pub(crate) fn map<P: Platform, M, D: DirectionType, S: CopySource + ?Sized>(
    pool: &BouncePool<P, M>,
    id: PoolId,
    info: &DeviceInfo<'_>,
    source: &S,
    ask: &Ask,
) -> Result<(BounceBuffer<D>, DmaRange), MapError> {
    let reach = info.reach(MaskKind::Streaming);
    let SegmentLimits {
        max_bytes,
        boundary,
        ..
    } = info.limits;
    if ask.is_single && ask.len > max_bytes {
        return Err(MapError::TooLong {
            len: ask.len,
            max: max_bytes,
        });
    }
    let boundary = if ask.is_single {
        boundary
    } else {
        BoundaryMask::NONE
    };
    let request = MapRequest {
        original: ask.original,
        offset: 0,
        len: ask.len,
        align: AlignMask::NONE,
        lifetime: Lifetime::Brief,
    };
    let mut refused = MapError::NoBouncePool(ask.cause);
    for place in info.bus.offsets(reach) {
        let limits = limits(info, place, boundary, info.min_align);
        let buffer = match pool.map::<D, S>(id, &limits, source, &request) {
            Ok(buffer) => buffer,
            Err(error) => {
                refused = MapError::Bounce {
                    cause: ask.cause,
                    error,
                };
                continue;
            }
        };
        let slots = slots(&buffer);
        if let Some(dma) = info.direct(slots, MaskKind::Streaming) {
            return Ok((buffer, dma));
        }
        give_back(pool, buffer);
        refused = MapError::PoolOutOfReach { slots, reach };
    }
    Err(refused)
}

/// Copies a part of `source` into slots that have their granules, as `align` says, to themselves, and
/// the part's place in the first of them: for a domain to map.
pub(crate) fn map_guarded<P: Platform, M, D: DirectionType, S: CopySource + ?Sized>(
    pool: &BouncePool<P, M>,
    id: PoolId,
    info: &DeviceInfo<'_>,
    align: AlignMask,
    source: &S,
    part: &Piece,
) -> Result<BounceBuffer<D>, dmakit_swiotlb::MapError> {
    let limits = DeviceLimits {
        min_align: align,
        trust: trust(info),
        ..DeviceLimits::default()
    };
    let request = MapRequest {
        original: part.run.start(),
        offset: part.at,
        len: part.run.len(),
        align,
        lifetime: Lifetime::Brief,
    };
    pool.map::<D, S>(id, &limits, source, &request)
}

/// Lets `act` work on the mapping whose slots begin at `start`; false where none of this direction
/// does, or `act` says so.
fn with_slots<P: Platform, M, D: DirectionType>(
    pool: &BouncePool<P, M>,
    start: PhysAddr,
    act: impl FnOnce(&BounceBuffer<D>) -> bool,
) -> bool {
    let Ok(buffer) = pool.claim::<D>(start) else {
        return false;
    };
    let acted = act(&buffer);
    // It was claimed a moment ago, so it is this pool's.
    let given_up = pool.into_address(buffer);
    debug_assert!(given_up.is_ok());
    acted
}

/// Copies the first `len` bytes of the slots at `start` to `target`.
pub(crate) fn copy_out<P: Platform, M, D: ReadableByCpu, T: CopyTarget>(
    pool: &BouncePool<P, M>,
    start: PhysAddr,
    target: &mut T,
    len: u64,
) -> bool {
    with_slots::<P, M, D>(pool, start, |buffer| {
        pool.sync_for_cpu(buffer, target, 0, len).is_ok()
    })
}

/// Copies what is touched of the slots at `start` to where it is in `memory`.
pub(crate) fn fetch<P: Platform, M, D: ReadableByCpu, T: CopyTarget + ?Sized>(
    pool: &BouncePool<P, M>,
    start: PhysAddr,
    memory: &mut T,
    part: &Touched,
) -> bool {
    let mut target = Part {
        of: memory,
        at: part.at,
    };
    with_slots::<P, M, D>(pool, start, |buffer| {
        let (offset, len) = (part.offset, part.len);
        pool.sync_for_cpu(buffer, &mut target, offset, len).is_ok()
    })
}

/// Copies what is touched of `memory` to the slots at `start`.
pub(crate) fn push<P: Platform, M, D: WritableByCpu, S: CopySource + ?Sized>(
    pool: &BouncePool<P, M>,
    start: PhysAddr,
    memory: &S,
    part: &Touched,
) -> bool {
    let source = Part {
        of: memory,
        at: part.at,
    };
    with_slots::<P, M, D>(pool, start, |buffer| {
        let (offset, len) = (part.offset, part.len);
        pool.sync_for_device(buffer, &source, offset, len).is_ok()
    })
}

fn trust(info: &DeviceInfo<'_>) -> dmakit_swiotlb::Trust {
    match info.trust {
        Trust::Trusted => dmakit_swiotlb::Trust::Trusted,
        Trust::Untrusted => dmakit_swiotlb::Trust::Untrusted,
    }
}

/// How many bytes of the original a pool copies into the slots of a new mapping.
pub(crate) fn prefilled<D: DirectionType>(info: &DeviceInfo<'_>, len: u64) -> u64 {
    match info.trust {
        Trust::Untrusted if !D::DIRECTION.device_reads() => 0,
        _ => len,
    }
}

/// Ends a mapping of which nothing is wanted.
pub(crate) fn give_back<P: Platform, M, D: DirectionType>(
    pool: &BouncePool<P, M>,
    buffer: BounceBuffer<D>,
) {
    // A record keeps the slots of the pool of its device's path, which never changes; were they
    // another pool's, leaking them would be all that is safe.
    let _ = pool.unmap_unsynced(buffer);
}

/// Coherent slots that the device can reach, and where it sees them.
pub(crate) fn alloc_coherent<P: Platform, M>(
    pool: &BouncePool<P, M>,
    id: PoolId,
    info: &DeviceInfo<'_>,
    len: u64,
) -> Result<(dmakit_swiotlb::CoherentSlots, DmaRange), crate::CoherentError> {
    let reach = info.reach(MaskKind::Coherent);
    let mut refused = crate::CoherentError::NoReach { reach };
    for place in info.bus.offsets(reach) {
        let limits = limits(info, place, BoundaryMask::NONE, AlignMask::NONE);
        let slots = match pool.alloc_coherent(id, &limits, len) {
            Ok(slots) => slots,
            Err(error) => {
                refused = crate::CoherentError::Pool(error);
                continue;
            }
        };
        let given = PhysRange::new(slots.start(), len);
        let dma = given.map(|given| (info.direct(given, MaskKind::Coherent), given));
        match dma {
            Ok((Some(dma), _)) => return Ok((slots, dma)),
            Ok((None, given)) => refused = crate::CoherentError::OutOfReach { given, reach },
            Err(_) => {}
        }
        // The pool gave them, so it takes them.
        let _ = pool.free_coherent(slots);
    }
    Err(refused)
}
