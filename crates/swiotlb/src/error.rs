//! Why a mapping could not be made or ended.

use core::fmt;

use dmakit_addr::PhysAddr;

use crate::{DeviceId, QuotaExceeded};

/// Why a mapping could not be made. Nothing has changed then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapError {
    /// Nothing was to be mapped.
    Empty,
    /// The source is shorter than the part to be mapped.
    OutOfSource {
        /// The end of the part.
        end: u64,
        /// The length of the source.
        len: u64,
    },
    /// No such device is attached.
    UnknownDevice(DeviceId),
    /// An alignment mask above 64 KiB - 1.
    Alignment {
        /// The mask.
        mask: u64,
    },
    /// The bytes cross the device's boundary wherever the slots lie.
    Boundary {
        /// The boundary's mask.
        mask: u64,
        /// How many bytes were to be mapped.
        len: u64,
    },
    /// More than the largest pool that there is, or may be, can hold.
    TooLarge {
        /// How many bytes were to be mapped.
        len: u64,
    },
    /// No pool lies where the device can reach it.
    Unreachable {
        /// The highest address of the device.
        limit: u64,
    },
    /// The device's quota does not allow for it.
    Quota(QuotaExceeded),
    /// More than is left of a reservation.
    Reserved {
        /// How many slots the mapping needs.
        slots: u64,
        /// How many are left.
        left: u64,
    },
    /// No run of slots fits.
    Full(Full),
}

/// How full the pools were that could not serve a mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Full {
    /// How many slots were asked for.
    pub slots: u32,
    /// The alignment of the first, in slots.
    pub align: u32,
    /// The longest free run in one area.
    pub largest: u32,
    /// About how many slots are in use, from above.
    pub used: u64,
    /// How many slots there are.
    pub total: u64,
}

impl Full {
    /// Whether enough slots are free, but lie wrong.
    pub fn is_fragmented(&self) -> bool {
        u64::from(self.slots) <= self.total.saturating_sub(self.used)
    }
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("nothing to map"),
            Self::OutOfSource { end, len } => {
                write!(f, "a part that ends at {end} of a source of {len} bytes")
            }
            Self::UnknownDevice(id) => write!(f, "no device number {} is attached", id.index()),
            Self::Alignment { mask } => write!(f, "an alignment mask of {mask:#x}"),
            Self::Boundary { mask, len } => {
                write!(
                    f,
                    "{len} bytes cross the boundary {mask:#x} wherever they lie"
                )
            }
            Self::TooLarge { len } => write!(f, "no pool can hold {len} bytes"),
            Self::Unreachable { limit } => write!(f, "no pool lies at or below {limit:#x}"),
            Self::Quota(exceeded) => exceeded.fmt(f),
            Self::Reserved { slots, left } => {
                write!(f, "{slots} slots asked, {left} left of the reservation")
            }
            Self::Full(full) => write!(
                f,
                "no {} slots aligned to {} are free; the longest run has {}, {} of {} are in use",
                full.slots,
                full.align,
                full.largest,
                full.used.min(full.total),
                full.total
            ),
        }
    }
}

impl core::error::Error for MapError {}

/// An address at which no mapping begins, or one that cannot be claimed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotMapped {
    /// The address.
    pub address: PhysAddr,
}

impl fmt::Display for NotMapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "no claimable mapping of that direction at {}",
            self.address
        )
    }
}

impl core::error::Error for NotMapped {}

/// A part that does not lie inside its mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutOfMapping {
    /// The end of the part, counted from the first mapped byte.
    pub end: u64,
    /// How many bytes are mapped.
    pub len: u64,
}

impl fmt::Display for OutOfMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a part that ends at {} of {} mapped bytes",
            self.end, self.len
        )
    }
}

impl core::error::Error for OutOfMapping {}
