//! Why a mapping was refused, and what comes back then.

use core::fmt;

use dmakit_addr::{Attributes, DmaMask, DmaRange, PhysRange};

use dmakit_io_pgtable::MapFailure as TableFailure;
use dmakit_iova::AllocError;

use crate::{BounceError, DeviceId, DomainId, SegmentLimits, SyncError};

/// Why a buffer had to go through the bounce pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum BounceCause {
    /// The device's path bounces everything.
    Forced,
    /// The device cannot reach this run: its bus does not show it, or not below `reach`.
    OutOfReach {
        /// The run.
        run: PhysRange,
        /// The highest DMA address that the device and its bus can carry.
        reach: DmaMask,
    },
    /// The device writes past the CPU's caches, and this run's edge shares a line with other data.
    SharedLine {
        /// The run.
        run: PhysRange,
        /// Bytes in a line.
        line_bytes: u64,
    },
    /// The device is not trusted, and this run's edge shares a page with other data.
    SharedPage {
        /// The run.
        run: PhysRange,
    },
    /// The memory is only borrowed, so no device may see it.
    Borrowed,
}

impl fmt::Display for BounceCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forced => f.write_str("bouncing is forced"),
            Self::OutOfReach { run, reach } => {
                write!(f, "{run} is out of the device's reach ({reach})")
            }
            Self::SharedLine { run, line_bytes } => {
                write!(
                    f,
                    "{run} shares a cache line of {line_bytes} bytes with other data"
                )
            }
            Self::SharedPage { run } => write!(f, "{run} shares a page with other data"),
            Self::Borrowed => f.write_str("the memory is only borrowed"),
        }
    }
}

/// What a domain refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DomainError {
    /// There are no addresses that would do.
    Space(AllocError),
    /// The page table did not take a part: no table pages, or addresses that no entry can hold.
    Table(TableFailure),
    /// Hardware takes no commands.
    Hardware(SyncError),
    /// No whole granules, or none at all, were to be mapped.
    Shape {
        /// Bytes.
        len: u64,
        /// The granule in bytes.
        granule: u64,
    },
}

impl From<dmakit_iommu::MapError> for DomainError {
    fn from(error: dmakit_iommu::MapError) -> Self {
        match error {
            dmakit_iommu::MapError::Shape { len, granule } => Self::Shape { len, granule },
            dmakit_iommu::MapError::Space(error) => Self::Space(error),
            dmakit_iommu::MapError::Table(error) => Self::Table(error.failure),
            dmakit_iommu::MapError::Hardware(error) => Self::Hardware(error),
        }
    }
}

impl fmt::Display for DomainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Space(error) => error.fmt(f),
            Self::Table(failure) => failure.fmt(f),
            Self::Hardware(error) => error.fmt(f),
            Self::Shape { len, granule } => {
                write!(f, "{len} bytes are no whole granules of {granule}")
            }
        }
    }
}

impl core::error::Error for DomainError {}

