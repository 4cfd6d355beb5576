//! The machine's only source of chance.

/// A generator of numbers that are the same on every machine: xorshift64* (Vigna, "An experimental
/// exploration of Marsaglia's xorshift generators, scrambled", 2016).
#[derive(Clone, Debug)]
pub struct Rng {
    state: u64,
}

impl Rng {
    /// The generator of `seed`, any number.
    pub fn new(seed: u64) -> Self {
        // Zero is the one state that xorshift never leaves, and like seeds should not give like
        // streams: both are cured by mixing first.
        Self {
            state: mix(seed) | 1,
        }
    }

    /// A generator of its own for each `label`, so that more draws by one user do not change
    /// another's.
    pub fn derived(seed: u64, label: u64) -> Self {
        Self::new(mix(seed) ^ mix(label ^ 0x5851_f42d_4c95_7f2d))
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        let mut x = self.state;
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.state = x;
        x.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `count`; 0 where that is 0.
    pub fn below(&mut self, count: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(count)) >> 64) as u64
    }

    /// True in `of_256` of 256 draws.
    pub fn chance(&mut self, of_256: u32) -> bool {
        (self.bits() >> 56) < u64::from(of_256)
    }

    /// One of `choices`.
    ///
    /// # Panics
    /// Where there are none.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }
}

/// A bijection under which near inputs give far outputs (the finaliser of splitmix64).
pub(crate) fn mix(value: u64) -> u64 {
    let mut x = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_below_their_bound_and_reach_all_of_it() {
        let mut rng = Rng::new(0);
        let mut seen = [false; 7];
        for _ in 0..1000 {
            seen[rng.below(7) as usize] = true;
        }
        assert_eq!(seen, [true; 7]);
        assert_eq!(rng.below(0), 0);
    }

    #[test]
    fn a_chance_comes_about_as_often_as_it_says() {
        let mut rng = Rng::new(1);
        let hits = (0..25_600).filter(|_| rng.chance(64)).count();
        assert!((6000..6800).contains(&hits), "{hits} of 25600");
        assert!((0..1000).all(|_| !rng.chance(0) && rng.chance(256)));
    }
}
