//! A device whose mappings are known by their addresses.

use alloc::collections::BTreeMap;
use core::fmt;
use core::ops::Range;
use core::ptr::NonNull;

use dmakit_addr::{Attributes, Direction, DmaAddr, PAGE_BYTES};
use dmakit_dma::{
    Checker, Coherent, CoherentError, Device, DmaSegment, MapError, NoTranslation, RawError,
    Translate, Unchecked,
};
use dmakit_platform::{IrqMutex, Platform};

use crate::ProgramBytes;

/// No coherent memory was allocated at an address, or it did not go home.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotAllocated {
    /// The address.
    pub addr: DmaAddr,
}

impl fmt::Display for NotAllocated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no coherent memory was allocated at {}", self.addr)
    }
}

impl core::error::Error for NotAllocated {}

/// A page of coherent memory, in words.
type Page = [u64; PAGE_BYTES as usize / 8];

/// A [`Device`] for interfaces made of addresses and pointers.
pub struct UntypedDevice<P, M, C = Unchecked, T = NoTranslation>
where
    P: Platform + 'static,
    M: 'static,
    T: 'static,
{
    device: Device<'static, P, M, C, T>,
    /// Coherent memory that is out, by the address that the device has of it.
    coherent: IrqMutex<P, BTreeMap<u64, Coherent<Page>>>,
}

impl<P, M, C, T> UntypedDevice<P, M, C, T>
where
    P: Platform + 'static,
    M: 'static,
    C: Checker<'static> + 'static,
    T: Translate + 'static,
{
    /// The device, by address.
    pub fn new(device: Device<'static, P, M, C, T>) -> Self {
        Self {
            device,
            coherent: IrqMutex::<P, _>::new(BTreeMap::new()),
        }
    }

    /// The device, for its counters.
    pub fn device(&self) -> &Device<'static, P, M, C, T> {
        &self.device
    }

    /// Zeroed coherent memory of at least `len` bytes, whole pages aligned to the power of two that
    /// holds them: the address for the device, and a pointer for the CPU, good until
    /// [`free_coherent`](Self::free_coherent). May sleep; allocates.
    ///
    /// # Errors
    /// [`CoherentError`]; nothing has changed then.
    pub fn alloc_coherent(&self, len: usize) -> Result<(DmaAddr, NonNull<u8>), CoherentError> {
        let pages = (len as u64).div_ceil(PAGE_BYTES) as usize;
        let block = self
            .device
            .alloc_coherent::<Page>(pages, Attributes::NONE)?;
        let addr = block.dma_addr();
        let bytes = self.device.view(&block).map(|view| view.as_ptr());
        let mut coherent = self.coherent.lock();
        // A block of this device has a view, and its address is not out twice.
        let bytes = bytes.unwrap_or_else(|| unreachable!("the block is this device's"));
        coherent.insert(addr.raw(), block);
        Ok((addr, bytes))
    }

    /// Sends coherent memory home, by its address. May sleep.
    ///
    /// # Errors
    /// [`NotAllocated`]; what did not go home is leaked.
    ///
    /// # Safety
    /// Neither the device nor the program uses it any more.
    pub unsafe fn free_coherent(&self, addr: DmaAddr) -> Result<(), NotAllocated> {
        let block = self.coherent.lock().remove(&addr.raw());
        let freed = block.map(|block| self.device.free_coherent(block));
        match freed {
            Some(Ok(())) => Ok(()),
            Some(Err(_)) | None => Err(NotAllocated { addr }),
        }
    }

    /// Lends bytes of the program to the device; the address for its descriptor. Never sleeps.
    ///
    /// # Errors
    /// [`MapError`]; nothing has changed then.
    ///
    /// # Safety
    /// The bytes stay valid until [`unmap`](Self::unmap), and nothing uses them meanwhile but
    /// through syncs, as the direction allows.
    pub unsafe fn map(
        &self,
        bytes: ProgramBytes,
        direction: Direction,
    ) -> Result<DmaAddr, MapError> {
        let run = bytes.run();
        let handle = self
            .device
            .map_raw(run, &bytes, direction, Attributes::NONE)?;
        Ok(handle.addr)
    }

    /// Takes bytes back that [`map`](Self::map) lent: what the device wrote is in them, and it no
    /// longer reaches them. Never sleeps; waits, for a bounded time, where the hardware must forget.
    ///
    /// # Errors
    /// [`RawError`]; the mapping, if there is one, stands.
    ///
    /// # Safety
    /// The device is done with the bytes, which are those that were mapped.
    pub unsafe fn unmap(
        &self,
        addr: DmaAddr,
        mut bytes: ProgramBytes,
        direction: Direction,
    ) -> Result<(), RawError> {
        let (run, handle) = (bytes.run(), segment(addr, bytes));
        self.device
            .unmap_raw(handle, direction, run, &mut bytes, Attributes::NONE)
    }

    /// Brings what the device wrote to a part of mapped bytes to the CPU.
    ///
    /// # Errors
    /// [`RawError`].
    ///
    /// # Safety
    /// As [`unmap`](Self::unmap), for the part.
    pub unsafe fn sync_for_cpu(
        &self,
        addr: DmaAddr,
        mut bytes: ProgramBytes,
        direction: Direction,
        part: Range<u64>,
    ) -> Result<(), RawError> {
        let (run, handle) = (bytes.run(), segment(addr, bytes));
        self.device
            .sync_raw_for_cpu(handle, direction, run, &mut bytes, part)
    }

    /// Brings what the CPU wrote to a part of mapped bytes to the device.
    ///
    /// # Errors
    /// [`RawError`].
    ///
    /// # Safety
    /// As [`unmap`](Self::unmap), for the part.
    pub unsafe fn sync_for_device(
        &self,
        addr: DmaAddr,
        bytes: ProgramBytes,
        direction: Direction,
        part: Range<u64>,
    ) -> Result<(), RawError> {
        let handle = segment(addr, bytes);
        self.device
            .sync_raw_for_device(handle, direction, bytes.run(), &bytes, part)
    }
}

fn segment(addr: DmaAddr, bytes: ProgramBytes) -> DmaSegment {
    DmaSegment {
        addr,
        len: bytes.run().len(),
    }
}
