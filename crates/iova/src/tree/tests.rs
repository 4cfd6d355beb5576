extern crate std;

use std::vec;
use std::vec::Vec;

use super::*;

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, n: u64) -> u64 {
        ((self.next() >> 32) * n) >> 32
    }
}

/// The naive model: one flag per granule, and every aligned place tried.
struct Flags(Vec<bool>);

impl Flags {
    fn has_room(&self, order: u32, end: u64) -> bool {
        let below = &self.0[..self.0.len().min(end as usize)];
        let mut blocks = below.chunks_exact(1 << order);
        blocks.any(|block| block.iter().all(|f| *f))
    }
}

/// Everything in units of `2^unit` granules, so that few flags stand for a tree of several levels.
fn lockstep(units: u64, unit: u32, seed: u64, steps: u32, policy: Policy) {
    let mut rng = Rng(seed);
    let mut tree = Tree::new(units << unit).unwrap();
    tree.stock(64).unwrap();
    tree.give(0, units << unit).unwrap();
    let mut flags = Flags(vec![true; units as usize]);
    let mut live: Vec<(u64, u64)> = Vec::new();
    let mut known = 0;
    for step in 0..steps {
        let grow = rng.below(1000) < if step / 500 % 2 == 0 { 700 } else { 300 };
        if grow {
            let size = 1 << rng.below(12);
            let len = 1 + rng.below(size);
            let order = len.next_power_of_two().trailing_zeros() + rng.below(2) as u32;
            let end = if rng.below(3) == 0 {
                1 + rng.below(units)
            } else {
                units
            };
            match tree.take(order + unit, len << unit, end << unit, policy) {
                Ok(start) => {
                    let start = start >> unit;
                    assert_eq!(start % (1 << order), 0, "seed {seed:#x} step {step}");
                    assert!(start + (1 << order) <= end, "seed {seed:#x} step {step}");
                    for flag in &mut flags.0[start as usize..(start + len) as usize] {
                        assert!(*flag, "seed {seed:#x} step {step}");
                        *flag = false;
                    }
                    live.push((start, len));
                }
                Err(error) => {
                    assert_eq!(error, TreeError::NoRoom);
                    assert!(!flags.has_room(order, end), "seed {seed:#x} step {step}");
                }
            }
        } else if !live.is_empty() {
            let (start, len) = live.swap_remove(rng.below(live.len() as u64) as usize);
            let (at, granules) = (start << unit, len << unit);
            tree.give(at, granules).unwrap();
            assert_eq!(tree.give(at, granules), Err(TreeError::WrongState));
            flags.0[start as usize..(start + len) as usize].fill(true);
        }
        tree.stock(20).unwrap();
        if step % 16 == 0 {
            let missing = tree.missing();
            let is_so =
                missing.end == 0 || !flags.has_room(missing.order - unit, missing.end >> unit);
            assert!(is_so, "seed {seed:#x} step {step}: {missing:?}");
            known += u32::from(missing.end != 0);
        }
        if step % 1000 == 0 {
            assert_eq!(
                (tree.free_granules() >> unit) as usize,
                flags.0.iter().filter(|f| **f).count()
            );
        }
    }
    assert!(
        known > 0,
        "seed {seed:#x}: nothing was ever known to be missing"
    );
    for (start, len) in live {
        tree.give(start << unit, len << unit).unwrap();
    }
    assert_eq!(tree.free_granules(), units << unit);
}

#[test]
fn it_fails_only_where_no_aligned_block_is_free_below_the_limit() {
    for seed in 1..=6 {
        lockstep(1 << 14, 0, 0x9E37_79B9 * seed, 20_000, Policy::TopDown);
        lockstep(5000, 0, 0x85EB_CA6B * seed, 20_000, Policy::LowFirst);
        // Blocks across the words of a node at the bottom, and across nodes of three levels.
        lockstep(1 << 14, 5, 0x9E37_79B9 * seed, 10_000, Policy::LowFirst);
        lockstep(5000, 11, 0x85EB_CA6B * seed, 10_000, Policy::TopDown);
    }
}
