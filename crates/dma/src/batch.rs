//! Many unmaps that share a sync.

use core::fmt;

use dmakit_addr::DirectionType;
use dmakit_iommu::Batch;
use dmakit_platform::Platform;

use crate::check::Checker;
use crate::mapping::{Route, Slots};
use crate::{Device, DmaMemory, Mapping, Refused, SyncError, TokenError, Translate, UnmapFailure};

/// A mapping that did not go into a batch, or a batch that did not close.
pub enum BatchFailure<D: DirectionType, B> {
    /// Nothing was done.
    Refused(Refused<Mapping<D, B>>),
    /// The batch was full and could not be closed; nothing else was done.
    Full {
        /// The mapping, as it was.
        mapping: Mapping<D, B>,
        /// Why.
        error: SyncError,
    },
    /// The mapping is gone, and its memory is lost with its addresses: the table was not as it was
    /// left.
    Lost,
    /// It waits with the others: the batch was to be closed and could not.
    Waits(SyncError),
    /// It could not wait for others, and ending it by itself failed.
    Alone(UnmapFailure<D, B>),
}

impl<D: DirectionType, B> fmt::Debug for BatchFailure<D, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refused) => fmt::Debug::fmt(refused, f),
            Self::Full { error, .. } => write!(f, "Full({error:?})"),
            Self::Lost => f.write_str("Lost"),
            Self::Waits(error) => write!(f, "Waits({error:?})"),
            Self::Alone(failure) => fmt::Debug::fmt(failure, f),
        }
    }
}

impl<D: DirectionType, B> fmt::Display for BatchFailure<D, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refused) => fmt::Display::fmt(refused, f),
            Self::Full { error, .. } | Self::Waits(error) => error.fmt(f),
            Self::Lost => f.write_str("the page table was not as it was left"),
            Self::Alone(failure) => fmt::Display::fmt(failure, f),
        }
    }
}

impl<D: DirectionType, B> core::error::Error for BatchFailure<D, B> {}

impl<'m, P: Platform, M, C: Checker<'m>, T: Translate> Device<'m, P, M, C, T> {
    /// Ends a mapping; its memory waits in `batch`, made for this device's
    /// [`domain`](Self::domain), until hardware has forgotten it, and then goes to `give`. As strict
    /// as a sync for each, at the price of one for many: see [`Batch`].
    ///
    /// Where there is nothing to wait for (no translation, a lazy domain), and where there is work to do
    /// after the wait, because edges lie in slots or the CPU has lines to drop of what the device wrote
    /// past its caches, the memory goes to `give` at once. A batch that is
    /// [due](Batch::is_due), or whose ring goes idle, is closed by
    /// [`close_batch`](Self::close_batch). Never sleeps.
    ///
    /// # Errors
    /// [`BatchFailure`], with the mapping or what is left of it.
    #[inline]
    pub fn unmap_batched<D: DirectionType, B: DmaMemory>(
        &self,
        batch: &mut Batch<B>,
        mapping: Mapping<D, B>,
        mut give: impl FnMut(B),
    ) -> Result<(), BatchFailure<D, B>> {
        let (range, domain) = match (&mapping.record.route, self.strict_domain()) {
            (Route::Translated { range, slots }, Some(domain))
                if *slots == Slots::None && !mapping.record.leaves_stale_lines() =>
            {
                (*range, domain)
            }
            _ => {
                let memory = self.unmap_and_sync(mapping);
                memory.map(give).map_err(BatchFailure::Alone)?;
                return Ok(());
            }
        };
        let checked = self.check_token(&mapping.record, 0, 0);
        if let Err(error) = checked.and_then(|()| self.check_batch(batch)) {
            let token = mapping;
            return Err(BatchFailure::Refused(Refused { error, token }));
        }
        if batch.is_full() {
            let closed = batch.close(domain, &self.platform.enter_cpu(), &mut give);
            if let Err(error) = closed {
                return Err(BatchFailure::Full { mapping, error });
            }
        }
        let Mapping { memory, record } = mapping;
        let cpu = self.platform.enter_cpu();
        self.finish(&record, &cpu);
        let now = || self.platform.now();
        let unmapped = batch.unmap_range(domain, &cpu, now, (range, range.len()), memory, give);
        unmapped.map_err(|failure| match failure {
            dmakit_iommu::BatchFailure::Sync(error) => BatchFailure::Waits(error),
            // It was not full, and is of this domain.
            _ => {
                self.counters.lost();
                BatchFailure::Lost
            }
        })
    }

    /// Lets hardware forget all that waits in a batch, waits for that, and gives the memory back.
    /// Never sleeps; spins, for a bounded time.
    ///
    /// # Errors
    /// [`SyncError`]: nothing was given back, and everything still waits.
    pub fn close_batch<B>(
        &self,
        batch: &mut Batch<B>,
        give: impl FnMut(B),
    ) -> Result<(), SyncError> {
        match self.strict_domain() {
            // What waits in another domain's batch is closed there.
            Some(domain) if self.check_batch(batch).is_ok() => {
                batch.close(domain, &self.platform.enter_cpu(), give)
            }
            _ => Ok(()),
        }
    }

    fn check_batch<B>(&self, batch: &Batch<B>) -> Result<(), TokenError> {
        let (batch, device) = (batch.domain(), self.domain());
        if batch == device {
            return Ok(());
        }
        Err(TokenError::ForeignBatch { batch, device })
    }
}
