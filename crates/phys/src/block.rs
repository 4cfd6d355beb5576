//! What is kept of one page block, so that nobody has to look at its frames.

use crate::frame::{Frame, MigrateType};
use crate::page_allocator::PAGEBLOCK_ORDER;

/// Frames of a page block.
pub(crate) const BLOCK_FRAMES: usize = 1 << PAGEBLOCK_ORDER;

/// Words with a bit for each frame of a page block.
pub(crate) const WORDS: usize = BLOCK_FRAMES / 64;

/// Frames of a group, of which it is kept how many have to move.
pub(crate) const GROUP: usize = 16;

/// Words with a byte for each group of a page block.
pub(crate) const GROUP_WORDS: usize = BLOCK_FRAMES / GROUP / 8;

/// In the byte of a group: some of its frames are blocked.
pub(crate) const BLOCKED: u64 = 0x40;

const PLANES: usize = 1 + GROUP_WORDS;

/// Entries of the frame table for each page block: its counts, its groups, and two bits for each
/// frame, a word in each entry.
pub(crate) const RECORD: usize = PLANES + 2 * WORDS;

const _: () = assert!(
    (BLOCK_FRAMES + RECORD) * size_of::<Frame>() <= BLOCK_FRAMES * 16,
    "a frame takes at most 16 bytes, with its part of what is kept of page blocks"
);

/// Frames by what a claim would have to do about them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Free,
    /// Taken, and its mover may be asked.
    Movable,
    /// The same once the leases on it are recalled.
    Leased,
    /// Unmovable, pinned, kept for a claim, or not there.
    Blocked,
}

impl Kind {
    /// Its bits: whether such a frame has to move, and whether more has to be done, or nothing can.
    #[inline]
    fn bits(self) -> (bool, bool) {
        match self {
            Self::Free => (false, false),
            Self::Movable => (true, false),
            Self::Leased => (true, true),
            Self::Blocked => (false, true),
        }
    }

    /// One such frame, in the counts of a page block.
    #[inline]
    fn unit(self) -> u64 {
        match self {
            Self::Free => 1,
            Self::Movable => 1 << 16,
            Self::Leased => 1 << 32,
            Self::Blocked => 0,
        }
    }
}

/// A page block, as counts. The frames that are not counted are blocked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block {
    pub(crate) free: u16,
    pub(crate) movable: u16,
    pub(crate) leased: u16,
    /// The zone that all its frames lie in; `NO_ZONE` where they lie in several, or some are
    /// missing.
    pub(crate) zone: u16,
    pub(crate) migrate_type: MigrateType,
}

impl Block {
    #[inline]
    pub(crate) fn load(record: &[Frame; RECORD]) -> Self {
        let entry = &record[0];
        Self {
            free: entry.next as u16,
            movable: (entry.next >> 16) as u16,
            leased: entry.previous as u16,
            zone: entry.mover,
            migrate_type: MigrateType::from_raw(entry.order),
        }
    }

    #[inline]
    pub(crate) fn store(&self, record: &mut [Frame; RECORD]) {
        let entry = &mut record[0];
        entry.next = u32::from(self.free) | u32::from(self.movable) << 16;
        entry.previous = u32::from(self.leased);
        entry.mover = self.zone;
        entry.order = self.migrate_type as u8;
    }

    /// Frames that a claim can do nothing about.
    pub(crate) fn blocked(&self) -> u64 {
        (1 << PAGEBLOCK_ORDER) - u64::from(self.free) - self.moves()
    }

    /// Frames that have to move.
    pub(crate) fn moves(&self) -> u64 {
        u64::from(self.movable) + u64::from(self.leased)
    }
}

/// The bits of 64 frames of a page block: those that have to move, and those with a second bit.
#[inline]
fn bits(record: &[Frame; RECORD], index: usize) -> (u64, u64) {
    let at = PLANES + 2 * index;
    (record[at].word(), record[at + 1].word())
}

