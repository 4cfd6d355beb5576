//! Why a request came back empty.

use core::fmt;

use dmakit_addr::{DmaMask, IovaRange};

/// A space that cannot be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SpaceError {
    /// The aperture is empty, or its ends are not whole granules.
    Aperture(IovaRange),
    /// The aperture has more granules than the most that a space can hold.
    TooLarge {
        /// Granules in the aperture.
        granules: u64,
        /// The most that are possible.
        max: u64,
    },
    /// There is no memory for the space's own records.
    NoMemory,
}

impl fmt::Display for SpaceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Aperture(range) => write!(f, "{range} is not a run of whole granules"),
            Self::TooLarge { granules, max } => {
                write!(
                    f,
                    "an aperture of {granules} granules; at most {max} are possible"
                )
            }
            Self::NoMemory => f.write_str("no memory for the records of an IOVA space"),
        }
    }
}

impl core::error::Error for SpaceError {}

/// A range that cannot be reserved or claimed. Nothing has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReserveError {
    /// What was asked for.
    pub range: IovaRange,
    /// Why.
    pub cause: ReserveCause,
}

/// Why a [`ReserveError`] came about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReserveCause {
    /// Part of this is handed out, reserved, or in a CPU's cache.
    InUse(IovaRange),
    /// It is not whole granules of so many bytes.
    Granules {
        /// The granule in bytes.
        granule: u64,
    },
    /// It is empty, or not all of it lies in the space's addresses.
    Outside {
        /// The addresses of the space.
        aperture: IovaRange,
    },
    /// There was no memory to record it.
    NoMemory,
}

impl fmt::Display for ReserveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} cannot be reserved: ", self.range)?;
        match self.cause {
            ReserveCause::InUse(taken) => write!(f, "{taken} is in use"),
            ReserveCause::Granules { granule } => {
                write!(f, "it is not whole granules of {granule} bytes")
            }
            ReserveCause::Outside { aperture } => write!(f, "the space has {aperture}"),
            ReserveCause::NoMemory => f.write_str("no memory to record it"),
        }
    }
}

impl core::error::Error for ReserveError {}

/// No device address to be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AllocError {
    /// Bytes asked for.
    pub asked: u64,
    /// The alignment they needed, in bytes.
    pub align: u64,
    /// The highest address they might reach.
    pub limit: DmaMask,
    /// Why there are none.
    pub cause: AllocCause,
}

/// Why an [`AllocError`] came about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AllocCause {
    /// Nothing asked, or an alignment that is no power of two, or more than the space has.
    Request,
    /// No aligned run is free below the limit.
    Full {
        /// Bytes free in the whole space, caches not counted.
        free: u64,
    },
    /// The stock of records is used up; [`maintain`](crate::Space::maintain) fills it.
    Records,
}

impl fmt::Display for AllocError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            asked,
            align,
            limit,
            cause,
        } = self;
        write!(
            f,
            "no {asked} bytes of IOVA aligned to {align} at or below {limit}: "
        )?;
        match cause {
            AllocCause::Request => f.write_str("the request fits no space"),
            AllocCause::Full { free } => {
                write!(f, "{free} bytes are free, in smaller runs or above")
            }
            AllocCause::Records => f.write_str("the stock of records is used up"),
        }
    }
}

impl core::error::Error for AllocError {}
