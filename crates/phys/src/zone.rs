//! Free blocks of one node between two address limits.

use crate::frame::{MigrateType, NO_FRAME};
use crate::page_allocator::MAX_ORDER;

pub(crate) const ORDERS: usize = MAX_ORDER as usize + 1;

/// The number that stands for the zone of frames that are not the allocator's.
pub(crate) const NO_ZONE: u16 = u16::MAX;

/// The heads of the lists of free blocks.
#[derive(Clone)]
pub(crate) struct Zone {
    /// The first frame above the zone.
    pub(crate) end: u64,
    /// The first frame of its memory.
    pub(crate) first: u64,
    /// The first frame above its memory.
    pub(crate) top: u64,
    pub(crate) free: u64,
    pub(crate) heads: [[u32; ORDERS]; MigrateType::COUNT],
    /// Bit o is set where blocks of order o are listed.
    pub(crate) stocked: [u32; MigrateType::COUNT],
}

impl Zone {
    pub(crate) fn new() -> Self {
        Self {
            end: 0,
            first: u64::MAX,
            top: 0,
            free: 0,
            heads: [[NO_FRAME; ORDERS]; MigrateType::COUNT],
            stocked: [0; MigrateType::COUNT],
        }
    }
}
