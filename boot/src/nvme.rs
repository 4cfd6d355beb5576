//! An NVMe disk: its registers, and MSI-X.

use alloc::boxed::Box;
use alloc::vec::Vec;

use mmio_api::MmioAddr;
use nvme_driver::{Config, Nvme, NvmeBlockDriver};
use virtio_drivers::transport::pci::bus::DeviceFunction;

use crate::controller::{Driver, Hardware, VECTORS};
use crate::identity::Identity;
use crate::pci::Bus;
use crate::vectors::Vectors;

/// Bytes of a page, as the controller is told.
const PAGE_BYTES: usize = 4096;

/// The first NVMe disk.
pub fn find(bus: &Bus) -> Result<DeviceFunction, &'static str> {
    bus.of_class(1, 8).ok_or("no NVMe disk")
}

/// Begins: vector 0 is the controller's, vector 1 its queue's.
pub fn open(hardware: Hardware<'_>, _vectors: &mut Vectors<'_>) -> Result<Driver, &'static str> {
    let Hardware {
        bus,
        function,
        message,
        dma,
    } = hardware;
    let bar = bus.bar(function, 0).ok_or("no registers")?;
    bus.enable_msix(function, message, VECTORS)?;
    let config = Config::msix(PAGE_BYTES, [0, 1]).map_err(|_| "no vectors")?;
    let address = MmioAddr::from(bar.start().raw());
    let nvme = Nvme::new(address, bar.len() as usize, dma, &Identity, config);
    let nvme = nvme.map_err(|_| "no NVMe controller")?;
    Ok(Driver {
        controller: Box::new(NvmeBlockDriver::from_nvme(nvme)),
        group: None,
        sources: Vec::new(),
    })
}
