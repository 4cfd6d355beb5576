//! A virtio disk, driven by a published driver.

use alloc::vec;
use core::any::Any;
use core::marker::PhantomData;
use core::ptr::NonNull;

use dmakit_addr::{DmaAddr, PhysAddr, PhysRange};
use dmakit_dma::{Translate, Unchecked};
use dmakit_swiotlb::NoGrowth;
use dmakit_virtio_drivers::{AccessPlatform, DeviceHal, Function};
use sha2::{Digest, Sha256};
use virtio_drivers::device::blk::{SECTOR_SIZE, VirtIOBlk};
use virtio_drivers::transport::DeviceType;
use virtio_drivers::transport::pci::bus::DeviceFunction;
use virtio_drivers::transport::pci::{PciTransport, virtio_device_type};

use crate::board::Board;
use crate::memory::leak;
use crate::once::Once;
use crate::path::{Client, Untyped};
use crate::pci::Bus;
use crate::println;

/// The disk, whatever its path.
static DISK: Once<&'static (dyn Any + Send + Sync)> = Once::new();

/// The disk on a path through `T`.
struct Disk<T>(PhantomData<T>);

// SAFETY: memory and registers are mapped to the same numbers.
unsafe impl<T: Translate + 'static> Function for Disk<T> {
    type Platform = Board;
    type Growth = NoGrowth;
    type Checker = Unchecked;
    type Translation = T;

    // Above what domains give out, and above all memory.
    const REFUGE: DmaAddr = DmaAddr::new(0xffff_ffff_f000);

    fn device() -> &'static Untyped<T> {
        let disk = DISK
            .get()
            .and_then(|disk| (*disk as &dyn Any).downcast_ref());
        disk.unwrap_or_else(|| panic!("the disk is used before it is found"))
    }

    fn platform() -> Board {
        Board
    }

    fn phys(bytes: NonNull<[u8]>) -> Option<PhysRange> {
        let start = bytes.cast::<u8>().as_ptr().expose_provenance();
        PhysRange::new(PhysAddr::new(start as u64), bytes.len() as u64).ok()
    }

    fn registers(range: PhysRange) -> Option<NonNull<u8>> {
        let start = range.start().raw() as usize;
        NonNull::new(core::ptr::with_exposed_provenance_mut(start))
    }
}

/// Reads a virtio disk from end to end.
pub struct ReadDisk<'a> {
    pub bus: &'a mut Bus,
    pub function: DeviceFunction,
}

/// The first virtio disk.
pub fn find(bus: &Bus) -> Result<DeviceFunction, &'static str> {
    let is_disk = |info| virtio_device_type(info) == Some(DeviceType::Block);
    let found = bus.functions.iter().find(|(_, info)| is_disk(info));
    Ok(found.ok_or("no virtio disk")?.0)
}

impl Client for ReadDisk<'_> {
    fn run<T: Translate + 'static>(self, device: Untyped<T>) -> Result<(), &'static str> {
        let device: &'static Untyped<T> = leak(device);
        DISK.set(device);
        let transport =
            PciTransport::new::<DeviceHal<Disk<T>>, _>(&mut self.bus.root, self.function);
        let transport = AccessPlatform::new(transport.map_err(|_| "no virtio transport")?);
        let disk = VirtIOBlk::<DeviceHal<Disk<T>>, _>::new(transport);
        let mut disk = disk.map_err(|_| "no disk")?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0_u8; 64 << 10];
        let sectors = disk.capacity();
        let mut sector = 0;
        while sector < sectors {
            let bytes = ((sectors - sector) as usize * SECTOR_SIZE).min(buffer.len());
            let part = &mut buffer[..bytes];
            disk.read_blocks(sector as usize, part)
                .map_err(|_| "a failed read")?;
            hash.update(&buffer[..bytes]);
            sector += (bytes / SECTOR_SIZE) as u64;
        }
        println!("sha256={:x}", hash.finalize());
        drop(disk);
        println!("dma: {:?}", device.device().stats());
        Ok(())
    }
}
