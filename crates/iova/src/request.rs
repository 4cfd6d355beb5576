//! What is asked of a space, and what it hands out.

use dmakit_addr::{DmaMask, Granule, IovaRange};

use crate::cache::ORDERS;
use crate::error::{AllocCause, AllocError};

/// Sizes up to this many granules are rounded up to a power of two.
const ROUNDED: u64 = 32;

/// What is asked of [`Space::alloc`](crate::Space::alloc).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// Bytes; rounded up to whole granules.
    pub len: u64,
    /// Alignment in bytes, a power of two. The length rounded up to a power of two is the least
    /// that is given, so 1 asks for that. An aligned block of that size must be free as a whole;
    /// what the length leaves of it stays free.
    pub align: u64,
    /// The highest address that may be touched.
    pub limit: DmaMask,
}

/// A run of device addresses that its holder alone may map.
///
/// It is moved, never copied, and goes back with [`Space::free`](crate::Space::free) once nothing is
/// mapped there and no translation cache can still know it. Forgetting one leaks its addresses.
#[derive(PartialEq, Eq, Debug)]
pub struct Reservation {
    pub(crate) range: IovaRange,
    /// Granules that were taken for it.
    pub(crate) granules: u64,
}

impl Reservation {
    /// The addresses, whole granules.
    pub fn range(&self) -> IovaRange {
        self.range
    }

    /// The addresses alone, for a holder that keeps its records in fewer bytes:
    /// [`Space::resume`](crate::Space::resume) makes the reservation again.
    #[inline]
    pub fn into_range(self) -> IovaRange {
        self.range
    }
}

/// Granules that are taken for so many.
#[inline]
pub(crate) fn taken(wanted: u64) -> u64 {
    let natural = wanted.next_power_of_two();
    // Small odd sizes take their whole block, so that it comes back as one that others can use.
    if natural <= ROUNDED { natural } else { wanted }
}

/// A request in granules.
pub(crate) struct Shape {
    /// Granules that the caller sees.
    pub(crate) wanted: u64,
    /// Granules that are taken.
    pub(crate) granules: u64,
    /// log2 of the alignment, at least that of the size.
    pub(crate) order: u32,
    /// The first granule past the limit.
    pub(crate) end: u64,
    /// The cached order that serves it.
    pub(crate) cached: Option<usize>,
}

impl Request {
    /// The cached order and the first granule past the limit of a request for a block of its own
    /// size and alignment: the common case, in a few instructions.
    #[inline]
    pub(crate) fn plain(&self, granule: Granule) -> Option<(usize, u64)> {
        let is_block = self.len.is_power_of_two() && self.len >= granule.bytes();
        let is_natural = self.align.is_power_of_two() && self.align <= self.len;
        let order = self.len.trailing_zeros().wrapping_sub(granule.shift()) as usize;
        (is_block && is_natural && order < ORDERS).then(|| (order, self.end(granule)))
    }

    /// The first granule past the limit.
    #[inline]
    fn end(&self, granule: Granule) -> u64 {
        // Where the limit is the last byte of a granule, that one is whole; no granule number is
        // near the type's end.
        let last = self.limit.last();
        let ends_whole = last & granule.mask() == granule.mask();
        (last >> granule.shift()) + u64::from(ends_whole)
    }

    /// Any request.
    pub(crate) fn shape(&self, granule: Granule) -> Result<Shape, AllocError> {
        let wanted = granule.count(0, self.len).unwrap_or(0);
        if wanted == 0 || wanted > 1 << 62 || !self.align.is_power_of_two() {
            return Err(self.refused(AllocCause::Request));
        }
        let natural = wanted.next_power_of_two();
        let granules = taken(wanted);
        let aligned = (self.align >> granule.shift()).max(natural);
        Ok(Shape {
            wanted,
            granules,
            order: aligned.trailing_zeros(),
            end: self.end(granule),
            cached: (aligned == natural)
                .then(|| cached_order(granules))
                .flatten(),
        })
    }

    #[cold]
    pub(crate) fn refused(&self, cause: AllocCause) -> AllocError {
        AllocError {
            asked: self.len,
            align: self.align,
            limit: self.limit,
            cause,
        }
    }
}

#[inline]
pub(crate) fn cached_order(granules: u64) -> Option<usize> {
    let order = granules.trailing_zeros() as usize;
    (granules.is_power_of_two() && order < ORDERS).then_some(order)
}
