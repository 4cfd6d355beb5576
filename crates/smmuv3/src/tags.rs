//! ASIDs and VMIDs.

use alloc::vec;
use alloc::vec::Vec;

/// Numbers of which each is given out once at a time; 0 never is.
///
/// A number that comes back is the last to go out again, so that what a cache may still know of it
/// grows old. Whoever gives one back has invalidated it, and waited, and holds no debt of it.
pub(crate) struct Tags {
    /// Set bits are free.
    free: Vec<u64>,
    next: usize,
}

impl Tags {
    /// Numbers of 8 or 16 bits.
    pub(crate) fn new(wide: bool) -> Self {
        let mut free = vec![u64::MAX; if wide { 1024 } else { 4 }];
        free[0] = u64::MAX - 1;
        Self { free, next: 0 }
    }

    /// A number, the next after the one given out last. O(numbers / 64).
    pub(crate) fn take(&mut self) -> Option<u16> {
        let words = self.free.len();
        for step in 0..=words {
            let word = (self.next / 64 + step) % words;
            // Of the first word only what lies above; at the end of the round, the rest.
            let above = if step == 0 {
                u64::MAX << (self.next % 64)
            } else {
                u64::MAX
            };
            let free = self.free[word] & above;
            if free != 0 {
                let bit = free.trailing_zeros() as usize;
                self.free[word] &= !(1 << bit);
                let number = word * 64 + bit;
                self.next = (number + 1) % (words * 64);
                return Some(number as u16);
            }
        }
        None
    }

    /// Never gives a number out: somebody else uses it.
    pub(crate) fn withhold(&mut self, number: u16) {
        let number = usize::from(number);
        if let Some(word) = self.free.get_mut(number / 64) {
            *word &= !(1 << (number % 64));
        }
    }

    /// Takes a number back.
    pub(crate) fn give(&mut self, number: u16) {
        let number = usize::from(number);
        if let Some(word) = self.free.get_mut(number / 64) {
            *word |= 1 << (number % 64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_used_again_only_after_all_others() {
        let mut tags = Tags::new(false);
        assert_eq!(tags.take(), Some(1));
        tags.give(1);
        for expected in 2..=255 {
            assert_eq!(tags.take(), Some(expected));
        }
        assert_eq!(tags.take(), Some(1));
        assert_eq!(tags.take(), None);
        tags.give(200);
        assert_eq!(tags.take(), Some(200));
    }
}
