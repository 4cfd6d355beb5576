//! What a claim asks for, and the window that is cheapest to clear.

use dmakit_addr::PfnRange;

use crate::block::Block;
use crate::frame::MigrateType;

/// In what memory windows are looked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WindowIn {
    /// In page blocks of contiguous areas only: whoever keeps the books of an area claims from it.
    Areas,
    /// In all other page blocks: contiguous memory without a reservation.
    OtherMemory,
}

impl WindowIn {
    pub(crate) fn has(self, block: &Block) -> bool {
        match block.migrate_type {
            MigrateType::Contiguous => self == Self::Areas,
            // Of an area that is not active.
            MigrateType::Isolated => false,
            _ => self == Self::OtherMemory,
        }
    }
}

/// Which window is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WindowRequest<'r> {
    /// Frames in which it has to lie; a window lies in one range, and in one zone of one node.
    pub within: &'r [PfnRange],
    /// How many frames; more than zero.
    pub frames: u64,
    /// log2 of the alignment of the first, in frames, counted from frame 0.
    pub align_order: u32,
    /// Frames that will not do.
    pub excluded: &'r [PfnRange],
    /// In what memory.
    pub memory: WindowIn,
}

/// The window that is cheapest to clear, as of the moment it was looked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Window {
    /// The frames.
    pub range: PfnRange,
    /// How many frames have to move: those of all allocations in it, with their parts outside.
    pub moves: u64,
    /// How many of them are leased, so that their holders have to be asked first.
    pub leased: u64,
    /// What it took to find: counts of page blocks read, and page blocks looked at frame by frame.
    pub steps: u64,
}
