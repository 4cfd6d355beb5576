//! Taking buffers back from a device.

use dmakit_addr::{DirectionType, PhysRange};
use dmakit_platform::{CopyTarget, CpuGuard, Platform};
use dmakit_swiotlb::BounceBuffer;

use crate::check::{Checker, Event, Kind};
use crate::debt::{EachRun, Owed};
use crate::mapping::{Record, Route};
use crate::{Debt, Device, DmaMemory, Mapping, Refused, StrictDomain, Translate, UnmapFailure};
use crate::{bounce, cache};

impl<'m, P: Platform, M, C: Checker<'m>, T: Translate> Device<'m, P, M, C, T> {
    /// Ends a mapping; the memory is owed until a sync. The driver knows that the device is done.
    ///
    /// Of a mapping that the device wrote through, everything comes back: by calling this the
    /// driver says that all of it is the device's to write. Never sleeps.
    ///
    /// # Errors
    /// [`Refused`] with the mapping where it is another device's.
    pub fn unmap<D: DirectionType, B: DmaMemory>(
        &self,
        mapping: Mapping<D, B>,
    ) -> Result<Debt<B>, Refused<Mapping<D, B>>> {
        let len = mapping.record.len;
        self.unmap_validated(mapping, len)
    }

    /// Ends a mapping of which the device wrote `len` bytes, as far as the driver has checked.
    ///
    /// Only these come back from bounce slots; the memory keeps what it held beyond them. A device
    /// that is not trusted cannot make the CPU read more than was checked. On a direct path the
    /// device wrote where it wrote.
    ///
    /// # Errors
    /// [`Refused`] with the mapping where it is another device's or shorter than `len`.
    pub fn unmap_validated<D: DirectionType, B: DmaMemory>(
        &self,
        mapping: Mapping<D, B>,
        len: u64,
    ) -> Result<Debt<B>, Refused<Mapping<D, B>>> {
        if let Err(error) = self.check_token(&mapping.record, 0, len) {
            return Err(Refused {
                error,
                token: mapping,
            });
        }
        Ok(self.end(mapping, len))
    }

    /// Ends a mapping, syncs, and gives the memory back: [`unmap`](Self::unmap),
    /// [`sync`](Self::sync) and [`redeem`](Self::redeem) in one. For one buffer at a time; a driver
    /// that ends many pays one sync for all of them.
    ///
    /// # Errors
    /// [`UnmapFailure`] with whatever was left: the mapping or the debt.
    pub fn unmap_and_sync<D: DirectionType, B: DmaMemory>(
        &self,
        mapping: Mapping<D, B>,
    ) -> Result<B, UnmapFailure<D, B>> {
        let len = mapping.record.len;
        self.unmap_validated_and_sync(mapping, len)
    }

    /// As [`unmap_and_sync`](Self::unmap_and_sync), of a mapping of which the device wrote `len`
    /// bytes.
    ///
    /// # Errors
    /// [`UnmapFailure`] with whatever was left: the mapping or the debt.
    pub fn unmap_validated_and_sync<D: DirectionType, B: DmaMemory>(
        &self,
        mapping: Mapping<D, B>,
        len: u64,
    ) -> Result<B, UnmapFailure<D, B>> {
        if let Err(error) = self.check_token(&mapping.record, 0, len) {
            let token = mapping;
            return Err(UnmapFailure::Refused(Refused { error, token }));
        }
        let debt = self.end(mapping, len);
        match debt.owed {
            // Nothing stands between unmap and sync without a ticket.
            Owed::Since(_) | Owed::Paid => Ok(debt.memory),
            Owed::Ticket(_) | Owed::Lost => self.pay_now(debt),
        }
    }

    /// Syncs for one debt.
    #[inline]
    fn pay_now<D: DirectionType, B>(&self, debt: Debt<B>) -> Result<B, UnmapFailure<D, B>> {
        let synced = match (&debt.owed, self.translation()) {
            // Whether the domain is strict or not: a lazy one without room owes tickets too.
            (Owed::Ticket(_), Some(domain)) => domain.sync(),
            _ => self.sync(),
        };
        match synced {
            Ok(proof) => {
                let redeemed = self.redeem(debt, &proof);
                // The proof is of a later sync of the same domain: what it does not pay is lost.
                redeemed.map_err(|failure| UnmapFailure::Lost(failure.debt))
            }
            Err(error) => Err(UnmapFailure::Owed { error, debt }),
        }
    }

    /// Ends a mapping that was checked to be this device's.
    #[inline]
    fn end<D: DirectionType, B: DmaMemory>(&self, mapping: Mapping<D, B>, len: u64) -> Debt<B> {
        let Mapping { mut memory, record } = mapping;
        self.finish(&record, &self.platform.enter_cpu());
        if let Some(translated) = record.translated() {
            let owed = self.end_translated(translated, &mut memory, len, &record);
            // What is on its way past the CPU's caches lands by the end of the sync.
            let is_late = matches!(owed, Owed::Ticket(_)) && record.leaves_stale_lines();
            let mut debt = self.debt(memory, owed);
            debt.stale_lines = is_late.then_some(each_run::<B> as EachRun<B>);
            return debt;
        }
        if !record.is_quiet {
            self.end_with_work(&mut memory, record, len);
        }
        let owed = Owed::Since(self.epoch());
        self.debt(memory, owed)
    }

    #[inline]
    pub(crate) fn finish<D: DirectionType>(&self, record: &Record<D>, cpu: &impl CpuGuard) {
        self.counters.unmapped_on(cpu);
        let event = Event::new(Kind::Streaming, record.segment(), D::DIRECTION);
        self.checker.ended(&self.info, &event);
    }

    /// Caches and copies at the end of a mapping.
    fn end_with_work<D: DirectionType, B: DmaMemory>(
        &self,
        memory: &mut B,
        record: Record<D>,
        len: u64,
    ) {
        let wants_data = D::DIRECTION.device_writes() && !record.skips_sync;
        let drops_lines = record.leaves_stale_lines();
        match record.route {
            Route::Direct | Route::Translated { .. } => {
                // Whole lines and all of them: the CPU may have fetched any, and none may show it
                // later what stood there before.
                if drops_lines {
                    for run in memory.runs() {
                        cache::before_cpu_reads(&self.platform, run);
                    }
                }
            }
            Route::Bounced(buffer) => {
                let len = if wants_data { len } else { 0 };
                self.end_bounced(buffer, memory, len, drops_lines);
            }
        }
    }

    /// Gives slots back, after copying out the first `len` bytes. Where the device wrote past the
    /// CPU's caches, `drops_lines` asks that no line of the slots stays stale, whatever is copied.
    pub(crate) fn end_bounced<D: DirectionType, B: CopyTarget + ?Sized>(
        &self,
        buffer: BounceBuffer<D>,
        target: &mut B,
        len: u64,
        drops_lines: bool,
    ) {
        let Some((pool, _)) = self.pool() else {
            // A record of this device that names slots was made with a pool, and the path of a
            // device never changes. Leaking the slots is the safe way to be wrong.
            return;
        };
        if drops_lines {
            cache::before_cpu_reads(&self.platform, bounce::slots(&buffer));
        }
        if len == 0 {
            bounce::give_back(pool, buffer);
            return;
        }
        self.counters.copied_out(len);
        // As in `give_back`: slots of another pool are leaked.
        let _ = pool.unmap_validated(buffer, target, len);
    }
}

fn each_run<B: DmaMemory>(memory: &B, visit: &mut dyn FnMut(PhysRange)) {
    memory.runs().for_each(visit);
}
