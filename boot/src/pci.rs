//! PCI: finding functions, and giving them addresses.

use alloc::vec::Vec;

use dmakit_addr::PhysRange;
use virtio_drivers::transport::pci::bus::{
    BarInfo, Cam, Command, DeviceFunction, DeviceFunctionInfo, MemoryBarType, MmioCam, PciRoot,
};

pub type Root = PciRoot<MmioCam<'static>>;

/// The functions of bus 0, with their BARs assigned from a window.
pub struct Bus {
    pub root: Root,
    pub functions: Vec<(DeviceFunction, DeviceFunctionInfo)>,
}

/// Finds all functions of bus 0 and turns them on.
///
/// # Safety
/// PCI configuration space lies at `configuration` and nobody else uses it.
pub unsafe fn scan(configuration: PhysRange, window: PhysRange) -> Bus {
    let base = core::ptr::with_exposed_provenance_mut(configuration.start().raw() as usize);
    // SAFETY: the caller's promise; it stays mapped for ever.
    let mut root = PciRoot::new(unsafe { MmioCam::new(base, Cam::Ecam) });
    let functions: Vec<_> = root.enumerate_bus(0).collect();
    let mut next = window.start().raw();
    for (function, _) in &functions {
        assign(&mut root, *function, &mut next);
    }
    Bus { root, functions }
}

fn assign(root: &mut Root, function: DeviceFunction, next: &mut u64) {
    let Ok(bars) = root.bars(function) else {
        return;
    };
    for (index, bar) in (0..).zip(bars) {
        let Some(BarInfo::Memory {
            address_type, size, ..
        }) = bar
        else {
            continue;
        };
        let size = size.max(4096);
        let address = next.next_multiple_of(size);
        match address_type {
            MemoryBarType::Width64 => root.set_bar_64(function, index, address),
            _ => root.set_bar_32(function, index, address as u32),
        }
        *next = address + size;
    }
    root.set_command(function, Command::MEMORY_SPACE | Command::BUS_MASTER);
}
