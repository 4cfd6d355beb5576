//! A space against a naive model: one flag for each granule, every aligned place tried.
//!
//! `DMAKIT_STEPS` sets the number of steps, `DMAKIT_SEED` the first seed.

use dmakit_addr::{DmaMask, Granule, Iova, IovaRange};
use dmakit_iova::{AllocCause, CpuCache, Policy, Request, Reservation, Space};
use dmakit_platform::host::HostPlatform;
use dmakit_platform::{CpuGuard, CpuId, CpuSlot};

const G: u64 = 4096;
const CPUS: u32 = 3;
/// Steps after which all is freed and a new space begun.
const ROUND: u64 = 4000;

type TestSpace = Space<HostPlatform, [CpuSlot<CpuCache>; CPUS as usize]>;

struct On(u32);

impl CpuGuard for On {
    fn cpu(&self) -> CpuId {
        CpuId::new(self.0)
    }
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

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum State {
    Free,
    Taken,
    /// Outside the aperture, or reserved.
    Withheld,
}

/// What is done how often, drawn anew for each round.
struct Weights {
    alloc: u64,
    free: u64,
    flush: u64,
    reserve: u64,
    maintain: u64,
    sizes: u64,
    limited: u64,
    aligned: u64,
}

impl Weights {
    fn draw(rng: &mut Rng) -> Self {
        Self {
            alloc: 20 + rng.below(60),
            free: 20 + rng.below(60),
            flush: rng.below(4),
            reserve: rng.below(2),
            maintain: rng.below(20),
            sizes: 1 + rng.below(11),
            limited: rng.below(60),
            aligned: rng.below(30),
        }
    }
}

struct Run {
    rng: Rng,
    weights: Weights,
    space: TestSpace,
    flags: Vec<State>,
    /// Reservations, and how many granules each has taken.
    live: Vec<(Reservation, u64)>,
    at: String,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut rng = Rng(seed);
        let end = 1 + rng.below(1 << 14);
        let start = rng.below(end);
        let aperture = IovaRange::new(Iova::new(start * G), (end - start) * G).unwrap();
        let policy = [Policy::TopDown, Policy::LowFirst][rng.below(2) as usize];
        let mut flags = vec![State::Withheld; end as usize];
        flags[start.max(1).min(end) as usize..].fill(State::Free);
        Self {
            weights: Weights::draw(&mut rng),
            rng,
            space: Space::new(Granule::K4, aperture, policy, Default::default()).unwrap(),
            flags,
            live: Vec::new(),
            at: String::new(),
        }
    }

    fn step(&mut self) {
        let weights = &self.weights;
        let all = weights.alloc + weights.free + weights.flush + weights.reserve + weights.maintain;
        let mut draw = self.rng.below(all);
        let mut is = |weight: u64| {
            let hit = draw < weight;
            draw = draw.wrapping_sub(weight);
            hit
        };
        if is(weights.alloc) {
            self.alloc();
        } else if is(weights.free) {
            self.free();
        } else if is(weights.flush) {
            match self.rng.below(2) {
                0 => self.space.request_flush(),
                _ => self
                    .space
                    .flush_cpu(&On(self.rng.below(u64::from(CPUS)) as u32)),
            }
        } else if is(weights.reserve) {
            self.reserve();
        } else {
            self.space.maintain().unwrap();
        }
    }

    fn alloc(&mut self) {
        let at = &self.at;
        let block = 1 << self.rng.below(self.weights.sizes);
        let len = (1 + self.rng.below(block)) * G - self.rng.below(G);
        let align = match self.rng.below(100) < self.weights.aligned {
            true => 1 << self.rng.below(24),
            false => 1,
        };
        let limit = match self.rng.below(100) < self.weights.limited {
            true => DmaMask::up_to(self.rng.below(self.flags.len() as u64 * G)),
            false => DmaMask::ALL,
        };
        let request = Request { len, align, limit };
        let cpu = On(self.rng.below(u64::from(CPUS) + 1) as u32);
        let mut result = self.space.alloc(&cpu, &request);
        if matches!(&result, Err(error) if matches!(error.cause, AllocCause::Full { .. })) {
            // Other CPUs have been asked; once they came, only what is not free is missing.
            (0..CPUS).for_each(|cpu| self.space.visit(cpu));
            result = self.space.alloc(&cpu, &request);
        }
        let wanted = len.div_ceil(G);
        let natural = wanted.next_power_of_two();
        let granules = if natural <= 32 { natural } else { wanted };
        let unit = (align / G).max(natural);
        match result {
            Ok(got) => {
                let first = got.range().start().raw() / G;
                assert_eq!(got.range().len(), wanted * G, "{at}");
                assert!(first != 0 && first % unit == 0, "{at}: {request:?} {got:?}");
                assert!(limit.reaches(&got.range()), "{at}: {request:?} {got:?}");
                for flag in &mut self.flags[first as usize..(first + granules) as usize] {
                    assert_eq!(*flag, State::Free, "{at}: {request:?} {got:?}");
                    *flag = State::Taken;
                }
                self.live.push((got, granules));
            }
            Err(error) => match error.cause {
                AllocCause::Full { free, largest } => {
                    assert!(!self.has_room(unit, limit), "{at}: {error}");
                    let cached = self.space.statistics().cached;
                    assert_eq!(free + cached, self.count(State::Free) * G, "{at}");
                    assert!(largest <= free, "{at}: {error}");
                    if cached == 0 {
                        let is_there = |unit: u64| self.has_room(unit / G, DmaMask::ALL);
                        assert!(largest == 0 || is_there(largest), "{at}: {error}");
                        assert!(!is_there((2 * largest).max(G)), "{at}: {error}");
                    }
                }
                AllocCause::Records => self.space.maintain().unwrap(),
                AllocCause::Request => panic!("{at}: {error}"),
            },
        }
    }

