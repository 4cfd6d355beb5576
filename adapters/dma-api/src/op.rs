//! One device's `DmaOp`.

use core::alloc::Layout;
use core::num::NonZeroUsize;
use core::ptr::NonNull;

use dma_api::{
    DmaAllocHandle, DmaCoherency, DmaConstraints, DmaDeviceInfo, DmaDirection, DmaDomainId,
    DmaError, DmaMapHandle, DmaOp,
};
use dmakit_addr::{Direction, DmaAddr, PAGE_BYTES, PhysRange};
use dmakit_dma::{Checker, Coherence, MapError, MaskKind, NoTranslation, Translate, Unchecked};
use dmakit_platform::Platform;
use dmakit_untyped::{ProgramBytes, UntypedDevice};

/// Where the program's own memory lies.
///
/// # Safety
/// [`phys`](Self::phys) tells the truth.
pub unsafe trait ProgramMemory: Send + Sync + 'static {
    /// The physical run behind bytes of the program; `None` where they are not contiguous.
    fn phys(&self, bytes: NonNull<[u8]>) -> Option<PhysRange>;
}

/// One device's way to memory, for drivers written against `dma-api`.
pub struct DeviceOp<P, M, A, C = Unchecked, T = NoTranslation>
where
    P: Platform + 'static,
    M: 'static,
    T: 'static,
{
    device: UntypedDevice<P, M, C, T>,
    program: A,
}

impl<P, M, A, C, T> DeviceOp<P, M, A, C, T>
where
    P: Platform + 'static,
    M: 'static,
    A: ProgramMemory,
    C: Checker<'static> + 'static,
    T: Translate + 'static,
{
    /// The way of `device`, for a program whose memory lies where `program` says.
    pub fn new(device: UntypedDevice<P, M, C, T>, program: A) -> Self {
        Self { device, program }
    }

    /// The device, for its counters.
    pub fn device(&self) -> &UntypedDevice<P, M, C, T> {
        &self.device
    }

    /// What a driver is told of the device, whose addresses are those of `domain`.
    pub fn info(&self, domain: DmaDomainId) -> DmaDeviceInfo {
        let info = self.device.device().info();
        let coherency = match info.coherence {
            Coherence::Coherent => DmaCoherency::Coherent,
            Coherence::NonCoherent => DmaCoherency::NonCoherent,
        };
        let mut constraints = DmaConstraints::new(info.reach(MaskKind::Streaming).last());
        if let Ok(max) = usize::try_from(info.limits.max_bytes) {
            constraints = constraints.with_max_segment_size(max);
        }
        if let Some(boundary) = info.limits.boundary.raw().checked_add(1) {
            constraints = constraints.with_boundary(boundary as usize);
        }
        DmaDeviceInfo::new(domain, coherency, constraints)
    }

    /// The bytes that a handle stands for.
    fn bytes(&self, at: NonNull<u8>, len: usize) -> Option<ProgramBytes> {
        let bytes = NonNull::slice_from_raw_parts(at, len);
        let run = self.program.phys(bytes)?;
        // SAFETY: the driver lends the buffer from map to unmap; `phys` tells the truth.
        unsafe { ProgramBytes::new(bytes, run) }
    }

    fn allocate(&self, constraints: DmaConstraints, layout: Layout) -> Option<DmaAllocHandle> {
        // What is given is aligned to the power of two that holds it.
        let align = layout.align().max(constraints.align);
        let len = layout.size().max(align).max(PAGE_BYTES as usize);
        let (addr, bytes) = self.device.alloc_coherent(len).ok()?;
        // SAFETY: one live allocation, at least as large and as aligned as the layout.
        Some(unsafe { DmaAllocHandle::new(bytes, bytes, addr.raw().into(), layout) })
    }

    fn release(&self, handle: &DmaAllocHandle) -> Result<(), DmaError> {
        let addr = DmaAddr::new(handle.dma_addr().as_u64());
        // SAFETY: the driver gives the allocation up.
        let freed = unsafe { self.device.free_coherent(addr) };
        freed.map_err(|_| DmaError::CoherentReleaseFailed)
    }
}

fn direction(direction: DmaDirection) -> Direction {
    match direction {
        DmaDirection::ToDevice => Direction::ToDevice,
        DmaDirection::FromDevice => Direction::FromDevice,
        DmaDirection::Bidirectional => Direction::Bidirectional,
    }
}

