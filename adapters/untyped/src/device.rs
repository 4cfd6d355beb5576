//! A device whose mappings are known by their addresses.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
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

/// What became of a mapping that was named by its address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LentError {
    /// These bytes are not lent at this address.
    NotLent {
        /// The address.
        addr: DmaAddr,
    },
    /// The device's own word.
    Device(RawError),
}

impl fmt::Display for LentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLent { addr } => write!(f, "these bytes are not lent at {addr}"),
            Self::Device(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for LentError {}

/// Bytes that are lent, and which way they move.
#[derive(Clone, Copy, Debug)]
struct Lent {
    bytes: ProgramBytes,
    direction: Direction,
}

/// An address, and which of the mappings there: past no IOMMU, bytes that are lent twice are twice
/// at the same address.
type Place = (u64, u64);

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
    /// What is lent, and has not come back.
    lent: IrqMutex<P, BTreeMap<Place, Lent>>,
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
            lent: IrqMutex::<P, _>::new(BTreeMap::new()),
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

    /// Lends bytes of the program to the device; the address for its descriptor. Never sleeps;
    /// allocates the record of it.
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
        self.put(handle.addr, Lent { bytes, direction });
        Ok(handle.addr)
    }

    /// Takes bytes back that [`map`](Self::map) lent: what the device wrote is in them, and it no
    /// longer reaches them. Never sleeps; waits, for a bounded time, where the hardware must forget.
    ///
    /// # Errors
    /// [`LentError`]; the mapping, if there is one, stands.
    ///
    /// # Safety
    /// The device is done with the bytes.
    pub unsafe fn unmap(&self, addr: DmaAddr, bytes: NonNull<[u8]>) -> Result<(), LentError> {
        let lent = self.take(addr, bytes)?;
        self.end(addr, lent, Attributes::NONE)
    }

    /// Ends everything that is lent; how much that was. What the device wrote stays where it is: who
    /// lent the bytes may be gone. For a device that was reset while its driver waited for it.
    ///
    /// # Errors
    /// [`LentError`] of the first mapping that stands; the others have ended.
    ///
    /// # Safety
    /// The device was reset and knows none of its addresses any more, and its driver unmaps nothing
    /// that it mapped before.
    pub unsafe fn unmap_all(&self) -> Result<usize, LentError> {
        let places: Vec<(Place, Lent)> = core::mem::take(&mut *self.lent.lock())
            .into_iter()
            .collect();
        let count = places.len();
        let mut all = Ok(count);
        for ((addr, _), lent) in places {
            let ended = self.end(DmaAddr::new(addr), lent, Attributes::SKIP_CPU_SYNC);
            all = all.and_then(|count| ended.map(|()| count));
        }
        all
    }

    /// Brings what the device wrote to a part of mapped bytes to the CPU.
    ///
    /// # Errors
    /// [`LentError`].
    ///
    /// # Safety
    /// As [`unmap`](Self::unmap), for the part.
    pub unsafe fn sync_for_cpu(
        &self,
        addr: DmaAddr,
        bytes: NonNull<[u8]>,
        part: Range<u64>,
    ) -> Result<(), LentError> {
        let Lent {
            mut bytes,
            direction,
        } = self.find(addr, bytes)?;
        let (run, handle) = (bytes.run(), segment(addr, bytes));
        self.device
            .sync_raw_for_cpu(handle, direction, run, &mut bytes, part)
            .map_err(LentError::Device)
    }

    /// Brings what the CPU wrote to a part of mapped bytes to the device.
    ///
    /// # Errors
    /// [`LentError`].
    ///
    /// # Safety
    /// As [`unmap`](Self::unmap), for the part.
    pub unsafe fn sync_for_device(
        &self,
        addr: DmaAddr,
        bytes: NonNull<[u8]>,
        part: Range<u64>,
    ) -> Result<(), LentError> {
        let Lent { bytes, direction } = self.find(addr, bytes)?;
        let handle = segment(addr, bytes);
        self.device
            .sync_raw_for_device(handle, direction, bytes.run(), &bytes, part)
            .map_err(LentError::Device)
    }

    fn end(&self, addr: DmaAddr, lent: Lent, attributes: Attributes) -> Result<(), LentError> {
        let Lent {
            mut bytes,
            direction,
        } = lent;
        let (run, handle) = (bytes.run(), segment(addr, bytes));
        let ended = self
            .device
            .unmap_raw(handle, direction, run, &mut bytes, attributes);
        ended.map_err(|error| {
            self.put(addr, lent);
            LentError::Device(error)
        })
    }

    fn put(&self, addr: DmaAddr, new: Lent) {
        let mut lent = self.lent.lock();
        let last = lent.range(at(addr)).next_back();
        let number = last.map_or(0, |((_, number), _)| number + 1);
        lent.insert((addr.raw(), number), new);
    }

    fn take(&self, addr: DmaAddr, bytes: NonNull<[u8]>) -> Result<Lent, LentError> {
        let mut lent = self.lent.lock();
        let mut there = lent.range(at(addr));
        let found = there.find(|(_, lent)| lent.bytes.is(bytes));
        let place = found.map(|(place, _)| *place);
        let taken = place.and_then(|place| lent.remove(&place));
        taken.ok_or(LentError::NotLent { addr })
    }

    fn find(&self, addr: DmaAddr, bytes: NonNull<[u8]>) -> Result<Lent, LentError> {
        let lent = self.lent.lock();
        let found = lent.range(at(addr)).find(|(_, lent)| lent.bytes.is(bytes));
        let found = found.map(|(_, lent)| *lent);
        found.ok_or(LentError::NotLent { addr })
    }
}

/// Every place of an address.
fn at(addr: DmaAddr) -> core::ops::RangeInclusive<Place> {
    (addr.raw(), 0)..=(addr.raw(), u64::MAX)
}

fn segment(addr: DmaAddr, bytes: ProgramBytes) -> DmaSegment {
    DmaSegment {
        addr,
        len: bytes.run().len(),
    }
}
