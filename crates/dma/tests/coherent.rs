//! Coherent memory, and the pools that are made of it.

mod rig;

use std::collections::BTreeSet;
use std::time::Duration;

use dmakit_addr::{Attributes, BoundaryMask, DmaMask};
use dmakit_dma::{
    BlockLayout, Coherence, CoherentError, CoherentPool, CoherentPoolConfig, CoherentSource,
    Device, DeviceInfo, DmaPool, Maintained, PageChunk, PoolChunk, PoolError, field,
};
use dmakit_platform::{Instant, NoMemory, Platform, Segment, SegmentRequest, TableMemory};
use dmakit_sim::{FaultPlan, SimDevice, Step};
use rig::{Forgetful, LOW, PathKind, RAM_BYTES, Rig, pattern};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// A descriptor as a network card might have it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Descriptor {
    addr: u64,
    len: u32,
    index: u16,
    flags: u8,
    status: u8,
    tag: [u8; 3],
    odd: zerocopy::little_endian::U32,
    last: u8,
}

const NONE: Attributes = Attributes::NONE;

fn device(rig: &Rig) -> (SimDevice, Device<'_, Forgetful>) {
    let (sim, info) = rig.device(1, 64, Coherence::Coherent);
    (sim, rig.attach(info, PathKind::Direct))
}

fn device_with<'r>(
    rig: &'r Rig,
    coherent: CoherentSource<'r>,
    change: impl FnOnce(&mut DeviceInfo<'_>),
) -> Device<'r, Forgetful> {
    let (_, mut info) = rig.device(1, 64, Coherence::Coherent);
    change(&mut info);
    Device::new(
        rig.platform.clone(),
        info,
        rig.path(PathKind::Always),
        coherent,
    )
}

#[test]
fn device_and_cpu_see_the_same_fields() {
    let rig = Rig::coherent(1);
    let (sim, device) = device(&rig);
    let ring = device.alloc_coherent::<Descriptor>(200, NONE).unwrap();
    let view = device.view(&ring).unwrap();
    let one = view.at(3).unwrap();
    assert_eq!(one.read().as_bytes(), [0; 24], "it begins zeroed");
    one.store(field!(Descriptor, addr), 0x1122_3344_5566_7788);
    one.store(field!(Descriptor, len), 0xaabb_ccdd);
    one.store(field!(Descriptor, index), 0x0102);
    one.store(field!(Descriptor, status), 0x7e);
    one.store(field!(Descriptor, tag), [1, 2, 3]);
    one.store(field!(Descriptor, odd), 0x0a0b_0c0d.into());
    let mut seen = [0; 24];
    let addr = ring.dma_addr_of(3).unwrap();
    assert_eq!(addr.raw(), ring.dma_addr().raw() + 72);
    sim.read(addr, &mut seen).unwrap();
    let expected = [
        0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0xdd, 0xcc, 0xbb, 0xaa, 2, 1, 0, 0x7e, 1,
        2, 3, 0xd, 0xc, 0xb, 0xa, 0,
    ];
    assert_eq!(seen, expected);
    sim.write(addr, &pattern(1, 24)).unwrap();
    let whole = one.read();
    assert_eq!(whole.as_bytes(), pattern(1, 24));
    assert_eq!(one.load(field!(Descriptor, addr)), whole.addr);
    assert_eq!(one.load(field!(Descriptor, len)), whole.len);
    assert_eq!(one.load(field!(Descriptor, index)), whole.index);
    assert_eq!(one.load(field!(Descriptor, flags)), whole.flags);
    assert_eq!(one.load(field!(Descriptor, tag)), whole.tag);
    assert_eq!(one.load(field!(Descriptor, odd)), whole.odd);
    assert!(view.at(200).is_none() && ring.dma_addr_of(200).is_none());
    view.at(199).unwrap().write(&whole);
    device.free_coherent(ring).unwrap();
    assert_eq!(rig.memory.outstanding_bytes(), 2 << 20, "the bounce pool's");
}

