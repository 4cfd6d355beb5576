//! Why a raw handle was refused.

use core::fmt;

use dmakit_addr::{Direction, PhysRange};

use crate::DmaSegment;

/// Why a raw handle was refused. Nothing has changed then, but for what is
/// [lost](Self::Lost).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum RawError {
    /// The device's bus shows no memory there.
    Unknown {
        /// The handle.
        handle: DmaSegment,
    },
    /// Bounce slots lie there, and no mapping of that direction begins at the address.
    NotMapped {
        /// The handle.
        handle: DmaSegment,
        /// The direction it was said to have.
        direction: Direction,
    },
    /// A mapping begins there and has another length.
    WrongLength {
        /// The handle.
        handle: DmaSegment,
        /// The length it was mapped with.
        mapped: u64,
    },
    /// A part that does not lie inside the mapping.
    OutOfRange {
        /// The handle.
        handle: DmaSegment,
        /// Where the part ends, counted from the mapping's first byte.
        end: u64,
    },
    /// The memory behind the handle is not the memory that was named with it.
    OtherMemory {
        /// The handle.
        handle: DmaSegment,
        /// The memory behind it.
        behind: PhysRange,
    },
    /// It is unmapped, and hardware did not say that it has forgotten it: its memory must not be used
    /// until the device is reset.
    Lost {
        /// The handle.
        handle: DmaSegment,
    },
}

impl RawError {
    /// The handle that was refused.
    pub fn handle(&self) -> DmaSegment {
        match self {
            Self::Unknown { handle }
            | Self::NotMapped { handle, .. }
            | Self::WrongLength { handle, .. }
            | Self::OutOfRange { handle, .. }
            | Self::OtherMemory { handle, .. }
            | Self::Lost { handle } => *handle,
        }
    }
}

impl fmt::Display for RawError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DmaSegment { addr, len } = self.handle();
        match self {
            Self::Unknown { .. } => {
                write!(f, "the device sees no memory in {len} bytes at {addr}")
            }
            Self::NotMapped { direction, .. } => {
                write!(f, "nothing is mapped {direction} at {addr}")
            }
            Self::WrongLength { mapped, .. } => {
                write!(f, "{len} bytes at {addr}, where {mapped} are mapped")
            }
            Self::OutOfRange { end, .. } => {
                write!(f, "a part that ends at {end} of {len} bytes at {addr}")
            }
            Self::Lost { .. } => {
                write!(
                    f,
                    "the device may reach {len} bytes at {addr} until it is reset"
                )
            }
            Self::OtherMemory { behind, .. } => {
                write!(
                    f,
                    "{addr} leads to {behind}, not to the memory that was named"
                )
            }
        }
    }
}

impl core::error::Error for RawError {}
