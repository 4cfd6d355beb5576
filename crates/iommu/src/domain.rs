//! One translation space.

use core::sync::atomic::{AtomicU64, Ordering};

use dmakit_addr::{DmaMask, IovaRange, PhysRange};
use dmakit_io_pgtable::{FallenTables, Format, Gather, PageTable, Permissions};
use dmakit_iova::{CpuCache, Request, Reservation, Space};
use dmakit_platform::{CpuGuard, CpuSlot, Platform, TableMemory};

use crate::batch::{Joined, joined};
use crate::epochs::Epochs;
use crate::error::{MapError, UnmapFailure};
use crate::hardware::{Hardware, Invalidation, SyncError};
use crate::ticket::{Addresses, DomainId, Epoch, Proof, RedeemError, RedeemFailure, Ticket};

/// A mapped range of device addresses.
///
/// It is moved, never copied. Forgetting one leaves it mapped: its addresses, and the memory behind
/// it, are then never free again.
#[derive(PartialEq, Eq, Debug)]
pub struct Mapped {
    pub(crate) domain: DomainId,
    pub(crate) reservation: Reservation,
}

impl Mapped {
    /// The addresses, whole granules.
    pub fn range(&self) -> IovaRange {
        self.reservation.range()
    }
}

/// Addresses, a page table, and the hardware that walks it.
///
/// Every operation takes `&self`, from any CPU, in any context, but for the few that say they may
/// sleep.
pub struct Domain<P: Platform, S, F: Format, M: TableMemory, H: Hardware> {
    id: DomainId,
    space: Space<P, S>,
    table: PageTable<F, P, M>,
    hardware: H,
    epochs: Epochs,
    /// Bytes of addresses that are lost, since it is not known what hardware thinks of them.
    quarantined: AtomicU64,
}

