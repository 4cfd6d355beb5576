//! Which addresses a device can use.

use core::fmt;

use crate::{Address, Range};

/// The highest address that a device can put on its bus.
///
/// Usually `2^n - 1`, but a bus limit may be any number, so any is allowed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DmaMask(u64);

impl DmaMask {
    /// Every address.
    pub const ALL: Self = Self(u64::MAX);

    /// A device with `bits` address lines; `None` for 0 or more than 64.
    pub const fn bits(bits: u32) -> Option<Self> {
        match bits {
            1..=64 => Some(Self(u64::MAX >> (64 - bits))),
            _ => None,
        }
    }

    /// A device that reaches up to and including `last`.
    pub const fn up_to(last: u64) -> Self {
        Self(last)
    }

    /// The highest address that can be reached.
    pub const fn last(self) -> u64 {
        self.0
    }

    /// What two limits leave, as the mask of a device and the limit of its bus.
    #[must_use]
    #[inline]
    pub fn intersect(self, other: Self) -> Self {
        self.min(other)
    }

    /// Whether every byte of `range` can be reached; an empty one always can.
    #[inline]
    pub fn reaches<A: Address>(self, range: &Range<A>) -> bool {
        range.last().is_none_or(|last| last.raw() <= self.0)
    }
}

impl fmt::Debug for DmaMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DmaMask({:#x})", self.0)
    }
}

impl fmt::Display for DmaMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

macro_rules! low_bits {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u64);

        impl $name {
            /// From the mask itself; `None` unless it is `2^n - 1`.
            pub const fn new(mask: u64) -> Option<Self> {
                if mask & mask.wrapping_add(1) == 0 { Some(Self(mask)) } else { None }
            }

            /// From the size that the mask stands for, in bytes; `None` unless a power of two.
            pub const fn of_size(size_bytes: u64) -> Option<Self> {
                if size_bytes.is_power_of_two() { Some(Self(size_bytes - 1)) } else { None }
            }

            /// The mask, `2^n - 1`.
            #[inline]
            pub const fn raw(self) -> u64 {
                self.0
            }

            /// The bits of `address` under the mask.
            #[inline]
            pub fn low_bits<A: Address>(self, address: A) -> u64 {
                address.raw() & self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }
    };
}

low_bits! {
    /// Low address bits that matter: those a bounce buffer must share with its original, or those
    /// that an allocation must have clear.
    AlignMask
}

low_bits! {
    /// A boundary that one segment must not cross: a device whose address counter is narrower than
    /// its address register. [`BoundaryMask::NONE`] has no boundary.
    BoundaryMask
}

impl AlignMask {
    /// Any address will do.
    pub const NONE: Self = Self(0);

    /// The alignment in bytes that the mask stands for.
    ///
    /// Saturates for the mask of all ones, which no address but zero satisfies.
    #[inline]
    pub const fn align_bytes(self) -> u64 {
        self.0.saturating_add(1)
    }
}

impl Default for AlignMask {
    fn default() -> Self {
        Self::NONE
    }
}

impl BoundaryMask {
    /// No boundary.
    pub const NONE: Self = Self(u64::MAX);

    /// Whether `range` crosses a multiple of the boundary.
    #[inline]
    pub fn is_crossed_by<A: Address>(self, range: &Range<A>) -> bool {
        match range.last() {
            Some(last) => (range.start().raw() & !self.0) != (last.raw() & !self.0),
            None => false,
        }
    }
}

impl Default for BoundaryMask {
    fn default() -> Self {
        Self::NONE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DmaAddr, DmaRange};

    fn range(start: u64, len: u64) -> DmaRange {
        Range::new(DmaAddr::new(start), len).unwrap()
    }

    #[test]
    fn a_mask_reaches_its_last_byte_and_no_further() {
        let mask = DmaMask::bits(32).unwrap();
        assert!(mask.reaches(&range(0xffff_f000, 0x1000)));
        assert!(!mask.reaches(&range(0xffff_f000, 0x1001)));
        assert!(mask.reaches(&range(u64::MAX, 0)));
    }

    #[test]
    fn bits_outside_one_to_sixty_four_are_refused() {
        assert_eq!(DmaMask::bits(0), None);
        assert_eq!(DmaMask::bits(65), None);
        assert_eq!(DmaMask::bits(64), Some(DmaMask::ALL));
    }

    #[test]
    fn a_mask_with_holes_is_refused() {
        assert_eq!(AlignMask::new(0xff7), None);
        assert_eq!(AlignMask::of_size(4096), AlignMask::new(0xfff));
        assert_eq!(AlignMask::new(u64::MAX).unwrap().align_bytes(), u64::MAX);
    }

    #[test]
    fn a_boundary_is_crossed_only_by_ranges_on_both_sides() {
        let boundary = BoundaryMask::of_size(0x1_0000).unwrap();
        assert!(!boundary.is_crossed_by(&range(0xf000, 0x1000)));
        assert!(boundary.is_crossed_by(&range(0xf000, 0x1001)));
        assert!(!BoundaryMask::NONE.is_crossed_by(&range(0, u64::MAX)));
    }
}
