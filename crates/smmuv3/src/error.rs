//! What can go wrong while an SMMU is brought up and streams are attached.

use core::fmt;

use dmakit_platform::NoMemory;

use crate::{Context, ProbeError, SyncFailure};

/// An SMMU that did not come up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StartError {
    /// Not one that can be used.
    Probe(ProbeError),
    /// No memory for tables or queues.
    Memory(NoMemory),
    /// A control register that did not take a value in time.
    Control {
        /// Its offset.
        register: u64,
        /// What was written.
        value: u32,
    },
    /// Commands that did not complete.
    Sync(SyncFailure),
    /// A stream to be inherited that the SMMU does not have.
    Inherit {
        /// The stream.
        stream: u32,
    },
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Probe(error) => error.fmt(f),
            Self::Memory(error) => write!(f, "no memory for the SMMU's tables: {error}"),
            Self::Control { register, value } => {
                write!(f, "SMMU register {register:#x} did not take {value:#x}")
            }
            Self::Sync(error) => error.fmt(f),
            Self::Inherit { stream } => write!(f, "the SMMU has no stream {stream:#x}"),
        }
    }
}

impl core::error::Error for StartError {}

/// A stream that was not attached, or not detached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AttachError {
    /// A stream ID with more bits than the SMMU's.
    UnknownStream {
        /// The stream.
        stream: u32,
        /// Bits of a stream ID.
        bits: u32,
    },
    /// No memory for a table.
    Memory(NoMemory),
    /// All ASIDs, or VMIDs, are in use.
    NoTag,
    /// No memory for the driver's own records.
    Records,
    /// Tables of a shape that this SMMU does not walk.
    Shape,
    /// A stream that has substreams, which are to be closed first.
    Substreams {
        /// The stream.
        stream: u32,
    },
    /// A substream ID with more bits than there are.
    UnknownSubstream {
        /// The substream.
        substream: u32,
        /// Bits of a substream ID.
        bits: u32,
    },
    /// The SMMU did not say that it has forgotten the old entry.
    Sync(SyncFailure),
}

impl fmt::Display for AttachError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownStream { stream, bits } => {
                write!(f, "stream {stream:#x} has more than the SMMU's {bits} bits")
            }
            Self::Memory(error) => write!(f, "no memory for a stream's table: {error}"),
            Self::NoTag => f.write_str("all ASIDs or VMIDs are in use"),
            Self::Records => f.write_str("no memory for the records of a stream"),
            Self::Substreams { stream } => write!(f, "stream {stream:#x} has substreams"),
            Self::UnknownSubstream { substream, bits } => {
                write!(f, "substream {substream:#x} has more than {bits} bits")
            }
            Self::Shape => f.write_str("this SMMU does not walk tables of that shape"),
            Self::Sync(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for AttachError {}

/// A context that was not released.
#[derive(Debug)]
pub enum ReleaseFailure {
    /// A stream is attached to it; given back as it was.
    InUse {
        /// The context.
        context: Context,
        /// A stream that is attached.
        stream: u32,
    },
    /// It is unknown what the SMMU still knows of it: its tag is not used again, its memory comes
    /// back when the SMMU is stopped.
    Sync(SyncFailure),
}

impl fmt::Display for ReleaseFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InUse { stream, .. } => write!(f, "stream {stream:#x} is still attached"),
            Self::Sync(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for ReleaseFailure {}
