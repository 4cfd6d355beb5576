//! Strict invalidation at the price of one sync for many unmaps.

use alloc::collections::TryReserveError;
use alloc::vec::Vec;
use core::fmt;
use core::mem::ManuallyDrop;
use core::time::Duration;

use dmakit_addr::IovaRange;
use dmakit_io_pgtable::Gather;
use dmakit_platform::{CpuGuard, Instant};

use crate::hardware::SyncError;
use crate::ticket::DomainId;
use crate::{Mapped, StrictDomain, UnmapFailure};

/// When a [`Batch`] closes, besides when its ring goes idle.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BatchConfig {
    /// The most unmaps of one batch.
    pub debts: usize,
    /// The longest that one waits, if [`Batch::is_due`] is asked as often.
    pub age_max: Duration,
}

impl Default for BatchConfig {
    /// 32 unmaps and 50 microseconds.
    fn default() -> Self {
        Self {
            debts: 32,
            age_max: Duration::from_micros(50),
        }
    }
}

/// What a [`Batch`] holds back, and has done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Held {
    /// Unmaps that wait.
    pub debts: usize,
    /// Bytes of addresses that wait, and of memory behind them.
    pub bytes: u64,
    /// Batches closed so far, each with one sync.
    pub syncs: u64,
    /// Unmaps redeemed so far.
    pub redeemed: u64,
    /// The most bytes that ever waited.
    pub bytes_max: u64,
}

/// Unmaps of one domain that wait for a sync together, with what belongs to them.
///
/// As strict as a sync for each: `B` (the buffer, the pin, the completion to be reported) is out of
/// reach from unmap until the sync that covers it is complete, and so are addresses and table pages.
/// Dropping a batch that holds something leaks all of it.
///
/// It belongs to one ring or queue, and is not shared between CPUs.
///
/// Invalidation goes to hardware when the batch closes: neighbouring ranges become one, and where
/// many commands would cost more than forgetting everything, that is done instead.
pub struct Batch<B> {
    domain: DomainId,
    config: BatchConfig,
    /// Dropping the batch must not drop what devices may reach.
    waiting: Vec<(IovaRange, ManuallyDrop<B>)>,
    /// What hardware is to forget of all that waits: one for a ring whose addresses are neighbours. At
    /// most as many as wait.
    gathers: Vec<Gather>,
    opened: Option<Instant>,
    held: Held,
}

impl<B> Batch<B> {
    /// An empty batch for a domain.
    ///
    /// # Errors
    /// [`TryReserveError`] where there is no memory for its records; it never allocates again.
    pub fn new(domain: DomainId, config: BatchConfig) -> Result<Self, TryReserveError> {
        let (mut waiting, mut gathers) = (Vec::new(), Vec::new());
        let debts = config.debts.max(1);
        waiting.try_reserve_exact(debts)?;
        gathers.try_reserve_exact(debts)?;
        Ok(Self {
            domain,
            config: BatchConfig { debts, ..config },
            waiting,
            gathers,
            opened: None,
            held: Held::default(),
        })
    }

    /// Whose syncs it waits for.
    #[inline]
    pub fn domain(&self) -> DomainId {
        self.domain
    }

    /// What it holds, and has done.
    pub fn held(&self) -> Held {
        Held {
            debts: self.waiting.len(),
            bytes_max: self.held.bytes_max.max(self.held.bytes),
            ..self.held
        }
    }

