//! A virtio disk, driven by a published driver.

use alloc::vec;
use core::ptr::NonNull;

use dmakit_addr::{DmaAddr, DmaMask, PhysAddr, PhysRange};
use dmakit_dma::{CoherentSource, Device, DeviceId, DeviceInfo, Path, Unchecked};
use dmakit_swiotlb::NoGrowth;
use dmakit_untyped::UntypedDevice;
use dmakit_virtio_drivers::{AccessPlatform, DeviceHal, Function};
use sha2::{Digest, Sha256};
use virtio_drivers::device::blk::{SECTOR_SIZE, VirtIOBlk};
use virtio_drivers::transport::DeviceType;
use virtio_drivers::transport::pci::{PciTransport, virtio_device_type};

use crate::board::Board;
use crate::memory::Coherent;
use crate::once::Once;
use crate::pci::Bus;
use crate::println;

static DISK: Once<UntypedDevice<Board, NoGrowth>> = Once::new();

struct Disk;

// SAFETY: memory and registers are mapped to the same numbers.
unsafe impl Function for Disk {
    type Platform = Board;
    type Growth = NoGrowth;
    type Checker = Unchecked;

    const REFUGE: DmaAddr = DmaAddr::new(0xffff_ffff_f000);

    fn device() -> &'static UntypedDevice<Board, NoGrowth> {
        DISK.get()
            .unwrap_or_else(|| panic!("the disk is used before it is found"))
    }

    fn platform() -> Board {
        Board
    }

    fn phys(bytes: NonNull<[u8]>) -> Option<PhysRange> {
        let start = bytes.cast::<u8>().as_ptr().expose_provenance();
        PhysRange::new(PhysAddr::new(start as u64), bytes.len() as u64).ok()
    }

    fn registers(range: PhysRange) -> Option<NonNull<u8>> {
        NonNull::new(core::ptr::with_exposed_provenance_mut(
            range.start().raw() as usize
        ))
    }
}

/// Reads the first virtio disk from end to end.
pub fn read(bus: &mut Bus, memory: &'static Coherent) -> Result<(), &'static str> {
    let is_disk = |info| virtio_device_type(info) == Some(DeviceType::Block);
    let found = bus.functions.iter().find(|(_, info)| is_disk(info));
    let (function, _) = *found.ok_or("no virtio disk")?;
    let info = DeviceInfo::new(DeviceId::new(1), "virtio-blk", DmaMask::ALL);
    let device = Device::new(Board, info, Path::Direct, CoherentSource::Cached(memory));
    DISK.set(UntypedDevice::new(device));
    let transport = PciTransport::new::<DeviceHal<Disk>, _>(&mut bus.root, function);
    let transport = AccessPlatform::new(transport.map_err(|_| "no virtio transport")?);
    let mut disk = VirtIOBlk::<DeviceHal<Disk>, _>::new(transport).map_err(|_| "no disk")?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0_u8; 64 << 10];
    let sectors = disk.capacity();
    let mut sector = 0;
    while sector < sectors {
        let bytes = ((sectors - sector) as usize * SECTOR_SIZE).min(buffer.len());
        disk.read_blocks(sector as usize, &mut buffer[..bytes])
            .map_err(|_| "a failed read")?;
        hash.update(&buffer[..bytes]);
        sector += (bytes / SECTOR_SIZE) as u64;
    }
    println!("sha256={:x}", hash.finalize());
    drop(disk);
    println!("{:?}", Disk::device().device().stats());
    Ok(())
}
