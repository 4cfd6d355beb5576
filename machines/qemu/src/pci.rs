//! PCI configuration space, BARs and bus mastering.

use std::fmt;
use std::sync::atomic::Ordering;

use dmakit_addr::{PhysAddr, PhysRange};

use crate::{Board, Machine, QemuError};

/// Where configuration space is put on `q35`.
pub(crate) const Q35_ECAM: u64 = 0xb000_0000;

const VIRT_ECAM: u64 = 0x40_1000_0000;

const COMMAND: u64 = 0x04;
const COMMAND_MEMORY: u64 = 1 << 1;
const COMMAND_MASTER: u64 = 1 << 2;
const BAR0: u64 = 0x10;
const CAPABILITIES: u64 = 0x34;

/// Bus, device and function in one number: `bus << 8 | device << 3 | function`. It is also what
/// the function's requests carry, the stream ID of an SMMU on these boards.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FunctionId(u16);

impl FunctionId {
    /// Function `function` of device `device` on bus 0.
    pub const fn on_root(device: u8, function: u8) -> Self {
        Self(((device as u16) << 3) | (function as u16 & 7))
    }

    /// The number.
    pub const fn raw(self) -> u16 {
        self.0
    }
}

impl fmt::Debug for FunctionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:02x}:{:02x}.{}",
            self.0 >> 8,
            self.0 >> 3 & 0x1f,
            self.0 & 7
        )
    }
}

/// A memory BAR that was given an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bar {
    /// Its number.
    pub index: u8,
    /// Its addresses.
    pub range: PhysRange,
}

/// The PCI functions on the root bus.
pub struct PciBus {
    machine: Machine,
}

/// Where a board has BARs: the first address, and the end.
pub(crate) const fn bars(board: Board) -> (u64, u64) {
    match board {
        Board::Virt => (0x1000_0000, 0x3eff_0000),
        Board::Q35 => (0xc000_0000, 0xfe00_0000),
    }
}

/// One function, memory decoding and bus mastering on.
pub struct Function {
    machine: Machine,
    config: u64,
    /// Which it is.
    pub id: FunctionId,
    /// Vendor and device, `device << 16 | vendor`.
    pub identity: u32,
    /// Its memory BARs.
    pub bars: Vec<Bar>,
}

impl PciBus {
    pub(crate) fn new(machine: Machine) -> Self {
        Self { machine }
    }

    /// The functions 0 of the devices that are there, with vendor and device numbers.
    ///
    /// # Errors
    /// [`QemuError`] where QEMU does not answer.
    pub fn functions(&self) -> Result<Vec<(FunctionId, u32)>, QemuError> {
        let mut found = Vec::new();
        for device in 0..32 {
            let id = FunctionId::on_root(device, 0);
            let identity = self.machine.read('l', self.config(id))? as u32;
            if identity != u32::MAX && identity != 0 {
                found.push((id, identity));
            }
        }
        Ok(found)
    }

    /// Gives every memory BAR of a function an address, and turns it on.
    ///
    /// # Errors
    /// [`QemuError::Device`] where there is no such function or no address left.
    pub fn enable(&mut self, id: FunctionId) -> Result<Function, QemuError> {
        let config = self.config(id);
        let identity = self.machine.read('l', config)? as u32;
        if identity == u32::MAX || identity == 0 {
            return Err(QemuError::Device(format!(
                "there is no PCI function {id:?}"
            )));
        }
        let mut bars = Vec::new();
        let mut index = 0;
        while index < 6 {
            let (bar, wide) = self.assign(config, index)?;
            bars.extend(bar);
            index += if wide { 2 } else { 1 };
        }
        self.machine
            .write('w', config + COMMAND, COMMAND_MEMORY | COMMAND_MASTER)?;
        Ok(Function {
            machine: self.machine.clone(),
            config,
            id,
            identity,
            bars,
        })
    }