#[test]
fn coherent_memory_obeys_its_own_mask_and_its_alignment() {
    let rig = Rig::coherent(2);
    let low = DmaMask::up_to(LOW + 0x4000_0000 + RAM_BYTES - 1);
    let device = device_with(&rig, CoherentSource::Cached(&rig.memory), |info| {
        info.coherent_mask = low;
    });
    for len in [1_usize, 4097, 70_000] {
        let block = device.alloc_coherent::<u8>(len, NONE).unwrap();
        let align = (len as u64).next_multiple_of(4096).next_power_of_two();
        assert_eq!(block.dma_addr().raw() % align, 0);
        assert!(low.reaches(&block.dma_range()));
        device.free_coherent(block).unwrap();
    }
    let narrow = device_with(&rig, CoherentSource::Cached(&rig.memory), |info| {
        info.coherent_mask = DmaMask::up_to(LOW);
    });
    let refused = narrow.alloc_coherent::<u8>(1, NONE).unwrap_err();
    assert_eq!(
        refused,
        CoherentError::NoReach {
            reach: DmaMask::up_to(LOW)
        }
    );
}

#[test]
fn what_cannot_be_coherent_is_refused() {
    let rig = Rig::non_coherent(3);
    let (_, info) = rig.device(1, 64, Coherence::NonCoherent);
    let make = |source| {
        Device::new(
            rig.platform.clone(),
            info,
            rig.path(PathKind::Direct),
            source,
        )
    };
    let cached = make(CoherentSource::Cached(&rig.memory));
    assert_eq!(
        cached.alloc_coherent::<u8>(1, NONE).unwrap_err(),
        CoherentError::NotCoherent
    );
    // The memory is what the embedder says it is.
    let uncached = make(CoherentSource::Uncached(&rig.memory));
    let block = uncached.alloc_coherent::<u8>(1, NONE).unwrap();
    assert!(
        cached.free_coherent(block).is_ok(),
        "one device, two handles"
    );
    let bare = make(CoherentSource::None);
    assert_eq!(
        bare.alloc_coherent::<u8>(1, NONE).unwrap_err(),
        CoherentError::NoSource
    );
    let refused = uncached
        .alloc_coherent::<u64>(usize::MAX, NONE)
        .unwrap_err();
    assert_eq!(
        refused,
        CoherentError::TooLarge {
            count: usize::MAX,
            size: 8
        }
    );
    assert_eq!(
        uncached.alloc_coherent::<u8>(0, NONE).unwrap_err(),
        CoherentError::Empty
    );
    for attributes in [
        Attributes::MMIO,
        Attributes::SKIP_CPU_SYNC,
        Attributes::from_bits(1 << 13),
    ] {
        let refused = uncached.alloc_coherent::<u8>(1, attributes).unwrap_err();
        assert_eq!(refused, CoherentError::Attributes(attributes));
    }
    let licences =
        Attributes::WRITE_COMBINE | Attributes::ALLOC_SINGLE_PAGES | Attributes::PRIVILEGED;
    let block = uncached.alloc_coherent::<u8>(1, licences).unwrap();
    uncached.free_coherent(block).unwrap();
}

#[test]
fn a_block_goes_home_and_nowhere_else() {
    let rig = Rig::coherent(4);
    let (_, one) = device(&rig);
    let (_, info) = rig.device(2, 64, Coherence::Coherent);
    let other = rig.attach(info, PathKind::Direct);
    let block = one.alloc_coherent::<u32>(4, NONE).unwrap();
    assert!(other.view(&block).is_none());
    let refused = other.free_coherent(block).unwrap_err();
    assert_eq!(refused.owner, one.info().id);
    let pool = pool(&one, 64, 64, BoundaryMask::NONE);
    let refused = pool.free(refused.block).unwrap_err();
    one.free_coherent(refused.block).unwrap();
    let small = pool.alloc::<u64>().unwrap();
    let refused = one.free_coherent(small).unwrap_err();
    pool.free(refused.block).unwrap();
    pool.destroy(&one).unwrap();
    assert_eq!(one.remove().unwrap().coherent_live(), 0);
}

