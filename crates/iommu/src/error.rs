//! What can go wrong between a domain and its parts.

use core::fmt;

use dmakit_addr::{IovaRange, PhysRange};
use dmakit_io_pgtable::UnmapError;
use dmakit_iova::{AllocError, ReserveError};

use crate::{Mapped, SyncError};

/// Memory that was not mapped. The domain is as before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapError {
    /// No memory was given, or runs that are not whole granules.
    Shape {
        /// Bytes that were given.
        len: u64,
        /// The granule in bytes.
        granule: u64,
    },
    /// No addresses.
    Space(AllocError),
    /// The table took them not.
    Table(dmakit_io_pgtable::MapError),
    /// Hardware takes no commands; the addresses are lost until it is reset.
    Hardware(SyncError),
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shape { len, granule } => {
                write!(
                    f,
                    "{len} bytes in runs that are not whole granules of {granule}"
                )
            }
            Self::Space(error) => error.fmt(f),
            Self::Table(error) => error.fmt(f),
            Self::Hardware(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for MapError {}

/// An identity region that was not mapped. The domain is as before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IdentityError {
    /// Not a range of device addresses.
    Range(PhysRange),
    /// Its addresses cannot be had.
    Space(ReserveError),
    /// The table took it not.
    Table(dmakit_io_pgtable::MapError),
    /// Hardware takes no commands; the addresses are lost until it is reset.
    Hardware(SyncError),
}

impl fmt::Display for IdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Range(range) => write!(f, "{range} is no range of device addresses"),
            Self::Space(error) => error.fmt(f),
            Self::Table(error) => error.fmt(f),
            Self::Hardware(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for IdentityError {}

/// A mapping that was not unmapped.
#[derive(Debug)]
pub enum UnmapFailure {
    /// It is another domain's; given back as it was.
    Foreign(Mapped),
    /// The table does not hold it as it was mapped: something outside changed the table. Its
    /// addresses are not used again.
    Table {
        /// The addresses.
        range: IovaRange,
        /// What the table said.
        error: UnmapError,
    },
    /// Hardware takes no commands: its addresses and table pages are not used again.
    Hardware {
        /// The addresses.
        range: IovaRange,
        /// What hardware said.
        error: SyncError,
    },
}

impl fmt::Display for UnmapFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign(mapped) => write!(f, "{} is of another domain", mapped.range()),
            Self::Table { range, error } => write!(f, "{range} is lost: {error}"),
            Self::Hardware { range, error } => write!(f, "{range} is lost: {error}"),
        }
    }
}

impl core::error::Error for UnmapFailure {}