    fn has_room(&self, unit: u64, limit: DmaMask) -> bool {
        let end = (limit.last().saturating_add(1) / G).min(self.flags.len() as u64);
        let unit = unit as usize;
        let mut blocks = self.flags[..end as usize].chunks_exact(unit);
        blocks.any(|block| block.iter().all(|flag| *flag == State::Free))
    }

    fn count(&self, state: State) -> u64 {
        self.flags.iter().filter(|flag| **flag == state).count() as u64
    }

    fn free(&mut self) {
        if self.live.is_empty() {
            return;
        }
        let index = self.rng.below(self.live.len() as u64) as usize;
        let (reservation, granules) = self.live.swap_remove(index);
        let first = (reservation.range().start().raw() / G) as usize;
        self.flags[first..first + granules as usize].fill(State::Free);
        let cpu = On(self.rng.below(u64::from(CPUS) + 1) as u32);
        self.space.free(&cpu, reservation);
    }

    fn reserve(&mut self) {
        let at = &self.at;
        let first = self.rng.below(self.flags.len() as u64);
        let len = 1 + self.rng.below(40);
        let range = IovaRange::new(Iova::new(first * G + 7), len * G).unwrap();
        let past = (first + len + 1).min(self.flags.len() as u64);
        let before = self.space.statistics();
        let mut result = self.space.reserve(range);
        if result.is_err() {
            (0..CPUS).for_each(|cpu| self.space.visit(cpu));
            result = self.space.reserve(range);
        }
        let flags = &mut self.flags[first as usize..past as usize];
        match result {
            Ok(()) => {
                assert!(!flags.contains(&State::Taken), "{at}: {range}");
                flags.fill(State::Withheld);
            }
            Err(error) => {
                assert!(flags.contains(&State::Taken), "{at}: {error}");
                let after = self.space.statistics();
                assert_eq!(
                    before.free + before.cached,
                    after.free + after.cached,
                    "{at}"
                );
            }
        }
    }

    fn check(&self) {
        let statistics = self.space.statistics();
        let free = self.count(State::Free) * G;
        assert_eq!(statistics.free + statistics.cached, free, "{}", self.at);
        assert_eq!(statistics.refused, 0, "{}", self.at);
    }

    /// Gives all back: the space holds what it held at first, less what was reserved.
    fn end(mut self) {
        while !self.live.is_empty() {
            self.free();
        }
        self.check();
        self.space.request_flush();
        (0..CPUS).for_each(|cpu| self.space.visit(cpu));
        let statistics = self.space.statistics();
        assert_eq!(statistics.cached, 0, "{}", self.at);
        assert_eq!(statistics.free, self.count(State::Free) * G, "{}", self.at);
    }
}

/// A CPU comes to the space, as it does to map anything.
trait Visit {
    fn visit(&self, cpu: u32);
}

impl Visit for TestSpace {
    fn visit(&self, cpu: u32) {
        let request = Request {
            len: 1,
            align: 1,
            limit: DmaMask::up_to(0),
        };
        assert!(self.alloc(&On(cpu), &request).is_err());
    }
}

#[test]
fn a_space_hands_out_what_a_list_of_flags_says_is_free() {
    let steps = variable("DMAKIT_STEPS").unwrap_or(2_000_000);
    let first = variable("DMAKIT_SEED").unwrap_or(1);
    for round in 0..steps.div_ceil(ROUND) {
        let seed = (first + round).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut run = Run::new(seed);
        for step in 0..ROUND.min(steps - round * ROUND) {
            run.at = format!("DMAKIT_SEED={} step {step}", first + round);
            run.step();
            if step % 1000 == 0 {
                run.check();
            }
        }
        run.end();
    }
}
