//! Table registers, `GITS_BASER<n>` (12.18.1), and level-1 entries (5.2.1).

use core::fmt;

/// The address is that of a table.
pub const VALID: u64 = 1 << 63;
/// The table is a first level.
pub const INDIRECT: u64 = 1 << 62;
/// Page size.
pub const PAGE_SIZE: u64 = 0b11 << 8;
/// Pages, less one.
pub const SIZE: u64 = 0xff;
/// The most pages that a table can have.
pub const PAGES_MAX: u64 = 256;

/// Bytes of a level-1 entry.
pub const LEVEL_1_BYTES: u64 = 8;

/// What a table holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum TableKind {
    /// Devices.
    Devices,
    /// Virtual CPUs (GICv4).
    VirtualCpus,
    /// Interrupt collections.
    Collections,
}

impl TableKind {
    /// From `Type`; `None` for a register that is not there, or of a kind that no manual names.
    pub const fn of(register: u64) -> Option<Self> {
        match register >> 56 & 7 {
            1 => Some(Self::Devices),
            2 => Some(Self::VirtualCpus),
            4 => Some(Self::Collections),
            _ => None,
        }
    }
}

impl fmt::Display for TableKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Devices => "device",
            Self::VirtualCpus => "virtual CPU",
            Self::Collections => "collection",
        })
    }
}

/// Bytes of an entry (`Entry_Size`, read only): 1 to 32.
pub const fn entry_bytes(register: u64) -> u64 {
    (register >> 48 & 0x1f) + 1
}

/// A page of a table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum PageSize {
    /// 4 KiB.
    K4,
    /// 16 KiB.
    K16,
    /// 64 KiB.
    K64,
}

impl PageSize {
    /// All, largest first.
    pub const ALL: [Self; 3] = [Self::K64, Self::K16, Self::K4];

    /// Its bytes.
    pub const fn bytes(self) -> u64 {
        match self {
            Self::K4 => 0x1000,
            Self::K16 => 0x4000,
            Self::K64 => 0x1_0000,
        }
    }

    /// As the register holds it.
    pub const fn encode(self) -> u64 {
        match self {
            Self::K4 => 0,
            Self::K16 => 1 << 8,
            Self::K64 => 2 << 8,
        }
    }

    /// As a register says it; `None` for the reserved value.
    pub const fn decode(register: u64) -> Option<Self> {
        match register >> 8 & 0b11 {
            0 => Some(Self::K4),
            1 => Some(Self::K16),
            2 => Some(Self::K64),
            _ => None,
        }
    }

    /// Bits of an address that a table of this page size can have: 52 only where the low bits of a
    /// 64 KiB page leave room for the highest four.
    pub const fn address_bits(self) -> u32 {
        match self {
            Self::K64 => 52,
            Self::K4 | Self::K16 => 48,
        }
    }

    /// A table's address as the register holds it: of 64 KiB pages, bits 51:48 stand at 15:12.
    pub const fn fold(self, address: u64) -> u64 {
        let low = address & 0x0000_ffff_ffff_f000 & !(self.bytes() - 1);
        match self {
            Self::K64 => low | (address >> 48 & 0xf) << 12,
            Self::K4 | Self::K16 => low,
        }
    }
}

/// A level-1 entry that leads to the page at `address`.
pub const fn level_1(address: u64, page: PageSize) -> u64 {
    VALID | address & 0x000f_ffff_ffff_f000 & !(page.bytes() - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn high_address_bits_fold_only_into_64_kib_pages() {
        // 12.18.1, Physical_Address.
        assert_eq!(PageSize::K64.fold(0x000a_4321_0000_0000), 0x4321_0000_a000);
        assert_eq!(PageSize::K16.fold(0x0000_4321_0000_4000), 0x4321_0000_4000);
        assert_eq!(PageSize::K4.fold(0x0000_4321_0000_5000), 0x4321_0000_5000);
    }
}
