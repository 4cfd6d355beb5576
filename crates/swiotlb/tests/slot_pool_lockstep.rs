//! The areas of a pool against one list of booleans: a request fails only where no run fits
//! anywhere, across areas too.

#[path = "lockstep/model.rs"]
mod model;
#[path = "lockstep/random.rs"]
mod random;

use dmakit_platform::CpuId;
use dmakit_platform::host::HostPlatform;
use dmakit_swiotlb::{Record, SlotPool, SlotPoolConfig};
use model::{Model, Swarm};
use random::{Random, steps};

struct Episode {
    pool: SlotPool<HostPlatform>,
    model: Model,
    live: Vec<(u32, Record)>,
}

impl Episode {
    fn take(&mut self, swarm: &Swarm, random: &mut Random) {
        let fit = swarm.wish(random);
        let record = Record {
            slots: fit.slots,
            offset: 0,
            tail: random.next() as u16,
            device: random.below(6) as u16,
            flags: 0,
        };
        match self.pool.take(&fit, CpuId::new(random.below(70)), record) {
            Ok(at) => {
                assert!(
                    self.model.is_free(at, fit.slots),
                    "{fit:?} got taken slots at {at}"
                );
                assert!(Model::serves(&fit, at), "{fit:?} got {at}");
                self.model.set(at, fit.slots, false);
                self.live.push((at, record));
            }
            Err(_) => assert!(
                !self.model.has(&fit),
                "{fit:?} failed although there is a run"
            ),
        }
    }

    fn give_back(&mut self, random: &mut Random) {
        if self.live.is_empty() {
            return;
        }
        let victim = random.below(self.live.len() as u32) as usize;
        let (at, record) = self.live.swap_remove(victim);
        assert_eq!(self.pool.record(at), Some(record));
        assert_eq!(self.pool.give_back(at, 0), Some(record));
        assert_eq!(self.pool.give_back(at, 0), None);
        self.model.set(at, record.slots, true);
    }

    fn compare(&self) {
        let used: u32 = self.live.iter().map(|(_, record)| record.slots).sum();
        assert_eq!(self.pool.used(), used);
        let free = self.model.free.iter().filter(|free| **free).count();
        assert_eq!(used as usize + free, self.model.free.len());
    }
}

fn episode(seed: u64, length: u64) {
    let mut random = Random::new(seed);
    let mut swarm = Swarm::draw(&mut random);
    let areas = random.pick(&[1, 2, 3, 4, 8, 16, 64]);
    swarm.sizes.push(1 + random.below(swarm.slots));
    let config = SlotPoolConfig {
        slots: swarm.slots,
        areas,
        devices: 4,
        credit_batch: random.pick(&[0, 1, 32]),
    };
    let mut episode = Episode {
        pool: SlotPool::new(&config),
        model: Model::new(swarm.slots),
        live: Vec::new(),
    };
    for step in 0..length {
        let take = if step / 256 % 4 == 3 {
            30
        } else {
            swarm.take_percent
        };
        if random.chance(take) {
            episode.take(&swarm, &mut random);
        } else {
            episode.give_back(&mut random);
        }
        if step % 1024 == 0 {
            episode.compare();
        }
    }
    while !episode.live.is_empty() {
        episode.give_back(&mut random);
    }
    episode.compare();
    let record = Record {
        slots: swarm.slots,
        offset: 0,
        tail: 0,
        device: 0,
        flags: 0,
    };
    let whole = dmakit_swiotlb::Fit::anywhere(swarm.slots);
    assert_eq!(episode.pool.take(&whole, CpuId::new(0), record), Ok(0));
}

#[test]
fn a_pool_fails_only_where_no_run_fits_across_areas_either() {
    let (length, total) = (2000, steps(1_000_000));
    for seed in 0..total.div_ceil(length) {
        let outcome = std::panic::catch_unwind(|| episode(seed, length));
        assert!(outcome.is_ok(), "episode with seed {seed} failed");
    }
}

#[test]
fn a_mapping_of_64_mib_spans_as_many_areas_as_it_takes() {
    for areas in [1, 2, 64] {
        let pool = SlotPool::<HostPlatform>::new(&SlotPoolConfig {
            slots: 65536,
            areas,
            devices: 1,
            credit_batch: 0,
        });
        assert_eq!(pool.area_count(), areas as usize);
        for slots in [4096, 17408, 32768] {
            let record = Record {
                slots,
                offset: 0,
                tail: 0,
                device: 0,
                flags: 0,
            };
            let fit = dmakit_swiotlb::Fit::aligned(slots, 2);
            let first = pool.take(&fit, CpuId::new(1), record).unwrap();
            assert_eq!(pool.used(), slots);
            assert!(pool.give_back(first, 0).is_some());
            assert_eq!(pool.used(), 0);
        }
    }
}
