//! The virtio function that the image drives: what stands behind a driver's `Hal`.

use core::any::Any;
use core::marker::PhantomData;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

use dmakit_addr::{DmaAddr, PhysRange};
use dmakit_dma::{Translate, Unchecked};
use dmakit_swiotlb::NoGrowth;
use dmakit_virtio_drivers::{AccessPlatform, DeviceHal, Function};
use virtio_drivers::transport::DeviceType;
use virtio_drivers::transport::pci::bus::DeviceFunction;
use virtio_drivers::transport::pci::{PciTransport, virtio_device_type};

use crate::board::Board;
use crate::identity::Identity;
use crate::memory::leak;
use crate::once::Once;
use crate::path::Untyped;
use crate::pci::Bus;

/// What a driver is given for its memory.
pub type Hal<T> = DeviceHal<TheFunction<T>>;
/// What a driver is given for its registers.
pub type Transport = AccessPlatform<PciTransport>;

/// The function's device, whatever its path. One client runs in one boot.
static DEVICE: Once<&'static (dyn Any + Send + Sync)> = Once::new();

static REFUSED: AtomicU64 = AtomicU64::new(0);

/// How many buffers the function was not given since this was last asked: an address that leads
/// nowhere went to it instead.
pub fn take_refused() -> u64 {
    REFUSED.swap(0, Ordering::Relaxed)
}

/// The function, on a path through `T`.
pub struct TheFunction<T>(PhantomData<T>);

// SAFETY: memory and registers are mapped to the same numbers.
unsafe impl<T: Translate + 'static> Function for TheFunction<T> {
    type Platform = Board;
    type Growth = NoGrowth;
    type Checker = Unchecked;
    type Translation = T;

    // Nobody else uses the pool for long.
    const PATIENCE: Duration = Duration::from_millis(20);

    // Above what domains give out, and above all memory.
    const REFUGE: DmaAddr = DmaAddr::new(0xffff_ffff_f000);

    fn refused() {
        REFUSED.fetch_add(1, Ordering::Relaxed);
    }

    fn device() -> &'static Untyped<T> {
        let device = DEVICE
            .get()
            .and_then(|device| (*device as &dyn Any).downcast_ref());
        device.unwrap_or_else(|| panic!("the device is used before it is found"))
    }

    fn platform() -> Board {
        Board
    }

    fn phys(bytes: NonNull<[u8]>) -> Option<PhysRange> {
        Identity::run(bytes)
    }

    fn registers(range: PhysRange) -> Option<NonNull<u8>> {
        Identity::pointer(range.start())
    }
}

/// The first function of a type.
pub fn find(bus: &Bus, kind: DeviceType) -> Option<DeviceFunction> {
    let mut functions = bus.functions.iter();
    let found = functions.find(|(_, info)| virtio_device_type(info) == Some(kind));
    found.map(|(function, _)| *function)
}

/// Puts a device behind the `Hal`, for good.
pub fn settle<T: Translate + 'static>(device: Untyped<T>) -> &'static Untyped<T> {
    let device: &'static Untyped<T> = leak(device);
    DEVICE.set(device);
    device
}

/// A way to the function's registers. The device is reset when a driver begins with it, and when it
/// is dropped.
pub fn transport<T: Translate + 'static>(
    bus: &mut Bus,
    function: DeviceFunction,
) -> Result<Transport, &'static str> {
    let transport = PciTransport::new::<Hal<T>, _>(&mut bus.root, function);
    Ok(AccessPlatform::new(
        transport.map_err(|_| "no virtio transport")?,
    ))
}
