//! Blocks that pass from CPU to CPU, under every interleaving, preempted a bounded number of times;
//! two blocks pass at once here. Run with `RUSTFLAGS="--cfg loom"`.
#![cfg(loom)]

use dmakit_addr::{DmaMask, Granule, Iova, IovaRange, PhysRange};
use dmakit_iova::{CpuCache, Policy, Request, Reservation, Space};
use dmakit_platform::host::LoomLock;
use dmakit_platform::{ConversionError, CpuGuard, CpuId, CpuSlot, Instant, Platform, RawSpinLock};
use loom::sync::Arc;
use loom::thread;

const G: u64 = 4096;

#[derive(Clone)]
struct Machine;

struct OnCpu(u32);

impl CpuGuard for OnCpu {
    fn cpu(&self) -> CpuId {
        CpuId::new(self.0)
    }
}

impl Platform for Machine {
    type IrqLock = LoomLock;
    type SleepLock = RawSpinLock;
    type CpuGuard<'a> = OnCpu;

    fn now(&self) -> Instant {
        Instant::from_nanos(0)
    }

    fn cpu_count(&self) -> usize {
        2
    }

    fn enter_cpu(&self) -> OnCpu {
        OnCpu(0)
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

type TestSpace = Space<Machine, [CpuSlot<CpuCache>; 2]>;

fn space(granules: u64) -> Arc<TestSpace> {
    let aperture = IovaRange::new(Iova::new(G), granules * G).unwrap();
    let slots = Default::default();
    Arc::new(Space::new(Granule::K4, aperture, Policy::LowFirst, slots).unwrap())
}

fn take(space: &TestSpace, cpu: u32, limit: DmaMask) -> Option<Reservation> {
    let request = Request {
        len: G,
        align: 1,
        limit,
    };
    space.alloc(&OnCpu(cpu), &request).ok()
}

fn give(space: &TestSpace, cpu: u32, taken: Vec<Reservation>) {
    for one in taken {
        space.free(&OnCpu(cpu), one);
    }
}

fn take_many(space: &TestSpace, cpu: u32, count: usize) -> Vec<Reservation> {
    (0..count)
        .map(|_| take(space, cpu, DmaMask::ALL).unwrap())
        .collect()
}

/// All is there again, and each block once.
fn nothing_is_lost(space: &TestSpace, granules: u64) {
    assert_eq!(space.statistics().used, 0);
    assert_eq!(space.statistics().refused, 0);
    let mut starts: Vec<_> = take_many(space, 0, granules as usize)
        .iter()
        .map(|one| one.range().start())
        .collect();
    starts.sort_unstable();
    starts.dedup();
    assert_eq!(starts.len() as u64, granules);
}

fn check(run: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.max_branches = 10_000;
    model.check(run);
}

#[test]
fn a_block_that_passes_between_cpus_is_handed_out_once() {
    check(|| {
        let space = space(15);
        // Four stay with this CPU, two wait for whoever is short.
        let all = take_many(&space, 0, 6);
        give(&space, 0, all);
        let other = space.clone();
        let thread = thread::spawn(move || take_many(&other, 1, 2));
        let mut mine = take_many(&space, 0, 5);
        let theirs = thread.join().unwrap();
        for one in &theirs {
            assert!(mine.iter().all(|my| my.range() != one.range()));
        }
        mine.extend(theirs);
        give(&space, 1, mine);
        space.flush_cpu(&OnCpu(0));
        space.flush_cpu(&OnCpu(1));
        nothing_is_lost(&space, 15);
    });
}

#[test]
fn a_request_that_fails_under_a_low_limit_loses_nothing_that_others_pass_on() {
    check(|| {
        let space = space(8);
        let (mine, theirs) = (take_many(&space, 0, 2), take_many(&space, 1, 6));
        let other = space.clone();
        // Six go back: two of them to the depot, unless it is being emptied.
        let thread = thread::spawn(move || give(&other, 1, theirs));
        let low = DmaMask::up_to(3 * G - 1);
        let got = take(&space, 0, low);
        assert_eq!(got, None, "both low ones are this CPU's own");
        thread.join().unwrap();
        give(&space, 0, mine);
        space.flush_cpu(&OnCpu(0));
        space.flush_cpu(&OnCpu(1));
        nothing_is_lost(&space, 8);
    });
}
