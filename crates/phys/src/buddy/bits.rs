//! One page block, frame by frame.

use super::clear::frame_range;
use super::window::Wanted;
use super::{Buddy, PAGEBLOCK_FRAMES};
use crate::block::{self, Block, WORDS, mask};
use crate::frame::Frame;
use crate::page_allocator::PAGEBLOCK_ORDER;

/// One page block, frame by frame, as one search sees it.
pub(super) struct Bits {
    pub(super) block: u64,
    blocked: [u64; WORDS],
    pub(super) moves: [u64; WORDS],
    pub(super) leased: [u64; WORDS],
}

impl Bits {
    pub(super) fn of<S: AsRef<[Frame]> + AsMut<[Frame]>>(
        buddy: &Buddy<S>,
        wanted: &Wanted<'_>,
        zone: u16,
        block: u64,
    ) -> Self {
        let mut bits = Self {
            block,
            blocked: [u64::MAX; WORDS],
            moves: [0; WORDS],
            leased: [0; WORDS],
        };
        let first = block << PAGEBLOCK_ORDER;
        let Some(record) = buddy.record(first) else {
            return bits;
        };
        let counts = Block::load(record);
        if !wanted.memory.has(&counts) {
            return bits;
        }
        for index in 0..WORDS {
            bits.blocked[index] = block::blocked(record, index);
            (bits.moves[index], bits.leased[index]) = block::moves(record, index);
        }
        if counts.zone != zone {
            bits.block_others(buddy, zone);
        }
        let here = frame_range(first, first + PAGEBLOCK_FRAMES);
        let cleared = buddy.clearing.iter().map(|claim| &claim.range);
        for range in wanted.excluded.iter().chain(cleared) {
            let part = range.intersection(&here);
            if let Some((from, to)) = bits.place(part.start().raw(), part.end().raw()) {
                fill(&mut bits.blocked, from, to);
            }
        }
        bits
    }

    /// Frames of other zones will not do.
    #[cold]
    fn block_others<S: AsRef<[Frame]> + AsMut<[Frame]>>(&mut self, buddy: &Buddy<S>, zone: u16) {
        let first = self.block << PAGEBLOCK_ORDER;
        for offset in 0..PAGEBLOCK_FRAMES {
            if buddy.zone_of(first + offset) != Some(zone) {
                self.blocked[offset as usize / 64] |= 1 << (offset % 64);
            }
        }
    }

    /// Where the frames from `start` up to `end` stand in the bits, as far as they are here.
    fn place(&self, start: u64, end: u64) -> Option<(usize, usize)> {
        let first = self.block << PAGEBLOCK_ORDER;
        let from = start.max(first) - first;
        let to = end.min(first + PAGEBLOCK_FRAMES).checked_sub(first)?;
        (from < to).then_some((from as usize, to as usize))
    }

    pub(super) fn count(&self, bits: &[u64; WORDS], start: u64, end: u64) -> u64 {
        let Some((from, to)) = self.place(start, end) else {
            return 0;
        };
        let words = (from / 64..=(to - 1) / 64).zip(bits[from / 64..].iter());
        let ones = words.map(|(index, word)| (word & mask(index, from, to)).count_ones());
        u64::from(ones.sum::<u32>())
    }

    /// The last frame from `start` up to `end` that cannot be cleared.
    pub(super) fn last_blocked(&self, start: u64, end: u64) -> Option<u64> {
        let (from, to) = self.place(start, end)?;
        let found = (from / 64..=(to - 1) / 64).rev().find_map(|index| {
            let bit = (self.blocked[index] & mask(index, from, to)).checked_ilog2()?;
            Some(index as u64 * 64 + u64::from(bit))
        });
        found.map(|offset| (self.block << PAGEBLOCK_ORDER) + offset)
    }
}

fn fill(bits: &mut [u64; WORDS], from: usize, to: usize) {
    let words = bits.iter_mut().enumerate();
    for (index, word) in words.take((to - 1) / 64 + 1).skip(from / 64) {
        *word |= mask(index, from, to);
    }
}
