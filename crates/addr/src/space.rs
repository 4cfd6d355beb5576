//! One newtype per address space.

use core::fmt;

/// log2 of the size of a frame, the unit that a [`Pfn`] counts.
pub const PAGE_SHIFT: u32 = 12;

/// Bytes in a frame: 4 KiB, the smallest page of every machine this stack runs on.
pub const PAGE_BYTES: u64 = 1 << PAGE_SHIFT;

mod sealed {
    pub trait Sealed {}
}

/// A position in one address space.
///
/// Implemented by [`PhysAddr`], [`DmaAddr`], [`Iova`] and [`Pfn`] and by nothing else: it exists so
/// that [`Range`](crate::Range) is written once.
pub trait Address: sealed::Sealed + Copy + Ord + fmt::Debug + fmt::Display {
    /// The address that has this number.
    fn from_raw(raw: u64) -> Self;

    /// The number of this address.
    fn raw(self) -> u64;

    /// `self + offset`, or `None` where that would pass the end of the space.
    fn checked_add(self, offset: u64) -> Option<Self> {
        self.raw().checked_add(offset).map(Self::from_raw)
    }

    /// `self - offset`, or `None` where that would pass zero.
    fn checked_sub(self, offset: u64) -> Option<Self> {
        self.raw().checked_sub(offset).map(Self::from_raw)
    }

    /// How far `self` lies above `base`, or `None` where it lies below.
    fn offset_from(self, base: Self) -> Option<u64> {
        self.raw().checked_sub(base.raw())
    }

    /// Whether `self` is a multiple of `align`, a power of two in the unit of the space.
    fn is_aligned(self, align: u64) -> bool {
        debug_assert!(align.is_power_of_two());
        self.raw() & align.wrapping_sub(1) == 0
    }

    /// The greatest multiple of `align` (a power of two) that is not above `self`.
    #[must_use]
    fn align_down(self, align: u64) -> Self {
        debug_assert!(align.is_power_of_two());
        Self::from_raw(self.raw() & !align.wrapping_sub(1))
    }

    /// The least multiple of `align` (a power of two) that is not below `self`, or `None` where the
    /// space ends before it.
    fn align_up(self, align: u64) -> Option<Self> {
        debug_assert!(align.is_power_of_two());
        let mask = align.wrapping_sub(1);
        self.raw()
            .checked_add(mask)
            .map(|raw| Self::from_raw(raw & !mask))
    }
}

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(u64);

        impl $name {
            /// The address that has this number.
            #[inline]
            pub const fn new(raw: u64) -> Self {
                Self(raw)
            }

            /// The number of this address.
            #[inline]
            pub const fn raw(self) -> u64 {
                self.0
            }
        }

        impl sealed::Sealed for $name {}

        impl Address for $name {
            #[inline]
            fn from_raw(raw: u64) -> Self {
                Self(raw)
            }

            #[inline]
            fn raw(self) -> u64 {
                self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }

        impl fmt::LowerHex for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::LowerHex::fmt(&self.0, f)
            }
        }
    };
}

address! {
    /// What the CPU puts on its memory bus, in bytes.
    PhysAddr
}

address! {
    /// What is written into a device's descriptor, in bytes, whichever path produced it: the
    /// physical address through the bus offset, a bounce slot, or a mapped [`Iova`].
    DmaAddr
}

address! {
    /// The input address of an IOMMU domain, in bytes. It becomes a [`DmaAddr`] only once something
    /// is mapped there.
    Iova
}

address! {
    /// The number of a physical frame of [`PAGE_BYTES`] bytes.
    Pfn
}

impl PhysAddr {
    /// The frame that holds this byte.
    #[inline]
    pub const fn pfn(self) -> Pfn {
        Pfn(self.0 >> PAGE_SHIFT)
    }
}

impl Pfn {
    /// The first byte of the frame, or `None` where the frame lies past the 64-bit byte space.
    #[inline]
    pub const fn phys(self) -> Option<PhysAddr> {
        if self.0 <= u64::MAX >> PAGE_SHIFT {
            Some(PhysAddr(self.0 << PAGE_SHIFT))
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_never_wraps() {
        let top = PhysAddr::new(u64::MAX);
        assert_eq!(top.checked_add(1), None);
        assert_eq!(top.align_up(4096), None);
        assert_eq!(top.align_down(4096), PhysAddr::new(u64::MAX - 4095));
        assert_eq!(PhysAddr::new(0).checked_sub(1), None);
        assert_eq!(Iova::new(8).offset_from(Iova::new(9)), None);
    }

    #[test]
    fn a_frame_number_names_its_first_byte() {
        assert_eq!(PhysAddr::new(0x1fff).pfn(), Pfn::new(1));
        assert_eq!(Pfn::new(1).phys(), Some(PhysAddr::new(0x1000)));
        assert_eq!(Pfn::new(u64::MAX).phys(), None);
    }
}
