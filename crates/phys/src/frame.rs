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
    /// A movable range: never anything but movable memory, so that it can be unplugged.
    MovableOnly,
    /// Belongs to a contiguous area: lent to movable memory only.
    Contiguous,
    /// Handed out to nobody: of an area that is not active.
    Isolated,
}

impl MigrateType {
    pub(crate) const COUNT: usize = 5;

    /// Whose free blocks serve a request of this type, best first.
    pub(crate) fn served_by(self) -> &'static [Self] {
        match self {
            Self::Unmovable => &[Self::Unmovable, Self::Movable],
            Self::Movable => &[
                Self::MovableOnly,
                Self::Movable,
                Self::Contiguous,
                Self::Unmovable,
            ],
            Self::MovableOnly | Self::Contiguous | Self::Isolated => &[],
        }
    }

    /// Whether what lies here has to be able to leave, so that long-term pins may not stay.
    pub(crate) fn is_kept_clear(self) -> bool {
        matches!(self, Self::MovableOnly | Self::Contiguous)
    }

    #[inline]
    pub(crate) fn from_raw(raw: u8) -> Self {
        match raw {
            0 => Self::Unmovable,
            1 => Self::Movable,
            2 => Self::MovableOnly,
            3 => Self::Contiguous,
            _ => Self::Isolated,
        }
    }
}

/// Whose movable memory an allocation is: the number by which the embedder knows what to ask.
///
/// It is kept in the frame table and so found from any frame in constant time. What it counts
/// (processes, caches, kinds of memory) is the embedder's business.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct MoverId(u16);

impl MoverId {
    /// The mover with this number.
    pub const fn new(number: u16) -> Self {
        Self(number)
    }

    /// Its number.
    pub const fn number(self) -> u16 {
        self.0
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
    /// An allocation that stays.
    Taken,
    /// An allocation whose mover can be asked.
    Movable,
    /// The same, while its mover is being asked.
    Moving,
    /// The same, freed while its mover was being asked: free once that is over.
    Doomed,
    /// A further block of an allocation that is not aligned to its length.
    Joined,
    /// A block that is free and in no list: kept for the claim that is clearing the range.
    Kept,
}

/// Of an allocation that stays, in place of a mover: somebody keeps books of it, and frees it.
pub(crate) const BOOKED: u16 = 1;

/// No frame.
pub(crate) const NO_FRAME: u32 = u32::MAX;

/// What is known of one frame: an entry of the table that a
/// [`PageAllocator`](crate::PageAllocator) is given memory for. The entries after those of the
/// frames describe page blocks.
///
/// 14 bytes for each 4 KiB frame and 294 for each 2 MiB: 14.6 bytes a frame in all, 0.36 % of memory.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, packed(2))]
pub struct Frame {
    /// Of a free block: the next in its list. Of an allocation: how many frames it has. Of a
    /// further block: where its allocation starts.
    pub(crate) next: u32,
    /// Of a free block: the one before it in its list. Of an allocation: its number.
    pub(crate) previous: u32,
    /// Of a movable allocation: whom to ask. Of one that stays: [`BOOKED`], or 0.
    pub(crate) mover: u16,
    /// Of an allocation: how many pins hold it.
    pub(crate) pins: u16,
    pub(crate) state: State,
    /// Of a free block: its order. Of an allocation: how many leases hold it.
    pub(crate) order: u8,
}

impl Frame {
    /// The first eight bytes, of an entry that describes a page block.
    #[inline]
    pub(crate) fn word(&self) -> u64 {
        u64::from(self.next) | u64::from(self.previous) << 32
    }

    #[inline]
    pub(crate) fn set_word(&mut self, word: u64) {
        (self.next, self.previous) = (word as u32, (word >> 32) as u32);
    }
}

const _: () = assert!(size_of::<Frame>() == 14);