impl<P, S, F, M, H> Domain<P, S, F, M, H>
where
    P: Platform,
    S: AsRef<[CpuSlot<CpuCache>]>,
    F: Format,
    M: TableMemory,
    H: Hardware,
{
    /// A domain of its parts. `id` tells it from every other domain whose tickets could be mixed up
    /// with its own.
    pub fn new(id: DomainId, space: Space<P, S>, table: PageTable<F, P, M>, hardware: H) -> Self {
        Self {
            id: id.translated(),
            space,
            table,
            hardware,
            epochs: Epochs::default(),
            quarantined: AtomicU64::new(0),
        }
    }

    /// Its number.
    #[inline]
    pub fn id(&self) -> DomainId {
        self.id
    }

    /// The page table, for dumps and checks.
    #[inline]
    pub fn table(&self) -> &PageTable<F, P, M> {
        &self.table
    }

    /// The addresses, for statistics and [`Space::maintain`].
    #[inline]
    pub fn space(&self) -> &Space<P, S> {
        &self.space
    }

    /// The hardware.
    #[inline]
    pub fn hardware(&self) -> &H {
        &self.hardware
    }

    /// Bytes of addresses that are lost, since hardware did not say that it has forgotten them.
    pub fn quarantined(&self) -> u64 {
        self.quarantined.load(Ordering::Relaxed)
    }

    /// Maps runs of memory, one after the other, to contiguous addresses at or below `limit`, at a
    /// multiple of `align`. Never sleeps.
    ///
    /// # Errors
    /// [`MapError`]: nothing is mapped then.
    pub fn map(
        &self,
        cpu: &impl CpuGuard,
        runs: impl Iterator<Item = PhysRange> + Clone,
        permissions: Permissions,
        align: u64,
        limit: DmaMask,
    ) -> Result<Mapped, MapError> {
        let granule = self.table.format().geometry().granule();
        let (mut len, mut ends) = (0_u64, 0);
        for run in runs.clone() {
            len = len.saturating_add(run.len());
            ends |= run.start().raw() | run.len();
        }
        if len == 0 || ends & granule.mask() != 0 {
            return Err(MapError::Shape {
                len,
                granule: granule.bytes(),
            });
        }
        let request = Request { len, align, limit };
        let reservation = self.space.alloc(cpu, &request).map_err(MapError::Space)?;
        let mut done = 0;
        match self.fill(reservation.range(), runs, permissions, &mut done) {
            Ok(()) => Ok(Mapped {
                domain: self.id,
                reservation,
            }),
            Err(error) => {
                self.abandon(cpu, reservation, done);
                Err(error)
            }
        }
    }

    /// Unmaps, and queues the invalidation: hardware may use the mapping until a sync is complete.
    /// Never sleeps, never waits for that.
    ///
    /// # Errors
    /// [`UnmapFailure`].
    pub fn unmap(&self, mapped: Mapped) -> Result<Ticket, UnmapFailure> {
        let reservation = self.own(mapped)?;
        let mapped = reservation.range().len();
        self.unmap_range(reservation.into_range(), mapped)
    }

    /// As [`unmap`](Self::unmap), of a range of which the first bytes are mapped.
    #[inline]
    pub(crate) fn unmap_range(
        &self,
        range: IovaRange,
        mapped: u64,
    ) -> Result<Ticket, UnmapFailure> {
        let mut gather = Gather::new();
        self.clear(range, mapped, &mut gather)?;
        self.owe(range, gather, Addresses::Free)
    }

    /// Queues the invalidation of a range whose entries are clear: what is owed for it.
    #[inline]
    pub(crate) fn owe(
        &self,
        range: IovaRange,
        gather: Gather,
        addresses: Addresses,
    ) -> Result<Ticket, UnmapFailure> {
        if let Err(error) = self.invalidate(&gather) {
            self.quarantine(range);
            return Err(UnmapFailure::Hardware { range, error });
        }
        Ok(Ticket {
            domain: self.id,
            range,
            addresses,
            fallen: gather.into(),
            since: self.epochs.now(),
        })
    }

    /// Ends the domain, and gives its parts: the hardware, so that its tag can be released, and
    /// then the page table, to be dropped.
    ///
    /// # Errors
    /// The domain, with how many bytes of its addresses are mapped, wait for a sync, or are lost:
    /// hardware may still use what they led to.
    #[allow(clippy::result_large_err, clippy::type_complexity)]
    pub fn close(self) -> Result<(H, PageTable<F, P, M>), (Self, u64)> {
        match self.space.statistics().used {
            0 => Ok((self.hardware, self.table)),
            used => Err((self, used)),
        }
    }

    /// Waits until hardware has forgotten everything unmapped before. Never sleeps; spins, for a
    /// bounded time.
    ///
    /// # Errors
    /// [`SyncError`]: no ticket can be redeemed by it.
    #[inline]
    pub fn sync(&self) -> Result<Proof, SyncError> {
        let completed = self.epochs.begin();
        self.hardware.sync()?;
        Ok(Proof {
            domain: self.id,
            completed,
        })
    }

    /// Takes what a ticket owns back for use. Never sleeps.
    ///
    /// # Errors
    /// [`RedeemFailure`] with the ticket, where the proof does not cover it.
    #[inline]
    pub fn redeem(
        &self,
        cpu: &impl CpuGuard,
        ticket: Ticket,
        proof: &Proof,
    ) -> Result<(), RedeemFailure> {
        if ticket.domain != self.id {
            let error = RedeemError::ForeignTicket {
                owner: ticket.domain,
                domain: self.id,
            };
            return Err(RedeemFailure { error, ticket });
        }
        if let Err(error) = proof.covers(&ticket) {
            return Err(RedeemFailure { error, ticket });
        }
        self.take_back(cpu, ticket);
        Ok(())
    }

    #[inline]
    fn take_back(&self, cpu: &impl CpuGuard, ticket: Ticket) {
        self.table.recycle(ticket.fallen);
        match ticket.addresses {
            Addresses::Free => self.release(cpu, ticket.range),
            Addresses::Stay => {}
            Addresses::Unclaim => self.space.unclaim(self.space.resume_claim(ticket.range)),
        }
    }

    /// The tables of a part that hardware has forgotten, and whose addresses stay reserved.
    pub(crate) fn forgotten(&self, ticket: Ticket) {
        self.table.recycle(ticket.fallen);
    }

    /// Clears a part, and queues its invalidation; its addresses stay reserved.
    pub(crate) fn unlink_part(&self, part: IovaRange) -> Result<Ticket, UnmapFailure> {
        let mut gather = Gather::new();
        if let Err(error) = self.table.unmap(part, &mut gather) {
            self.quarantine(part);
            return Err(UnmapFailure::Table { range: part, error });
        }
        self.owe(part, gather, Addresses::Stay)
    }

    /// Takes the number of a sync that is about to begin.
    pub(crate) fn begin_sync(&self) -> Epoch {
        self.epochs.begin()
    }

    /// Lets hardware forget everything, and waits.
    pub(crate) fn forget_all(&self) -> Result<(), SyncError> {
        self.hardware.invalidate_all()?;
        self.hardware.sync()
    }

    /// Takes tables back that hardware has forgotten.
    #[inline]
    pub(crate) fn recycle(&self, fallen: FallenTables) {
        self.table.recycle(fallen);
    }

    /// The addresses of a mapping of this domain.
    #[inline]
    pub(crate) fn own(&self, mapped: Mapped) -> Result<Reservation, UnmapFailure> {
        match mapped.domain == self.id {
            true => Ok(mapped.reservation),
            false => Err(UnmapFailure::Foreign(mapped)),
        }
    }

    /// Clears the table for the first bytes of a range, for which nothing was queued yet.
    #[inline(always)]
    pub(crate) fn clear(
        &self,
        range: IovaRange,
        mapped: u64,
        gather: &mut Gather,
    ) -> Result<(), UnmapFailure> {
        let part = range.slice(0, mapped).unwrap_or(range);
        if part.is_empty() {
            return Ok(());
        }
        match self.table.unmap(part, gather) {
            Ok(()) => Ok(()),
            Err(error) => {
                self.quarantine(range);
                Err(UnmapFailure::Table { range, error })
            }
        }
    }

    /// Gives addresses back at which nothing is mapped, and that hardware has forgotten.
    #[inline]
    pub(crate) fn release(&self, cpu: &impl CpuGuard, range: IovaRange) {
        self.space.free(cpu, self.space.resume(range));
    }

    /// What a range whose invalidation is queued by now must wait for.
    #[inline]
    pub(crate) fn epoch(&self) -> Epoch {
        self.epochs.now()
    }

    /// Queues what forgets a gather.
    #[inline]
    pub(crate) fn invalidate(&self, gather: &Gather) -> Result<(), SyncError> {
        match Joined::of(gather) {
            Some(joined) => self.hardware.invalidate(&self.invalidation(&joined)),
            None => Ok(()),
        }
    }

    /// Queues what forgets many, in order of their addresses: neighbours as one, or everything,
    /// where that is cheaper.
    pub(crate) fn invalidate_many<'a, I: Iterator<Item = &'a Gather>>(
        &self,
        gathers: &impl Fn() -> I,
    ) -> Result<(), SyncError> {
        let mut commands = 0;
        joined(gathers(), |one| {
            commands += self.hardware.commands_for(&self.invalidation(one));
            Ok(())
        })?;
        if self.hardware.costs().is_whole_cheaper(commands) {
            return self.hardware.invalidate_all();
        }
        joined(gathers(), |one| {
            self.hardware.invalidate(&self.invalidation(one))
        })
    }

    #[inline]
    fn invalidation(&self, joined: &Joined) -> Invalidation {
        let geometry = self.table.format().geometry();
        Invalidation {
            range: joined.range,
            granule: geometry.granule(),
            leaf_height: joined.leaf_height,
            leaf_shift: joined.leaf_height.map(|height| geometry.shift(height)),
            tables: joined.tables,
        }
    }

    /// Puts addresses away for good.
    #[cold]
    pub(crate) fn quarantine(&self, range: IovaRange) {
        self.quarantined.fetch_add(range.len(), Ordering::Relaxed);
    }

    /// Maps runs one after the other; `done` counts the bytes that are mapped, also on failure.
    fn fill(
        &self,
        range: IovaRange,
        runs: impl Iterator<Item = PhysRange>,
        permissions: Permissions,
        done: &mut u64,
    ) -> Result<(), MapError> {
        for run in runs {
            let part = range.slice(*done, run.len()).unwrap_or(range);
            self.table
                .map(part, run.start(), permissions)
                .map_err(MapError::Table)?;
            *done += run.len();
        }
        self.hardware.mapped(range).map_err(MapError::Hardware)
    }

    /// Undoes a mapping that failed after `done` bytes.
    #[cold]
    fn abandon(&self, cpu: &impl CpuGuard, reservation: Reservation, done: u64) {
        let mapped = reservation.range().slice(0, done);
        match self.take_out(mapped.unwrap_or(reservation.range())) {
            true => self.space.free(cpu, reservation),
            false => self.quarantine(reservation.into_range()),
        }
    }

    /// Clears what was just mapped, and is all there; whether hardware has forgotten it, which may
    /// have walked what was there for a moment.
    #[cold]
    pub(crate) fn take_out(&self, mapped: IovaRange) -> bool {
        let mut gather = Gather::new();
        let cleared = mapped.is_empty() || self.table.unmap(mapped, &mut gather).is_ok();
        let forgotten = cleared && self.forget_all().is_ok();
        if forgotten {
            self.table.recycle(gather);
        }
        forgotten
    }
}
