//! Free blocks by order: where the next claim looks.

use crate::bit_tree::BitTree;
use crate::block::{aligned_starts, first_run, greatest_order};
use crate::run_tree::{GROUP, RunTree};

/// The free bits of 256 units.
pub(crate) type Chunk = [u64; 4];

/// log2 of the units of a chunk.
pub(crate) const CHUNK_ORDER: u32 = 8;

/// Units of a chunk.
pub(crate) const CHUNK_UNITS: u32 = 1 << CHUNK_ORDER;

/// log2 of the units of one word.
const WORD_ORDER: u32 = 6;

const FULL_MASK: u8 = 0b1111;

const NO_GROUP: u32 = u32::MAX;

/// Every word, pair of words and chunk stands in exactly one set, or in none:
/// * a word that is not wholly free, under the greatest order of its aligned free blocks (0 to 5);
/// * a free word beside one that is not, under 6;
/// * a free pair in a chunk that is not free, under 7;
/// * a free chunk, under 8.
///
/// So the least order in stock that serves is the best fit, and whole chunks go in and out without
/// a look at what is below them.
pub(crate) struct Filing {
    /// Bit o is set where the set of order o has members.
    stocked: u16,
    sets: [BitTree; CHUNK_ORDER as usize + 1],
    runs: RunTree,
    /// The one group of chunks that `runs` has yet to be told of. Small claims go in and out of the
    /// same group, so telling late is telling rarely.
    untold: u32,
    /// What `runs` was told of that group.
    told: u64,
}

impl Filing {
    /// Nothing is free yet.
    pub(crate) fn new(chunks: u32) -> Self {
        let members = |order: u32| chunks << CHUNK_ORDER.saturating_sub(order.max(WORD_ORDER));
        Self {
            stocked: 0,
            sets: core::array::from_fn(|order| BitTree::new(members(order as u32))),
            runs: RunTree::new(chunks),
            untold: NO_GROUP,
            told: 0,
        }
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        let sets: usize = self.sets.iter().map(BitTree::heap_bytes).sum();
        sets + self.runs.heap_bytes()
    }

    #[inline]
    fn insert(&mut self, order: u32, member: u32) {
        self.sets[order as usize].insert(member);
        self.stocked |= 1 << order;
    }

    #[inline]
    fn remove(&mut self, order: u32, member: u32) {
        let set = &mut self.sets[order as usize];
        set.remove(member);
        self.stocked &= !(u16::from(set.is_empty()) << order);
    }

    /// Learns that a chunk went from `was` to `now`.
    #[inline]
    pub(crate) fn refile(&mut self, chunk: u32, was: &Chunk, now: &Chunk) {
        let mut shaped = false;
        for (index, (was, now)) in (chunk * 4..).zip(was.iter().zip(now)) {
            if was != now {
                shaped |= *was == u64::MAX || *now == u64::MAX;
                self.move_word(index, part_order(*was), part_order(*now));
            }
        }
        if shaped {
            self.reshape(chunk, Shape::of(was), Shape::of(now));
        }
    }

    #[inline]
    fn move_word(&mut self, word: u32, was: Option<u32>, now: Option<u32>) {
        if was == now {
            return;
        }
        if let Some(order) = was {
            self.remove(order, word);
        }
        if let Some(order) = now {
            self.insert(order, word);
        }
    }

    fn reshape(&mut self, chunk: u32, was: Shape, now: Shape) {
        for word in ones(was.words ^ now.words) {
            self.flip(WORD_ORDER, chunk * 4 + word, now.words >> word);
        }
        for pair in ones(was.pairs ^ now.pairs) {
            self.flip(WORD_ORDER + 1, chunk * 2 + pair, now.pairs >> pair);
        }
        if was.full != now.full {
            self.tell_later(chunk / GROUP);
            self.flip(CHUNK_ORDER, chunk, u8::from(now.full));
        }
    }

    /// Makes a member of what was none, where bit 0 of `now` is set, and the other way round.
    #[inline]
    fn flip(&mut self, order: u32, member: u32, now: u8) {
        match now & 1 {
            1 => self.insert(order, member),
            _ => self.remove(order, member),
        }
    }

