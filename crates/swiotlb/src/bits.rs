//! Which slots are free, one bit each.

use alloc::boxed::Box;
use alloc::vec;

const WORD: u32 = u64::BITS;

/// A set of slots; a set bit is a member.
pub(crate) struct SlotBits {
    words: Box<[u64]>,
}

impl SlotBits {
    /// The empty set of an area of `slots`.
    pub(crate) fn new(slots: u32) -> Self {
        Self {
            words: vec![0; slots.div_ceil(WORD) as usize].into_boxed_slice(),
        }
    }

    /// Bytes on the heap.
    pub(crate) fn heap_bytes(&self) -> usize {
        size_of_val(&*self.words)
    }

    #[inline]
    pub(crate) fn contains(&self, slot: u32) -> bool {
        self.words
            .get((slot / WORD) as usize)
            .is_some_and(|word| word >> (slot % WORD) & 1 != 0)
    }

    #[inline]
    pub(crate) fn insert(&mut self, slot: u32) {
        self.words[(slot / WORD) as usize] |= 1 << (slot % WORD);
    }

    #[inline]
    pub(crate) fn remove(&mut self, slot: u32) {
        self.words[(slot / WORD) as usize] &= !(1 << (slot % WORD));
    }

    /// Adds `len` slots from `start`; says whether none was in.
    #[inline]
    pub(crate) fn insert_run(&mut self, start: u32, len: u32) -> bool {
        let mut clear = true;
        self.each_word(start, len, |word, mask| {
            clear &= *word & mask == 0;
            *word |= mask;
        });
        clear
    }

    /// Takes `len` slots from `start` out; says whether all were in.
    #[inline]
    pub(crate) fn remove_run(&mut self, start: u32, len: u32) -> bool {
        let mut full = true;
        self.each_word(start, len, |word, mask| {
            full &= *word & mask == mask;
            *word &= !mask;
        });
        full
    }

    #[inline]
    fn each_word(&mut self, start: u32, len: u32, mut visit: impl FnMut(&mut u64, u64)) {
        let shift = start % WORD;
        if shift + len <= WORD {
            let mask = (u64::MAX >> (WORD - len)) << shift;
            visit(&mut self.words[(start / WORD) as usize], mask);
        } else {
            self.each_of_many(start, len, visit);
        }
    }

    #[inline(never)]
    fn each_of_many(&mut self, start: u32, len: u32, mut visit: impl FnMut(&mut u64, u64)) {
        let mut words = self.words[(start / WORD) as usize..].iter_mut();
        let head = WORD - start % WORD;
        let mut left = len - head;
        words
            .by_ref()
            .take(1)
            .for_each(|word| visit(word, u64::MAX << (WORD - head)));
        for word in words {
            if left < WORD {
                if left > 0 {
                    visit(word, u64::MAX >> (WORD - left));
                }
                return;
            }
            visit(word, u64::MAX);
            left -= WORD;
        }
    }

    /// The first run of members at or above `from`, as long as it gets: its start and length.
    /// Counts the words read.
    pub(crate) fn next_run(&self, from: u32, probes: &mut u32) -> Option<(u32, u32)> {
        let start = self.next(from, 0, probes)?;
        let end = self
            .next(start, u64::MAX, probes)
            .unwrap_or(self.words.len() as u32 * WORD);
        Some((start, end - start))
    }

    /// The first slot at or above `from` whose bit, inverted by `flip`, is set.
    fn next(&self, from: u32, flip: u64, probes: &mut u32) -> Option<u32> {
        let mut index = (from / WORD) as usize;
        let mut word = (self.words.get(index)? ^ flip) & u64::MAX << (from % WORD);
        *probes += 1;
        while word == 0 {
            index += 1;
            word = self.words.get(index)? ^ flip;
            *probes += 1;
        }
        Some(index as u32 * WORD + word.trailing_zeros())
    }

    /// The last member at or below `from`.
    pub(crate) fn last_at(&self, from: u32) -> Option<u32> {
        let mut index = (from / WORD) as usize;
        let mut word = self.words.get(index)? & u64::MAX >> (WORD - 1 - from % WORD);
        while word == 0 {
            index = index.checked_sub(1)?;
            word = self.words[index];
        }
        Some(index as u32 * WORD + (WORD - 1 - word.leading_zeros()))
    }
}