    fn config(&self, id: FunctionId) -> u64 {
        let base = match self.machine.board() {
            Board::Virt => VIRT_ECAM,
            Board::Q35 => Q35_ECAM,
        };
        base + (u64::from(id.raw()) << 12)
    }

    /// Sizes BAR `index` and places it; says whether it takes two registers.
    fn assign(&mut self, config: u64, index: u8) -> Result<(Option<Bar>, bool), QemuError> {
        let register = config + BAR0 + 4 * u64::from(index);
        self.machine.write('l', register, 0xffff_ffff)?;
        let low = self.machine.read('l', register)?;
        let wide = low & 0b110 == 0b100;
        let is_memory = low & 1 == 0;
        if low & !0xf == 0 || !is_memory {
            return Ok((None, wide));
        }
        // No model here has a BAR of 4 GiB: the low half tells the size.
        let len = (!(low & !0xf) & 0xffff_ffff) + 1;
        let end = bars(self.machine.board()).1;
        let place = |next: u64| {
            let start = next.checked_next_multiple_of(len)?;
            start.checked_add(len).filter(|after| *after <= end)
        };
        let next = self.machine.next_bar();
        let taken = next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, place);
        let Ok(before) = taken else {
            return Err(QemuError::Device(format!(
                "no room for a BAR of {len:#x} bytes"
            )));
        };
        let start = before.next_multiple_of(len);
        self.machine.write('l', register, start)?;
        if wide {
            self.machine.write('l', register + 4, start >> 32)?;
        }
        let range = PhysRange::new(PhysAddr::new(start), len)
            .map_err(|error| QemuError::Device(error.to_string()))?;
        Ok((Some(Bar { index, range }), wide))
    }
}

impl Function {
    /// The registers of BAR `index`.
    ///
    /// # Errors
    /// [`QemuError::Device`] where the function has no such memory BAR.
    pub fn bar(&self, index: u8) -> Result<crate::QemuMmio, QemuError> {
        match self.bars.iter().find(|bar| bar.index == index) {
            Some(bar) => Ok(self.machine.mmio(bar.range.start())),
            None => Err(QemuError::Device(format!(
                "{:?} has no memory BAR {index}",
                self.id
            ))),
        }
    }

    /// Where processors find BAR `index`; `None` where the function has no such memory BAR.
    pub fn bar_range(&self, index: u8) -> Option<PhysRange> {
        let bar = self.bars.iter().find(|bar| bar.index == index)?;
        Some(bar.range)
    }

    /// Lets the function start requests, or keeps it from doing so.
    ///
    /// # Errors
    /// [`QemuError`] where QEMU does not answer.
    pub fn set_bus_master(&self, enabled: bool) -> Result<(), QemuError> {
        let master = if enabled { COMMAND_MASTER } else { 0 };
        self.machine
            .write('w', self.config + COMMAND, COMMAND_MEMORY | master)
    }

    /// The offset of capability `id` in configuration space.
    ///
    /// # Errors
    /// [`QemuError`] where QEMU does not answer.
    pub fn capability(&self, id: u8) -> Result<Option<u64>, QemuError> {
        let mut at = self.machine.read('b', self.config + CAPABILITIES)?;
        // A list longer than the space can hold is a loop.
        for _ in 0..48 {
            if at == 0 {
                break;
            }
            if self.machine.read('b', self.config + at)? == u64::from(id) {
                return Ok(Some(at));
            }
            at = self.machine.read('b', self.config + at + 1)?;
        }
        Ok(None)
    }

    /// Reads 32 bits of configuration space.
    ///
    /// # Errors
    /// [`QemuError`] where QEMU does not answer.
    pub fn read_config(&self, offset: u64) -> Result<u32, QemuError> {
        self.machine
            .read('l', self.config + offset)
            .map(|value| value as u32)
    }

    /// Writes 32 bits of configuration space.
    ///
    /// # Errors
    /// [`QemuError`] where QEMU does not answer.
    pub fn write_config(&self, offset: u64, value: u32) -> Result<(), QemuError> {
        self.machine.write('l', self.config + offset, value.into())
    }
}
