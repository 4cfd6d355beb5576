//! What is known of one page block beforehand.

use crate::frame::{Frame, MigrateType};
use crate::page_allocator::PAGEBLOCK_ORDER;

/// Frames of a page block, by what a claim would have to do about them. The rest are blocked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Free,
    /// Taken, and its mover may be asked.
    Movable,
    /// The same once the leases on it are recalled.
    Leased,
    /// Unmovable, pinned, or not there.
    Blocked,
}

/// A page block: an entry of the frame table, read as counts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block {
    pub(crate) free: u16,
    pub(crate) movable: u16,
    pub(crate) leased: u16,
    /// How many claims are clearing a part of it.
    pub(crate) clearing: u16,
    /// The zone that all its frames lie in; `NO_ZONE` where they lie in several, or some are
    /// missing.
    pub(crate) zone: u16,
    pub(crate) migrate_type: MigrateType,
}

impl Block {
    pub(crate) fn load(entry: &Frame) -> Self {
        Self {
            free: entry.next as u16,
            movable: (entry.next >> 16) as u16,
            leased: entry.previous as u16,
            clearing: (entry.previous >> 16) as u16,
            zone: entry.zone,
            migrate_type: MigrateType::from_raw(entry.order),
        }
    }

    pub(crate) fn store(&self, entry: &mut Frame) {
        entry.next = u32::from(self.free) | u32::from(self.movable) << 16;
        entry.previous = u32::from(self.leased) | u32::from(self.clearing) << 16;
        entry.zone = self.zone;
        entry.order = self.migrate_type as u8;
    }

    /// Frames that a claim can do nothing about.
    pub(crate) fn blocked(&self) -> u64 {
        let clear = u64::from(self.free) + u64::from(self.movable) + u64::from(self.leased);
        (1 << PAGEBLOCK_ORDER) - clear
    }

    /// The type by which its free blocks are listed.
    pub(crate) fn listed_as(&self) -> MigrateType {
        if self.clearing > 0 {
            MigrateType::Isolated
        } else {
            self.migrate_type
        }
    }

    pub(crate) fn count(&mut self, kind: Kind) -> Option<&mut u16> {
        match kind {
            Kind::Free => Some(&mut self.free),
            Kind::Movable => Some(&mut self.movable),
            Kind::Leased => Some(&mut self.leased),
            Kind::Blocked => None,
        }
    }
}
