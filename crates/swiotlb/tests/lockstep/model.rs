//! The naive model of free slots, and what an episode asks for.
#![allow(dead_code, reason = "each test drives the part that it needs")]

use dmakit_swiotlb::Fit;

use super::random::Random;

/// The naive model: each slot is free or not.
pub struct Model {
    pub free: Vec<bool>,
}

impl Model {
    pub fn new(slots: u32) -> Self {
        Self {
            free: vec![true; slots as usize],
        }
    }

    pub fn is_free(&self, at: u32, slots: u32) -> bool {
        self.free[at as usize..(at + slots) as usize]
            .iter()
            .all(|free| *free)
    }

    /// Whether a run from `at` is what was wished for, slot by slot.
    pub fn serves(fit: &Fit, at: u32) -> bool {
        let device = fit.origin + u64::from(at);
        let aligned = device % u64::from(fit.align) == u64::from(fit.phase);
        let crossed = fit.boundary != 0
            && device / fit.boundary != (device + u64::from(fit.slots) - 1) / fit.boundary;
        aligned && !crossed && u64::from(at) + u64::from(fit.slots) <= u64::from(fit.limit)
    }

    /// Whether any run serves.
    pub fn has(&self, fit: &Fit) -> bool {
        let mut free_from = 0;
        (0..self.free.len() as u32).any(|slot| {
            if !self.free[slot as usize] {
                free_from = slot + 1;
            }
            let Some(at) = (slot + 1).checked_sub(fit.slots) else {
                return false;
            };
            at >= free_from && Self::serves(fit, at)
        })
    }

    pub fn set(&mut self, at: u32, slots: u32, free: bool) {
        self.free[at as usize..(at + slots) as usize].fill(free);
    }

    pub fn runs(&self) -> Vec<(u32, u32)> {
        let mut runs: Vec<(u32, u32)> = Vec::new();
        for (slot, _) in self.free.iter().enumerate().filter(|(_, free)| **free) {
            match runs.last_mut() {
                Some((start, len)) if *start + *len == slot as u32 => *len += 1,
                _ => runs.push((slot as u32, 1)),
            }
        }
        runs
    }
}

/// What one episode prefers; drawn once, so that episodes differ more than steps do.
pub struct Swarm {
    pub slots: u32,
    pub take_percent: u32,
    pub sizes: Vec<u32>,
    pub aligns: Vec<u32>,
    pub phased: bool,
    pub boundaries: Vec<u64>,
    pub limited: bool,
    pub origin: u64,
    pub free_newest_percent: u32,
}

impl Swarm {
    pub fn draw(random: &mut Random) -> Self {
        let slots = random.pick(&[1, 63, 64, 65, 128, 500, 512, 1024, 4095, 4096, 5000, 9000]);
        let all = [
            1, 1, 1, 2, 2, 2, 3, 4, 5, 8, 16, 31, 32, 33, 34, 63, 64, 65, 66, 100, 126, 128,
        ];
        let mut sizes: Vec<u32> = (0..1 + random.below(4))
            .map(|_| random.pick(&all))
            .collect();
        if random.chance(30) {
            sizes.push(1 + random.below(slots));
        }
        let aligns = (0..1 + random.below(3))
            .map(|_| random.pick(&[1, 1, 1, 2, 2, 2, 4, 8, 16, 32, 64, 256]))
            .collect();
        let boundaries = if random.chance(20) {
            vec![0, random.pick(&[2, 16, 32, 64, 128, 1024])]
        } else {
            vec![0]
        };
        Self {
            slots,
            take_percent: 45 + random.below(20),
            sizes,
            aligns,
            phased: random.chance(40),
            boundaries,
            limited: random.chance(15),
            origin: random.pick(&[0_u64, 0, 1, 7, 1000, 32768]),
            free_newest_percent: random.pick(&[0, 0, 20, 90]),
        }
    }

    pub fn wish(&self, random: &mut Random) -> Fit {
        let align = random.pick(&self.aligns);
        let limit = if self.limited && random.chance(50) {
            random.below(self.slots + 1)
        } else {
            u32::MAX
        };
        Fit {
            slots: random.pick(&self.sizes),
            align,
            phase: if self.phased { random.below(align) } else { 0 },
            boundary: random.pick(&self.boundaries),
            origin: self.origin,
            limit,
        }
    }
}
