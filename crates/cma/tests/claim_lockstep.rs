//! Claims against a list of booleans: same answers, same free units, whatever happens.

#[path = "lockstep/random.rs"]
mod random;

use dmakit_addr::{Pfn, PfnRange};
use dmakit_cma::{Area, ClaimMap, NoWindow, NotClaimed, ReleaseError};
use dmakit_platform::host::HostPlatform;
use random::{Random, steps};

/// The naive model: each unit is free or not.
struct Model {
    base: u64,
    free: Vec<bool>,
}

impl Model {
    fn new(base: u64, units: u32) -> Self {
        Self {
            base,
            free: vec![true; units as usize],
        }
    }

    fn all(&self, at: u32, units: u32, free: bool) -> bool {
        let end = at as usize + units as usize;
        end <= self.free.len() && self.free[at as usize..end].iter().all(|is| *is == free)
    }

    fn is_aligned(&self, at: u32, align_order: u32) -> bool {
        let unit = self.base + u64::from(at);
        align_order == 0 || unit.trailing_zeros() >= align_order
    }

    /// Whether any window serves.
    fn has(&self, units: u32, align_order: u32) -> bool {
        let mut free_from = 0;
        (0..self.free.len() as u32).any(|unit| {
            if !self.free[unit as usize] {
                free_from = unit + 1;
            }
            let at = (unit + 1).checked_sub(units);
            at.is_some_and(|at| at >= free_from && self.is_aligned(at, align_order))
        })
    }

    fn set(&mut self, at: u32, units: u32, free: bool) {
        self.free[at as usize..(at + units) as usize].fill(free);
    }

    fn runs(&self) -> Vec<(u32, u32)> {
        let mut runs: Vec<(u32, u32)> = Vec::new();
        for (unit, _) in self.free.iter().enumerate().filter(|(_, free)| **free) {
            match runs.last_mut() {
                Some((start, len)) if *start + *len == unit as u32 => *len += 1,
                _ => runs.push((unit as u32, 1)),
            }
        }
        runs
    }
}

/// What one episode prefers; drawn once, so that episodes differ more than steps do.
struct Swarm {
    base: u64,
    units: u32,
    claim_percent: u32,
    sizes: Vec<u32>,
    /// Aligned to the size, but to 2^8 at most; otherwise one of `aligns`.
    natural_percent: u32,
    aligns: Vec<u32>,
    newest_percent: u32,
    partial_percent: u32,
}

impl Swarm {
    fn draw(random: &mut Random) -> Self {
        let units = random.pick(&[1, 64, 255, 256, 257, 1024, 5000, 16_384, 20_000, 40_000]);
        let all = [
            1, 1, 1, 2, 3, 4, 5, 7, 8, 16, 31, 64, 65, 100, 128, 129, 200, 255, 256, 257, 300, 512,
            513, 700, 1024, 1500, 4096, 5000,
        ];
        let mut sizes: Vec<u32> = (0..1 + random.below(5))
            .map(|_| random.pick(&all))
            .collect();
        if random.chance(30) {
            sizes.push(1 + random.below(units));
        }
        Self {
            base: random.pick(&[0, 0, 0, 256, 512, 1 << 40, 3, 100, 255, 0x1_0300]),
            units,
            claim_percent: 45 + random.below(20),
            sizes,
            natural_percent: random.pick(&[0, 50, 90, 100]),
            aligns: (0..1 + random.below(3))
                .map(|_| random.pick(&[0, 0, 1, 2, 3, 5, 6, 7, 8, 8, 9, 10, 12, 20, 41, 63, 64]))
                .collect(),
            newest_percent: random.pick(&[0, 0, 20, 90]),
            partial_percent: random.pick(&[0, 0, 10, 50]),
        }
    }

    fn wish(&self, random: &mut Random) -> (u32, u32) {
        let units = random.pick(&self.sizes);
        let natural = units.next_power_of_two().ilog2().min(8);
        let by_size = random.chance(self.natural_percent);
        (
            units,
            if by_size {
                natural
            } else {
                random.pick(&self.aligns)
            },
        )
    }
}

