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

/// In the byte of a group: some of its frames are blocked. More than all of its frames, and of eight
/// groups the sum still needs no more than two bytes.
const BLOCKED: u64 = 0x40;

const PLANES: usize = 1 + GROUP_WORDS;

/// Entries of the frame table for each page block: its counts, its groups, and two bits for each
/// frame, a word in each entry.
pub(crate) const RECORD: usize = PLANES + 2 * WORDS;

const _: () = assert!(
    (BLOCK_FRAMES + RECORD) * size_of::<Frame>() <= BLOCK_FRAMES * 16,
    "a frame takes at most 16 bytes, with its part of what is kept of page blocks"
);

/// Frames by what a claim would have to do about them: the bits that are kept of each. The first
/// says that it has to move; the second that more has to be done before, or that nothing can be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Kind {
    Free = 0b00,
    /// Taken, and its mover may be asked.
    Movable = 0b01,
    /// Unmovable, pinned, kept for a claim, or not there.
    Blocked = 0b10,
    /// Movable once the leases on it are recalled.
    Leased = 0b11,
}

impl Kind {
    #[inline]
    fn moves(self) -> u64 {
        self as u64 & 1
    }

    #[inline]
    fn second(self) -> u64 {
        self as u64 >> 1
    }

    /// One such frame, in the counts of a page block.
    #[inline]
    fn unit(self) -> u64 {
        1 << (16 * self as u32)
    }
}

/// A page block, as counts of its frames.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block {
    pub(crate) free: u16,
    pub(crate) movable: u16,
    /// Those that a claim can do nothing about.
    pub(crate) blocked: u16,
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
            blocked: entry.previous as u16,
            leased: (entry.previous >> 16) as u16,
            zone: entry.mover,
            migrate_type: MigrateType::from_raw(entry.order),
        }
    }

    #[inline]
    pub(crate) fn store(&self, record: &mut [Frame; RECORD]) {
        let entry = &mut record[0];
        entry.next = u32::from(self.free) | u32::from(self.movable) << 16;
        entry.previous = u32::from(self.blocked) | u32::from(self.leased) << 16;
        entry.mover = self.zone;
        entry.order = self.migrate_type as u8;
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

/// What a claim of the frames from `from` up to `to` has to move, and how much of that is leased;
/// `None` where some are blocked.
pub(crate) fn cost(record: &[Frame; RECORD], from: usize, to: usize) -> Option<(u64, u64)> {
    let mut cost = (0, 0);
    for index in from / 64..=(to - 1) / 64 {
        let mask = mask(index, from, to);
        if blocked(record, index) & mask != 0 {
            return None;
        }
        let (moves, leased) = moves(record, index);
        cost.0 += u64::from((moves & mask).count_ones());
        cost.1 += u64::from((leased & mask).count_ones());
    }
    Some(cost)
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
        blocked: BLOCK_FRAMES as u16,
        leased: 0,
        zone,
        migrate_type: MigrateType::Movable,
    };
    block.store(record);
    record[0].pins = 0;
    for entry in &mut record[1..PLANES] {
        entry.set_word(BLOCKED * 0x0101_0101_0101_0101);
    }
    for (index, entry) in record[PLANES..].iter_mut().enumerate() {
        entry.set_word(if index % 2 == 0 { 0 } else { u64::MAX });
    }
}

/// Counts the frames of a page block from `start` up to `end` as another kind than before.
pub(crate) fn recount(
    record: &mut [Frame; RECORD],
    (start, end): (usize, usize),
    from: Kind,
    to: Kind,
) {
    for index in start / 64..=(end - 1) / 64 {
        recount_word(record, index, mask(index, start, end), from, to);
    }
}

/// The same for those of 64 frames that `mask` has.
pub(crate) fn recount_word(
    record: &mut [Frame; RECORD],
    index: usize,
    mask: u64,
    from: Kind,
    to: Kind,
) {
    let frames = u64::from(mask.count_ones());
    count_frames(record, frames, from, to);
    let at = PLANES + 2 * index;
    let planes = [(from.moves(), to.moves()), (from.second(), to.second())];
    for (at, (was, now)) in (at..).zip(planes) {
        let word = record[at].word();
        debug_assert_eq!(word & mask, was * mask, "not {from:?}");
        record[at].set_word(word & !mask | (now * mask));
    }
    let moves = bits(record, index).0;
    for group in 0..64 / GROUP {
        if (mask >> (group * GROUP)) as u16 == 0 {
            continue;
        }
        let part = (moves >> (group * GROUP)) as u16;
        let group = index * 64 / GROUP + group;
        regroup(record, group, u64::from(part.count_ones()));
    }
}

/// Counts so many frames as another kind; what was worked out of the counts before is forgotten.
#[inline]
fn count_frames(record: &mut [Frame; RECORD], frames: u64, from: Kind, to: Kind) {
    let counts = record[0].word() + frames * to.unit() - frames * from.unit();
    record[0].set_word(counts);
    record[0].pins = 0;
}

/// How many frames have to move at least, of each window of 2^`order` frames that is aligned to its
/// length, as [`set_least`] noted it since a frame of the page block changed.
#[inline]
pub(crate) fn least(record: &[Frame; RECORD], order: u32) -> Option<u64> {
    let noted = record[0].pins;
    let known = u32::from(noted >> LEAST_BITS) == order + 1;
    known.then_some(u64::from(noted & LEAST_MAX))
}

/// Whether that is noted, and is `many` or more.
#[inline]
pub(crate) fn is_least(record: &[Frame; RECORD], order: u32, many: u64) -> bool {
    let above = record[0]
        .pins
        .wrapping_sub((order as u16 + 1) << LEAST_BITS);
    above <= LEAST_MAX && u64::from(above) >= many
}

#[inline]
pub(crate) fn set_least(record: &mut [Frame; RECORD], order: u32, least: u64) {
    let least = least.min(u64::from(LEAST_MAX)) as u16;
    record[0].pins = (order as u16 + 1) << LEAST_BITS | least;
}

/// A page block has 512 frames, and one more is as good as any number.
const LEAST_BITS: u32 = 10;
const LEAST_MAX: u16 = (1 << LEAST_BITS) - 1;

/// The same for one frame.
#[inline]
pub(crate) fn recount_one(record: &mut [Frame; RECORD], offset: usize, from: Kind, to: Kind) {
    count_frames(record, 1, from, to);
    let (at, shift) = (PLANES + offset / 64 % WORDS * 2, offset % 64);
    let planes = [(from.moves(), to.moves()), (from.second(), to.second())];
    for (at, (was, now)) in (at..).zip(planes) {
        let word = record[at].word();
        debug_assert_eq!(word >> shift & 1, was, "not {from:?}");
        record[at].set_word(word & !(1 << shift) | now << shift);
    }
    let group = offset / GROUP % (8 * GROUP_WORDS);
    let moves = groups(record, group / 8) >> (group % 8 * 8) & 0x1f;
    regroup(record, group, moves + to.moves() - from.moves());
}

/// Notes that so many frames of a group have to move, and whether some are blocked.
#[inline]
fn regroup(record: &mut [Frame; RECORD], group: usize, moves: u64) {
    let shift = group * GROUP % 64;
    let others = (blocked(record, group * GROUP / 64) >> shift) as u16;
    let byte = moves | if others != 0 { BLOCKED } else { 0 };
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
