//! Free blocks of one node between two address limits.

use alloc::vec::Vec;

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

/// Which zone each frame is of, for page blocks that are of several or not wholly there.
#[derive(Default)]
pub(crate) struct ZoneRuns {
    /// First frame, the first above, and the zone; ascending, and no two beside each other alike.
    runs: Vec<(u64, u64, u16)>,
}

impl ZoneRuns {
    /// Adds frames above all others.
    pub(crate) fn push(&mut self, start: u64, end: u64, zone: u16) {
        match self.runs.last_mut() {
            Some(last) if (last.1, last.2) == (start, zone) => last.1 = end,
            _ => self.runs.push((start, end, zone)),
        }
    }

    /// The run that a frame lies in. A step for each doubling of the number of runs.
    pub(crate) fn find(&self, frame: u64) -> Option<(u64, u64, u16)> {
        let above = self.runs.partition_point(|run| run.0 <= frame);
        let run = *self.runs.get(above.checked_sub(1)?)?;
        (frame < run.1).then_some(run)
    }
}
