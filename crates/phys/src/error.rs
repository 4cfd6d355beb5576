//! What goes wrong with frames.

use core::fmt;

use dmakit_addr::{DmaMask, NodeId};

use crate::{Frames, MAX_ORDER, MigrateType};

/// Why no allocator can be made of a map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TableError {
    /// The memory for the frame table has too few entries.
    TooSmall {
        /// Entries that are needed.
        needed: u64,
        /// Entries that there are.
        given: usize,
    },
    /// More entries than a 32-bit number counts: 16 TiB of frames.
    TooLarge {
        /// Entries that are needed.
        needed: u64,
    },
    /// Nodes times zones do not fit 16 bits.
    Zones {
        /// How many there would be.
        zones: usize,
    },
    /// A zone limit is not the last byte of a frame, or not above the one before.
    Limit(DmaMask),
}

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooSmall { needed, given } => {
                write!(f, "the frame table needs {needed} entries and has {given}")
            }
            Self::TooLarge { needed } => {
                write!(f, "a frame table of {needed} entries is too large")
            }
            Self::Zones { zones } => write!(f, "{zones} zones are too many"),
            Self::Limit(limit) => write!(f, "{limit} is no zone limit here"),
        }
    }
}

impl core::error::Error for TableError {}

/// No block of free frames as asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoFrames {
    /// How many frames were asked for.
    pub frames: u64,
    /// log2 of the aligned block that this takes.
    pub order: u32,
    /// The highest byte that was allowed.
    pub limit: DmaMask,
    /// Where they were to be, preferably or only, as asked.
    pub node: Option<NodeId>,
    /// Of what type.
    pub migrate_type: MigrateType,
    /// Free frames of all types in the zones that were looked at.
    pub free: u64,
    /// The largest order listed, in those zones, for types that serve the request.
    pub largest_order: Option<u32>,
}

impl fmt::Display for NoFrames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            frames,
            order,
            limit,
            free,
            ..
        } = self;
        write!(
            f,
            "no free block of order {order} (of at most {MAX_ORDER}) for {frames} {:?} frames at \
             or below {limit}; {free} frames are free",
            self.migrate_type
        )?;
        match self.largest_order {
            Some(order) => write!(f, ", the largest usable block has order {order}"),
            None => Ok(()),
        }
    }
}

impl core::error::Error for NoFrames {}

/// Why frames cannot be freed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FreeReason {
    /// The allocator does not know these frames.
    NotHere,
    /// They are free already, or inside something else.
    NotTaken,
    /// The frames are taken, but by another allocation: the token is of another allocator.
    NotTheOwner,
    /// Pins or leases hold them.
    Pinned,
    /// A contiguous area keeps books of them: they are released there.
    Booked,
}

/// Frames that could not be freed, given back; nothing has changed.
#[derive(Debug)]
pub struct FreeError {
    /// The token as it was.
    pub frames: Frames,
    /// What is wrong with it.
    pub reason: FreeReason,
}

impl fmt::Display for FreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self.reason {
            FreeReason::NotHere => "are not known here",
            FreeReason::NotTaken => "are not an allocation",
            FreeReason::NotTheOwner => "are another owner's",
            FreeReason::Pinned => "are pinned",
            FreeReason::Booked => "were claimed from an area, and go back to it",
        };
        write!(f, "frames {} {why}", self.frames.range())
    }
}

impl core::error::Error for FreeError {}
