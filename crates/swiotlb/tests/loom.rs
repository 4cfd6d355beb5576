//! Areas, stealing, spanning and the hand-over of grown pools under every interleaving of two or
//! three threads, preempted a bounded number of times. Run with `RUSTFLAGS="--cfg loom"`.
#![cfg(loom)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dmakit_addr::{DmaMask, PhysAddr, PhysRange, ToDevice};
use dmakit_platform::host::{HostRam, LoomLock};
use dmakit_platform::{
    ConversionError, CpuGuard, CpuId, Instant, NoMemory, Platform, PoolMemory, Segment,
    SegmentRequest,
};
use dmakit_swiotlb::{
    BounceConfig, BouncePool, DeviceLimits, Fit, GrowthConfig, MapRequest, Record, SlotPool,
    SlotPoolConfig,
};
use loom::sync::atomic::{AtomicBool, Ordering};

#[derive(Clone)]
struct Machine;

struct OnCpu;

impl CpuGuard for OnCpu {
    fn cpu(&self) -> CpuId {
        CpuId::new(0)
    }
}

impl Platform for Machine {
    type IrqLock = LoomLock;
    type SleepLock = LoomLock;
    type CpuGuard<'a> = OnCpu;

    fn now(&self) -> Instant {
        Instant::default()
    }

    fn cpu_count(&self) -> usize {
        2
    }

    fn enter_cpu(&self) -> OnCpu {
        OnCpu
    }

    fn cache_line_bytes(&self) -> u64 {
        64
    }

    fn clean(&self, _range: PhysRange) {}

    fn invalidate(&self, _range: PhysRange) {}

    fn clean_invalidate(&self, _range: PhysRange) {}

    fn share(&self, _range: PhysRange) -> Result<(), ConversionError> {
        Ok(())
    }

    fn unshare(&self, _range: PhysRange) -> Result<(), ConversionError> {
        Ok(())
    }
}

fn check(body: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.max_branches = 20_000;
    builder.check(body);
}

fn pool(slots: u32, areas: u32) -> Arc<SlotPool<Machine>> {
    let pool = SlotPool::new(&SlotPoolConfig {
        slots,
        areas,
        devices: 1,
        credit_batch: 8,
    });
    // Takes every lock, which makes it.
    assert_eq!(pool.used(), 0);
    Arc::new(pool)
}

fn take(pool: &SlotPool<Machine>, cpu: u32, slots: u32) -> Option<u32> {
    let record = Record {
        slots,
        offset: 0,
        tail: 0,
        device: 0,
        flags: 0,
    };
    pool.take(&Fit::anywhere(slots), CpuId::new(cpu), record)
        .ok()
}

/// Slots in somebody's hands, outside of what the checker sees.
#[derive(Clone, Default)]
struct Held(Arc<Mutex<BTreeMap<u32, u32>>>);

impl Held {
    fn add(&self, first: u32, slots: u32) {
        let mut held = self.0.lock().unwrap();
        let below = held.range(..first + slots).next_back();
        assert!(
            below.is_none_or(|(at, count)| at + count <= first),
            "handed out twice"
        );
        held.insert(first, slots);
    }

    fn remove(&self, first: u32) {
        self.0.lock().unwrap().remove(&first).unwrap();
    }
}

#[test]
fn two_cpus_never_get_the_same_slot_when_one_steals() {
    check(|| {
        let pool = pool(256, 2);
        // Area 0 has one slot left, so that the second of its CPUs must steal.
        assert_eq!(take(&pool, 0, 127), Some(0));
        let held = Held::default();
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let (pool, held) = (pool.clone(), held.clone());
                loom::thread::spawn(move || {
                    let first = take(&pool, 0, 1).unwrap();
                    held.add(first, 1);
                    held.remove(first);
                    pool.give_back(first, 0).unwrap();
                })
            })
            .collect();
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
        assert_eq!(pool.used(), 127);
    });
}

#[test]
fn what_was_freed_before_is_found_however_stale_the_hints_look() {
    check(|| {
        let pool = pool(256, 2);
        let all = take(&pool, 0, 256).unwrap();
        pool.give_back(all, 0).unwrap();
        let low = take(&pool, 0, 128).unwrap();
        let high = take(&pool, 1, 128).unwrap();
        let freed = Arc::new(AtomicBool::new(false));
        let other = {
            let (pool, freed) = (pool.clone(), freed.clone());
            loom::thread::spawn(move || {
                pool.give_back(high, 0).unwrap();
                freed.store(true, Ordering::Release);
            })
        };
        let was_freed = freed.load(Ordering::Acquire);
        let got = take(&pool, 0, 64);
        assert!(!was_freed || got.is_some());
        other.join().unwrap();
        pool.give_back(low, 0).unwrap();
    });
}

