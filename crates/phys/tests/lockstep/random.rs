//! The pseudo-random numbers of a run: its seed is its name.

pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        // Spread, because neighbouring seeds begin alike and zero is a fixed point.
        Self((seed ^ 0x9E37_79B9_7F4A_7C15).wrapping_mul(0x2545_F491_4F6C_DD1D) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u32) -> u32 {
        (((self.next() >> 32) * u64::from(bound)) >> 32) as u32
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u32) as usize]
    }

    /// Whether an event of `percent` happens.
    pub fn chance(&mut self, percent: u32) -> bool {
        self.below(100) < percent
    }
}

/// How many steps to take: `DMAKIT_STEPS`, or `usual`.
pub fn steps(usual: u64) -> u64 {
    std::env::var("DMAKIT_STEPS")
        .ok()
        .and_then(|steps| steps.parse().ok())
        .unwrap_or(usual)
}
