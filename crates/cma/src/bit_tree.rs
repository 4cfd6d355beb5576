//! A set of small numbers that knows its least member.

use alloc::boxed::Box;
use alloc::vec;

const WORD: u32 = u64::BITS;
const SHIFT: u32 = WORD.trailing_zeros();

/// Enough levels for 2^30 members.
const LEVELS_MAX: usize = 5;

/// A bitmap with 64-ary summaries above it: a bit of a summary is set where the word below is not
/// zero. One allocation, lowest level first.
pub(crate) struct BitTree {
    words: Box<[u64]>,
    /// Where each level starts; the last level is one word.
    starts: [u32; LEVELS_MAX],
    levels: u32,
}

impl BitTree {
    /// The empty set of numbers below `len`.
    pub(crate) fn new(len: u32) -> Self {
        let mut starts = [0; LEVELS_MAX];
        let mut levels = 0;
        let mut total = 0;
        let mut count = len;
        loop {
            count = count.div_ceil(WORD).max(1);
            starts[levels as usize] = total;
            total += count;
            levels += 1;
            if count == 1 || levels as usize == LEVELS_MAX {
                break;
            }
        }
        Self {
            words: vec![0; total as usize].into_boxed_slice(),
            starts,
            levels,
        }
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        size_of_val(&*self.words)
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.words[self.starts[self.levels as usize - 1] as usize] == 0
    }

    /// Word `index` of the set itself: members `64 * index` and up.
    #[inline]
    pub(crate) fn word(&self, index: u32) -> u64 {
        self.words[index as usize]
    }

    #[inline]
    pub(crate) fn insert(&mut self, member: u32) {
        let mut at = member;
        for start in &self.starts[..self.levels as usize] {
            let word = &mut self.words[(start + (at >> SHIFT)) as usize];
            let was = *word;
            *word = was | 1 << (at % WORD);
            if was != 0 {
                return;
            }
            at >>= SHIFT;
        }
    }

    #[inline]
    pub(crate) fn remove(&mut self, member: u32) {
        let mut at = member;
        for start in &self.starts[..self.levels as usize] {
            let word = &mut self.words[(start + (at >> SHIFT)) as usize];
            *word &= !(1 << (at % WORD));
            if *word != 0 {
                return;
            }
            at >>= SHIFT;
        }
    }

    /// Adds, or takes out, `count` members from `first` on.
    pub(crate) fn set_run(&mut self, first: u32, count: u32, member: bool) {
        let (mut at, end) = (first, first + count);
        while at < end {
            let len = (WORD - at % WORD).min(end - at);
            let mask = (u64::MAX >> (WORD - len)) << (at % WORD);
            let index = at >> SHIFT;
            let word = &mut self.words[index as usize];
            let was = *word;
            *word = if member { was | mask } else { was & !mask };
            if (was == 0) != (*word == 0) {
                self.set_summary(index, member);
            }
            at += len;
        }
    }

    /// The summary bit of word `at` of the lowest level, and what follows from it above.
    fn set_summary(&mut self, mut at: u32, set: bool) {
        for start in &self.starts[1..self.levels as usize] {
            let word = &mut self.words[(start + (at >> SHIFT)) as usize];
            let was = *word;
            let bit = 1 << (at % WORD);
            *word = if set { was | bit } else { was & !bit };
            if (was == 0) == (*word == 0) {
                return;
            }
            at >>= SHIFT;
        }
    }

    /// The least member.
    #[inline]
    pub(crate) fn first(&self) -> Option<u32> {
        let mut at = 0;
        for start in self.starts[..self.levels as usize].iter().rev() {
            let word = self.words[(start + at) as usize];
            if word == 0 {
                return None;
            }
            at = (at << SHIFT) + word.trailing_zeros();
        }
        Some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_member_is_found_at_every_size() {
        for len in [1, 64, 65, 4096, 4097, 300_000] {
            let mut set = BitTree::new(len);
            assert_eq!(set.first(), None);
            set.insert(len - 1);
            assert_eq!(set.first(), Some(len - 1));
            set.insert(len / 2);
            assert_eq!(set.first(), Some(len / 2));
            set.remove(len / 2);
            set.remove(len - 1);
            assert!(set.is_empty());
        }
    }

    #[test]
    fn a_run_goes_in_and_out_with_its_summaries() {
        let mut set = BitTree::new(20_000);
        set.set_run(100, 9_000, true);
        assert_eq!(set.first(), Some(100));
        set.set_run(100, 8_999, false);
        assert_eq!(set.first(), Some(9_099));
        set.set_run(9_099, 1, false);
        assert!(set.is_empty());
    }
}