#[test]
fn a_restricted_device_gets_coherent_memory_from_its_pool() {
    let rig = Rig::coherent(5);
    let (sim, info) = rig.device(1, 64, Coherence::Coherent);
    let device = Device::new(
        rig.platform.clone(),
        info,
        rig.path(PathKind::Always),
        CoherentSource::Pool,
    );
    let ring = device.alloc_coherent::<Descriptor>(300, NONE).unwrap();
    assert_eq!(ring.dma_addr().raw() % 8192, 0, "naturally aligned");
    assert!(rig.pool.used() > 0);
    device
        .view(&ring)
        .unwrap()
        .at(299)
        .unwrap()
        .store(field!(Descriptor, last), 9);
    let mut seen = [0];
    sim.read(
        dmakit_addr::DmaAddr::new(ring.dma_addr().raw() + 24 * 300 - 1),
        &mut seen,
    )
    .unwrap();
    assert_eq!(seen, [9]);
    device.free_coherent(ring).unwrap();
    assert_eq!(rig.pool.used(), 0);
    let pool = DmaPool::new(
        &device,
        BlockLayout::new(64, 64, BoundaryMask::NONE).unwrap(),
        chunks(1),
    );
    assert_eq!(pool.refill(&device, 1), Err(CoherentError::Indivisible));
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
    let (_, device) = device(&rig);
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
    let (_, device) = device(&rig);
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
    let (_, device) = device(&rig);
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
        let (_, device) = device(&rig);
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
    device_with(rig, CoherentSource::Cached(&rig.memory), |info| {
        info.coherent_mask = DmaMask::up_to(LOW + 0x4000_0000 + RAM_BYTES - 1);
    })
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
    let (_, device) = device(&rig);
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
        .in_interrupt(|| pool.alloc::<Descriptor>(300))
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
    let (_, device) = device(&rig);
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
    let (_, device) = device(&rig);
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
    let (_, device) = device(&rig);
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
        let (_, device) = device(&rig);
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

/// A provider that does not look at what it is asked.
struct Careless(std::sync::Mutex<Vec<Segment>>);

impl TableMemory for Careless {
    fn allocate_table(&self, request: &SegmentRequest) -> Result<Segment, NoMemory> {
        let none = NoMemory {
            request: *request,
            largest_free: None,
        };
        self.0.lock().unwrap().pop().ok_or(none)
    }

    fn free_table(&self, segment: Segment) {
        self.0.lock().unwrap().push(segment);
    }
}

#[test]
fn what_a_careless_provider_gives_is_checked_and_goes_back() {
    let rig = Rig::coherent(14);
    let careless = Careless(std::sync::Mutex::new(vec![rig.segment(8192, true)]));
    let low = DmaMask::up_to(LOW + 0x4000_0000 + RAM_BYTES - 1);
    let device = device_with(&rig, CoherentSource::Cached(&careless), |info| {
        info.coherent_mask = low;
    });
    let refused = device.alloc_coherent::<u8>(1, NONE).unwrap_err();
    assert!(matches!(refused, CoherentError::OutOfReach { reach, .. } if reach == low));
    assert_eq!(careless.0.lock().unwrap().len(), 1);

    // A bus that shifts by less than a page: aligned for the CPU is not aligned for the device.
    let whole = careless.0.lock().unwrap()[0].range();
    let ranges = [dmakit_dma::BusRange {
        phys: whole,
        dma: dmakit_addr::DmaAddr::new(0x1_0200),
    }];
    let device = device_with(&rig, CoherentSource::Cached(&careless), |info| {
        info.bus = dmakit_dma::BusMap::new(Vec::leak(ranges.into())).unwrap();
    });
    let refused = device.alloc_coherent::<u8>(1, NONE).unwrap_err();
    assert!(
        matches!(refused, CoherentError::Misaligned { align: 4096, .. }),
        "{refused}"
    );
    assert_eq!(careless.0.lock().unwrap().len(), 1);
    assert_eq!(device.stats().coherent_allocated, 0);
}
