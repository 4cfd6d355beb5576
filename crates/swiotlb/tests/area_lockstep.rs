//! An area against a list of booleans: same answers, same free slots, whatever happens.

#[path = "lockstep/model.rs"]
mod model;
#[path = "lockstep/random.rs"]
mod random;

use dmakit_swiotlb::{Area, Fit, NoRun, Record};
use model::{Model, Swarm};
use random::{Random, steps};

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
            model: Model::new(slots),
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