/// Which of 64 frames have to move, and which of them are leased.
#[inline]
pub(crate) fn moves(record: &[Frame; RECORD], index: usize) -> (u64, u64) {
    let (moves, second) = bits(record, index);
    (moves, moves & second)
}

/// Which of 64 frames are blocked.
#[inline]
pub(crate) fn blocked(record: &[Frame; RECORD], index: usize) -> u64 {
    let (moves, second) = bits(record, index);
    second & !moves
}

/// Which of 64 frames are free.
#[inline]
pub(crate) fn free(record: &[Frame; RECORD], index: usize) -> u64 {
    let (moves, second) = bits(record, index);
    !(moves | second)
}

/// How many frames of each of eight groups have to move, a byte each.
#[inline]
pub(crate) fn groups(record: &[Frame; RECORD], index: usize) -> u64 {
    record[1 + index].word()
}

/// A page block all of whose frames are blocked.
pub(crate) fn clear(record: &mut [Frame; RECORD], zone: u16) {
    let block = Block {
        free: 0,
        movable: 0,
        leased: 0,
        zone,
        migrate_type: MigrateType::Movable,
    };
    block.store(record);
    for entry in &mut record[1..PLANES] {
        entry.set_word(BLOCKED * 0x0101_0101_0101_0101);
    }
    for (index, entry) in record[PLANES..].iter_mut().enumerate() {
        entry.set_word(if index % 2 == 0 { 0 } else { u64::MAX });
    }
}

/// Counts the frames of a page block from `start` up to `end` as another kind than before.
#[inline]
pub(crate) fn recount(
    record: &mut [Frame; RECORD],
    (start, end): (usize, usize),
    from: Kind,
    to: Kind,
) {
    let frames = (end - start) as u64;
    let counts = record[0].word() + frames * to.unit() - frames * from.unit();
    record[0].set_word(counts);
    let (was, now) = (from.bits(), to.bits());
    for index in start / 64..=(end - 1) / 64 {
        let mask = mask(index, start, end);
        let at = PLANES + 2 * index;
        let planes = [(at, was.0, now.0), (at + 1, was.1, now.1)];
        for (at, was, now) in planes {
            let word = record[at].word();
            debug_assert_eq!(word & mask, if was { mask } else { 0 }, "not {from:?}");
            record[at].set_word(if now { word | mask } else { word & !mask });
        }
    }
    for group in start / GROUP..=(end - 1) / GROUP {
        regroup(record, group);
    }
}

/// The same for one frame.
#[inline]
pub(crate) fn recount_one(record: &mut [Frame; RECORD], offset: usize, from: Kind, to: Kind) {
    let (was, now) = (from.bits(), to.bits());
    let entry = &mut record[0];
    let counts = entry.word() + to.unit() - from.unit();
    entry.set_word(counts);
    let (at, bit) = (PLANES + offset / 64 % WORDS * 2, 1 << (offset % 64));
    for (at, was, now) in [(at, was.0, now.0), (at + 1, was.1, now.1)] {
        let word = record[at].word();
        debug_assert_eq!(word & bit != 0, was, "not {from:?}");
        record[at].set_word(if now { word | bit } else { word & !bit });
    }
    regroup(record, offset / GROUP % (8 * GROUP_WORDS));
}

#[inline]
fn regroup(record: &mut [Frame; RECORD], group: usize) {
    let shift = group * GROUP % 64;
    let (moves, second) = bits(record, group * GROUP / 64);
    let (moves, second) = ((moves >> shift) as u16, (second >> shift) as u16);
    let mut byte = u64::from(moves.count_ones());
    if second & !moves != 0 {
        byte |= BLOCKED;
    }
    let entry = &mut record[1 + group / 8];
    let shift = group % 8 * 8;
    entry.set_word(entry.word() & !(0xff << shift) | byte << shift);
}

/// The bits of word `index` that lie from `from` up to `to`.
#[inline]
pub(crate) fn mask(index: usize, from: usize, to: usize) -> u64 {
    let low = from.saturating_sub(index * 64).min(63);
    let high = (to - index * 64).min(64);
    (u64::MAX << low) & (u64::MAX >> (64 - high))
}
