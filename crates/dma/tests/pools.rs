//! Pools that are made of coherent memory: small blocks, and pages for interrupts.

mod rig;

use std::collections::BTreeSet;
use std::time::Duration;

use dmakit_addr::{BoundaryMask, DmaMask};
use dmakit_dma::{
    BlockLayout, Coherence, CoherentError, CoherentPool, CoherentPoolConfig, CoherentSource,
    Device, DmaPool, Maintained, PageChunk, PoolChunk, PoolError,
};
use dmakit_platform::{Instant, NoMemory, Platform};
use dmakit_sim::{FaultPlan, Step};
use rig::{Forgetful, LOW, PathKind, RAM_BYTES, Rig};

fn device(rig: &Rig) -> Device<'_, Forgetful> {
    let (_, info) = rig.device(1, 64, Coherence::Coherent);
    rig.attach(info, PathKind::Direct)
}

fn chunks(count: usize) -> Vec<PoolChunk> {
    (0..count).map(|_| PoolChunk::default()).collect()
}

/// A pool with one chunk filled and room for three more.
fn pool<'r>(
    device: &Device<'r, Forgetful>,
    size: u64,
    align: u64,
    boundary: BoundaryMask,
) -> DmaPool<Forgetful, Vec<PoolChunk>> {
    let layout = BlockLayout::new(size, align, boundary).unwrap();
    let pool = DmaPool::new(device, layout, chunks(4));
    assert_eq!(pool.refill(device, 1), Ok(1));
    pool
}

#[test]
fn blocks_are_apart_aligned_and_within_their_boundaries() {
    let rig = Rig::coherent(6);
    let device = device(&rig);
    for (size, align, boundary, per_chunk) in [
        (16, 16, u64::MAX, 256),
        (64, 64, u64::MAX, 64),
        (68, 32, 0xfff, 42),
        (68, 4, 0xff, 48),
        (48, 16, 0x3f, 64),
        (1, 1, u64::MAX, 256),
        (1024, 8, u64::MAX, 4),
        (3000, 8, u64::MAX, 1),
        (4096, 4096, u64::MAX, 1),
        (5000, 8, 0x1fff, 1),
    ] {
        let boundary = BoundaryMask::new(boundary).unwrap();
        let pool = pool(&device, size, align, boundary);
        let case = format!("{size} {align} {boundary:?}");
        assert_eq!(pool.layout().blocks_per_chunk(), per_chunk, "{case}");
        let mut held = Vec::new();
        while let Ok(block) = pool.alloc::<u8>() {
            held.push(block);
        }
        assert_eq!(held.len(), per_chunk, "{case}");
        let mut starts = BTreeSet::new();
        for block in &held {
            let range = block.dma_range();
            assert!(
                range.len() >= size && range.start().raw() % align == 0,
                "{case}"
            );
            let own = dmakit_addr::DmaRange::new(range.start(), size).unwrap();
            assert!(!boundary.is_crossed_by(&own), "{case}: {own}");
            starts.insert(range.start());
        }
        let starts: Vec<_> = starts.into_iter().collect();
        assert_eq!(starts.len(), per_chunk, "{case}");
        assert!(
            starts
                .windows(2)
                .all(|pair| pair[1].raw() - pair[0].raw() >= size),
            "{case}"
        );
        held.into_iter().for_each(|block| pool.free(block).unwrap());
        pool.destroy(&device).unwrap();
    }
    assert_eq!(rig.memory.outstanding_bytes(), 2 << 20);
}

#[test]
fn impossible_layouts_are_refused() {
    for (size, align, boundary) in [
        (0, 1, u64::MAX),
        (17, 3, u64::MAX),
        (8, 8192, u64::MAX),
        (65, 1, 0x3f),
    ] {
        let boundary = BoundaryMask::new(boundary).unwrap();
        let refused = BlockLayout::new(size, align, boundary).unwrap_err();
        assert_eq!((refused.size, refused.align), (size, align));
    }
}

