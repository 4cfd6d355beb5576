//! Invalidation put off, on purpose.

use alloc::boxed::Box;
use alloc::collections::TryReserveError;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::time::Duration;

use dmakit_addr::IovaRange;
use dmakit_io_pgtable::{FallenTables, Format, Gather};
use dmakit_iova::CpuCache;
use dmakit_platform::{CpuGuard, CpuSlot, Instant, IrqMutex, Platform, TableMemory};

use crate::error::UnmapFailure;
use crate::hardware::{Hardware, SyncError};
use crate::ticket::{Addresses, Epoch};
use crate::{Domain, Mapped, Ticket};

/// When a [`Lazy`] domain flushes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LazyConfig {
    /// Ranges that one CPU may have waiting: one more flushes at once.
    pub queue: usize,
    /// The longest that a range waits, if [`Lazy::maintain`] is called as often.
    pub age_max: Duration,
    /// So many ranges that follow one another in a queue share one look at the clock, which costs as
    /// much as the rest of an unmap: what is said of their exposure counts from the first of them, and
    /// is never too little. 1 looks for each.
    pub ranges_per_look: usize,
}

impl Default for LazyConfig {
    /// 256 ranges and 10 ms, as Linux has them, and a look at the clock for 16.
    fn default() -> Self {
        Self {
            queue: 256,
            age_max: Duration::from_millis(10),
            ranges_per_look: 16,
        }
    }
}

/// How much devices could still reach after it was unmapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Exposure {
    /// Bytes unmapped and not yet forgotten by hardware.
    pub bytes: u64,
    /// Flushes so far.
    pub flushes: u64,
    /// Sum over all ranges that were forgotten of their frames (4 KiB) times the microseconds
    /// between unmap and flush, or a little more: see [`LazyConfig::ranges_per_look`].
    pub page_microseconds: u64,
}

struct Waiting {
    range: IovaRange,
    /// Bytes that were mapped.
    mapped: u64,
    fallen: FallenTables,
    since: Epoch,
    at: Instant,
}

/// What one CPU has waiting, on cache lines of its own: nobody else comes here but to flush.
#[repr(align(128))]
struct Queue<P: Platform> {
    /// The oldest first.
    waiting: IrqMutex<P, Vec<Waiting>>,
    /// Bytes that wait. Written under the lock, read without.
    exposed: AtomicU64,
}

impl<P: Platform> Queue<P> {
    /// Adds to the bytes that wait, under the lock.
    #[inline]
    fn expose(&self, bytes: u64) {
        let exposed = self.exposed.load(Ordering::Relaxed);
        self.exposed
            .store(exposed.wrapping_add(bytes), Ordering::Relaxed);
    }
}

/// A domain whose unmaps are forgotten by hardware some time later, all at once.
///
/// What it withholds until then is only its own: addresses and table pages. The memory behind a
/// mapping is the driver's again at once, while a device could still reach it; [`Exposure`] says how
/// much and for how long.
pub struct Lazy<P: Platform, S, F: Format, M: TableMemory, H: Hardware> {
    domain: Domain<P, S, F, M, H>,
    platform: P,
    config: LazyConfig,
    /// Whether ranges may wait. Read under a queue's lock before one is put there.
    is_on: AtomicBool,
    /// One queue for each CPU.
    queues: Box<[Queue<P>]>,
    flushes: AtomicU64,
    page_microseconds: AtomicU64,
}

