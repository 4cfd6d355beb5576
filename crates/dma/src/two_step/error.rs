//! Why a step was not taken.

use core::fmt;

use dmakit_addr::{IovaRange, PhysRange};

use crate::{DeviceId, DomainId, MapError, SyncError};

/// Why a step was not taken. The state is as before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum LinkError {
    /// The state is of another domain, or of another device without one.
    WrongDomain {
        /// To whom it was given.
        device: DeviceId,
        /// Where that one's memory is mapped.
        domain: DomainId,
    },
    /// States know domains by number, below `max`.
    DomainNumber {
        /// The domain.
        domain: DomainId,
        /// The first number that is too high.
        max: u64,
    },
    /// More bytes than a state can have, or an alignment that is no power of two.
    Shape {
        /// How many bytes.
        len: u64,
        /// The alignment in bytes.
        align: u64,
        /// The most bytes.
        max: u64,
    },
    /// There is no room for a run behind what is linked.
    Full {
        /// Bytes of whole granules that are reserved.
        reserved: u64,
        /// Where the run would end.
        end: u64,
    },
    /// Only the first run may begin inside a granule, and only the last end there; pages of a window
    /// are whole, and so is their place.
    Ragged {
        /// The run.
        run: PhysRange,
        /// Bytes in a granule.
        granule: u64,
    },
    /// Nothing is linked there, or nothing at all.
    NotLinked {
        /// The first byte, counted from the first that is reserved.
        offset: u64,
        /// How many bytes.
        len: u64,
    },
    /// It lies inside of what can only be unlinked as a whole.
    PartOfLeaf {
        /// The byte of the request or window.
        offset: u64,
        /// The granule, block or contiguous group that it is inside of.
        leaf: IovaRange,
    },
    /// Something is linked still.
    StillLinked {
        /// Bytes.
        bytes: u64,
    },
    /// The segments that were given are not those of the links, of which these bytes are missing.
    Segments {
        /// How many.
        missing: u64,
    },
    /// The memory cannot be shown to the device.
    Map(MapError),
    /// Hardware takes no commands.
    Hardware(SyncError),
}

impl From<MapError> for LinkError {
    fn from(error: MapError) -> Self {
        Self::Map(error)
    }
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WrongDomain { device, domain } => {
                write!(f, "it is not of {domain}, in which {device} is")
            }
            Self::DomainNumber { domain, max } => {
                write!(f, "the number of {domain} is not below {max}")
            }
            Self::Shape { len, align, max } => {
                write!(
                    f,
                    "no state has {len} bytes aligned to {align}, at most {max}"
                )
            }
            Self::Full { reserved, end } => {
                write!(
                    f,
                    "{reserved} bytes are reserved, and the run ends at {end}"
                )
            }
            Self::Ragged { run, granule } => {
                write!(
                    f,
                    "{run} shares a granule of {granule} bytes with its neighbours"
                )
            }
            Self::NotLinked { offset, len } => {
                write!(f, "{len} bytes at {offset} are not linked")
            }
            Self::PartOfLeaf { offset, leaf } => {
                write!(
                    f,
                    "byte {offset} is inside {leaf}, which can only be unlinked whole"
                )
            }
            Self::StillLinked { bytes } => write!(f, "{bytes} bytes are linked still"),
            Self::Segments { missing } => {
                write!(
                    f,
                    "{missing} bytes are linked at segments that were not given"
                )
            }
            Self::Map(error) => error.fmt(f),
            Self::Hardware(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for LinkError {}

/// A step that was not taken, and everything that was given for it.
#[derive(Debug)]
pub struct Unmoved<S> {
    /// Why.
    pub error: LinkError,
    /// What was given, as it was.
    pub state: S,
}

impl<S> fmt::Display for Unmoved<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<S: fmt::Debug> core::error::Error for Unmoved<S> {}
