//! What an ITS can do.

/// Page sizes that table registers take; one that they do not reads back as the largest that they
/// do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageSizes {
    /// 4 KiB.
    pub k4: bool,
    /// 16 KiB.
    pub k16: bool,
    /// 64 KiB.
    pub k64: bool,
}

impl PageSizes {
    /// All three.
    pub const ALL: Self = Self {
        k4: true,
        k16: true,
        k64: true,
    };

    /// The register's code of `wanted`, or of what it becomes.
    pub(super) fn settle(self, wanted: u64) -> u64 {
        let has = [self.k4, self.k16, self.k64];
        match has.get(wanted as usize) {
            Some(true) => wanted,
            _ => (0..3).rev().find(|code| has[*code as usize]).unwrap_or(0),
        }
    }
}

/// Which shareability its registers take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shareable {
    /// Whatever is written.
    AsWritten,
    /// Inner becomes outer.
    Outer,
    /// Nothing is shareable; cacheability is kept as written, and means nothing.
    Never,
    /// Nothing is shareable or cacheable.
    NeverCached,
}

/// What becomes of a command that is wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnCommandError {
    /// It is left out.
    Skip,
    /// The ITS stops at it.
    Stall,
}

/// The description of an ITS and the redistributors behind it: by default as many IDs as a PCI
/// segment has, two levels, coherent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ItsConfig {
    /// Where its registers would be.
    pub base: u64,
    /// Bits of device IDs, 1 to 32.
    pub device_bits: u32,
    /// Bits of event IDs, 1 to 32.
    pub event_bits: u32,
    /// Bits of collections, 1 to 16; `None` for an ITS that does not say.
    pub collection_bits: Option<u32>,
    /// Collections without memory.
    pub collections_inside: u8,
    /// Bytes of entries of the device table, 1 to 32.
    pub device_entry: u64,
    /// Bytes of entries of the collection table, or `None` without one.
    pub collection_entry: Option<u64>,
    /// Bytes of entries of the table of virtual CPUs, or `None` without one.
    pub virtual_cpu_entry: Option<u64>,
    /// Bytes of entries of a device's table, 1 to 16.
    pub event_entry: u64,
    /// Page sizes.
    pub pages: PageSizes,
    /// Two-level tables.
    pub two_levels: bool,
    /// The most pages that its size fields can say.
    pub pages_max: u64,
    /// What its registers make of shareability.
    pub shareable: Shareable,
    /// The bus keeps what the registers promise; else nothing it does looks into caches.
    pub bus_coherent: bool,
    /// Redistributors are named by address, else by number.
    pub by_address: bool,
    /// What becomes of wrong commands.
    pub on_error: OnCommandError,
    /// Redistributors, one for each CPU.
    pub redistributors: u16,
    /// Bits of interrupts' numbers.
    pub interrupt_bits: u32,
    /// LPIs can be turned off again.
    pub lpis_clear: bool,
}

impl Default for ItsConfig {
    fn default() -> Self {
        Self {
            base: 0x2_8000_0000,
            device_bits: 16,
            event_bits: 16,
            collection_bits: None,
            collections_inside: 0,
            device_entry: 8,
            collection_entry: Some(8),
            virtual_cpu_entry: None,
            event_entry: 8,
            pages: PageSizes::ALL,
            two_levels: true,
            pages_max: 256,
            shareable: Shareable::AsWritten,
            bus_coherent: true,
            by_address: false,
            on_error: OnCommandError::Stall,
            redistributors: 2,
            interrupt_bits: 16,
            lpis_clear: false,
        }
    }
}

impl ItsConfig {
    /// `GITS_TYPER` (12.18.27).
    pub(super) fn typer(&self) -> u64 {
        let collections = match self.collection_bits {
            Some(bits) => u64::from(bits - 1) << 32 | 1 << 36,
            None => 0,
        };
        1 | u64::from(self.virtual_cpu_entry.is_some()) << 1
            | (self.event_entry - 1) << 4
            | u64::from(self.event_bits - 1) << 8
            | u64::from(self.device_bits - 1) << 13
            | u64::from(self.by_address) << 19
            | u64::from(self.collections_inside) << 24
            | collections
    }

    /// Type and entry size of table register `index`: devices in the first, the others as they come.
    pub(super) fn fixed(&self, index: usize) -> u64 {
        let (kind, entry) = match index {
            0 => (1_u64, Some(self.device_entry)),
            1 => (4, self.collection_entry),
            2 => (2, self.virtual_cpu_entry),
            _ => (0, None),
        };
        entry.map_or(0, |entry| kind << 56 | (entry - 1) << 48)
    }

    /// Collections that there can be.
    pub(super) fn collections(&self) -> u64 {
        1 << self.collection_bits.unwrap_or(16)
    }

    /// Where the registers of redistributor `cpu` would be.
    pub(super) fn redistributor_base(&self, cpu: u16) -> u64 {
        self.base + 0x10_0000 + u64::from(cpu) * 0x2_0000
    }

    /// What commands call redistributor `cpu`.
    pub(super) fn name(&self, cpu: u16) -> u64 {
        match self.by_address {
            true => self.redistributor_base(cpu),
            false => u64::from(cpu) << 16,
        }
    }
}
