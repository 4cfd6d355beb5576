//! How much was taken, and where it goes when it comes back.

/// Bits of a length that hold a class, all clear in any length: no granule is smaller than 4 KiB.
const CLASS_MASK: u64 = 63;

/// The log2 of a block's size in bytes.
pub(crate) type Class = u32;

/// The class of what is no power of two, which is no block's.
pub(crate) const NO_CLASS: Class = 0;

/// The bytes that a holder sees and, in the lowest bits, the class of the block that was taken for
/// them.
///
/// The class stands here and not with the address: who frees knows the length early, and need not
/// wait for the address to know where it goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent(u64);

impl Extent {
    /// Of `len` bytes, whole granules.
    #[inline]
    pub(crate) fn new(len: u64, class: Class) -> Self {
        Self(len | u64::from(class))
    }

    #[inline]
    pub(crate) fn len(self) -> u64 {
        self.0 & !CLASS_MASK
    }

    #[inline]
    pub(crate) fn class(self) -> Class {
        (self.0 & CLASS_MASK) as Class
    }
}