#[test]
fn an_empty_pool_asks_for_a_refill_and_gives_its_numbers() {
    let rig = Rig::coherent(7);
    let device = device(&rig);
    let pool = pool(&device, 2048, 8, BoundaryMask::NONE);
    let held: Vec<_> = (0..2).map(|_| pool.alloc::<u64>().unwrap()).collect();
    assert!(pool.wants_refill());
    let PoolError::Exhausted { wanted, stats } = pool.alloc::<u64>().unwrap_err() else {
        panic!("exhausted");
    };
    assert_eq!((wanted, stats.live, stats.free, stats.chunks), (1, 2, 0, 1));
    assert_eq!(
        pool.refill(&device, 9),
        Ok(3),
        "as many as there is room for"
    );
    assert_eq!(pool.refill(&device, 1), Ok(0), "nobody asked");
    let refused = pool.alloc::<[u64; 257]>().unwrap_err();
    assert_eq!(
        refused,
        PoolError::TooLarge {
            size: 2056,
            block: 2048
        }
    );
    let busy = pool.destroy(&device).unwrap_err();
    assert_eq!(busy.live, 2);
    held.into_iter()
        .for_each(|block| busy.pool.free(block).unwrap());
    busy.pool.destroy(&device).unwrap();
    device.remove().unwrap();
}

#[test]
fn a_pool_takes_no_block_of_another() {
    let rig = Rig::coherent(8);
    let device = device(&rig);
    let one = pool(&device, 64, 64, BoundaryMask::NONE);
    let other = pool(&device, 64, 64, BoundaryMask::NONE);
    let block = one.alloc::<u64>().unwrap();
    let refused = other.free(block).unwrap_err();
    assert_eq!((other.stats().live, one.stats().live), (0, 1));
    one.free(refused.block).unwrap();
}

#[test]
fn blocks_taken_and_freed_in_any_order_agree_with_a_plain_set() {
    for seed in 0..8 {
        let rig = Rig::coherent(seed);
        let device = device(&rig);
        let pool = pool(&device, 128, 64, BoundaryMask::NONE);
        let mut rng = dmakit_sim::Rng::new(seed);
        let mut held = Vec::new();
        let mut starts = BTreeSet::new();
        for step in 0..4000 {
            let case = format!("seed {seed}, step {step}");
            if rng.chance(if step % 1000 < 500 { 160 } else { 96 }) {
                match pool.alloc::<[u8; 128]>() {
                    Ok(block) => {
                        assert!(starts.insert(block.dma_addr()), "{case}: given twice");
                        held.push(block);
                    }
                    Err(_) => {
                        assert_eq!(held.len() % 32, 0, "{case}");
                        pool.refill(&device, 1).unwrap();
                    }
                }
            } else if !held.is_empty() {
                let block = held.swap_remove(rng.below(held.len() as u64) as usize);
                assert!(starts.remove(&block.dma_addr()), "{case}");
                pool.free(block).unwrap();
            }
            assert_eq!(pool.stats().live, held.len() as u64, "{case}");
            let stats = pool.stats();
            assert_eq!(stats.live + stats.free, stats.chunks as u64 * 32, "{case}");
        }
    }
}

/// A device whose coherent memory can only lie in one window, so that one failure is final.
fn low_device(rig: &Rig) -> Device<'_, Forgetful> {
    let (_, mut info) = rig.device(1, 64, Coherence::Coherent);
    info.coherent_mask = DmaMask::up_to(LOW + 0x4000_0000 + RAM_BYTES - 1);
    let (path, source) = (
        rig.path(PathKind::Always),
        CoherentSource::Cached(&rig.memory),
    );
    Device::new(rig.platform.clone(), info, path, source)
}

