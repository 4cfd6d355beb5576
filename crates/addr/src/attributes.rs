//! What a caller may ask of a mapping beyond its direction.

use core::fmt;
use core::ops::BitOr;

/// A set of mapping attributes, with the bit numbers of Linux (`include/linux/dma-mapping.h`), so
/// that a recorded mask can be read as it stands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Attributes(u32);

const NAMES: [(Attributes, &str); 10] = [
    (Attributes::WEAK_ORDERING, "WEAK_ORDERING"),
    (Attributes::WRITE_COMBINE, "WRITE_COMBINE"),
    (Attributes::NO_KERNEL_MAPPING, "NO_KERNEL_MAPPING"),
    (Attributes::SKIP_CPU_SYNC, "SKIP_CPU_SYNC"),
    (Attributes::FORCE_CONTIGUOUS, "FORCE_CONTIGUOUS"),
    (Attributes::ALLOC_SINGLE_PAGES, "ALLOC_SINGLE_PAGES"),
    (Attributes::NO_WARN, "NO_WARN"),
    (Attributes::PRIVILEGED, "PRIVILEGED"),
    (Attributes::MMIO, "MMIO"),
    (Attributes::REQUIRE_COHERENT, "REQUIRE_COHERENT"),
];

impl Attributes {
    /// Nothing asked.
    pub const NONE: Self = Self(0);
    /// Reads and writes may pass each other.
    pub const WEAK_ORDERING: Self = Self(1 << 1);
    /// The CPU may combine its writes.
    pub const WRITE_COMBINE: Self = Self(1 << 2);
    /// The CPU will not touch the memory through a mapping of its own.
    pub const NO_KERNEL_MAPPING: Self = Self(1 << 4);
    /// The caller does cache maintenance and bounce copies itself, by sync calls.
    pub const SKIP_CPU_SYNC: Self = Self(1 << 5);
    /// Physically contiguous even where an IOMMU would hide the seams.
    pub const FORCE_CONTIGUOUS: Self = Self(1 << 6);
    /// Single pages will do: do not try hard for large ones.
    pub const ALLOC_SINGLE_PAGES: Self = Self(1 << 7);
    /// The caller expects failure now and then: count it, do not report it.
    pub const NO_WARN: Self = Self(1 << 8);
    /// Only privileged accesses of the device may use the mapping.
    pub const PRIVILEGED: Self = Self(1 << 9);
    /// Not normal memory: no cache maintenance, never bounced.
    pub const MMIO: Self = Self(1 << 10);
    /// Fail rather than bounce or maintain caches.
    pub const REQUIRE_COHERENT: Self = Self(1 << 12);

    /// The set with these bits, known or not.
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// The bits of the set.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Whether every attribute of `other` is in the set.
    #[inline]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The union of two sets.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The set of one attribute by the name that Linux's traces print; `None` for an unknown one.
    pub fn by_name(name: &str) -> Option<Self> {
        NAMES
            .iter()
            .find(|(_, known)| *known == name)
            .map(|(set, _)| *set)
    }

    /// The set as Linux's traces print it: names joined by `|`, unknown bits in hex, empty for none.
    pub const fn names(self) -> AttributeNames {
        AttributeNames(self)
    }
}

impl BitOr for Attributes {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        self.union(other)
    }
}

impl fmt::Debug for Attributes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Attributes({})", self.names())
    }
}

/// Prints [`Attributes`] the way Linux's traces do.
#[derive(Clone, Copy)]
pub struct AttributeNames(Attributes);

impl fmt::Display for AttributeNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.0;
        let mut separator = "";
        for (set, name) in NAMES {
            if rest & set.0 != 0 {
                write!(f, "{separator}{name}")?;
                separator = "|";
                rest &= !set.0;
            }
        }
        if rest != 0 {
            write!(f, "{separator}{rest:#x}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::ToString;

    #[test]
    fn names_are_printed_in_bit_order_and_unknown_bits_in_hex() {
        let set = Attributes::NO_WARN | Attributes::SKIP_CPU_SYNC | Attributes::from_bits(1 << 20);
        assert_eq!(set.names().to_string(), "SKIP_CPU_SYNC|NO_WARN|0x100000");
        assert_eq!(Attributes::NONE.names().to_string(), "");
        assert_eq!(Attributes::by_name("NO_WARN"), Some(Attributes::NO_WARN));
        assert_eq!(Attributes::by_name("NO_WARNING"), None);
    }
}