struct Episode {
    map: ClaimMap,
    model: Model,
    live: Vec<(u32, u32)>,
}

impl Episode {
    fn claim(&mut self, (units, align_order): (u32, u32)) {
        match self.map.claim(units, align_order) {
            Ok(at) => {
                assert!(
                    self.model.all(at, units, true),
                    "{units} at {at} were taken"
                );
                assert!(
                    self.model.is_aligned(at, align_order),
                    "{at} 2^{align_order}"
                );
                self.model.set(at, units, false);
                self.live.push((at, units));
            }
            Err(error) => {
                assert_eq!((error.units, error.align_order), (units, align_order));
                assert!(
                    !self.model.has(units, align_order),
                    "{error}: although there is a window"
                );
            }
        }
    }

    fn claim_at(&mut self, random: &mut Random) {
        let at = random.below(self.map.units() + 2);
        let units = random.pick(&[0, 1, 5, 64, 256, 1000]);
        let fits = units > 0 && self.model.all(at, units, true);
        assert_eq!(self.map.claim_at(at, units), fits, "{units} at {at}");
        if fits {
            self.model.set(at, units, false);
            self.live.push((at, units));
        }
    }

    fn release(&mut self, random: &mut Random, swarm: &Swarm) {
        let Some(last) = self.live.len().checked_sub(1) else {
            return;
        };
        let newest = random.chance(swarm.newest_percent);
        let victim = if newest {
            last
        } else {
            random.below(last as u32 + 1) as usize
        };
        let (at, units) = self.live.swap_remove(victim);
        let mut part = units;
        if units > 1 && random.chance(swarm.partial_percent) {
            part = 1 + random.below(units - 1);
            self.live.push((at + part, units - part));
        }
        self.map.release(at, part).unwrap();
        self.model.set(at, part, true);
    }

    fn release_wrongly(&mut self, random: &mut Random) {
        let at = random.below(self.map.units() + 2);
        let units = random.pick(&[1, 2, 64, 300]);
        if !self.model.all(at, units, false) {
            let NotClaimed { first_wrong, .. } = self.map.release(at, units).unwrap_err();
            let naive = (at..).find(|unit| self.model.free.get(*unit as usize) != Some(&false));
            let outside = u64::from(at) + u64::from(units) > u64::from(self.map.units());
            assert!(outside || naive == Some(first_wrong));
            assert!(
                !self.map.claim_at(first_wrong, 1) || { self.map.release(first_wrong, 1).is_ok() }
            );
        }
    }

    fn compare(&self) {
        let runs = self.model.runs();
        assert!(self.map.free_runs().eq(runs.iter().copied()));
        let free: u32 = runs.iter().map(|(_, len)| len).sum();
        assert_eq!(self.map.free(), free);
        let units = (0..).zip(&self.model.free);
        assert!(
            units
                .into_iter()
                .all(|(unit, free)| self.map.is_free(unit) == *free)
        );
        assert!(!self.map.is_free(self.map.units()));
    }

    /// Everything comes back, in any order, and the map is as new.
    fn drain(mut self, random: &mut Random) {
        while !self.live.is_empty() {
            let victim = random.below(self.live.len() as u32) as usize;
            let (at, units) = self.live.swap_remove(victim);
            self.map.release(at, units).unwrap();
            self.model.set(at, units, true);
        }
        self.compare();
        let units = self.map.units();
        assert_eq!(self.map.claim(units, 0), Ok(0));
        assert_eq!(self.map.claim(1, 0).unwrap_err().largest_block, 0);
    }
}

