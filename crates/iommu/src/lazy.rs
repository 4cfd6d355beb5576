//! Invalidation put off, on purpose.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

use dmakit_addr::IovaRange;
use dmakit_io_pgtable::{Format, Gather};
use dmakit_iova::CpuCache;
use dmakit_platform::{Barrier, CpuGuard, CpuSlot, Instant, IrqMutex, Platform, TableMemory};

use crate::error::UnmapFailure;
use crate::hardware::{Hardware, SyncError};
use crate::ticket::{Epoch, Proof};
use crate::{Domain, Mapped};

/// When a [`Lazy`] domain flushes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LazyConfig {
    /// Ranges that one CPU may have waiting: one more flushes at once.
    pub queue: usize,
    /// The longest that a range waits, if [`Lazy::maintain`] is called as often.
    pub age_max: Duration,
}

impl Default for LazyConfig {
    /// 256 ranges and 10 ms, as Linux has them.
    fn default() -> Self {
        Self {
            queue: 256,
            age_max: Duration::from_millis(10),
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
    /// between unmap and flush.
    pub page_microseconds: u64,
}

struct Waiting {
    range: IovaRange,
    /// Bytes that were mapped.
    mapped: u64,
    gather: Gather,
    since: Epoch,
    at: Instant,
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
    /// One queue for each CPU.
    queues: Box<[IrqMutex<P, Vec<Waiting>>]>,
    exposed: AtomicU64,
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
        let mut queues = Vec::new();
        if queues.try_reserve_exact(platform.cpu_count()).is_err() {
            return Err(domain);
        }
        for _ in 0..platform.cpu_count() {
            let mut queue = Vec::new();
            if queue.try_reserve_exact(config.queue.max(1)).is_err() {
                return Err(domain);
            }
            queues.push(IrqMutex::<P, _>::new(queue));
        }
        Ok(Self {
            domain,
            platform,
            config,
            queues: queues.into_boxed_slice(),
            exposed: AtomicU64::new(0),
            flushes: AtomicU64::new(0),
            page_microseconds: AtomicU64::new(0),
        })
    }

    /// The domain: to map, and for everything that does not differ.
    pub fn domain(&self) -> &Domain<P, S, F, M, H> {
        &self.domain
    }

    /// How much is, and was, exposed.
    pub fn exposure(&self) -> Exposure {
        Exposure {
            bytes: self.exposed.load(Ordering::Relaxed),
            flushes: self.flushes.load(Ordering::Relaxed),
            page_microseconds: self.page_microseconds.load(Ordering::Relaxed),
        }
    }

    /// Unmaps. Devices may reach the memory until the next flush. Never sleeps; flushes, for a
    /// bounded time, where this CPU's queue is full.
    ///
    /// # Errors
    /// [`UnmapFailure`].
    pub fn unmap(&self, cpu: &impl CpuGuard, mapped: Mapped) -> Result<(), UnmapFailure> {
        let reservation = self.domain.own(mapped)?;
        let mapped = reservation.range().len();
        self.unmap_range(cpu, reservation.into_range(), mapped)
    }

    /// As [`unmap`](Self::unmap), of a range of which the first bytes are mapped.
    pub(crate) fn unmap_range(
        &self,
        cpu: &impl CpuGuard,
        range: IovaRange,
        mapped: u64,
    ) -> Result<(), UnmapFailure> {
        let mut gather = Gather::new();
        self.domain.clear(range, mapped, &mut gather)?;
        // The cleared entries before the count of syncs: a flush that this range will be held to
        // have been covered by must not begin between the two.
        self.platform.barrier(Barrier::Full);
        self.exposed.fetch_add(mapped, Ordering::Relaxed);
        let mut waiting = Waiting {
            range,
            mapped,
            gather,
            since: self.domain.epoch(),
            at: self.platform.now(),
        };
        let Some(queue) = self.queues.get(cpu.cpu().index()) else {
            self.domain.quarantine(range);
            let error = SyncError {
                waited: Duration::ZERO,
            };
            return Err(UnmapFailure::Hardware { range, error });
        };
        // Twice at the most: a queue that was flushed has room.
        for _ in 0..2 {
            waiting = {
                let mut queue = queue.lock();
                if queue.len() < self.config.queue.max(1) {
                    queue.push(waiting);
                    return Ok(());
                }
                waiting
            };
            if let Err(error) = self.flush(cpu) {
                self.domain.quarantine(range);
                return Err(UnmapFailure::Hardware { range, error });
            }
        }
        self.domain.quarantine(range);
        Err(UnmapFailure::Hardware {
            range,
            error: SyncError {
                waited: Duration::ZERO,
            },
        })
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
            .any(|queue| queue.lock().first().is_some_and(is_old));
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
        match self.flush(cpu) {
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
        let proof = self.domain.flush_all()?;
        self.flushes.fetch_add(1, Ordering::Relaxed);
        let now = self.platform.now();
        for queue in &self.queues {
            self.drain(cpu, queue, &proof, now);
        }
        Ok(())
    }

    fn drain(
        &self,
        cpu: &impl CpuGuard,
        queue: &IrqMutex<P, Vec<Waiting>>,
        proof: &Proof,
        now: Instant,
    ) {
        let mut queue = queue.lock();
        // From the end, so that taking one out moves only one that was kept.
        for index in (0..queue.len()).rev() {
            if queue[index].since > proof.completed() {
                continue;
            }
            let waiting = queue.swap_remove(index);
            let bytes = waiting.mapped;
            let waited = now.saturating_since(waiting.at).as_micros() as u64;
            self.exposed.fetch_sub(bytes, Ordering::Relaxed);
            self.page_microseconds
                .fetch_add((bytes >> 12) * waited, Ordering::Relaxed);
            self.domain.table().recycle(waiting.gather);
            self.domain.release(cpu, waiting.range);
        }
    }
}
