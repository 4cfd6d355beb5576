//! Strict or lazy, as its owner chooses while devices are at work.

use alloc::collections::TryReserveError;

use dmakit_addr::IovaRange;
use dmakit_io_pgtable::Format;
use dmakit_iova::CpuCache;
use dmakit_platform::{CpuGuard, CpuSlot, Instant, Platform, TableMemory};

use crate::{
    Domain, Exposure, Hardware, Lazy, LazyConfig, SyncError, Ticket, Translate, UnmapFailure,
};

/// A domain that is strict, or lazy, and changes from one to the other through a shared reference,
/// whoever maps and unmaps meanwhile on other CPUs.
///
/// Which one an unmap was is for its caller to see: it owes a [`Ticket`] or nothing. An unmap under
/// way during a change ends as one of the two, and never as half of each. Once
/// [`make_strict`](Self::make_strict) has succeeded, hardware has forgotten all that was unmapped
/// lazily, and every unmap that ends later owes a ticket.
///
/// While it is strict it costs one load and a branch for each unmap, and 128 bytes for each CPU; the
/// queues get their memory when it becomes lazy for the first time.
pub struct Switched<P: Platform, S, F: Format, M: TableMemory, H: Hardware> {
    lazy: Lazy<P, S, F, M, H>,
}

impl<P, S, F, M, H> Switched<P, S, F, M, H>
where
    P: Platform,
    S: AsRef<[CpuSlot<CpuCache>]>,
    F: Format,
    M: TableMemory,
    H: Hardware,
{
    /// A strict one; `config` is for when it is lazy. May sleep.
    ///
    /// # Errors
    /// The domain as it was, where there is no memory for 128 bytes for each CPU.
    #[allow(clippy::result_large_err)]
    pub fn strict(
        domain: Domain<P, S, F, M, H>,
        platform: P,
        config: LazyConfig,
    ) -> Result<Self, Domain<P, S, F, M, H>> {
        let lazy = Lazy::off(domain, platform, config)?;
        Ok(Self { lazy })
    }

    /// A lazy one. May sleep.
    ///
    /// # Errors
    /// The domain as it was, where there is no memory for the queues.
    #[allow(clippy::result_large_err)]
    pub fn lazy(
        domain: Domain<P, S, F, M, H>,
        platform: P,
        config: LazyConfig,
    ) -> Result<Self, Domain<P, S, F, M, H>> {
        let lazy = Lazy::new(domain, platform, config)?;
        Ok(Self { lazy })
    }

    /// Makes it lazy. Tickets of earlier unmaps are owed and redeemed as before. May sleep.
    ///
    /// # Errors
    /// [`TryReserveError`] where there is no memory for the queues: it stays strict.
    pub fn make_lazy(&self) -> Result<(), TryReserveError> {
        self.lazy.turn_on()
    }

    /// Makes it strict, and lets hardware forget what was unmapped lazily. Never sleeps; spins, for a
    /// bounded time.
    ///
    /// # Errors
    /// [`SyncError`]: it is strict, and what was unmapped lazily before is still exposed until a
    /// [`flush`](Self::flush) succeeds.
    pub fn make_strict(&self, cpu: &impl CpuGuard) -> Result<(), SyncError> {
        self.lazy.turn_off(cpu)
    }

    /// Lets hardware forget what was unmapped lazily, if anything waits: as [`Lazy::flush`].
    ///
    /// # Errors
    /// [`SyncError`]: nothing was given back.
    pub fn flush(&self, cpu: &impl CpuGuard) -> Result<(), SyncError> {
        self.lazy.flush_waiting(cpu)
    }

    /// Flushes what has waited for too long, as [`Lazy::maintain`]. To be called about as often.
    ///
    /// # Errors
    /// [`SyncError`]: nothing was given back.
    pub fn maintain(&self, cpu: &impl CpuGuard, now: Instant) -> Result<(), SyncError> {
        self.lazy.maintain(cpu, now)
    }

    /// How much is, and was, exposed.
    pub fn exposure(&self) -> Exposure {
        self.lazy.exposure()
    }

    /// The domain alone, strict for good, once hardware has forgotten what was unmapped lazily.
    ///
    /// # Errors
    /// What it was, where hardware did not say so.
    #[allow(clippy::result_large_err, clippy::type_complexity)]
    pub fn into_strict(
        self,
        cpu: &impl CpuGuard,
    ) -> Result<Domain<P, S, F, M, H>, (Self, SyncError)> {
        let strict = self.lazy.into_strict(cpu);
        strict.map_err(|(lazy, error)| (Self { lazy }, error))
    }
}

impl<P, S, F, M, H> Translate for Switched<P, S, F, M, H>
where
    P: Platform,
    S: AsRef<[CpuSlot<CpuCache>]> + Send + Sync,
    F: Format,
    M: TableMemory + Send + Sync,
    H: Hardware,
{
    type Domain = Domain<P, S, F, M, H>;

    #[inline]
    fn domain(&self) -> &Self::Domain {
        self.lazy.domain()
    }

    #[inline]
    fn is_lazy(&self) -> bool {
        self.lazy.is_on()
    }

    #[inline]
    fn unmap(
        &self,
        cpu: &impl CpuGuard,
        range: IovaRange,
        mapped: u64,
    ) -> Result<Option<Ticket>, UnmapFailure> {
        match self.lazy.is_on() {
            false => Translate::unmap(self.lazy.domain(), cpu, range, mapped),
            true => Translate::unmap(&self.lazy, cpu, range, mapped),
        }
    }
}
