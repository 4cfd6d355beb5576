//! One page block, frame by frame.

use super::clear::frame_range;
use super::spans::head_span;
use super::window::Wanted;
use super::{Buddy, PAGEBLOCK_FRAMES, Status};
use crate::frame::{Frame, State};
use crate::page_allocator::PAGEBLOCK_ORDER;

const WORDS: usize = (PAGEBLOCK_FRAMES / 64) as usize;

/// One page block, frame by frame.
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
            blocked: [0; WORDS],
            moves: [0; WORDS],
            leased: [0; WORDS],
        };
        let first = block << PAGEBLOCK_ORDER;
        let end = first + PAGEBLOCK_FRAMES;
        if !buddy
            .block(first)
            .is_some_and(|counts| wanted.memory.has(&counts))
        {
            fill(&mut bits.blocked, 0, PAGEBLOCK_FRAMES as usize);
            return bits;
        }
        bits.read(buddy, zone, buddy.entries_of_block(first));
        let here = frame_range(first, end);
        for range in wanted.excluded.iter().chain(&buddy.clearing) {
            let part = range.intersection(&here);
            if let Some((from, to)) = bits.place(part.start().raw(), part.end().raw()) {
                fill(&mut bits.blocked, from, to);
            }
        }
        bits
    }

    /// Classes every frame by its entry alone where that is enough: where it is an allocation of its
    /// own, or a free block starts. What nothing accounts for is blocked.
    fn read<S: AsRef<[Frame]> + AsMut<[Frame]>>(
        &mut self,
        buddy: &Buddy<S>,
        zone: u16,
        entries: &[Frame],
    ) {
        let first = self.block << PAGEBLOCK_ORDER;
        let mut free = [0; WORDS];
        for (word, entries) in entries.chunks_exact(64).enumerate() {
            let (mut single, mut alone, mut rest) = (0_u64, 0_u64, 0_u64);
            for entry in entries {
                let (tag, ours) = (tag(entry), entry.zone == zone);
                let movable = (tag == MOVABLE) & (entry.next == 1) & ours;
                let one = (tag == FREE) & ours;
                let other = !(movable | one | (entry.state as u8 == State::Inside as u8));
                // The first frame is the lowest bit once all 64 are in.
                single = single >> 1 | u64::from(movable) << 63;
                alone = alone >> 1 | u64::from(one) << 63;
                rest = rest >> 1 | u64::from(other) << 63;
            }
            self.moves[word] |= single;
            free[word] |= alone;
            if word == 0 && entries[0].state == State::Inside {
                // What began in an earlier block.
                rest |= 1;
            }
            while rest != 0 {
                let offset = word * 64 + rest.trailing_zeros() as usize;
                rest &= rest - 1;
                let (at, entry) = (first + offset as u64, &entries[offset % 64]);
                let span = head_span(at, entry).unwrap_or_else(|| buddy.span_at(at));
                let Some((from, to)) = self.place(at, span.end) else {
                    continue;
                };
                // What spans lie in has one zone.
                match span.status {
                    Status::Free if entry.zone == zone => fill(&mut free, from, to),
                    Status::Movable | Status::Moving if entry.zone == zone => {
                        fill(&mut self.moves, from, to);
                    }
                    Status::Leased if entry.zone == zone => {
                        fill(&mut self.moves, from, to);
                        fill(&mut self.leased, from, to);
                    }
                    _ => {}
                }
            }
        }
        for (blocked, (free, moves)) in self.blocked.iter_mut().zip(free.iter().zip(&self.moves)) {
            *blocked = !(free | moves);
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

/// What an entry says of its state, leases or order, and pins, in one word to compare.
fn tag(entry: &Frame) -> u32 {
    u32::from(entry.pins) | (entry.state as u32) << 16 | u32::from(entry.order) << 24
}

/// An allocation that nothing holds.
const MOVABLE: u32 = (State::Movable as u32) << 16;

/// A free frame whose buddy is not free.
const FREE: u32 = (State::Free as u32) << 16;

/// The bits of word `index` that lie from `from` up to `to`.
fn mask(index: usize, from: usize, to: usize) -> u64 {
    let low = from.saturating_sub(index * 64).min(63);
    let high = (to - index * 64).min(64);
    (u64::MAX << low) & (u64::MAX >> (64 - high))
}

fn fill(bits: &mut [u64; WORDS], from: usize, to: usize) {
    if from < to && from / 64 == (to - 1) / 64 {
        bits[from / 64] |= mask(from / 64, from, to);
    } else if from < to {
        let words = bits.iter_mut().enumerate();
        for (index, word) in words.take((to - 1) / 64 + 1).skip(from / 64) {
            *word |= mask(index, from, to);
        }
    }
}
