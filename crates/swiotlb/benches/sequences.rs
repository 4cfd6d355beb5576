//! The operation sequences on which bounce buffers are compared: one generator of pseudo-random
//! numbers, one seed, sizes, orders, fills and counts fixed, so that another implementation can be
//! driven through the very same operations.
//!
//! Pool: 64 MiB, 32768 slots of 2 KiB. The original of mapping `c` lies at
//! `(c % 64) * (size + 128)` in the caller's memory.
#![allow(dead_code, reason = "each user drives the sequences that it needs")]

/// xorshift64*, seeded the same for every sequence; setup draws count.
pub struct Draws(u64);

impl Default for Draws {
    fn default() -> Self {
        Self(0x9E37_79B9_7F4A_7C15)
    }
}

impl Draws {
    /// A number below `bound`.
    #[inline]
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let out = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D);
        (((out >> 32) * bound as u64) >> 32) as usize
    }
}

/// Sizes of the sequences in bytes, and how many operations a pass takes without and with copies.
pub const SIZES: [(u32, u32, u32); 4] = [
    (512, 400_000, 400_000),
    (4 << 10, 400_000, 200_000),
    (64 << 10, 40_000, 20_000),
    (256 << 10, 8_000, 4_000),
];

/// What is driven: something that maps and unmaps.
pub trait Subject {
    /// A live mapping.
    type Mapping;

    /// Maps `size` bytes of the original number `op % 64`.
    fn map(&mut self, op: u32, size: u32) -> Option<Self::Mapping>;

    /// Ends a mapping.
    fn unmap(&mut self, mapping: Self::Mapping);
}

/// A sequence under way.
pub struct Sequence<S: Subject> {
    pub subject: S,
    pub live: Vec<S::Mapping>,
    draws: Draws,
    op: u32,
}

impl<S: Subject> Sequence<S> {
    pub fn new(subject: S) -> Self {
        Self {
            subject,
            live: Vec::new(),
            draws: Draws::default(),
            op: 0,
        }
    }

    fn map(&mut self, size: u32) -> Option<S::Mapping> {
        let mapping = self.subject.map(self.op, size);
        self.op = self.op.wrapping_add(1);
        mapping
    }

    /// Maps blocks until one fails, then unmaps random ones down to `percent` of what went in.
    pub fn fill(&mut self, size: u32, percent: usize) {
        if percent == 0 {
            return;
        }
        while let Some(mapping) = self.map(size) {
            self.live.push(mapping);
        }
        let keep = self.live.len() * percent / 100;
        while self.live.len() > keep {
            let victim = self.draws.below(self.live.len());
            let mapping = self.live.swap_remove(victim);
            self.subject.unmap(mapping);
        }
    }

    /// Maps and unmaps at once. The number of failures.
    pub fn pairs(&mut self, size: u32, count: u32) -> u32 {
        let mut failed = 0;
        for _ in 0..count {
            match self.map(size) {
                Some(mapping) => self.subject.unmap(mapping),
                None => failed += 1,
            }
        }
        failed
    }

    /// Unmaps a random live mapping and maps anew in its place. The number of failures.
    pub fn random(&mut self, size: u32, count: u32) -> u32 {
        let mut failed = 0;
        for _ in 0..count {
            let victim = self.draws.below(self.live.len());
            let mapping = self.live.swap_remove(victim);
            self.subject.unmap(mapping);
            match self.map(size) {
                Some(mapping) => {
                    self.live.push(mapping);
                    let last = self.live.len() - 1;
                    self.live.swap(victim, last);
                }
                None => failed += 1,
            }
        }
        failed
    }

    /// Maps what cannot be had. The number of failures.
    pub fn failures(&mut self, size: u32, count: u32) -> u32 {
        (0..count).filter(|_| self.map(size).is_none()).count() as u32
    }
}