fn episode(seed: u64, length: u64) {
    let mut random = Random::new(seed);
    let swarm = Swarm::draw(&mut random);
    let mut episode = Episode {
        map: ClaimMap::new(swarm.base, swarm.units),
        model: Model::new(swarm.base, swarm.units),
        live: Vec::new(),
    };
    for step in 0..length {
        // Now and then the load turns, so that the map runs full and empty.
        let claim = if step / 512 % 4 == 3 {
            30
        } else {
            swarm.claim_percent
        };
        match random.below(100) {
            0 => episode.release_wrongly(&mut random),
            1 => episode.claim_at(&mut random),
            draw if draw < claim => {
                let wish = swarm.wish(&mut random);
                episode.claim(wish);
            }
            _ => episode.release(&mut random, &swarm),
        }
        if step % 2048 == 0 {
            episode.compare();
        }
    }
    episode.compare();
    episode.drain(&mut random);
}

#[test]
fn a_claim_fails_only_where_no_aligned_window_is_free() {
    let (length, total) = (4000, steps(600_000));
    for seed in 0..total.div_ceil(length) {
        let outcome = std::panic::catch_unwind(|| episode(seed, length));
        assert!(outcome.is_ok(), "episode with seed {seed} failed");
    }
}

fn frames(start: u64, len: u64) -> PfnRange {
    PfnRange::new(Pfn::new(start), len).unwrap()
}

/// Ranges of one area and a model of each, in units.
fn area_episode(seed: u64, length: u64) {
    let mut random = Random::new(seed);
    let order = random.pick(&[0, 0, 1, 2, 4, 9]);
    let mut ranges = Vec::new();
    let mut models = Vec::new();
    let mut next = u64::from(random.below(1000));
    for _ in 0..1 + random.below(8) {
        next += u64::from(random.below(300));
        let units = 1 + random.below(1500);
        ranges.push(frames(next << order, u64::from(units) << order));
        models.push(Model::new(next, units));
        next += u64::from(units);
    }
    let area: Area<HostPlatform> = Area::new(&ranges, order).unwrap();
    let mut live: Vec<PfnRange> = Vec::new();
    let unit =
        |model: &Model, range: &PfnRange| ((range.start().raw() >> order) - model.base) as u32;
    for _ in 0..length {
        if random.chance(55) {
            let size = 1 + u64::from(random.below(300 << order));
            let align = random.below(order + 9);
            let units = size.div_ceil(1 << order) as u32;
            match area.claim(size, align) {
                Ok(claimed) => {
                    assert_eq!(claimed.len(), size);
                    assert_eq!(claimed.start().raw() % (1 << align), 0);
                    let home = ranges
                        .iter()
                        .position(|range| range.contains_range(&claimed));
                    let model = &mut models[home.expect("a claim lies in one range")];
                    let at = unit(model, &claimed);
                    assert!(model.all(at, units, true));
                    model.set(at, units, false);
                    live.push(claimed);
                }
                Err(NoWindow { .. }) => {
                    let align = align.saturating_sub(order);
                    assert!(models.iter().all(|model| !model.has(units, align)));
                }
            }
        } else if !live.is_empty() {
            let claimed = live.swap_remove(random.below(live.len() as u32) as usize);
            area.release(claimed).unwrap();
            let home = ranges
                .iter()
                .position(|range| range.contains_range(&claimed));
            let model = &mut models[home.expect("a claim lies in one range")];
            let at = unit(model, &claimed);
            model.set(at, claimed.len().div_ceil(1 << order) as u32, true);
            let twice = area.release(claimed);
            assert!(matches!(twice, Err(ReleaseError::NotClaimed { .. })));
        }
    }
    let free: usize = models
        .iter()
        .flat_map(|model| &model.free)
        .filter(|free| **free)
        .count();
    assert_eq!(area.usage().free, (free as u64) << order);
}

#[test]
fn an_area_of_ranges_fails_only_where_no_range_has_a_window() {
    let (length, total) = (1000, steps(600_000) / 4);
    for seed in 0..total.div_ceil(length) {
        let outcome = std::panic::catch_unwind(|| area_episode(seed, length));
        assert!(outcome.is_ok(), "area episode with seed {seed} failed");
    }
}
