//! Half-open runs of one address space.

use core::fmt;

use crate::{Address, DmaAddr, Iova, Pfn, PhysAddr};

/// A half-open run `[start, start + len)` of one address space.
///
/// Holding one proves that the run does not pass the end of its space: `end` is always an address
/// (so the very last address of the space belongs to no range). It proves nothing about what lies
/// there, nor who owns it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Range<A> {
    start: A,
    len: u64,
}

/// A run of physical memory, in bytes.
pub type PhysRange = Range<PhysAddr>;
/// A run of device addresses, in bytes.
pub type DmaRange = Range<DmaAddr>;
/// A run of an IOMMU domain's input space, in bytes.
pub type IovaRange = Range<Iova>;
/// A run of frames; its length counts frames.
pub type PfnRange = Range<Pfn>;

/// A run that would pass the end of its address space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RangeError {
    /// Where it was to start.
    pub start: u64,
    /// How long it was to be.
    pub len: u64,
}

impl fmt::Display for RangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a range of {:#x} at {:#x} passes the end of the address space",
            self.len, self.start
        )
    }
}

impl core::error::Error for RangeError {}

impl<A: Address> Range<A> {
    /// The run of `len` that starts at `start`; an empty one is legal.
    ///
    /// # Errors
    /// [`RangeError`] where `start + len` is not an address.
    #[inline]
    pub fn new(start: A, len: u64) -> Result<Self, RangeError> {
        match start.checked_add(len) {
            Some(_) => Ok(Self { start, len }),
            None => Err(RangeError {
                start: start.raw(),
                len,
            }),
        }
    }

    /// The run of `len` that starts at `start`, cut short where the address space ends.
    #[inline]
    pub fn cut_short(start: A, len: u64) -> Self {
        Self {
            start,
            len: len.min(u64::MAX - start.raw()),
        }
    }

    /// The run from `start` up to, and without, `end`; `None` where `end` lies below `start`.
    #[inline]
    pub fn between(start: A, end: A) -> Option<Self> {
        end.offset_from(start).map(|len| Self { start, len })
    }

    /// The first address.
    #[inline]
    pub fn start(&self) -> A {
        self.start
    }

    /// The first address past the run.
    #[inline]
    pub fn end(&self) -> A {
        // `new` and `between` proved that this does not overflow.
        A::from_raw(self.start.raw() + self.len)
    }

    /// The last address of the run, or `None` where it is empty.
    #[inline]
    pub fn last(&self) -> Option<A> {
        self.len
            .checked_sub(1)
            .map(|last| A::from_raw(self.start.raw() + last))
    }

    /// How many units of the space it covers.
    #[inline]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it covers nothing.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether `address` lies inside.
    #[inline]
    pub fn contains(&self, address: A) -> bool {
        address
            .offset_from(self.start)
            .is_some_and(|offset| offset < self.len)
    }

    /// Whether every address of `other` lies inside; an empty `other` must still start inside or
    /// at the end.
    #[inline]
    pub fn contains_range(&self, other: &Self) -> bool {
        self.start <= other.start && other.end() <= self.end()
    }

    /// Whether the two have an address in common.
    #[inline]
    pub fn overlaps(&self, other: &Self) -> bool {
        !self.intersection(other).is_empty()
    }

    /// What the two have in common; empty where they have nothing.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let start = self.start.max(other.start);
        let end = self.end().min(other.end());
        Self {
            start,
            len: end.offset_from(start).unwrap_or(0),
        }
    }

    /// The run of `len` at `offset` inside this one, or `None` where it does not fit.
    #[inline]
    pub fn slice(&self, offset: u64, len: u64) -> Option<Self> {
        let end = offset.checked_add(len)?;
        if end > self.len {
            return None;
        }
        Some(Self {
            start: A::from_raw(self.start.raw() + offset),
            len,
        })
    }

    /// The first `at` units and the rest, or `None` where the run is shorter than `at`.
    pub fn split_at(&self, at: u64) -> Option<(Self, Self)> {
        Some((self.slice(0, at)?, self.slice(at, self.len - at)?))
    }
}

