//! One entry of the frame table.

/// How memory may be used, by page block.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(u8)]
pub enum MigrateType {
    /// Stays where it is: tables, queues, buffers under devices. A page block becomes of this type
    /// when such memory is allocated from it, and movable again once all of it is free.
    Unmovable,
    /// Its owner can be asked to move it.
    #[default]
    Movable,
    /// Belongs to a contiguous area: lent to movable memory only.
    Contiguous,
    /// Handed out to nobody: somebody is clearing it.
    Isolated,
}

impl MigrateType {
    pub(crate) const COUNT: usize = 4;

    /// Whose free blocks serve a request of this type, best first.
    pub(crate) fn served_by(self) -> &'static [Self] {
        match self {
            Self::Unmovable => &[Self::Unmovable, Self::Movable],
            Self::Movable => &[Self::Movable, Self::Contiguous, Self::Unmovable],
            Self::Contiguous => &[Self::Contiguous],
            Self::Isolated => &[],
        }
    }
}

/// What a frame is the first of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub(crate) enum State {
    /// Of nothing: it lies inside a block, in a hole, or is not the allocator's.
    #[default]
    Inside,
    /// A free block.
    Free,
    /// An allocation.
    Taken,
}

/// No frame.
pub(crate) const NO_FRAME: u32 = u32::MAX;

/// What is known of one frame: an entry of the table that a
/// [`PageAllocator`](crate::PageAllocator) is given memory for.
///
/// 16 bytes for each 4 KiB frame, 0.4 % of memory.
#[derive(Clone, Copy, Debug, Default)]
pub struct Frame {
    /// Of a free block: the next in its list. Of an allocation: how many frames it has.
    pub(crate) next: u32,
    /// Of a free block: the one before it in its list. Of an allocation: its number.
    pub(crate) previous: u32,
    pub(crate) state: State,
    /// Of a free block: its order.
    pub(crate) order: u8,
    /// Of the first frame of a page block: the type of the block.
    pub(crate) block_type: MigrateType,
    /// Where its free blocks are listed; `NO_ZONE` for frames that are not the allocator's.
    pub(crate) zone: u16,
}

const _: () = assert!(size_of::<Frame>() <= 16);