#[test]
fn a_mapping_across_areas_is_taken_whole_or_not_at_all() {
    check(|| {
        let pool = pool(256, 2);
        let held = Held::default();
        let spanning = {
            let (pool, held) = (pool.clone(), held.clone());
            loom::thread::spawn(move || {
                if let Some(first) = take(&pool, 0, 200) {
                    held.add(first, 200);
                    held.remove(first);
                    pool.give_back(first, 0).unwrap();
                }
            })
        };
        let in_one = take(&pool, 1, 100);
        if let Some(first) = in_one {
            held.add(first, 100);
            held.remove(first);
            pool.give_back(first, 0).unwrap();
        }
        spanning.join().unwrap();
        assert_eq!(pool.used(), 0);
        assert_eq!(take(&pool, 0, 256), Some(0));
    });
}

/// One block of memory for one grown pool, and the reserve.
struct Blocks {
    free: Mutex<Vec<Segment>>,
    /// Given back and therefore somebody else's.
    gone: Mutex<Vec<PhysRange>>,
}

#[derive(Clone)]
struct Provider(Arc<Blocks>);

impl PoolMemory for Provider {
    fn allocate_pool(&self, request: &SegmentRequest) -> Result<Segment, NoMemory> {
        let none = NoMemory {
            request: *request,
            largest_free: None,
        };
        self.0.free.lock().unwrap().pop().ok_or(none)
    }

    fn free_pool(&self, segment: Segment) {
        self.0.gone.lock().unwrap().push(segment.range());
        self.0.free.lock().unwrap().insert(0, segment);
    }
}

#[test]
fn a_grown_pool_goes_only_when_nobody_uses_or_sees_it() {
    check(|| {
        let range = |start| PhysRange::new(PhysAddr::new(start), 4096).unwrap();
        let ranges = [range(0x10_0000), range(0x20_0000), range(0x30_0000)];
        let (_ram, mut segments) = HostRam::new(&ranges).unwrap();
        let first = segments.remove(0);
        let blocks = Provider(Arc::new(Blocks {
            free: Mutex::new(segments),
            gone: Mutex::default(),
        }));
        let growth = GrowthConfig {
            step: 4096,
            granule: 4096,
            bytes_max: 3 * 4096,
            reserve: 4096,
            headroom: 0,
            shrink_after: Duration::from_nanos(10),
            node: None,
            limit: DmaMask::ALL,
        };
        let config = BounceConfig {
            devices: 1,
            ..BounceConfig::default()
        };
        let set = BouncePool::growing(Machine, first, &config, growth, blocks.clone()).unwrap();
        let set = Arc::new(set);
        let device = set.attach(None).unwrap();
        let map = move |set: &BouncePool<Machine, Provider>| {
            let request = MapRequest::whole(PhysAddr::new(0), 4096);
            let limits = DeviceLimits::default();
            set.map::<ToDevice, _>(device, &limits, &[7; 4096][..], &request)
        };
        let resident = map(&set).unwrap();
        let transient = map(&set).unwrap();
        assert!(set.maintain(Instant::from_nanos(0), 4).grown_bytes > 0);
        set.unmap_unsynced(transient).unwrap();
        set.maintain(Instant::from_nanos(10), 4);
        set.statistics();
        // The grown pool is idle now: one thread gives it back while another maps.
        let upkeep = {
            let set = set.clone();
            loom::thread::spawn(move || {
                set.maintain(Instant::from_nanos(20), 4);
                set.maintain(Instant::from_nanos(30), 4);
            })
        };
        if let Ok(mapped) = map(&set) {
            let mine = PhysRange::new(mapped.start(), 4096).unwrap();
            let is_gone = |gone: &PhysRange| gone.overlaps(&mine);
            let gone = blocks.0.gone.lock().unwrap().iter().any(is_gone);
            assert!(!gone, "mapped in memory that was given back");
            set.unmap_unsynced(mapped).unwrap();
        }
        upkeep.join().unwrap();
        set.unmap_unsynced(resident).unwrap();
        assert_eq!(set.statistics().used, 0);
    });
}