    /// Learns that `count` whole chunks, all taken or all free until now, have become the other.
    pub(crate) fn set_chunks(&mut self, first: u32, count: u32, free: bool) {
        let (mut at, end) = (first, first + count);
        while at < end {
            let len = (GROUP - at % GROUP).min(end - at);
            self.tell_later(at / GROUP);
            self.sets[CHUNK_ORDER as usize].set_run(at, len, free);
            at += len;
        }
        let stocked = u16::from(!self.sets[CHUNK_ORDER as usize].is_empty());
        self.stocked = self.stocked & !(1 << CHUNK_ORDER) | stocked << CHUNK_ORDER;
    }

    /// Called before the chunks of a group change.
    #[inline]
    fn tell_later(&mut self, group: u32) {
        if self.untold != group {
            self.tell();
            self.untold = group;
            self.told = self.sets[CHUNK_ORDER as usize].word(group);
        }
    }

    #[inline]
    fn tell(&mut self) {
        if self.untold != NO_GROUP {
            let word = self.sets[CHUNK_ORDER as usize].word(self.untold);
            if word != self.told {
                self.runs.set(self.untold, word);
            }
            self.untold = NO_GROUP;
        }
    }

    /// Whether a free aligned block of 2^`order` units, for an order up to 8, exists.
    #[inline]
    pub(crate) fn has(&self, order: u32) -> bool {
        self.stocked >> order != 0
    }

    /// The best fitting free aligned block of 2^`order` units, for an order up to 8: its first
    /// unit. `word` gives the free bits of a word.
    #[inline]
    pub(crate) fn find(&self, order: u32, word: impl Fn(u32) -> u64) -> Option<u32> {
        let serving = self.stocked >> order << order;
        if serving == 0 {
            return None;
        }
        let found = serving.trailing_zeros();
        let member = self.sets[found as usize].first()?;
        if found >= WORD_ORDER {
            return Some(member << found);
        }
        let starts = aligned_starts(word(member), order);
        Some((member << WORD_ORDER) + starts.trailing_zeros())
    }

    /// The first chunk of a run of at least `len` free chunks: in the group that changed last if it
    /// is there, otherwise the lowest.
    #[inline]
    pub(crate) fn find_chunks(&mut self, len: u32) -> Option<u32> {
        if self.untold != NO_GROUP && len <= GROUP {
            let word = self.sets[CHUNK_ORDER as usize].word(self.untold);
            if let Some(offset) = first_run(word, len) {
                return Some(self.untold * GROUP + offset);
            }
        }
        self.tell();
        let chunks = &self.sets[CHUNK_ORDER as usize];
        self.runs.find(len, |group| chunks.word(group))
    }

    /// The length of the longest run of free chunks.
    pub(crate) fn longest_chunks(&mut self) -> u32 {
        self.tell();
        self.runs.longest()
    }

    /// Units in the largest aligned free block, or run of free chunks where there is one.
    pub(crate) fn largest_block(&mut self) -> u32 {
        match self.stocked.checked_ilog2() {
            None => 0,
            Some(CHUNK_ORDER) => self.longest_chunks() << CHUNK_ORDER,
            Some(order) => 1 << order,
        }
    }
}

/// The order under which a word is filed by itself.
#[inline]
fn part_order(word: u64) -> Option<u32> {
    greatest_order(word).filter(|order| *order < WORD_ORDER)
}

/// The bits that are set.
fn ones(mut bits: u8) -> impl Iterator<Item = u32> {
    core::iter::from_fn(move || {
        let bit = (bits != 0).then(|| bits.trailing_zeros());
        bits &= bits.wrapping_sub(1);
        bit
    })
}

/// Which free words and pairs of a chunk stand for themselves.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Shape {
    words: u8,
    pairs: u8,
    full: bool,
}

impl Shape {
    #[inline]
    fn of(chunk: &Chunk) -> Self {
        let mut free = 0;
        for (bit, word) in chunk.iter().enumerate() {
            free |= u8::from(*word == u64::MAX) << bit;
        }
        if free == FULL_MASK {
            return Self {
                words: 0,
                pairs: 0,
                full: true,
            };
        }
        let low = free & 0b0011 == 0b0011;
        let high = free & 0b1100 == 0b1100;
        let paired = if low { 0b0011 } else { 0 } | if high { 0b1100 } else { 0 };
        Self {
            words: free & !paired,
            pairs: u8::from(low) | u8::from(high) << 1,
            full: false,
        }
    }
}