#[test]
fn a_failed_refill_leaves_the_pool_and_its_wish() {
    for nth in 0..3 {
        let rig = Rig::coherent(9);
        let device = low_device(&rig);
        let layout = BlockLayout::new(64, 64, BoundaryMask::NONE).unwrap();
        let pool = DmaPool::new(&device, layout, chunks(4));
        let plan = FaultPlan::none().after(Step::ALLOCATE_TABLE, nth);
        rig.machine.inject(&plan);
        let refused = pool.refill(&device, 3).unwrap_err();
        assert!(
            matches!(refused, CoherentError::NoMemory(NoMemory { .. })),
            "{nth}: {refused}"
        );
        assert!(pool.wants_refill());
        assert_eq!(pool.stats().chunks as u64, nth, "what came before stays");
        assert_eq!(device.stats().coherent_live(), nth);
        assert_eq!(pool.refill(&device, 3), Ok(3 - usize::from(nth == 2)));
        pool.destroy(&device).unwrap();
        assert_eq!(rig.memory.outstanding_bytes(), 2 << 20);
    }
}

#[test]
fn a_failed_growth_leaves_the_pool_and_its_wish() {
    // The first wish is for 16 pages and is halved down to one before it fails: five steps.
    for nth in 0..6 {
        let rig = Rig::coherent(9);
        let device = low_device(&rig);
        let pool = pages(&device);
        let first = FaultPlan::none().after(Step::ALLOCATE_TABLE, nth);
        rig.machine.inject(&first);
        let done = pool
            .maintain(&device, Instant::from_nanos(0), 1 << 20)
            .unwrap();
        let stats = pool.stats();
        assert_eq!(stats.free * 4096, done.added, "{nth}");
        assert!(
            done.added >= CONFIG.low_bytes,
            "one failure only halves a wish"
        );
        assert_eq!(device.stats().coherent_live(), stats.chunks as u64, "{nth}");
        pool.destroy(&device).unwrap();

        let always = FaultPlan::none().chance(Step::ALLOCATE_TABLE, 256, 0);
        rig.machine.inject(&always);
        let pool = pages(&device);
        let refused = pool.maintain(&device, Instant::from_nanos(0), 1 << 20);
        assert!(matches!(refused, Err(CoherentError::NoMemory(_))));
        assert!(pool.wants_maintenance());
        assert_eq!(pool.stats().chunks, 0);
        assert_eq!(rig.memory.outstanding_bytes(), 2 << 20);
    }
}

const CONFIG: CoherentPoolConfig = CoherentPoolConfig {
    low_bytes: 64 << 10,
    max_bytes: 1 << 20,
    calm: Duration::from_millis(10),
};

fn pages<'r>(device: &Device<'r, Forgetful>) -> CoherentPool<Forgetful, [PageChunk; 8]> {
    CoherentPool::new(device, CONFIG, Default::default())
}

#[test]
fn interrupts_are_served_from_what_maintenance_put_there() {
    let rig = Rig::coherent(10);
    let device = device(&rig);
    let pool = pages(&device);
    let now = Instant::from_nanos(0);
    assert!(matches!(
        pool.alloc::<u8>(1),
        Err(PoolError::Exhausted { .. })
    ));
    let added = Maintained {
        added: 64 << 10,
        released: 0,
    };
    assert_eq!(pool.maintain(&device, now, 8 << 20).unwrap(), added);
    let block = rig
        .machine
        .in_interrupt(|| pool.alloc::<[u64; 3]>(300))
        .unwrap();
    assert_eq!(block.dma_addr().raw() % 8192, 0);
    assert!(device.view(&block).unwrap().at(299).is_some());
    rig.machine.check().unwrap();
    assert!(pool.wants_maintenance(), "below the low mark");
    assert_eq!(
        pool.maintain(&device, now, 8 << 20).unwrap(),
        added,
        "it doubles"
    );
    rig.machine.in_interrupt(|| pool.free(block)).unwrap();
    rig.machine.check().unwrap();
    pool.destroy(&device).unwrap();
    device.remove().unwrap();
}

#[test]
fn memory_is_zeroed_each_time_it_is_given() {
    let rig = Rig::coherent(11);
    let device = device(&rig);
    let pool = pages(&device);
    pool.maintain(&device, Instant::from_nanos(0), 1 << 20)
        .unwrap();
    let block = pool.alloc::<u64>(512).unwrap();
    let addr = block.dma_addr();
    device.view(&block).unwrap().at(511).unwrap().write(&7);
    pool.free(block).unwrap();
    let again = pool.alloc::<u64>(512).unwrap();
    assert_eq!(again.dma_addr(), addr);
    assert_eq!(device.view(&again).unwrap().at(511).unwrap().read(), 0);
}

