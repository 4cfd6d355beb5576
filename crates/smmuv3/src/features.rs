//! What an SMMU can do.

use core::fmt;

use dmakit_addr::Granule;
use dmakit_platform::Mmio;

use crate::spec::registers::{IDR0, IDR1, IDR3, IDR5};

/// What the identification registers say (6.3.1 to 6.3.6), as far as the driver uses it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Features {
    /// Stage 1 translation.
    pub stage_1: bool,
    /// Stage 2 translation.
    pub stage_2: bool,
    /// Table walks and queues are coherent with the CPU's caches.
    pub coherent: bool,
    /// Syncs can write a message.
    pub messages: bool,
    /// 16-bit ASIDs, else 8.
    pub asid_16: bool,
    /// 16-bit VMIDs, else 8.
    pub vmid_16: bool,
    /// Two-level stream tables.
    pub two_level_streams: bool,
    /// Two-level tables of context descriptors.
    pub two_level_contexts: bool,
    /// Faulting transactions can be stalled.
    pub stalls: bool,
    /// Invalidation by range.
    pub ranges: bool,
    /// log2 of the largest command queue.
    pub command_shift_max: u32,
    /// log2 of the largest event queue.
    pub event_shift_max: u32,
    /// Bits of a stream ID.
    pub stream_bits: u32,
    /// Bits of a substream ID.
    pub substream_bits: u32,
    /// Bits of an input address.
    pub input_bits: u32,
    /// Bits of an output address.
    pub output_bits: u32,
    /// The granules it walks: 4, 16, 64 KiB.
    pub granules: [bool; 3],
}

/// Registers that are not those of an SMMU which this driver can use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProbeError {
    /// All ones: nothing answers.
    Absent,
    /// No translation stage, or no 64-bit tables.
    NoTables {
        /// The register that says so.
        idr0: u32,
    },
    /// Faulting transactions stall until they are answered, whatever the tables say. Nobody
    /// answers here.
    StallsForced {
        /// The register that says so.
        idr0: u32,
    },
    /// Queues or tables at addresses fixed in hardware.
    Preset {
        /// The register that says so.
        idr1: u32,
    },
}

impl fmt::Display for ProbeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("no SMMU answers there"),
            Self::NoTables { idr0 } => write!(f, "no 64-bit tables (IDR0 {idr0:#010x})"),
            Self::StallsForced { idr0 } => write!(f, "faults always stall (IDR0 {idr0:#010x})"),
            Self::Preset { idr1 } => write!(f, "preset queues or tables (IDR1 {idr1:#010x})"),
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
        let idr = [IDR0, IDR1, IDR3, IDR5].map(|offset| regs.read32(offset));
        let [idr0, idr1, idr3, idr5] = idr;
        if idr0 == u32::MAX {
            return Err(ProbeError::Absent);
        }
        let bit = |word: u32, bit: u32| word >> bit & 1 != 0;
        // TTF: 2 AArch64, 3 both.
        if !bit(idr0, 3) || idr0 & 0b11 == 0 {
            return Err(ProbeError::NoTables { idr0 });
        }
        if bit(idr1, 29) || bit(idr1, 30) {
            return Err(ProbeError::Preset { idr1 });
        }
        // 0: a stream chooses, 1: faults abort, 2: faults stall.
        let stall_model = idr0 >> 24 & 0b11;
        if stall_model > 1 {
            return Err(ProbeError::StallsForced { idr0 });
        }
        Ok(Self {
            stage_1: bit(idr0, 1),
            stage_2: bit(idr0, 0),
            coherent: bit(idr0, 4),
            messages: bit(idr0, 13),
            asid_16: bit(idr0, 12),
            vmid_16: bit(idr0, 18),
            two_level_contexts: bit(idr0, 19),
            two_level_streams: idr0 >> 27 & 0b11 == 1,
            stalls: stall_model == 0,
            ranges: bit(idr3, 10),
            command_shift_max: idr1 >> 21 & 0x1f,
            event_shift_max: idr1 >> 16 & 0x1f,
            stream_bits: idr1 & 0x3f,
            substream_bits: idr1 >> 6 & 0x1f,
            // VAX: 52-bit addresses, of 64 KiB granules.
            input_bits: if idr5 >> 10 & 0b11 == 1 { 52 } else { 48 },
            output_bits: output_bits(idr5 & 0b111),
            granules: [bit(idr5, 4), bit(idr5, 5), bit(idr5, 6)],
        })
    }

    /// Whether tables of a granule can be walked.
    pub fn walks(&self, granule: Granule) -> bool {
        match granule {
            Granule::K4 => self.granules[0],
            Granule::K16 => self.granules[1],
            Granule::K64 => self.granules[2],
            _ => false,
        }
    }
}

/// What `IDR5.OAS` stands for.
fn output_bits(encoded: u32) -> u32 {
    match encoded {
        0 => 32,
        1 => 36,
        2 => 40,
        3 => 42,
        4 => 44,
        5 => 48,
        _ => 52,
    }
}
