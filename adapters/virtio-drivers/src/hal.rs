//! The `Hal` of one function.

use core::marker::PhantomData;
use core::ptr::NonNull;
use core::time::Duration;

use dmakit_addr::{Direction, DmaAddr, PAGE_BYTES, PhysAddr, PhysRange};
use dmakit_dma::{Checker, MapError, Translate};
use dmakit_platform::Platform;
use dmakit_untyped::{ProgramBytes, UntypedDevice};
use virtio_drivers::{BufferDirection, Hal, PhysAddr as VirtioAddr};

/// One virtio function, and what stands behind it: a type of its own, without values.
///
/// # Safety
/// [`phys`](Self::phys) and [`registers`](Self::registers) tell the truth.
pub unsafe trait Function: 'static {
    /// The machine.
    type Platform: Platform + 'static;
    /// What the function's bounce pool grows by.
    type Growth: 'static;
    /// Who watches it.
    type Checker: Checker<'static> + 'static;
    /// The kind of its domain.
    type Translation: Translate + 'static;

    /// How long `share` waits for room.
    const PATIENCE: Duration = Duration::from_millis(100);

    /// A device address that leads nowhere: no mapping is ever given it, and what uses it faults.
    const REFUGE: DmaAddr;

    /// Told each time that `share` gives [`REFUGE`](Self::REFUGE). Where no IOMMU stands between, no
    /// fault is recorded anywhere and the device may report success: this alone says that it has to
    /// be reset.
    fn refused() {}

    /// The device.
    fn device()
    -> &'static UntypedDevice<Self::Platform, Self::Growth, Self::Checker, Self::Translation>;

    /// The machine.
    fn platform() -> Self::Platform;

    /// The physical run behind bytes of the program; `None` where they are not contiguous.
    fn phys(bytes: NonNull<[u8]>) -> Option<PhysRange>;

    /// Where the CPU sees device registers.
    fn registers(range: PhysRange) -> Option<NonNull<u8>>;
}

/// The `Hal` of a [`Function`].
#[derive(Debug)]
pub struct DeviceHal<F>(PhantomData<F>);

/// Whether waiting may help: room comes back, reach and shape do not.
fn may_pass(error: &MapError) -> bool {
    matches!(error, MapError::Bounce { .. })
}

fn direction(direction: BufferDirection) -> Direction {
    match direction {
        BufferDirection::DriverToDevice => Direction::ToDevice,
        BufferDirection::DeviceToDriver => Direction::FromDevice,
        BufferDirection::Both => Direction::Bidirectional,
    }
}

/// What `dma_alloc` gives where there is no memory: drivers take address 0 for that.
fn nothing() -> (VirtioAddr, NonNull<u8>) {
    (0, NonNull::dangling())
}

/// What `share` gives where nothing can be mapped.
fn refuge<F: Function>() -> VirtioAddr {
    F::refused();
    F::REFUGE.raw()
}

// SAFETY: coherent memory is zeroed, page-aligned and nobody else's until it is freed; `registers`
// is its implementor's promise.
unsafe impl<F: Function> Hal for DeviceHal<F> {
    fn dma_alloc(pages: usize, _direction: BufferDirection) -> (VirtioAddr, NonNull<u8>) {
        let len = pages.checked_mul(PAGE_BYTES as usize);
        let block = len.and_then(|len| F::device().alloc_coherent(len).ok());
        block.map_or_else(nothing, |(addr, bytes)| (addr.raw(), bytes))
    }

    unsafe fn dma_dealloc(addr: VirtioAddr, _bytes: NonNull<u8>, _pages: usize) -> i32 {
        // SAFETY: the caller's promise: it is done with the memory.
        match unsafe { F::device().free_coherent(DmaAddr::new(addr)) } {
            Ok(()) => 0,
            Err(_) => -1,
        }
    }

    unsafe fn mmio_phys_to_virt(addr: VirtioAddr, size: usize) -> NonNull<u8> {
        let range = PhysRange::new(PhysAddr::new(addr), size as u64).ok();
        let registers = range.and_then(F::registers);
        // The interface has no way to refuse, and an address that is no register must not be used.
        registers.unwrap_or_else(|| panic!("no registers of {size} bytes at {addr:#x}"))
    }

    unsafe fn share(buffer: NonNull<[u8]>, to: BufferDirection) -> VirtioAddr {
        let bytes = F::phys(buffer).and_then(|run| {
            // SAFETY: the caller lends the buffer until `unshare`; `phys` tells the truth.
            unsafe { ProgramBytes::new(buffer, run) }
        });
        let Some(bytes) = bytes else {
            return refuge::<F>();
        };
        let platform = F::platform();
        let started = platform.now();
        loop {
            // SAFETY: as above.
            match unsafe { F::device().map(bytes, direction(to)) } {
                Ok(addr) => return addr.raw(),
                Err(error) if may_pass(&error) => {}
                Err(_) => return refuge::<F>(),
            }
            if platform.now().saturating_since(started) >= F::PATIENCE {
                return refuge::<F>();
            }
            core::hint::spin_loop();
        }
    }

    unsafe fn unshare(addr: VirtioAddr, buffer: NonNull<[u8]>, _to: BufferDirection) {
        if addr == F::REFUGE.raw() {
            return;
        }
        // SAFETY: the caller's promise: the device is done with the bytes.
        let unmapped = unsafe { F::device().unmap(DmaAddr::new(addr), buffer) };
        // A mapping that does not end goes on being counted as live; the checker names it.
        debug_assert!(unmapped.is_ok(), "{unmapped:?}");
    }
}
