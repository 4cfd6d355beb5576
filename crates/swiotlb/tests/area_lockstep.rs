//! An area against a list of booleans: same answers, same free slots, whatever happens.

#[path = "lockstep/random.rs"]
mod random;

use dmakit_swiotlb::{Area, Fit, NoRun, Record};
use random::{Random, steps};

/// The naive model: each slot is free or not.
struct Model {
    free: Vec<bool>,
}

impl Model {
    fn is_free(&self, at: u32, slots: u32) -> bool {
        self.free[at as usize..(at + slots) as usize]
            .iter()
            .all(|free| *free)
    }

    /// Whether a run from `at` is what was wished for, slot by slot.
    fn serves(fit: &Fit, at: u32) -> bool {
        let device = fit.origin + u64::from(at);
        let aligned = device % u64::from(fit.align) == u64::from(fit.phase);
        let crossed = fit.boundary != 0
            && device / fit.boundary != (device + u64::from(fit.slots) - 1) / fit.boundary;
        aligned && !crossed && u64::from(at) + u64::from(fit.slots) <= u64::from(fit.limit)
    }

    /// Whether any run serves.
    fn has(&self, fit: &Fit) -> bool {
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

    fn set(&mut self, at: u32, slots: u32, free: bool) {
        self.free[at as usize..(at + slots) as usize].fill(free);
    }

    fn runs(&self) -> Vec<(u32, u32)> {
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
struct Swarm {
    slots: u32,
    take_percent: u32,
    sizes: Vec<u32>,
    aligns: Vec<u32>,
    phased: bool,
    boundaries: Vec<u64>,
    limited: bool,
    origin: u64,
    free_newest_percent: u32,
}

impl Swarm {
    fn draw(random: &mut Random) -> Self {
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

    fn wish(&self, random: &mut Random) -> Fit {
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

struct Episode {
    area: Area,
    model: Model,
    live: Vec<(u32, Record)>,
    high: u32,
}

impl Episode {
    fn new(slots: u32) -> Self {
        Self {
            area: Area::new(slots),
            model: Model {
                free: vec![true; slots as usize],
            },
            live: Vec::new(),
            high: 0,
        }
    }

    fn take(&mut self, fit: &Fit, random: &mut Random) {
        match self.area.take(fit) {
            Ok(at) => {
                assert!(
                    self.model.is_free(at, fit.slots),
                    "{fit:?} got taken slots at {at}"
                );
                assert!(Model::serves(fit, at), "{fit:?} got {at}");
                self.model.set(at, fit.slots, false);
                let record = Record {
                    slots: fit.slots,
                    offset: random.next() as u16,
                    tail: random.next() as u16,
                    device: random.next() as u16,
                    flags: random.next() as u16,
                };
                self.area.set_record(at, record);
                self.live.push((at, record));
            }
            Err(NoRun { slots, largest }) => {
                assert_eq!(slots, fit.slots);
                assert!(
                    !self.model.has(fit),
                    "{fit:?} failed although there is a run"
                );
                assert_eq!(largest, self.area.largest());
            }
        }
    }

    fn give_back(&mut self, random: &mut Random, newest_percent: u32) {
        let Some(last) = self.live.len().checked_sub(1) else {
            return;
        };
        let victim = if random.chance(newest_percent) {
            last
        } else {
            random.below(last as u32 + 1) as usize
        };
        let (at, record) = self.live.swap_remove(victim);
        assert_eq!(self.area.mapping_at(at + record.slots - 1), Some(at));
        assert_eq!(self.area.take_record(at), Some(record));
        assert_eq!(self.area.take_record(at), None);
        self.area.give_back(at, record.slots);
        self.model.set(at, record.slots, true);
    }

    fn compare(&mut self) {
        let runs = self.model.runs();
        assert!(self.area.free_runs().eq(runs.iter().copied()));
        let used: u32 = self.live.iter().map(|(_, record)| record.slots).sum();
        assert_eq!(self.area.used(), used);
        assert_eq!(self.area.used_high(), self.high);
        let slots = self.model.free.len() as u32;
        let longest = runs.iter().map(|(_, len)| *len).max();
        assert_eq!(self.area.largest(), longest.unwrap_or(0));
        let prefix = runs.first().filter(|(start, _)| *start == 0);
        assert_eq!(self.area.prefix(), prefix.map_or(0, |(_, len)| *len));
        let suffix = runs.last().filter(|(start, len)| start + len == slots);
        assert_eq!(self.area.suffix(), suffix.map_or(0, |(_, len)| *len));
        for (at, record) in &self.live {
            assert_eq!(self.area.record(*at), Some(*record));
        }
    }

    /// Everything comes back, in any order, and the area is as new.
    fn drain(mut self, random: &mut Random) {
        while !self.live.is_empty() {
            self.give_back(random, 0);
        }
        self.compare();
        let slots = self.area.slots();
        assert_eq!(self.area.take(&Fit::anywhere(slots)), Ok(0));
    }
}

fn episode(seed: u64, length: u64) {
    let mut random = Random::new(seed);
    let swarm = Swarm::draw(&mut random);
    let mut episode = Episode::new(swarm.slots);
    for step in 0..length {
        // Now and then the load turns, so that the area runs full and empty.
        let take = if step / 512 % 4 == 3 {
            30
        } else {
            swarm.take_percent
        };
        if random.chance(take) {
            let fit = swarm.wish(&mut random);
            episode.take(&fit, &mut random);
            episode.high = episode.high.max(episode.area.used());
        } else {
            episode.give_back(&mut random, swarm.free_newest_percent);
        }
        if step % 2048 == 0 {
            episode.compare();
        }
    }
    episode.compare();
    episode.drain(&mut random);
}

#[test]
fn an_area_fails_only_where_no_run_fits() {
    let (length, total) = (4000, steps(1_000_000));
    for seed in 0..total.div_ceil(length) {
        let outcome = std::panic::catch_unwind(|| episode(seed, length));
        assert!(outcome.is_ok(), "episode with seed {seed} failed");
    }
}