impl PhysRange {
    /// The frames that the range touches, the first and the last perhaps only in part.
    pub fn frames(&self) -> PfnRange {
        let first = self.start.pfn();
        let past = match self.last() {
            Some(last) => last.pfn().raw() + 1,
            None => first.raw(),
        };
        Range {
            start: first,
            len: past - first.raw(),
        }
    }
}

impl PhysRange {
    /// The frames that lie in the range as a whole: what of a firmware's memory range is usable. Empty
    /// where it holds none.
    pub fn whole_frames(&self) -> PfnRange {
        let first = self.start.raw().div_ceil(crate::PAGE_BYTES);
        let past = self.end().raw() / crate::PAGE_BYTES;
        Range {
            start: Pfn::new(first),
            len: past.saturating_sub(first),
        }
    }
}

impl PfnRange {
    /// No frames.
    pub const EMPTY: Self = Self {
        start: Pfn::new(0),
        len: 0,
    };

    /// The bytes of these frames, or `None` where they lie past the 64-bit byte space.
    pub fn bytes(&self) -> Option<PhysRange> {
        let start = self.start.phys()?;
        let len = self.len.checked_mul(crate::PAGE_BYTES)?;
        Range::new(start, len).ok()
    }
}

impl<A: Address> fmt::Debug for Range<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{:#x}, {:#x})", self.start.raw(), self.end().raw())
    }
}

impl<A: Address> fmt::Display for Range<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, len: u64) -> PhysRange {
        Range::new(PhysAddr::new(start), len).unwrap()
    }

    #[test]
    fn a_range_past_the_end_is_refused_with_its_numbers() {
        let refused = Range::new(PhysAddr::new(u64::MAX - 1), 2).unwrap_err();
        assert_eq!(
            refused,
            RangeError {
                start: u64::MAX - 1,
                len: 2
            }
        );
        assert!(Range::new(PhysAddr::new(u64::MAX - 1), 1).is_ok());
    }

    #[test]
    fn a_range_that_is_cut_short_ends_with_the_address_space() {
        let cut = Range::cut_short(PhysAddr::new(u64::MAX - 1), 2);
        assert_eq!((cut.len(), cut.end().raw()), (1, u64::MAX));
        assert_eq!(Range::cut_short(PhysAddr::new(1), 2), range(1, 2));
    }

    #[test]
    fn the_end_is_outside_and_the_last_inside() {
        let r = range(0x1000, 0x1000);
        assert!(!r.contains(r.end()));
        assert!(r.contains(r.last().unwrap()));
        assert_eq!(range(7, 0).last(), None);
    }

    #[test]
    fn neighbours_do_not_overlap() {
        assert!(!range(0, 0x1000).overlaps(&range(0x1000, 0x1000)));
        assert!(range(0, 0x1001).overlaps(&range(0x1000, 0x1000)));
        assert!(!range(0x1000, 0).overlaps(&range(0, 0x2000)));
    }

    #[test]
    fn a_slice_that_does_not_fit_is_none() {
        let r = range(0x1000, 0x100);
        assert_eq!(r.slice(0xf0, 0x10), Some(range(0x10f0, 0x10)));
        assert_eq!(r.slice(0xf0, 0x11), None);
        assert_eq!(r.slice(u64::MAX, 2), None);
    }

    #[test]
    fn whole_frames_leave_partial_ends_out() {
        for (start, len, expected) in [
            (0x1fff, 0x2002, (2, 2)),
            (0x1000, 0x2000, (1, 2)),
            (0x1001, 0x1ffe, (2, 0)),
            (0x1001, 1, (2, 0)),
            (u64::MAX - 0xfff, 0xfff, (u64::MAX >> 12, 0)),
        ] {
            let frames = range(start, len).whole_frames();
            assert_eq!((frames.start().raw(), frames.len()), expected, "{start:#x}");
        }
    }

    #[test]
    fn frames_cover_partial_ends() {
        let frames = range(0x1fff, 2).frames();
        assert_eq!((frames.start().raw(), frames.len()), (1, 2));
        assert_eq!(range(0x1000, 0).frames().len(), 0);
        assert_eq!(frames.bytes().unwrap(), range(0x1000, 0x2000));
    }
}
