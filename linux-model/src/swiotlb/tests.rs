use super::pool::Pool;
use super::rules::Need;
use super::*;
use crate::Engine;

const NVME: DeviceLimits = DeviceLimits {
    dma_mask: u64::MAX,
    min_align_mask: 4095,
    segment_boundary: u32::MAX as u64,
};

fn config(engine: Engine, slots: u32, areas: u32) -> SwiotlbConfig {
    SwiotlbConfig {
        engine,
        slots,
        areas,
        page_bytes: 4096,
        start: 0,
        growth_run_ns: 1000,
    }
}

fn request(cpu: u32, original: u64, bytes: u64) -> Request {
    Request {
        cpu,
        original,
        bytes,
        alloc_align_mask: 0,
    }
}

fn need(engine: Engine, device: &DeviceLimits, request: &Request) -> Need {
    Need::new(engine, 4096, device, request)
}

/// A small generator with a fixed sequence per seed (Marsaglia's xorshift).
struct Rng(u64);

impl Rng {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

#[test]
fn the_worked_examples_of_6_12_come_out() {
    let plain = DeviceLimits::default();
    let granule = |original, bytes| Request {
        alloc_align_mask: 4095,
        ..request(0, original, bytes)
    };
    let cases = [
        (NVME, request(0, 0x1e00, 4096), 3, 0, 0x600),
        (plain, granule(0x1e00, 0x300), 2, 0, 0),
        (NVME, granule(0x1e00, 0x300), 4, 1, 0x600),
        (plain, request(0, 0x1e00, 4096), 2, 0, 0),
        (plain, request(0, 0x1e00, 4095), 2, 0, 0),
    ];
    for (device, request, slots, pad, offset) in cases {
        let need = need(Engine::Linux6_12, &device, &request);
        let found = (need.slots, need.pad_slots, need.offset_bytes);
        assert_eq!(found, (slots, pad, offset), "{request:?}");
    }
}

#[test]
fn a_page_keeps_page_alignment_only_without_masks() {
    let plain = DeviceLimits::default();
    assert_eq!(
        need(Engine::Linux6_12, &plain, &request(0, 0x1e00, 4096)).zero_bits,
        4095
    );
    assert_eq!(
        need(Engine::Linux6_12, &plain, &request(0, 0x1e00, 4095)).zero_bits,
        2047
    );
    let nvme = need(Engine::Linux6_12, &NVME, &request(0, 0x1e00, 4096));
    assert_eq!((nvme.zero_bits, nvme.equal_bits), (2047, 2048));
}

#[test]
fn a_page_of_nvme_steps_by_eight_kibibytes_in_6_1_and_by_four_in_6_12() {
    let placed = |engine| {
        let mut memory = Swiotlb::new(config(engine, 512, 1));
        let mut map = || {
            memory
                .map(0, &NVME, &request(0, 0x5000, 4096))
                .unwrap()
                .offset_bytes
        };
        [map(), map(), map()]
    };
    assert_eq!(placed(Engine::Linux6_1), [0, 8192, 16384]);
    assert_eq!(placed(Engine::Linux6_12), [0, 4096, 8192]);
}

#[test]
fn the_low_bits_under_the_mask_survive() {
    for engine in [Engine::Linux6_1, Engine::Linux6_12] {
        let mut memory = Swiotlb::new(config(engine, 512, 2));
        let mut rng = Rng(7);
        for _ in 0..40 {
            let original = rng.below(1 << 40);
            let slots = memory.map(0, &NVME, &request(1, original, 100)).unwrap();
            assert_eq!(slots.offset_bytes % 4096, original % 4096, "{engine}");
        }
    }
}

#[test]
fn the_next_search_begins_behind_the_last_mapping() {
    let device = DeviceLimits::default();
    let mut memory = Swiotlb::new(config(Engine::Linux6_12, 256, 1));
    let first = memory.map(0, &device, &request(0, 0x800, 2048)).unwrap();
    memory.unmap(&first);
    let second = memory.map(0, &device, &request(0, 0x800, 2048)).unwrap();
    assert_eq!((first.first, second.first), (0, 1));
    for _ in 0..254 {
        let slots = memory.map(0, &device, &request(0, 0x800, 2048)).unwrap();
        memory.unmap(&slots);
    }
    assert_eq!(
        memory
            .map(0, &device, &request(0, 0x800, 2048))
            .unwrap()
            .first,
        0
    );
}

#[test]
fn a_full_area_steals_from_the_next_one_and_then_fails_with_the_numbers() {
    let device = DeviceLimits::default();
    let mut memory = Swiotlb::new(config(Engine::Linux6_12, 512, 4));
    let firsts: Vec<u32> = (0..4)
        .map(|_| {
            memory
                .map(0, &device, &request(2, 0x1000, 128 * 2048))
                .unwrap()
                .first
        })
        .collect();
    assert_eq!(firsts, [256, 384, 0, 128]);
    let failure = memory.map(0, &device, &request(2, 0x1000, 1)).unwrap_err();
    assert_eq!(
        failure,
        MapFailure::Full {
            wanted: 1,
            total: 512,
            used: 512
        }
    );
}

#[test]
fn no_mapping_is_longer_than_a_segment_whatever_is_free() {
    for engine in Engine::ALL {
        let mut memory = Swiotlb::new(config(engine, 32768, 1));
        let device = DeviceLimits::default();
        assert!(
            memory
                .map(0, &device, &request(0, 0x1000, MAPPING_BYTES_MAX))
                .is_ok()
        );
        let failure = memory.map(0, &device, &request(0, 0x1000, MAPPING_BYTES_MAX + 1));
        assert!(
            matches!(failure, Err(MapFailure::TooLong { .. })),
            "{engine}"
        );
        // What the mask keeps counts too: 252 KiB are served, a page more is not.
        assert!(
            memory
                .map(0, &NVME, &request(0, 0x1fff, 252 * 1024))
                .is_ok()
        );
        assert!(
            memory
                .map(0, &NVME, &request(0, 0x1fff, 256 * 1024))
                .is_err()
        );
    }
}

#[test]
fn no_mapping_crosses_the_device_segment_boundary() {
    let device = DeviceLimits {
        segment_boundary: 0xffff,
        ..DeviceLimits::default()
    };
    let start = 0x7b92_6000;
    let config = SwiotlbConfig {
        start,
        ..config(Engine::Linux6_12, 1024, 1)
    };
    let mut memory = Swiotlb::new(config);
    let mut rng = Rng(99);
    let mut served = 0;
    for _ in 0..60 {
        let bytes = 1 + rng.below(0x1_0000);
        if let Ok(slots) = memory.map(0, &device, &request(0, 0x800, bytes)) {
            let first = start + slots.offset_bytes;
            assert_eq!(
                first >> 16,
                (first + bytes - 1) >> 16,
                "{bytes} at {first:#x}"
            );
            served += 1;
        }
    }
    assert!(served > 20);
}

#[test]
fn the_high_water_moves_only_with_a_mapping() {
    let device = DeviceLimits::default();
    let mut memory = Swiotlb::new(config(Engine::Linux6_12, 512, 1));
    let held = memory.map(0, &device, &request(0, 0x800, 4096)).unwrap();
    memory.reset_high_water();
    assert_eq!(
        (memory.counters().used, memory.counters().high_water),
        (2, 0)
    );
    let more = memory.map(0, &device, &request(0, 0x800, 1)).unwrap();
    assert_eq!(memory.counters().high_water, 3);
    memory.unmap(&held);
    memory.unmap(&more);
    assert_eq!(
        (memory.counters().used, memory.counters().high_water),
        (0, 3)
    );
}

#[test]
fn a_miss_is_served_by_its_own_pool_until_the_worker_has_run() {
    let device = DeviceLimits::default();
    let mut memory = Swiotlb::new(config(Engine::Linux6_12Dynamic, 256, 1));
    for _ in 0..2 {
        memory
            .map(0, &device, &request(0, 0x1000, MAPPING_BYTES_MAX))
            .unwrap();
    }
    let transient = memory.map(10, &device, &request(3, 0x1000, 5000)).unwrap();
    assert!(transient.is_transient);
    assert_eq!(memory.counters().transient_slots, 3);
    assert_eq!(memory.take_growth_request(), Some(3));
    memory.start_growth_at(500);
    assert!(
        memory
            .map(1499, &device, &request(0, 0x1000, 1))
            .unwrap()
            .is_transient
    );
    // The second miss fell into the worker's run, so it runs once more.
    memory.start_growth_at(1499);
    let grown = memory.map(1500, &device, &request(0, 0x1000, 1)).unwrap();
    assert!(!grown.is_transient && grown.pool != PoolId(0));
    memory.unmap(&transient);
    memory.map(2500, &device, &request(0, 0x1000, 1)).unwrap();
    assert_eq!(
        (memory.counters().grown_pools, memory.counters().pool_slots),
        (2, 3 * 256)
    );
    assert_eq!(memory.counters().transient_slots, 1);
}

#[test]
fn a_transient_pool_begins_at_a_page_whatever_the_mask_wants() {
    let mut memory = Swiotlb::new(config(Engine::Linux6_12Dynamic, 128, 1));
    memory
        .map(0, &NVME, &request(0, 0x1000, MAPPING_BYTES_MAX))
        .unwrap();
    let failure = memory.map(0, &NVME, &request(0, 0x1800, 100)).unwrap_err();
    assert_eq!(failure, MapFailure::TransientMisaligned { wanted: 1 });
    assert!(
        memory
            .map(0, &NVME, &request(0, 0x1400, 100))
            .unwrap()
            .is_transient
    );
}

#[test]
fn the_newest_pool_is_searched_first() {
    let device = DeviceLimits::default();
    let mut memory = Swiotlb::new(config(Engine::Linux6_12Dynamic, 256, 2));
    for _ in 0..2 {
        memory
            .map(0, &device, &request(0, 0x1000, MAPPING_BYTES_MAX))
            .unwrap();
    }
    let held = memory.map(0, &device, &request(0, 0x1000, 1)).unwrap();
    memory.start_growth_at(0);
    let grown = memory.map(1000, &device, &request(0, 0x1000, 1)).unwrap();
    assert!(grown.pool > held.pool);
    assert_eq!(grown.first, 0);
}

/// A pool without free-run lists: every candidate's slots are looked at one by one.
struct Naive {
    taken: Vec<bool>,
    cursors: Vec<u32>,
    area_slots: u32,
}

impl Naive {
    fn new(slots: u32, areas: u32) -> Self {
        Self {
            taken: vec![false; slots as usize],
            cursors: vec![0; areas as usize],
            area_slots: slots / areas,
        }
    }