#[test]
fn a_burst_is_served_up_to_the_maximum_and_given_back_after_it() {
    let rig = Rig::coherent(12);
    let device = device(&rig);
    let pool = pages(&device);
    let mut now = rig.platform.now();
    let mut held = Vec::new();
    loop {
        match pool.alloc::<[u8; 4096]>(3) {
            Ok(block) => held.push(block),
            Err(_) => {
                if pool.maintain(&device, now, 1 << 20).unwrap().added == 0 {
                    break;
                }
            }
        }
    }
    let stats = pool.stats();
    assert_eq!((stats.live + stats.free) * 4096, CONFIG.max_bytes);
    held.into_iter().for_each(|block| pool.free(block).unwrap());
    let mut released = 0;
    for _ in 0..64 {
        let done = pool.maintain(&device, now, 1 << 20).unwrap();
        assert_eq!(done.added, 0);
        released += done.released;
        now = now.saturating_add(Duration::from_millis(1));
    }
    assert!(
        released * 10 >= (CONFIG.max_bytes - 2 * CONFIG.low_bytes) * 5,
        "{released}"
    );
    let stats = pool.stats();
    assert!(stats.free * 4096 >= 2 * CONFIG.low_bytes, "{stats:?}");
    assert!(!pool.wants_maintenance());
    pool.destroy(&device).unwrap();
}

#[test]
fn a_calm_moment_is_not_enough_to_shrink() {
    let rig = Rig::coherent(13);
    let device = device(&rig);
    let pool = pages(&device);
    let at = |ms: u64| Instant::from_nanos(ms * 1_000_000);
    let mut held = Vec::new();
    for _ in 0..6 {
        pool.maintain(&device, at(0), 1 << 20).unwrap();
        while let Ok(block) = pool.alloc::<[u8; 4096]>(1) {
            held.push(block);
        }
    }
    held.into_iter().for_each(|block| pool.free(block).unwrap());
    pool.maintain(&device, at(1), 1 << 20).unwrap();
    assert_eq!(pool.maintain(&device, at(2), 1 << 20).unwrap().released, 0);
    assert_eq!(pool.maintain(&device, at(11), 1 << 20).unwrap().released, 0);
    assert!(pool.maintain(&device, at(12), 1 << 20).unwrap().released > 0);
}

#[test]
fn pages_taken_and_freed_in_any_order_never_overlap() {
    for seed in 0..6 {
        let rig = Rig::coherent(seed);
        let device = device(&rig);
        let pool = pages(&device);
        let mut rng = dmakit_sim::Rng::new(seed);
        let mut held = Vec::new();
        for step in 0..3000_u64 {
            let case = format!("seed {seed}, step {step}");
            if rng.chance(140) {
                let count = 1 + rng.below(9) as usize;
                if let Ok(block) = pool.alloc::<[u8; 4096]>(count) {
                    let range = block.dma_range();
                    let align = 4096 * count.next_power_of_two() as u64;
                    assert_eq!(range.start().raw() % align, 0, "{case}");
                    let clash =
                        |other: &dmakit_dma::Coherent<_>| other.dma_range().overlaps(&range);
                    assert!(!held.iter().any(clash), "{case}");
                    held.push(block);
                }
            } else if !held.is_empty() {
                let block = held.swap_remove(rng.below(held.len() as u64) as usize);
                pool.free(block).unwrap();
            }
            if rng.chance(20) {
                let now = Instant::from_nanos(step * 1_000_000);
                pool.maintain(&device, now, 1 << 20).unwrap();
            }
            let pages: u64 = held
                .iter()
                .map(|block| block.dma_range().len() / 4096)
                .sum();
            assert_eq!(pool.stats().live, pages, "{case}");
        }
        held.into_iter().for_each(|block| pool.free(block).unwrap());
        pool.destroy(&device).unwrap();
        device.remove().unwrap();
    }
}
