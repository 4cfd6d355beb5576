//! PCI: finding functions, giving them addresses and interrupts.

use alloc::vec::Vec;

use dmakit_addr::{PhysAddr, PhysRange};
use dmakit_platform::Mmio;
use virtio_drivers::transport::pci::bus::{
    BarInfo, Cam, Command, DeviceFunction, DeviceFunctionInfo, MemoryBarType, MmioCam, PciRoot,
};

use crate::registers::Registers;

pub type Root = PciRoot<MmioCam<'static>>;

/// The capabilities of MSI and MSI-X (PCI 3.0, appendix H).
const CAPABILITY_MSI: u8 = 0x05;
const CAPABILITY_MSIX: u8 = 0x11;

/// What a function writes to interrupt.
#[derive(Clone, Copy, Debug)]
pub struct Message {
    /// Where.
    pub addr: u64,
    /// What, for its first vector; one more for each further one.
    pub first: u32,
}

/// The functions of bus 0, with their BARs assigned from a window.
pub struct Bus {
    pub root: Root,
    pub functions: Vec<(DeviceFunction, DeviceFunctionInfo)>,
    configuration: Registers,
}

impl Bus {
    /// Finds all functions of bus 0 and turns them on.
    ///
    /// # Safety
    /// PCI configuration space lies at `configuration` and nobody else uses it.
    pub unsafe fn scan(configuration: PhysRange, window: PhysRange) -> Self {
        let base = configuration.start().raw();
        let pointer = core::ptr::with_exposed_provenance_mut(base as usize);
        // SAFETY: the caller's promise; it stays mapped for ever.
        let mut root = PciRoot::new(unsafe { MmioCam::new(pointer, Cam::Ecam) });
        let functions: Vec<_> = root.enumerate_bus(0).collect();
        let mut next = window.start().raw();
        for (function, _) in &functions {
            assign(&mut root, *function, &mut next);
        }
        // SAFETY: the caller's promise.
        let configuration = unsafe { Registers::new(base, configuration.len()) };
        Self {
            root,
            functions,
            configuration,
        }
    }

    /// The first function of a class and subclass.
    pub fn of_class(&self, class: u8, subclass: u8) -> Option<DeviceFunction> {
        let mut functions = self.functions.iter();
        let found = functions.find(|(_, info)| (info.class, info.subclass) == (class, subclass));
        found.map(|(function, _)| *function)
    }

    /// A memory BAR, as the CPU sees it.
    pub fn bar(&mut self, function: DeviceFunction, index: u8) -> Option<PhysRange> {
        let bar = self.root.bar_info(function, index).ok()??;
        let (address, size) = bar.memory_address_size()?;
        PhysRange::new(PhysAddr::new(address), size).ok()
    }

    /// Lets the first `vectors` vectors of a function write their messages.
    pub fn enable_msix(
        &mut self,
        function: DeviceFunction,
        message: Message,
        vectors: u32,
    ) -> Result<(), &'static str> {
        let at = self
            .capability(function, CAPABILITY_MSIX)
            .ok_or("no MSI-X")?;
        let table = self.configuration.read32(at + 4);
        let bar = self
            .bar(function, (table & 7) as u8)
            .ok_or("no MSI-X table")?;
        // SAFETY: a BAR that was assigned here, mapped as device memory.
        let bar = unsafe { Registers::new(bar.start().raw(), bar.len()) };
        for vector in 0..vectors {
            let entry = u64::from(table & !7) + u64::from(vector) * 16;
            bar.write32(entry, message.addr as u32);
            bar.write32(entry + 4, (message.addr >> 32) as u32);
            bar.write32(entry + 8, message.first + vector);
            bar.write32(entry + 12, 0);
        }
        let control = self.configuration.read32(at);
        self.configuration.write32(at, control | 1 << 31);
        Ok(())
    }

    /// Lets a function write its first message (PCI 3.0, 6.8.1).
    pub fn enable_msi(
        &mut self,
        function: DeviceFunction,
        message: Message,
    ) -> Result<(), &'static str> {
        let at = self.capability(function, CAPABILITY_MSI).ok_or("no MSI")?;
        let control = self.configuration.read32(at);
        let is_wide = control & 1 << 23 != 0;
        let (low, high) = (message.addr as u32, (message.addr >> 32) as u32);
        self.configuration.write32(at + 4, low);
        let data = match (is_wide, high) {
            (true, _) => {
                self.configuration.write32(at + 8, high);
                at + 12
            }
            (false, 0) => at + 8,
            (false, _) => return Err("the doorbell is out of MSI's reach"),
        };
        self.configuration.write32(data, message.first);
        // One message, whatever it was left with.
        let control = control & !(7 << 20);
        self.configuration.write32(at, control | 1 << 16);
        Ok(())
    }

    /// Where a capability of a function lies in configuration space.
    fn capability(&self, function: DeviceFunction, id: u8) -> Option<u64> {
        let mut capabilities = self.root.capabilities(function);
        let found = capabilities.find(|capability| capability.id == id)?;
        let at = (u64::from(function.device) << 15) | (u64::from(function.function) << 12);
        Some(at + u64::from(found.offset))
    }
}

/// The number by which IOMMU and ITS know a function.
pub fn requester(function: DeviceFunction) -> u32 {
    u32::from(function.bus) << 8 | u32::from(function.device) << 3 | u32::from(function.function)
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
