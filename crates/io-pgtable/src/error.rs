//! What mapping and unmapping can run into.

use core::fmt;

use dmakit_addr::{IovaRange, PhysAddr};
use dmakit_platform::NoMemory;

use crate::GeometryError;

/// A page table that cannot be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TableError {
    /// No such shape.
    Geometry(GeometryError),
    /// No memory for the root.
    Memory(NoMemory),
    /// No memory for the records of a table.
    Records,
}

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Geometry(error) => error.fmt(f),
            Self::Memory(error) => write!(f, "no memory for a table: {error}"),
            Self::Records => f.write_str("no memory for the records of a table"),
        }
    }
}

impl core::error::Error for TableError {}

/// A mapping that was not made. Everything that the call had mapped is unmapped again; hardware may
/// have seen it, so the range must be invalidated before it is used for anything else.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MapError {
    /// What was to be mapped.
    pub range: IovaRange,
    /// To where.
    pub phys: PhysAddr,
    /// How many bytes had been mapped, and were unmapped again.
    pub undone: u64,
    /// Why.
    pub failure: MapFailure,
}

/// Why a [`MapError`] came about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapFailure {
    /// An end is not a multiple of the granule, or the range is empty.
    Unaligned,
    /// The range has addresses that the table does not have.
    OutOfRange,
    /// Memory that an output address cannot name.
    Unreachable,
    /// Something is mapped there already.
    Occupied,
    /// No table could be had.
    Table(TableError),
}

impl fmt::Display for MapFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unaligned => f.write_str("not whole granules"),
            Self::OutOfRange => f.write_str("outside the table's input addresses"),
            Self::Unreachable => f.write_str("beyond the table's output addresses"),
            Self::Occupied => f.write_str("something is mapped there"),
            Self::Table(error) => error.fmt(f),
        }
    }
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} was not mapped to {}: ", self.range, self.phys)?;
        self.failure.fmt(f)
    }
}

impl core::error::Error for MapError {}

/// A range that was not, or not all, unmapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UnmapError {
    /// An end is not a multiple of the granule, or outside the table. Nothing was unmapped.
    Range(IovaRange),
    /// An end lies inside a block or contiguous group, which can only be unmapped whole. Nothing
    /// was unmapped.
    PartOfLeaf {
        /// What was to be unmapped.
        range: IovaRange,
        /// The block or group that one of its ends cuts.
        leaf: IovaRange,
    },
    /// Nothing is mapped at the range's address; what lies below it was unmapped.
    Absent(IovaRange),
}

impl fmt::Display for UnmapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Range(range) => write!(f, "{range} is not whole granules of the table"),
            Self::PartOfLeaf { range, leaf } => {
                write!(
                    f,
                    "{range} ends inside {leaf}, which can only be unmapped whole"
                )
            }
            Self::Absent(range) => write!(f, "nothing is mapped at {range}"),
        }
    }
}

impl core::error::Error for UnmapError {}
