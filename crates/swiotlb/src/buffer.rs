//! A live mapping.

use core::fmt;
use core::marker::PhantomData;

use dmakit_addr::{DirectionType, PhysAddr};

use crate::DeviceId;

/// The right to end a mapping, and the only way to its bytes.
///
/// It cannot be cloned and may be sent: unmapping on another CPU than mapping is normal. Dropping
/// it leaks the slots, which stay counted as used; nothing else happens.
#[must_use = "dropping a mapping leaks its slots"]
pub struct BounceBuffer<D> {
    pub(crate) start: PhysAddr,
    /// Where the mapped part begins in its source.
    pub(crate) source_offset: u64,
    pub(crate) len: u64,
    pub(crate) first: u32,
    pub(crate) pool: u16,
    pub(crate) device: DeviceId,
    direction: PhantomData<D>,
}

impl<D: DirectionType> BounceBuffer<D> {
    pub(crate) fn new(place: Place, source_offset: u64) -> Self {
        Self {
            start: place.start,
            source_offset,
            len: place.len,
            first: place.first,
            pool: place.pool,
            device: place.device,
            direction: PhantomData,
        }
    }

    /// Where the device finds the first mapped byte, before the bus offset.
    #[inline]
    pub fn start(&self) -> PhysAddr {
        self.start
    }

    /// How many bytes are mapped; more than zero.
    #[allow(clippy::len_without_is_empty)]
    #[inline]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// The device that it is counted to.
    pub fn device(&self) -> DeviceId {
        self.device
    }

    /// Whether it lies in transient memory, which is short: better not kept for long.
    pub fn is_transient(&self) -> bool {
        self.pool == RESERVE
    }
}

/// The pool that is always there.
pub(crate) const FIRST: u16 = 0;
/// The reserve for requests that cannot wait.
pub(crate) const RESERVE: u16 = 1;
/// The first of the grown pools.
pub(crate) const GROWN: u16 = 2;

/// Where a mapping lies.
pub(crate) struct Place {
    pub(crate) start: PhysAddr,
    pub(crate) len: u64,
    pub(crate) first: u32,
    pub(crate) pool: u16,
    pub(crate) device: DeviceId,
}

impl<D: DirectionType> fmt::Debug for BounceBuffer<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BounceBuffer")
            .field("start", &self.start)
            .field("len", &self.len)
            .field("direction", &D::DIRECTION)
            .finish_non_exhaustive()
    }
}