    fn fits(&self, first: u32, slots: u32) -> bool {
        first % SEGMENT_SLOTS + slots <= SEGMENT_SLOTS
            && (first..first + slots).all(|slot| self.taken.get(slot as usize) == Some(&false))
    }

    fn find(&self, area: u32, need: &Need, original: u64) -> Option<u32> {
        let base = area * self.area_slots;
        let mut at = self.cursors[area as usize];
        if need.rounds_cursor {
            at = at.div_ceil(need.stride) * need.stride;
        }
        let mut tried = 0;
        while tried < self.area_slots {
            at = if at >= self.area_slots { 0 } else { at };
            let dma = u64::from(base + at) * SLOT_BYTES;
            if !need.accepts(dma, original) {
                at += 1;
                tried += 1;
            } else if self.fits(base + at, need.slots) {
                return Some(base + at);
            } else {
                at += need.stride;
                tried += need.stride;
            }
        }
        None
    }

    fn set(&mut self, first: u32, slots: u32, taken: bool) {
        self.taken[first as usize..(first + slots) as usize].fill(taken);
        if taken {
            let area = first / self.area_slots;
            let end = first - area * self.area_slots + slots;
            self.cursors[area as usize] = if end >= self.area_slots { 0 } else { end };
        }
    }
}

fn check_runs(pool: &Pool, naive: &Naive, seed: u64) {
    let (counted, zeroes) = pool.used_both_ways();
    assert_eq!(counted, zeroes, "seed {seed}");
    for (slot, run) in pool.runs().iter().enumerate() {
        let end = (slot / 128 + 1) * 128;
        let free = (slot..end)
            .take_while(|slot| naive.taken.get(*slot) == Some(&false))
            .count();
        assert_eq!(usize::from(*run), free, "slot {slot}, seed {seed}");
    }
}

#[test]
fn the_pool_agrees_with_one_that_looks_at_every_slot() {
    let factor = std::env::var("DMAKIT_STEPS")
        .ok()
        .and_then(|v| v.parse().ok())
        .unwrap_or(1_u64);
    let seed0: u64 = std::env::var("DMAKIT_SEED")
        .ok()
        .and_then(|v| v.parse().ok())
        .unwrap_or(1);
    for seed in seed0..seed0 + 8 {
        let mut rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let areas = 1 << rng.below(3);
        let slots = areas * 128 * (1 + rng.below(4) as u32);
        let engine = Engine::ALL[rng.below(2) as usize];
        let (mut pool, mut naive) = (Pool::new(0, slots, areas), Naive::new(slots, areas));
        let mut held: Vec<(u32, u32)> = Vec::new();
        let bytes_max = [3000, 20_000, MAPPING_BYTES_MAX][rng.below(3) as usize];
        for step in 0..5_000 * factor {
            if rng.below(100) < 55 {
                let device = if rng.below(2) == 0 {
                    NVME
                } else {
                    DeviceLimits::default()
                };
                let request = request(0, rng.below(1 << 20), 1 + rng.below(bytes_max));
                let need = need(engine, &device, &request);
                let area = rng.below(u64::from(areas)) as u32;
                let found = pool.find(area, &need, request.original, &mut 0);
                let expected = naive.find(area, &need, request.original);
                assert_eq!(found, expected, "step {step}, seed {seed}, {request:?}");
                if let Some(first) = found {
                    pool.take(first, need.slots);
                    naive.set(first, need.slots, true);
                    held.push((first, need.slots));
                }
            } else if !held.is_empty() {
                let (first, slots) = held.swap_remove(rng.below(held.len() as u64) as usize);
                pool.give_back(first, slots);
                naive.set(first, slots, false);
            }
            if step % 500 == 0 {
                check_runs(&pool, &naive, seed);
            }
        }
        check_runs(&pool, &naive, seed);
    }
}
