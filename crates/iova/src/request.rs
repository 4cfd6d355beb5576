//! What is asked of a space, and what it hands out.

use core::fmt;
use core::num::NonZeroU64;

use dmakit_addr::{DmaMask, Granule, Iova, IovaRange};

use crate::error::{AllocCause, AllocError};
use crate::extent::{Class, Extent, NO_CLASS};

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

/// A run of device addresses that its holder alone may map. Two words, and an `Option` of it no more.
///
/// It is moved, never copied, and goes back with [`Space::free`](crate::Space::free) once nothing is
/// mapped there and no translation cache can still know it. Forgetting one leaks its addresses.
#[derive(PartialEq, Eq)]
pub struct Reservation {
    pub(crate) start: NonZeroU64,
    pub(crate) extent: Extent,
}

impl Reservation {
    /// The addresses, whole granules.
    #[inline]
    pub fn range(&self) -> IovaRange {
        // Inside an aperture, which is a range: nothing is cut.
        IovaRange::cut_short(Iova::new(self.start.get()), self.extent.len())
    }

    /// The addresses alone, for a holder that keeps them in some other form:
    /// [`Space::resume`](crate::Space::resume) makes the reservation again.
    #[inline]
    pub fn into_range(self) -> IovaRange {
        self.range()
    }
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Reservation").field(&self.range()).finish()
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
    /// The class of what is taken, [`NO_CLASS`] where it is no power of two.
    pub(crate) class: Class,
    /// Whether a block of that size has the alignment that is asked for.
    pub(crate) is_natural: bool,
}

impl Request {
    /// Whether it is for a block of its own size and alignment: the common case, in a few
    /// instructions.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        // Powers of two have one bit; the alignment's is in the length or below it.
        let below = self.align.wrapping_sub(1);
        let more = self.len & self.len.wrapping_sub(1) | below & (self.align | self.len);
        self.len != 0 && more == 0
    }

    /// The first address past the limit; no space has the last address of all.
    #[inline]
    pub(crate) fn end(&self) -> u64 {
        self.limit.last().saturating_add(1)
    }

    /// Any request.
    #[inline]
    pub(crate) fn shape(&self, granule: Granule) -> Result<Shape, AllocCause> {
        let wanted = granule.count(0, self.len).unwrap_or(0);
        if wanted == 0 || wanted > 1 << 62 || !self.align.is_power_of_two() {
            return Err(AllocCause::Request);
        }
        let natural = wanted.next_power_of_two();
        let granules = taken(wanted);
        let aligned = (self.align >> granule.shift()).max(natural);
        Ok(Shape {
            wanted,
            granules,
            order: aligned.trailing_zeros(),
            end: self.end() >> granule.shift(),
            class: class_of(granules, granule),
            is_natural: aligned == natural,
        })
    }

    #[inline]
    pub(crate) fn refused(&self, cause: AllocCause) -> AllocError {
        AllocError {
            asked: self.len,
            align: self.align,
            limit: self.limit,
            cause,
        }
    }
}

/// The class of a block of so many granules, [`NO_CLASS`] where they are no power of two.
#[inline]
pub(crate) fn class_of(granules: u64, granule: Granule) -> Class {
    match granules.is_power_of_two() {
        true => granules.trailing_zeros() + granule.shift(),
        false => NO_CLASS,
    }
}
