//! A space of ours in which others come and go, and what fits into it then.

use dmakit_addr::{DmaMask, Granule, Iova, IovaRange};
use dmakit_iova::{CpuCache, Policy, Request, Reservation, Space};
use dmakit_platform::host::HostPlatform;
use dmakit_platform::{CpuSlot, Platform};
use serde::Serialize;

/// Larger spaces are tried as one of this many bits.
pub const BITS_MAX: u32 = 40;
const PAGE: u64 = 4096;
/// The largest of the others, if the space is not small.
const OTHERS_MAX: u64 = 512 << 20;
/// How often one block is tried; many at once are tried less often.
const TRIES: u64 = 1000;
/// Blocks that are as dear to try as all else between two tries.
const BLOCKS_PER_TRY: u64 = 64;

/// How long the others are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Others {
    /// Powers of two.
    Powers,
    /// Anything between one power of two and the next.
    Any,
}

/// What to try.
#[derive(Clone, Debug)]
pub struct Churn {
    pub bits: u32,
    pub fill_percent: u64,
    pub steps: u64,
    pub seed: u64,
    pub others: Others,
}

/// Tries that succeeded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tries {
    pub tried: u64,
    pub found: u64,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// By shape.
    pub tries: Vec<Tries>,
    /// How full the space was on average where it was tried, in percent: where lengths do not pack,
    /// some of the others find no room.
    pub filled_percent: f64,
}

struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32) * n) >> 32
    }
}

type Addresses = Space<HostPlatform, [CpuSlot<CpuCache>; 1]>;

impl Churn {
    /// Fills the space and lets the others come and go; in the second half, tries whether `count`
    /// blocks of `bytes`, each at a multiple of its power of two, can be had, for each shape.
    ///
    /// # Errors
    /// Where there is no memory for the space's records.
    pub fn run(&self, shapes: &[(u64, u64)]) -> anyhow::Result<Outcome> {
        let platform = HostPlatform::new(1);
        let cpu = platform.enter_cpu();
        let size = 1 << self.bits;
        let aperture = IovaRange::new(Iova::new(0), size)?;
        let space = Addresses::new(Granule::K4, aperture, Policy::TopDown, [CpuSlot::default()])?;
        let most = size / 100 * self.fill_percent;
        let orders = (OTHERS_MAX.min(size / 64).max(PAGE) / PAGE).ilog2() + 1;
        let mut rng = Rng(self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let mut held: Vec<Reservation> = Vec::new();
        let mut used = 0;
        let mut tries = vec![Tries::default(); shapes.len()];
        let every = (self.steps / 2 / TRIES).max(1);
        let (mut moment, mut filled) = (0_u64, 0_u128);
        for step in 0..self.steps {
            while used < most {
                space.maintain()?;
                let len = self.len(&mut rng, orders);
                // One that finds no room waits until another has gone.
                let Ok(other) = space.alloc(&cpu, &request(len)) else {
                    break;
                };
                used += other.range().len();
                held.push(other);
            }
            if step >= self.steps / 2 && step % every == 0 {
                moment += 1;
                filled += u128::from(used);
                for (shape, tries) in shapes.iter().zip(&mut tries) {
                    if moment % shape.1.div_ceil(BLOCKS_PER_TRY) != 0 {
                        continue;
                    }
                    tries.tried += 1;
                    tries.found += u64::from(fits(&space, &cpu, *shape)?);
                }
            }
            if !held.is_empty() {
                let gone = held.swap_remove(rng.below(held.len() as u64) as usize);
                used -= gone.range().len();
                space.free(&cpu, gone);
            }
        }
        let whole = u128::from(size) * u128::from(moment.max(1));
        Ok(Outcome {
            tries,
            filled_percent: (filled * 1000 / whole) as f64 / 10.0,
        })
    }

    fn len(&self, rng: &mut Rng, orders: u32) -> u64 {
        let low = PAGE << rng.below(u64::from(orders));
        match self.others {
            Others::Powers => low,
            Others::Any => low + rng.below(low / PAGE) * PAGE,
        }
    }
}

fn request(len: u64) -> Request {
    Request {
        len,
        align: 1,
        limit: DmaMask::ALL,
    }
}

/// Whether all blocks can be had at once; they go back.
fn fits(
    space: &Addresses,
    cpu: &dmakit_platform::host::ThreadCpu,
    (bytes, count): (u64, u64),
) -> anyhow::Result<bool> {
    let mut taken = Vec::new();
    for _ in 0..count {
        space.maintain()?;
        match space.alloc(cpu, &request(bytes)) {
            Ok(block) => taken.push(block),
            Err(_) => break,
        }
    }
    let is_whole = taken.len() as u64 == count;
    for block in taken {
        space.maintain()?;
        space.free(cpu, block);
    }
    Ok(is_whole)
}
