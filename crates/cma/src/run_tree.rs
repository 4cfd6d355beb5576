//! Runs of wholly free chunks.

use alloc::boxed::Box;
use alloc::vec;

use crate::block::{first_run, longest_run};

/// Chunks under one leaf.
pub(crate) const GROUP: u32 = u64::BITS;

/// What a node knows of its chunks: how many are free from its first on, up to its last, and in
/// its longest run.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Span {
    prefix: u32,
    suffix: u32,
    best: u32,
}

impl Span {
    fn of_word(word: u64) -> Self {
        Self {
            prefix: word.trailing_ones(),
            suffix: word.leading_ones(),
            best: longest_run(word),
        }
    }

    /// Two neighbours of `len` chunks each as one.
    #[inline]
    fn join(low: Self, high: Self, len: u32) -> Self {
        let prefix = if low.prefix == len {
            len + high.prefix
        } else {
            low.prefix
        };
        let suffix = if high.suffix == len {
            len + low.suffix
        } else {
            high.suffix
        };
        let best = low.best.max(high.best).max(low.suffix + high.prefix);
        Self {
            prefix,
            suffix,
            best,
        }
    }
}

/// A binary tree over groups of 64 chunks: the lowest run of any length in one way down.
pub(crate) struct RunTree {
    /// Node 1 is the root; the children of `i` are `2i` and `2i + 1`; leaves come last.
    nodes: Box<[Span]>,
    leaves: u32,
}

impl RunTree {
    pub(crate) fn new(chunks: u32) -> Self {
        let leaves = chunks.div_ceil(GROUP).max(1).next_power_of_two();
        Self {
            nodes: vec![Span::default(); 2 * leaves as usize].into_boxed_slice(),
            leaves,
        }
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        size_of_val(&*self.nodes)
    }

    /// The length of the longest run.
    #[inline]
    pub(crate) fn longest(&self) -> u32 {
        self.nodes[1].best
    }

    /// Learns that the chunks of a group are now free as in `word`.
    #[inline]
    pub(crate) fn set(&mut self, group: u32, word: u64) {
        let mut at = (self.leaves + group) as usize;
        let mut span = Span::of_word(word);
        let mut len = GROUP;
        loop {
            if self.nodes[at] == span {
                return;
            }
            self.nodes[at] = span;
            if at == 1 {
                return;
            }
            at /= 2;
            span = Span::join(self.nodes[2 * at], self.nodes[2 * at + 1], len);
            len *= 2;
        }
    }

    /// The first chunk of the lowest run of at least `len` chunks. `word` gives the chunks of a
    /// group.
    #[inline]
    pub(crate) fn find(&self, len: u32, word: impl Fn(u32) -> u64) -> Option<u32> {
        if self.longest() < len {
            return None;
        }
        let (mut at, mut first, mut half) = (1, 0, self.leaves * GROUP);
        while at < self.leaves as usize {
            half /= 2;
            let (low, high) = (self.nodes[2 * at], self.nodes[2 * at + 1]);
            if low.best >= len {
                at *= 2;
            } else if low.suffix + high.prefix >= len {
                return Some(first + half - low.suffix);
            } else {
                at = 2 * at + 1;
                first += half;
            }
        }
        first_run(word(first / GROUP), len).map(|offset| first + offset)
    }
}