impl<P, S, F, M, H> Lazy<P, S, F, M, H>
where
    P: Platform,
    S: AsRef<[CpuSlot<CpuCache>]>,
    F: Format,
    M: TableMemory,
    H: Hardware,
{
    /// Makes a domain lazy; what is mapped stays mapped, and tickets of earlier unmaps are redeemed
    /// as before, through [`domain`](Self::domain). May allocate memory.
    ///
    /// # Errors
    /// The domain, still strict, where there is no memory for the queues.
    #[allow(clippy::result_large_err)]
    pub fn new(
        domain: Domain<P, S, F, M, H>,
        platform: P,
        config: LazyConfig,
    ) -> Result<Self, Domain<P, S, F, M, H>> {
        let lazy = Self::off(domain, platform, config)?;
        match lazy.turn_on() {
            Ok(()) => Ok(lazy),
            Err(_) => Err(lazy.domain),
        }
    }

    /// One in which nothing may wait yet, and whose queues have no memory.
    #[allow(clippy::result_large_err)]
    pub(crate) fn off(
        domain: Domain<P, S, F, M, H>,
        platform: P,
        config: LazyConfig,
    ) -> Result<Self, Domain<P, S, F, M, H>> {
        let (mut queues, cpus) = (Vec::new(), platform.cpu_count().max(1));
        if queues.try_reserve_exact(cpus).is_err() {
            return Err(domain);
        }
        queues.resize_with(cpus, || Queue {
            waiting: IrqMutex::<P, _>::new(Vec::new()),
            exposed: AtomicU64::new(0),
        });
        Ok(Self {
            domain,
            platform,
            config,
            is_on: AtomicBool::new(false),
            queues: queues.into_boxed_slice(),
            flushes: AtomicU64::new(0),
            page_microseconds: AtomicU64::new(0),
        })
    }

    /// Lets ranges wait from now on, and brings the memory for that. May sleep.
    pub(crate) fn turn_on(&self) -> Result<(), TryReserveError> {
        for queue in &self.queues {
            if queue.waiting.lock().capacity() >= self.most() {
                continue;
            }
            // Memory is brought without the lock, which keeps interrupts off. Nothing waits in a queue
            // that has none; whoever else brought some meanwhile gets it back.
            let mut room = Vec::new();
            room.try_reserve_exact(self.most())?;
            let mut waiting = queue.waiting.lock();
            if waiting.capacity() < self.most() {
                core::mem::swap(&mut *waiting, &mut room);
            }
            drop(waiting);
        }
        self.is_on.store(true, Ordering::Release);
        Ok(())
    }

    /// Lets no range wait from now on, and lets hardware forget those that do. Whoever unmaps meanwhile
    /// has put its range into a queue before the flush passes there, or finds that it may not.
    pub(crate) fn turn_off(&self, cpu: &impl CpuGuard) -> Result<(), SyncError> {
        self.is_on.store(false, Ordering::Release);
        self.flush_waiting(cpu)
    }

    /// Flushes where something waits.
    pub(crate) fn flush_waiting(&self, cpu: &impl CpuGuard) -> Result<(), SyncError> {
        let mut queues = self.queues.iter();
        match queues.all(|queue| queue.waiting.lock().is_empty()) {
            true => Ok(()),
            false => self.flush(cpu),
        }
    }

    /// Whether ranges may wait.
    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Acquire)
    }

    fn most(&self) -> usize {
        self.config.queue.max(1)
    }

    /// The domain: to map, and for everything that does not differ.
    #[inline]
    pub fn domain(&self) -> &Domain<P, S, F, M, H> {
        &self.domain
    }

    /// How much is, and was, exposed.
    pub fn exposure(&self) -> Exposure {
        Exposure {
            bytes: self
                .queues
                .iter()
                .map(|queue| queue.exposed.load(Ordering::Relaxed))
                .sum(),
            flushes: self.flushes.load(Ordering::Relaxed),
            page_microseconds: self.page_microseconds.load(Ordering::Relaxed),
        }
    }

    /// Unmaps. Devices may reach the memory until the next flush, and nothing is owed for it. Never
    /// sleeps; flushes, for a bounded time, where this CPU's queue is full.
    ///
    /// A range for which there is no room because hardware does not flush is owed as by a strict
    /// domain: its ticket is redeemed through [`domain`](Self::domain).
    ///
    /// # Errors
    /// [`UnmapFailure`], as for [`Domain::unmap`].
    pub fn unmap(
        &self,
        cpu: &impl CpuGuard,
        mapped: Mapped,
    ) -> Result<Option<Ticket>, UnmapFailure> {
        let reservation = self.domain.own(mapped)?;
        let mapped = reservation.range().len();
        self.unmap_range(cpu, reservation.into_range(), mapped)
    }

    /// As [`unmap`](Self::unmap), of a range of which the first bytes are mapped.
    #[inline]
    pub(crate) fn unmap_range(
        &self,
        cpu: &impl CpuGuard,
        range: IovaRange,
        mapped: u64,
    ) -> Result<Option<Ticket>, UnmapFailure> {
        let mut gather = Gather::new();
        self.domain.clear(range, mapped, &mut gather)?;
        let fallen = gather.into();
        match self.wait(cpu, range, mapped, fallen) {
            Ok(()) => Ok(None),
            Err(fallen) => Ok(self.wait_not(cpu, range, fallen)),
        }
    }

    /// Lets a range wait, whose entries are clear; the tables that fell out, where there is no room.
    #[inline]
    fn wait(
        &self,
        cpu: &impl CpuGuard,
        range: IovaRange,
        mapped: u64,
        fallen: FallenTables,
    ) -> Result<(), FallenTables> {
        // A CPU that the machine did not count shares another's.
        let number = cpu.cpu().index();
        let queue = self.queues.get(number).unwrap_or(&self.queues[0]);
        let mut waiting = queue.waiting.lock();
        let count = waiting.len();
        if count >= self.most() || !self.is_on() {
            return Err(fallen);
        }
        let shares_look = count % self.config.ranges_per_look.max(1) != 0;
        let at = match waiting.last().filter(|_| shares_look) {
            Some(last) => last.at,
            None => self.platform.now(),
        };
        waiting.push(Waiting {
            range,
            mapped,
            fallen,
            // Under the lock: see `flush`.
            since: self.domain.epoch(),
            at,
        });
        queue.expose(mapped);
        Ok(())
    }

    /// What becomes of a range, whose entries are clear, that cannot wait.
    #[cold]
    fn wait_not(
        &self,
        cpu: &impl CpuGuard,
        range: IovaRange,
        fallen: FallenTables,
    ) -> Option<Ticket> {
        // A flush that begins now covers it too.
        if self.is_on() && self.flush(cpu).is_ok() {
            self.domain.recycle(fallen);
            self.domain.release(cpu, range);
            return None;
        }
        Some(self.domain.owe_everything(range, fallen, Addresses::Free))
    }

    /// Flushes if something has waited for the longest time allowed. To be called about as often.
    ///
    /// # Errors
    /// [`SyncError`]: nothing was given back.
    pub fn maintain(&self, cpu: &impl CpuGuard, now: Instant) -> Result<(), SyncError> {
        let is_old = |waiting: &Waiting| now.saturating_since(waiting.at) >= self.config.age_max;
        // The first of a queue is its oldest.
        let due = self
            .queues
            .iter()
            .any(|queue| queue.waiting.lock().first().is_some_and(is_old));
        if due { self.flush(cpu) } else { Ok(()) }
    }

    /// Makes the domain strict again, once hardware has forgotten what waited for that.
    ///
    /// # Errors
    /// The lazy domain as it was, where hardware did not say so in time.
    #[allow(clippy::result_large_err, clippy::type_complexity)]
    pub fn into_strict(
        self,
        cpu: &impl CpuGuard,
    ) -> Result<Domain<P, S, F, M, H>, (Self, SyncError)> {
        match self.flush_waiting(cpu) {
            Ok(()) => Ok(self.domain),
            Err(error) => Err((self, error)),
        }
    }

    /// Lets hardware forget everything, and takes back what waited for that. Never sleeps; spins,
    /// for a bounded time.
    ///
    /// # Errors
    /// [`SyncError`]: nothing was given back.
    pub fn flush(&self, cpu: &impl CpuGuard) -> Result<(), SyncError> {
        let completed = self.domain.begin_sync();
        // Passing through each lock parts what waits in two. Whoever put a range there before has
        // cleared its entries before hardware forgets them now; whoever does so later finds the number
        // of this flush passed, and is not held to have been covered by it.
        for queue in &self.queues {
            drop(queue.waiting.lock());
        }
        self.domain.forget_all()?;
        self.flushes.fetch_add(1, Ordering::Relaxed);
        let now = self.platform.now();
        for queue in &self.queues {
            self.drain(cpu, queue, completed, now);
        }
        Ok(())
    }

    fn drain(&self, cpu: &impl CpuGuard, queue: &Queue<P>, completed: Epoch, now: Instant) {
        let mut waiting = queue.waiting.lock();
        // Numbers were read under the lock, so they rise along the queue.
        let covered = waiting.partition_point(|waiting| waiting.since <= completed);
        let (mut bytes, mut page_microseconds) = (0, 0_u64);
        for waiting in waiting.drain(..covered) {
            let waited = now.as_nanos().saturating_sub(waiting.at.as_nanos()) / 1000;
            bytes += waiting.mapped;
            page_microseconds += (waiting.mapped >> 12) * waited;
            self.domain.recycle(waiting.fallen);
            self.domain.release(cpu, waiting.range);
        }
        queue.expose(0_u64.wrapping_sub(bytes));
        self.page_microseconds
            .fetch_add(page_microseconds, Ordering::Relaxed);
    }
}