/// Why a mapping was refused. Nothing has changed then but a counter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum MapError {
    /// There are no bytes to map.
    Empty,
    /// The buffer would have to bounce and the device has no pool.
    NoBouncePool(BounceCause),
    /// The device cannot reach this window, which is not RAM and cannot bounce.
    Unreachable {
        /// The window.
        window: PhysRange,
        /// The highest DMA address that the device and its bus can carry.
        reach: DmaMask,
    },
    /// The run named and the bytes given with it differ in length.
    LengthMismatch {
        /// The run.
        run: PhysRange,
        /// How many bytes were given.
        len: u64,
    },
    /// The buffer has to bounce and the pool could not take it.
    Bounce {
        /// Why it had to.
        cause: BounceCause,
        /// What the pool says.
        error: BounceError,
    },
    /// The bounce pool gave memory that the device cannot reach, so it was given back.
    PoolOutOfReach {
        /// What the pool gave.
        slots: PhysRange,
        /// The highest DMA address that the device and its bus can carry.
        reach: DmaMask,
    },
    /// The buffer is made of runs that do not follow one another for the device; only a list can
    /// map it.
    Scattered {
        /// Where the first run of several ends.
        first: DmaRange,
    },
    /// One segment would break the device's limits; a list can cut it.
    Limits {
        /// The segment.
        segment: DmaRange,
        /// The limits.
        limits: SegmentLimits,
    },
    /// One bounced segment would be longer than the device takes; a list can cut it.
    TooLong {
        /// Its length in bytes.
        len: u64,
        /// What the device takes.
        max: u64,
    },
    /// The list has more segments than there was room for, or than the device takes.
    TooManySegments {
        /// How many there are.
        needed: usize,
        /// How many there was room for.
        room: usize,
    },
    /// These attributes cannot be honoured here.
    Attributes(Attributes),
    /// Coherence was required of a device that has none.
    NotCoherent,
    /// Coherence was required of a buffer that has to bounce.
    WouldBounce(BounceCause),
    /// The domain has no addresses, no table pages, or hardware that takes no commands.
    Domain(DomainError),
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("there are no bytes to map"),
            Self::NoBouncePool(cause) => write!(f, "{cause}, and the device has no bounce pool"),
            Self::Unreachable { window, reach } => {
                write!(f, "{window} is out of the device's reach ({reach})")
            }
            Self::LengthMismatch { run, len } => write!(f, "{len} bytes were given for {run}"),
            Self::Bounce { cause, error } => write!(f, "{cause}, and {error}"),
            Self::PoolOutOfReach { slots, reach } => write!(
                f,
                "the bounce slots at {slots} are out of the device's reach ({reach})"
            ),
            Self::Scattered { first } => {
                write!(
                    f,
                    "the memory after {first} does not follow it for the device"
                )
            }
            Self::Limits { segment, limits } => write!(
                f,
                "{segment} breaks the device's segment limits ({} bytes, boundary mask {:#x})",
                limits.max_bytes,
                limits.boundary.raw()
            ),
            Self::TooLong { len, max } => {
                write!(
                    f,
                    "one segment of {len} bytes for a device that takes {max}"
                )
            }
            Self::TooManySegments { needed, room } => {
                write!(f, "{needed} segments, and room for {room}")
            }
            Self::Attributes(which) => write!(f, "{} cannot be honoured here", which.names()),
            Self::NotCoherent => f.write_str("the device is not coherent"),
            Self::WouldBounce(cause) => write!(f, "{cause}, and bouncing was ruled out"),
            Self::Domain(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for MapError {}

/// A refused mapping and the memory that was to be mapped, untouched.
#[derive(Debug)]
pub struct MapFailure<B> {
    /// Why.
    pub error: MapError,
    /// The memory.
    pub memory: B,
}

impl<B> fmt::Display for MapFailure<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<B: fmt::Debug> core::error::Error for MapFailure<B> {}

/// Why something was not done with a token.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum TokenError {
    /// The token is another device's.
    Foreign {
        /// Whose it is.
        owner: DeviceId,
        /// To whom it was given.
        device: DeviceId,
    },
    /// The batch holds what another domain's sync has to cover.
    ForeignBatch {
        /// The batch's domain.
        batch: DomainId,
        /// The device's.
        device: DomainId,
    },
    /// The bytes do not lie in the mapping.
    OutOfRange {
        /// The first byte asked for.
        offset: u64,
        /// How many.
        len: u64,
        /// How many the mapping has.
        mapped: u64,
    },
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign { owner, device } => {
                write!(f, "it belongs to {owner} and was given to {device}")
            }
            Self::ForeignBatch { batch, device } => {
                write!(f, "a batch of {batch}, not of {device}")
            }
            Self::OutOfRange {
                offset,
                len,
                mapped,
            } => write!(f, "{len} bytes at {offset} of a mapping of {mapped}"),
        }
    }
}

impl core::error::Error for TokenError {}

/// A token with which nothing was done, given back as it was.
#[derive(Debug)]
pub struct Refused<T> {
    /// Why.
    pub error: TokenError,
    /// The token.
    pub token: T,
}

impl<T> fmt::Display for Refused<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<T: fmt::Debug> core::error::Error for Refused<T> {}
