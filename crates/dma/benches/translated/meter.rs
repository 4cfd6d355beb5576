//! A machine that counts what is done on it. The tables' walker is taken to go past the CPU's caches,
//! so that every entry that is written is cleaned too, and shows here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dmakit_addr::PhysRange;
use dmakit_io_pgtable::WalkCoherence;
use dmakit_platform::host::{
    CheckedIrqLock, CheckedSleepLock, HostPlatform, ThreadContext, ThreadCpu,
};
use dmakit_platform::{Barrier, ConversionError, Instant, Platform};

use super::machine::{Machine, Mode, Strict};
use super::turns::Way;

/// What a number of turns did.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counts {
    /// Table entries written.
    pub stores: u64,
    /// Addresses taken; twice where another CPU's were fetched for it.
    pub addresses: u64,
    /// Interrupt-safe locks taken.
    pub locks: u64,
    /// Full barriers.
    pub fences: u64,
    /// Times that a CPU was entered.
    pub entries: u64,
    /// Looks at the clock.
    pub looks: u64,
    /// Commands that hardware got.
    pub commands: u64,
    /// Waits for hardware.
    pub syncs: u64,
}

impl Counts {
    pub fn since(&self, before: &Self) -> Self {
        Self {
            stores: self.stores - before.stores,
            addresses: self.addresses - before.addresses,
            locks: self.locks - before.locks,
            fences: self.fences - before.fences,
            entries: self.entries - before.entries,
            looks: self.looks - before.looks,
            commands: self.commands - before.commands,
            syncs: self.syncs - before.syncs,
        }
    }
}

#[derive(Default)]
struct Seen {
    own_locks: AtomicU64,
    stores: AtomicU64,
    fences: AtomicU64,
    entries: AtomicU64,
    looks: AtomicU64,
}

/// A host machine of one CPU that counts.
#[derive(Clone)]
pub struct Meter {
    host: HostPlatform,
    seen: Arc<Seen>,
}

impl Meter {
    pub fn new() -> Self {
        Self {
            host: HostPlatform::new(1),
            seen: Arc::default(),
        }
    }

    /// What was done so far on this machine, by this thread.
    pub fn counts(&self, machine: &Machine<Self>) -> Counts {
        let domain: &Strict<Self> = machine.strict();
        let before = ThreadContext::irq_locks_taken();
        let addresses = domain.space().statistics();
        let own = ThreadContext::irq_locks_taken() - before;
        // Looking takes locks too.
        let own = own + self.seen.own_locks.fetch_add(own, Ordering::Relaxed);
        let hardware = domain.hardware();
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            stores: get(&self.seen.stores),
            addresses: addresses.hits + addresses.misses,
            locks: ThreadContext::irq_locks_taken() - own,
            fences: get(&self.seen.fences),
            entries: get(&self.seen.entries),
            looks: get(&self.seen.looks),
            commands: get(&hardware.invalidations),
            syncs: get(&hardware.syncs),
        }
    }
}

/// Turns before anything is counted, and turns that are: each some whole queues and batches.
const TURNS: usize = 512;

/// Turns that [`counted`] counts.
pub const COUNTED: u64 = TURNS as u64;

/// What [`COUNTED`] turns do once the caches are warm.
pub fn counted(way: Way, mode: Mode, runs: &[PhysRange]) -> Counts {
    let meter = Meter::new();
    let machine = Machine::new(meter.clone(), mode, WalkCoherence::NonCoherent);
    let (mut before, mut after) = Default::default();
    way.take(&machine, mode, runs, 2 * TURNS, |turn| match turn {
        TURNS => before = meter.counts(&machine),
        turn if turn == 2 * TURNS => after = meter.counts(&machine),
        _ => {}
    });
    let (before, after): (Counts, Counts) = (before, after);
    after.since(&before)
}

impl Platform for Meter {
    type IrqLock = CheckedIrqLock;
    type SleepLock = CheckedSleepLock;
    type CpuGuard<'a> = ThreadCpu;

    fn now(&self) -> Instant {
        self.seen.looks.fetch_add(1, Ordering::Relaxed);
        self.host.now()
    }

    fn cpu_count(&self) -> usize {
        self.host.cpu_count()
    }

    fn enter_cpu(&self) -> ThreadCpu {
        self.seen.entries.fetch_add(1, Ordering::Relaxed);
        self.host.enter_cpu()
    }

    fn barrier(&self, barrier: Barrier) {
        if barrier == Barrier::Full {
            self.seen.fences.fetch_add(1, Ordering::Relaxed);
        }
        self.host.barrier(barrier);
    }

    fn cache_line_bytes(&self) -> u64 {
        self.host.cache_line_bytes()
    }

    fn clean(&self, range: PhysRange) {
        self.seen
            .stores
            .fetch_add(range.len() / 8, Ordering::Relaxed);
    }

    fn invalidate(&self, _: PhysRange) {}

    fn clean_invalidate(&self, _: PhysRange) {}

    fn share(&self, range: PhysRange) -> Result<(), ConversionError> {
        self.host.share(range)
    }

    fn unshare(&self, range: PhysRange) -> Result<(), ConversionError> {
        self.host.unshare(range)
    }
}
