//! What can go wrong with a disk.

use std::fmt;
use std::time::Duration;

use dmakit_dma::{CoherentError, DmaSegment};

/// A command that was not carried out, or a controller that does not work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NvmeError {
    /// There is no memory for queues and lists.
    Memory(CoherentError),
    /// The controller cannot do what this driver needs.
    Unsupported {
        /// What.
        what: &'static str,
        /// The register or field that says so.
        value: u64,
    },
    /// It did not become ready, or stop being so.
    NotReady {
        /// Its status register.
        status: u32,
        /// How long was waited.
        after: Duration,
    },
    /// It has given up; nothing works until it is reset.
    Fatal {
        /// Its status register.
        status: u32,
    },
    /// A command did not complete.
    Timeout {
        /// How long was waited.
        after: Duration,
    },
    /// A command completed with an error.
    Refused {
        /// The command's operation code.
        opcode: u8,
        /// Type and code of the error (4.6.1).
        status: u16,
    },
    /// All commands are in flight: take completions first.
    Full,
    /// A completion for a command that is not in flight.
    Stray {
        /// Its number.
        slot: u16,
    },
    /// Memory that is not whole blocks, or none.
    Blocks {
        /// Its bytes.
        len: u64,
        /// Bytes of a block.
        block: u64,
    },
    /// Memory that begins between words, or leaves gaps between pages.
    Misplaced {
        /// The first segment that cannot stand where it does.
        segment: DmaSegment,
    },
    /// More than one command may transfer.
    TooLong {
        /// Bytes that were asked for.
        len: u64,
        /// Bytes of the largest transfer.
        max: u64,
    },
    /// Past the end of the disk.
    Beyond {
        /// The first block.
        lba: u64,
        /// How many.
        blocks: u64,
        /// Blocks of the disk.
        size: u64,
    },
}

impl fmt::Display for NvmeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory(error) => error.fmt(f),
            Self::Unsupported { what, value } => {
                write!(f, "the controller has no {what} ({value:#x})")
            }
            Self::NotReady { status, after } => {
                write!(f, "the controller is at {status:#x} after {after:?}")
            }
            Self::Fatal { status } => write!(f, "the controller has failed ({status:#x})"),
            Self::Timeout { after } => write!(f, "no completion within {after:?}"),
            Self::Refused { opcode, status } => {
                write!(f, "command {opcode:#04x} ended with status {status:#x}")
            }
            Self::Full => f.write_str("all commands are in flight"),
            Self::Stray { slot } => write!(f, "command {slot} completed, which is not in flight"),
            Self::Blocks { len, block } => {
                write!(f, "{len} bytes are not whole blocks of {block}")
            }
            Self::Misplaced { segment } => write!(
                f,
                "{} bytes at {} leave a gap between pages",
                segment.len, segment.addr
            ),
            Self::TooLong { len, max } => {
                write!(f, "{len} bytes in one command, which takes at most {max}")
            }
            Self::Beyond { lba, blocks, size } => {
                write!(f, "{blocks} blocks at {lba} of a disk of {size}")
            }
        }
    }
}

impl std::error::Error for NvmeError {}

impl From<CoherentError> for NvmeError {
    fn from(error: CoherentError) -> Self {
        Self::Memory(error)
    }
}
