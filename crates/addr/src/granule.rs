//! The smallest unit of an IOMMU or IOVA domain.

use core::fmt;

/// The smallest unit that an IOMMU domain or IOVA space maps, a power of two in bytes.
///
/// It need not be the CPU's page.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Granule(u8);

impl Granule {
    /// 4 KiB.
    pub const K4: Self = Self(12);
    /// 16 KiB.
    pub const K16: Self = Self(14);
    /// 64 KiB.
    pub const K64: Self = Self(16);

    /// A granule of `bytes`; `None` unless a power of two.
    pub const fn of_bytes(bytes: u64) -> Option<Self> {
        if bytes.is_power_of_two() {
            Some(Self(bytes.trailing_zeros() as u8))
        } else {
            None
        }
    }

    /// log2 of its size in bytes.
    #[inline]
    pub const fn shift(self) -> u32 {
        self.0 as u32
    }

    /// Its size in bytes.
    #[inline]
    pub const fn bytes(self) -> u64 {
        1 << self.0
    }

    /// The bits below it.
    #[inline]
    pub const fn mask(self) -> u64 {
        self.bytes() - 1
    }

    /// How many granules `bytes` touch, starting `offset` into the first; `None` on overflow.
    #[inline]
    pub fn count(self, offset: u64, bytes: u64) -> Option<u64> {
        let covered = (offset & self.mask())
            .checked_add(bytes)?
            .checked_add(self.mask())?;
        Some(covered >> self.0)
    }
}

impl fmt::Debug for Granule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Granule({} bytes)", self.bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_on_each_side_of_a_granule_line_touches_two() {
        assert_eq!(Granule::K4.count(0xfff, 2), Some(2));
        assert_eq!(Granule::K4.count(0xfff, 1), Some(1));
        assert_eq!(Granule::K4.count(0, 0), Some(0));
        assert_eq!(Granule::K4.count(1, u64::MAX), None);
        assert_eq!(Granule::of_bytes(4097), None);
    }
}
