//! A set of small numbers, one bit each.

/// Bits from 0 up to a fixed length.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Bitmap {
    words: Vec<u64>,
    len: u64,
}

impl Bitmap {
    /// `len` bits, none set.
    pub(super) fn new(len: u64) -> Self {
        Self {
            words: vec![0; len.div_ceil(64) as usize],
            len,
        }
    }

    /// How many bits there are.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// How many are set.
    pub(super) fn count(&self) -> u64 {
        let ones = |word: &u64| u64::from(word.count_ones());
        self.words.iter().map(ones).sum()
    }

    pub(super) fn has(&self, bit: u64) -> bool {
        let word = self.words.get((bit / 64) as usize);
        bit < self.len && word.is_some_and(|word| word >> (bit % 64) & 1 == 1)
    }

    /// Sets or clears `len` bits from `at` on; those past the end do not exist.
    pub(super) fn write(&mut self, at: u64, len: u64, value: bool) {
        let end = at.saturating_add(len).min(self.len);
        let mut from = at;
        while from < end {
            let part = (64 - from % 64).min(end - from);
            let mask = (u64::MAX >> (64 - part)) << (from % 64);
            let word = &mut self.words[(from / 64) as usize];
            *word = if value { *word | mask } else { *word & !mask };
            from += part;
        }
    }

    /// The first bit from `from` on that is `value`, below `end`.
    pub(super) fn next(&self, from: u64, end: u64, value: bool) -> Option<u64> {
        let end = end.min(self.len);
        let flip = if value { 0 } else { u64::MAX };
        let mut index = from / 64;
        let mut word = (self.words.get(index as usize)? ^ flip) & u64::MAX << (from % 64);
        loop {
            if word != 0 {
                let bit = index * 64 + u64::from(word.trailing_zeros());
                return (bit < end).then_some(bit);
            }
            index += 1;
            if index * 64 >= end {
                return None;
            }
            word = self.words[index as usize] ^ flip;
        }
    }

    /// Maximal runs of clear bits, from the lowest up: first bit and length.
    pub(super) fn clear_runs(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let mut from = 0;
        std::iter::from_fn(move || {
            let start = self.next(from, self.len, false)?;
            let end = self.next(start, self.len, true).unwrap_or(self.len);
            from = end;
            Some((start, end - start))
        })
    }
}
