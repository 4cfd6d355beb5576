//! Memory and registers, mapped to the same numbers.

use core::ptr::{NonNull, with_exposed_provenance_mut};

use dmakit_addr::{PhysAddr, PhysRange};
use dmakit_dma_api::ProgramMemory;
use mmio_api::{MapError, MmioAddr, MmioOp, MmioRaw};

/// The one mapping that this image has.
pub struct Identity;

impl Identity {
    /// The physical run behind bytes of the image or its heap.
    pub fn run(bytes: NonNull<[u8]>) -> Option<PhysRange> {
        let start = bytes.cast::<u8>().as_ptr().expose_provenance();
        PhysRange::new(PhysAddr::new(start as u64), bytes.len() as u64).ok()
    }

    /// Where the CPU sees a physical address.
    pub fn pointer(start: PhysAddr) -> Option<NonNull<u8>> {
        NonNull::new(with_exposed_provenance_mut(start.raw() as usize))
    }
}

// SAFETY: so it is mapped, the program's memory included.
unsafe impl ProgramMemory for Identity {
    fn phys(&self, bytes: NonNull<[u8]>) -> Option<PhysRange> {
        Self::run(bytes)
    }
}

impl MmioOp for Identity {
    fn ioremap(&self, addr: MmioAddr, size: usize) -> Result<MmioRaw, MapError> {
        let start = PhysAddr::new(addr.as_usize() as u64);
        let start = Self::pointer(start).ok_or(MapError::Invalid)?;
        // SAFETY: device registers are mapped to the same numbers, for ever.
        Ok(unsafe { MmioRaw::new(addr, start, size) })
    }

    fn iounmap(&self, _mmio: &MmioRaw) {}
}
