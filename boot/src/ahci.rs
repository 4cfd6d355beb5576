//! A SATA disk behind an AHCI controller: its registers, MSI, and a group of ports that share both.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use ahci_driver::{AhciConfig, AhciHost};
use dmakit_platform::Platform;
use mmio_api::MmioAddr;
use rdif_block::{
    BBlockController, BlockControllerGroup, ControllerState, GroupControllerEvent,
    GroupControllerUpdate,
};
use virtio_drivers::transport::pci::bus::DeviceFunction;

use crate::board::Board;
use crate::controller::{Driver, Hardware};
use crate::identity::Identity;
use crate::pci::Bus;
use crate::vectors::{TIME_MAX, Vectors};

/// The BAR of its registers (AHCI 1.3.1, 2.1.11).
const REGISTERS: u8 = 5;

/// The first AHCI controller.
pub fn find(bus: &Bus) -> Result<DeviceFunction, &'static str> {
    bus.of_class(1, 6).ok_or("no AHCI controller")
}

/// Begins with the first port that has a disk.
pub fn open(hardware: Hardware<'_>, vectors: &mut Vectors<'_>) -> Result<Driver, &'static str> {
    let Hardware {
        bus,
        function,
        message,
        dma,
    } = hardware;
    let bar = bus.bar(function, REGISTERS).ok_or("no registers")?;
    bus.enable_msi(function, message)?;
    mmio_api::init(&Identity);
    let registers = mmio_api::ioremap(MmioAddr::from(bar.start().raw()), bar.len() as usize);
    let registers = registers.map_err(|_| "no registers")?;
    let host = AhciHost::new(String::from("ahci"), registers, dma, AhciConfig::generic());
    let mut host = host.map_err(|_| "no AHCI controller")?;
    let (controller, sources) = start(&mut host, vectors)?;
    Ok(Driver {
        controller,
        group: Some(Box::new(host)),
        sources,
    })
}

/// Resets the controller; its first port, and the sources that its ports share.
fn start(
    host: &mut AhciHost,
    vectors: &mut Vectors<'_>,
) -> Result<(BBlockController, Vec<usize>), &'static str> {
    let started = Board.now();
    let mut update = advance(host, GroupControllerEvent::Start)?;
    while update.controller_state() != ControllerState::Ready {
        if Board.now().saturating_since(started) > TIME_MAX {
            return Err("the controller does not come out of reset");
        }
        update = advance(host, GroupControllerEvent::RegisterRetry)?;
    }
    let first = update.take_members().into_iter().next();
    let (member, port) = first.ok_or("no disk")?.into_parts();
    let mut sources = Vec::new();
    for endpoint in update.take_irq_endpoints() {
        let source_id = vectors.install_shared(endpoint, member)?;
        advance(host, GroupControllerEvent::Rearm { source_id })?;
        sources.push(source_id);
    }
    Ok((port, sources))
}

fn advance(
    host: &mut AhciHost,
    event: GroupControllerEvent,
) -> Result<GroupControllerUpdate, &'static str> {
    host.advance(event).map_err(|_| "the controller refuses")
}
