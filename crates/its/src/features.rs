//! What an ITS can do.

use core::fmt;

use dmakit_platform::Mmio;

use crate::spec::registers::{PIDR2, TYPER, architecture};

/// What `GITS_TYPER` says (12.18.27), as far as the driver uses it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Features {
    /// The register itself.
    pub typer: u64,
    /// Bits of a device ID: 1 to 32.
    pub device_bits: u32,
    /// Bits of an event ID: 1 to 32.
    pub event_bits: u32,
    /// Bits of a collection's number: 1 to 16.
    pub collection_bits: u32,
    /// Bytes of an entry of a device's table: 1 to 16.
    pub event_entry_bytes: u64,
    /// Collections that it holds without memory.
    pub collections_inside: u32,
    /// Commands name redistributors by address, else by processor number.
    pub targets_by_address: bool,
    /// Virtual LPIs.
    pub is_virtual: bool,
}

/// Registers that are not those of an ITS which this driver can use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProbeError {
    /// All ones: nothing answers.
    Absent,
    /// Not GICv3 or GICv4.
    Architecture {
        /// The register that says so.
        pidr2: u32,
    },
    /// No physical LPIs.
    NoPhysicalLpis {
        /// The register that says so.
        typer: u64,
    },
}

impl fmt::Display for ProbeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("no ITS answers there"),
            Self::Architecture { pidr2 } => {
                write!(f, "neither GICv3 nor GICv4 (GITS_PIDR2 {pidr2:#010x})")
            }
            Self::NoPhysicalLpis { typer } => {
                write!(f, "no physical LPIs (GITS_TYPER {typer:#018x})")
            }
        }
    }
}

impl core::error::Error for ProbeError {}

impl Features {
    /// Reads them.
    ///
    /// # Errors
    /// [`ProbeError`].
    pub fn probe(regs: &impl Mmio) -> Result<Self, ProbeError> {
        let pidr2 = regs.read32(PIDR2);
        if pidr2 == u32::MAX {
            return Err(ProbeError::Absent);
        }
        if !matches!(architecture(pidr2), 3 | 4) {
            return Err(ProbeError::Architecture { pidr2 });
        }
        Self::from_typer(regs.read64(TYPER))
    }

    /// From the register's value.
    ///
    /// # Errors
    /// [`ProbeError::NoPhysicalLpis`].
    pub const fn from_typer(typer: u64) -> Result<Self, ProbeError> {
        if typer & 1 == 0 {
            return Err(ProbeError::NoPhysicalLpis { typer });
        }
        // CIL: without it, collections have the 16 bits of the earlier architecture.
        let collection_bits = match typer >> 36 & 1 {
            0 => 16,
            _ => (typer >> 32 & 0xf) as u32 + 1,
        };
        Ok(Self {
            typer,
            device_bits: (typer >> 13 & 0x1f) as u32 + 1,
            event_bits: (typer >> 8 & 0x1f) as u32 + 1,
            collection_bits,
            event_entry_bytes: (typer >> 4 & 0xf) + 1,
            collections_inside: (typer >> 24 & 0xff) as u32,
            targets_by_address: typer >> 19 & 1 != 0,
            is_virtual: typer >> 1 & 1 != 0,
        })
    }

    /// How many device IDs there can be.
    pub const fn device_ids(&self) -> u64 {
        1 << self.device_bits
    }
}