    /// Whether it is full: the next unmap closes it first.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.waiting.len() >= self.config.debts
    }

    /// Whether something has waited for the longest time allowed.
    pub fn is_due(&self, now: Instant) -> bool {
        self.opened
            .is_some_and(|opened| now.saturating_since(opened) >= self.config.age_max)
    }

    /// Unmaps, and keeps `owned` until hardware has forgotten the mapping. Closes the batch before
    /// where it is full, and after where this made it full. Never sleeps.
    ///
    /// # Errors
    /// [`BatchFailure`], with `owned` where it is certain that no device reaches it; a mapping that
    /// is of another domain comes back too.
    #[allow(clippy::too_many_arguments)]
    pub fn unmap<T: StrictDomain>(
        &mut self,
        domain: &T,
        cpu: &impl CpuGuard,
        now: Instant,
        mapped: Mapped,
        owned: B,
        mut give: impl FnMut(B),
    ) -> Result<(), BatchFailure<B>> {
        if self.domain != domain.id() || mapped.domain != self.domain {
            let failure = UnmapFailure::Foreign(mapped);
            return Err(BatchFailure::Refused { failure, owned });
        }
        if let Err(error) = self.make_room(domain, cpu, &mut give) {
            return Err(BatchFailure::Full {
                mapped,
                owned,
                error,
            });
        }
        let range = mapped.reservation.into_range();
        let bytes = range.len();
        self.add(domain, cpu, || now, (range, bytes), owned, give)
    }

    /// As [`unmap`](Self::unmap), for a mapping API that keeps its own records: a range of `domain`,
    /// which is the batch's, and how many of its first bytes are mapped.
    ///
    /// # Errors
    /// [`BatchFailure`]; where the batch could not be closed to make room, the range is mapped as
    /// before.
    #[inline]
    pub fn unmap_range<T: StrictDomain>(
        &mut self,
        domain: &T,
        cpu: &impl CpuGuard,
        now: impl FnOnce() -> Instant,
        (range, mapped): (IovaRange, u64),
        owned: B,
        mut give: impl FnMut(B),
    ) -> Result<(), BatchFailure<B, IovaRange>> {
        if let Err(error) = self.make_room(domain, cpu, &mut give) {
            return Err(BatchFailure::Full {
                mapped: range,
                owned,
                error,
            });
        }
        self.add(domain, cpu, now, (range, mapped), owned, give)
    }

    /// Closes the batch where it is full.
    #[inline]
    fn make_room<T: StrictDomain>(
        &mut self,
        domain: &T,
        cpu: &impl CpuGuard,
        give: impl FnMut(B),
    ) -> Result<(), SyncError> {
        match self.is_full() {
            true => self.close(domain, cpu, give),
            false => Ok(()),
        }
    }

    /// Unmaps a range for which there is room, and closes the batch where it is full then.
    #[inline]
    fn add<T: StrictDomain, R>(
        &mut self,
        domain: &T,
        cpu: &impl CpuGuard,
        now: impl FnOnce() -> Instant,
        (range, mapped): (IovaRange, u64),
        owned: B,
        give: impl FnMut(B),
    ) -> Result<(), BatchFailure<B, R>> {
        let mut gather = Gather::new();
        if let Err(failure) = domain.unmap_gathered(range, mapped, &mut gather) {
            // Part of it may still be mapped: `owned` is lost with the addresses.
            core::mem::forget(owned);
            return Err(BatchFailure::Lost(failure));
        }
        self.gather(gather);
        self.opened.get_or_insert_with(now);
        self.held.bytes += range.len();
        self.waiting.push((range, ManuallyDrop::new(owned)));
        if self.is_full() {
            self.close(domain, cpu, give).map_err(BatchFailure::Sync)?;
        }
        Ok(())
    }

    /// Keeps what hardware is to forget, together with what it touches.
    #[inline]
    fn gather(&mut self, gather: Gather) {
        let apart = match self.gathers.last_mut() {
            Some(last) => last.join(gather).err(),
            None => Some(gather),
        };
        self.gathers.extend(apart);
    }

    /// Lets hardware forget all that waits, waits for that, and gives everything back: to be called
    /// when the ring goes idle, or the batch is [due](Self::is_due). Never sleeps; spins, for a
    /// bounded time.
    ///
    /// # Errors
    /// [`SyncError`]: nothing was given back, and everything still waits; [`SyncError::Foreign`] where
    /// the batch is another domain's.
    #[inline(never)]
    pub fn close<T: StrictDomain>(
        &mut self,
        domain: &T,
        cpu: &impl CpuGuard,
        mut give: impl FnMut(B),
    ) -> Result<(), SyncError> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        if self.domain != domain.id() {
            return Err(SyncError::Foreign {
                owed: self.domain,
                asked: domain.id(),
            });
        }
        self.gathers.sort_unstable_by_key(Gather::range_start);
        domain.invalidate_many(&|| self.gathers.iter())?;
        domain.sync()?;
        // Everything that waits was queued before that sync began, and is forgotten.
        self.held.syncs += 1;
        self.held.redeemed += self.waiting.len() as u64;
        self.held.bytes_max = self.held.bytes_max.max(self.held.bytes);
        self.held.bytes = 0;
        self.opened = None;
        for gather in self.gathers.drain(..) {
            domain.recycle(gather.into());
        }
        for (range, owned) in self.waiting.drain(..) {
            domain.release(cpu, range);
            give(ManuallyDrop::into_inner(owned));
        }
        Ok(())
    }
}

/// An unmap that did not go into a batch, or a batch that did not close. `R` is what was to be
/// unmapped.
#[derive(Debug)]
pub enum BatchFailure<B, R = Mapped> {
    /// Nothing was done.
    Refused {
        /// Why, with the mapping.
        failure: UnmapFailure,
        /// What was to wait.
        owned: B,
    },
    /// The batch was full and could not be closed; nothing else was done.
    Full {
        /// What was to be unmapped, mapped as it was.
        mapped: R,
        /// What was to wait.
        owned: B,
        /// Why.
        error: SyncError,
    },
    /// The mapping is broken: its addresses, and what was to wait, are not used again.
    Lost(UnmapFailure),
    /// It waits with the others: the batch was to be closed and could not.
    Sync(SyncError),
}

impl<B, R> fmt::Display for BatchFailure<B, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { failure, .. } | Self::Lost(failure) => failure.fmt(f),
            Self::Full { error, .. } => write!(f, "the batch is full, and stays so: {error}"),
            Self::Sync(error) => write!(f, "the batch waits: {error}"),
        }
    }
}

impl<B: fmt::Debug, R: fmt::Debug> core::error::Error for BatchFailure<B, R> {}

/// Joins neighbouring gathers that can be forgotten as one.
pub(crate) fn joined<'a>(
    gathers: impl Iterator<Item = &'a Gather>,
    mut visit: impl FnMut(&Joined) -> Result<(), SyncError>,
) -> Result<(), SyncError> {
    let mut open: Option<Joined> = None;
    for gather in gathers {
        let Some(next) = Joined::of(gather) else {
            continue;
        };
        open = match open.take() {
            None => Some(next),
            Some(before) => match before.with(&next) {
                Some(both) => Some(both),
                None => {
                    visit(&before)?;
                    Some(next)
                }
            },
        };
    }
    open.map_or(Ok(()), |last| visit(&last))
}

/// What one invalidation forgets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Joined {
    pub(crate) range: IovaRange,
    pub(crate) leaf_height: Option<u32>,
    pub(crate) tables: bool,
}

impl Joined {
    pub(crate) fn of(gather: &Gather) -> Option<Self> {
        Some(Self {
            range: gather.range()?,
            leaf_height: gather.leaf_height(),
            tables: gather.frees_tables(),
        })
    }

    fn with(&self, next: &Self) -> Option<Self> {
        let is_alike = (self.leaf_height, self.tables) == (next.leaf_height, next.tables);
        let is_next = self.range.end() == next.range.start();
        let range = IovaRange::between(self.range.start(), next.range.end())?;
        (is_alike && is_next).then_some(Self { range, ..*self })
    }
}
