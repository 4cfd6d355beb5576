//! One page block, frame by frame.

use super::clear::frame_range;
use super::spans::head_span;
use super::window::Wanted;
use super::{Buddy, PAGEBLOCK_FRAMES, Status};
use crate::frame::Frame;
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
        let entries = buddy.entries_of_block(first);
        let mut at = first;
        while at < end {
            let entry = &entries[(at - first) as usize];
            let span = head_span(at, entry).unwrap_or_else(|| buddy.span_at(at));
            // What spans lie in has one zone.
            let ours = entry.zone == zone;
            let (from, to) = ((at - first) as usize, (span.end.min(end) - first) as usize);
            match span.status {
                Status::Free if ours => {}
                Status::Movable | Status::Moving if ours => fill(&mut bits.moves, from, to),
                Status::Leased if ours => {
                    fill(&mut bits.moves, from, to);
                    fill(&mut bits.leased, from, to);
                }
                _ => fill(&mut bits.blocked, from, to),
            }
            at = span.end;
        }
        let here = frame_range(first, end);
        for range in wanted.excluded.iter().chain(&buddy.clearing) {
            let part = range.intersection(&here);
            if let Some((from, to)) = bits.place(part.start().raw(), part.end().raw()) {
                fill(&mut bits.blocked, from, to);
            }
        }
        bits
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