fn refused(error: &MapError, bytes: ProgramBytes, constraints: DmaConstraints) -> DmaError {
    match error {
        MapError::Bounce { .. } | MapError::Domain(_) => DmaError::NoMemory,
        MapError::Empty => DmaError::ZeroSizedBuffer,
        _ => DmaError::DmaMaskNotMatch {
            addr: bytes.run().start().raw().into(),
            mask: constraints.addr_mask,
        },
    }
}

impl<P, M, A, C, T> DmaOp for DeviceOp<P, M, A, C, T>
where
    P: Platform + 'static,
    M: Send + Sync + 'static,
    A: ProgramMemory,
    C: Checker<'static> + Send + Sync + 'static,
    T: Translate + 'static,
    UntypedDevice<P, M, C, T>: Send + Sync,
{
    fn page_size(&self) -> usize {
        PAGE_BYTES as usize
    }

    unsafe fn alloc_contiguous(
        &self,
        constraints: DmaConstraints,
        layout: Layout,
    ) -> Option<DmaAllocHandle> {
        self.allocate(constraints, layout)
    }

    unsafe fn dealloc_contiguous(&self, handle: DmaAllocHandle) {
        // What does not go home is leaked, and stays counted.
        let _ = self.release(&handle);
    }

    unsafe fn alloc_coherent(
        &self,
        constraints: DmaConstraints,
        layout: Layout,
    ) -> Option<DmaAllocHandle> {
        self.allocate(constraints, layout)
    }

    unsafe fn dealloc_coherent(&self, handle: DmaAllocHandle) -> Result<(), DmaError> {
        self.release(&handle)
    }

    unsafe fn map_streaming(
        &self,
        constraints: DmaConstraints,
        at: NonNull<u8>,
        size: NonZeroUsize,
        to: DmaDirection,
    ) -> Result<DmaMapHandle, DmaError> {
        let layout = Layout::from_size_align(size.get(), constraints.align)?;
        let bytes = self.bytes(at, size.get()).ok_or(DmaError::NoMemory)?;
        let direction = direction(to);
        // SAFETY: the caller lends the buffer until `unmap_streaming`.
        let mapped = unsafe { self.device.map(bytes, direction) };
        let addr = mapped.map_err(|error| refused(&error, bytes, constraints))?;
        // SAFETY: `at` is the mapped buffer; what it bounces through is not the driver's to see.
        Ok(unsafe { DmaMapHandle::new(at, addr.raw().into(), layout, None) })
    }

    unsafe fn unmap_streaming(&self, handle: DmaMapHandle) {
        let addr = DmaAddr::new(handle.dma_addr().as_u64());
        // SAFETY: the caller's promise: the device is done with these bytes, which it was lent.
        let unmapped = unsafe { self.device.unmap(addr, lent(&handle)) };
        // A mapping that does not end goes on being counted as live; the checker names it.
        debug_assert!(unmapped.is_ok(), "{unmapped:?}");
    }

    fn sync_map_for_device(
        &self,
        handle: &DmaMapHandle,
        offset: usize,
        size: usize,
        _to: DmaDirection,
        _coherency: DmaCoherency,
    ) {
        let addr = DmaAddr::new(handle.dma_addr().as_u64());
        let part = offset as u64..(offset + size) as u64;
        // SAFETY: the driver owns the part until it tells the device.
        let synced = unsafe { self.device.sync_for_device(addr, lent(handle), part) };
        debug_assert!(synced.is_ok(), "{synced:?}");
    }

    fn sync_map_for_cpu(
        &self,
        handle: &DmaMapHandle,
        offset: usize,
        size: usize,
        _to: DmaDirection,
        _coherency: DmaCoherency,
    ) {
        let addr = DmaAddr::new(handle.dma_addr().as_u64());
        let part = offset as u64..(offset + size) as u64;
        // SAFETY: the driver knows the device to be done with the part.
        let synced = unsafe { self.device.sync_for_cpu(addr, lent(handle), part) };
        debug_assert!(synced.is_ok(), "{synced:?}");
    }
}

/// The bytes that a handle stands for.
fn lent(handle: &DmaMapHandle) -> NonNull<[u8]> {
    NonNull::slice_from_raw_parts(handle.as_ptr(), handle.size())
}
