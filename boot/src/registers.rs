//! Device registers, as the CPU sees them.

use core::ptr::{read_volatile, with_exposed_provenance_mut, write_volatile};

use dmakit_platform::Mmio;

/// A run of device registers.
#[derive(Clone, Copy, Debug)]
pub struct Registers {
    base: u64,
    len: u64,
}

impl Registers {
    /// The registers at `base`.
    ///
    /// # Safety
    /// Device registers lie there, mapped as device memory for ever, and accesses to them break
    /// nothing that Rust relies on.
    pub const unsafe fn new(base: u64, len: u64) -> Self {
        Self { base, len }
    }

    fn at<T>(&self, offset: u64) -> *mut T {
        assert!(offset < self.len && offset.is_multiple_of(size_of::<T>() as u64));
        with_exposed_provenance_mut((self.base + offset) as usize)
    }
}

// SAFETY (each block): `new`'s caller promised registers; `at` keeps the access inside and aligned.
impl Mmio for Registers {
    fn read32(&self, offset: u64) -> u32 {
        // SAFETY: see above.
        unsafe { read_volatile(self.at(offset)) }
    }

    fn read64(&self, offset: u64) -> u64 {
        // SAFETY: see above.
        unsafe { read_volatile(self.at(offset)) }
    }

    fn write32(&self, offset: u64, value: u32) {
        // SAFETY: see above.
        unsafe { write_volatile(self.at(offset), value) };
    }

    fn write64(&self, offset: u64, value: u64) {
        // SAFETY: see above.
        unsafe { write_volatile(self.at(offset), value) };
    }
}
