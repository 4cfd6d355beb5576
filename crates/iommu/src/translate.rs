//! What a mapping API needs of a domain.

use dmakit_addr::{DmaMask, Granule, Iova, IovaRange, PhysAddr, PhysRange};
use dmakit_io_pgtable::{Format, Gather, Permissions};
use dmakit_iova::{AllocError, CpuCache};
use dmakit_platform::{CpuGuard, CpuSlot, Platform, TableMemory};

use crate::error::LinkError;
use crate::{
    Domain, DomainId, Hardware, Lazy, MapError, Proof, RedeemFailure, SyncError, Ticket,
    UnmapFailure,
};

/// A domain, seen by a mapping API that keeps its own records: a seam that leaves out of what parts
/// the domain is made.
///
/// Implemented by [`Domain`], which is strict, by [`Lazy`], and by [`NoTranslation`] for machines
/// without an IOMMU. It is a static parameter of whoever maps, so a page costs no indirect call.
/// Nothing here sleeps or allocates; all may be called in hard interrupts and from any CPU.
///
/// Addresses are plain ranges here. Whoever calls keeps each one that [`map`](Self::map) or
/// [`reserve`](Self::reserve) gave, hands it back once, and lets nobody else do so: what
/// [`Mapped`](crate::Mapped) does for those who call a domain themselves.
pub trait Translate: Send + Sync {
    /// Whether [`unmap`](Self::unmap) may leave hardware what it knows until a later flush, and owes
    /// nothing.
    const IS_LAZY: bool;

    /// Whose syncs pay for its tickets.
    fn id(&self) -> DomainId;

    /// What it maps at least.
    fn granule(&self) -> Granule;

    /// Maps runs of whole granules to contiguous addresses, as [`Domain::map`].
    ///
    /// # Errors
    /// [`MapError`]: nothing is mapped then.
    fn map(
        &self,
        cpu: &impl CpuGuard,
        runs: impl Iterator<Item = PhysRange> + Clone,
        permissions: Permissions,
        align: u64,
        limit: DmaMask,
    ) -> Result<IovaRange, MapError>;

    /// Takes addresses for `len` bytes and maps nothing there.
    ///
    /// # Errors
    /// [`AllocError`] with the numbers.
    fn reserve(
        &self,
        cpu: &impl CpuGuard,
        len: u64,
        align: u64,
        limit: DmaMask,
    ) -> Result<IovaRange, AllocError>;

    /// Gives addresses back at which nothing has been mapped since a sync.
    fn release(&self, cpu: &impl CpuGuard, range: IovaRange);

    /// Fills the table for a part of what was reserved. Hardware may use it after
    /// [`announce`](Self::announce).
    ///
    /// # Errors
    /// [`LinkError`]: nothing of the part is mapped then.
    fn link(
        &self,
        part: IovaRange,
        phys: PhysAddr,
        permissions: Permissions,
    ) -> Result<(), LinkError>;

    /// Tells hardware that a range is mapped now: once for all that was linked.
    ///
    /// # Errors
    /// [`SyncError`]: hardware may use the range or not.
    fn announce(&self, range: IovaRange) -> Result<(), SyncError>;

    /// Clears a part and waits until hardware has forgotten it; the addresses stay reserved. Undoes
    /// links that nobody was told of.
    ///
    /// # Errors
    /// [`UnmapFailure`]: the part is lost, with what lay behind it.
    fn undo(&self, part: IovaRange) -> Result<(), UnmapFailure>;

    /// Clears a part and queues its invalidation; the addresses stay reserved. Strict, always.
    ///
    /// # Errors
    /// [`UnmapFailure`]: the part is lost, with what lay behind it.
    fn unlink(&self, part: IovaRange) -> Result<Ticket, UnmapFailure>;

    /// Ends a mapping of all of `range`, its addresses included: `None` where nothing is owed for
    /// it, because the domain is lazy.
    ///
    /// # Errors
    /// [`UnmapFailure`]: what lay behind it must not be used again.
    fn unmap(&self, cpu: &impl CpuGuard, range: IovaRange) -> Result<Option<Ticket>, UnmapFailure>;

    /// As [`unmap`](Self::unmap), and strict whatever the domain.
    ///
    /// # Errors
    /// As [`unmap`](Self::unmap).
    fn unmap_strict(&self, range: IovaRange) -> Result<Ticket, UnmapFailure>;

    /// As [`unmap_strict`](Self::unmap_strict), with nothing queued yet: for a
    /// [`Batch`](crate::Batch), which does so when it closes.
    ///
    /// # Errors
    /// As [`unmap`](Self::unmap).
    fn unmap_later(&self, range: IovaRange) -> Result<Ticket, UnmapFailure>;

    /// Queues what forgets many that were unmapped later, in order of their addresses.
    ///
    /// # Errors
    /// [`SyncError`] where hardware takes no commands.
    fn invalidate_many<'a, I: Iterator<Item = &'a Gather>>(
        &self,
        gathers: &impl Fn() -> I,
    ) -> Result<(), SyncError>;

    /// Waits until hardware has forgotten everything unmapped before, as [`Domain::sync`].
    ///
    /// # Errors
    /// [`SyncError`]: no ticket can be redeemed by it.
    fn sync(&self) -> Result<Proof, SyncError>;

    /// Takes what a ticket owns back, as [`Domain::redeem`].
    ///
    /// # Errors
    /// [`RedeemFailure`] with the ticket.
    fn redeem(
        &self,
        cpu: &impl CpuGuard,
        ticket: Ticket,
        proof: &Proof,
    ) -> Result<(), RedeemFailure>;

    /// As [`redeem`](Self::redeem), of a ticket whose invalidation was queued by
    /// [`invalidate_many`](Self::invalidate_many) before the proof's sync began; false, and the
    /// ticket lost, where the proof does not cover it.
    fn redeem_covered(&self, cpu: &impl CpuGuard, ticket: Ticket, proof: &Proof) -> bool;

    /// Where an address leads; `None` where nothing is mapped.
    fn lookup(&self, iova: Iova) -> Option<PhysAddr>;
}

impl<P, S, F, M, H> Translate for Domain<P, S, F, M, H>
where
    P: Platform,
    S: AsRef<[CpuSlot<CpuCache>]> + Send + Sync,
    F: Format,
    M: TableMemory + Send + Sync,
    H: Hardware,
{
    const IS_LAZY: bool = false;

    fn id(&self) -> DomainId {
        Self::id(self)
    }

    #[inline]
    fn granule(&self) -> Granule {
        self.space().granule()
    }

    #[inline]
    fn map(
        &self,
        cpu: &impl CpuGuard,
        runs: impl Iterator<Item = PhysRange> + Clone,
        permissions: Permissions,
        align: u64,
        limit: DmaMask,
    ) -> Result<IovaRange, MapError> {
        let mapped = Self::map(self, cpu, runs, permissions, align, limit)?;
        Ok(mapped.reservation.into_range())
    }

    #[inline]
    fn reserve(
        &self,
        cpu: &impl CpuGuard,
        len: u64,
        align: u64,
        limit: DmaMask,
    ) -> Result<IovaRange, AllocError> {
        let request = dmakit_iova::Request { len, align, limit };
        Ok(self.space().alloc(cpu, &request)?.into_range())
    }

    #[inline]
    fn release(&self, cpu: &impl CpuGuard, range: IovaRange) {
        self.space().free(cpu, self.space().resume(range));
    }

    #[inline]
    fn link(
        &self,
        part: IovaRange,
        phys: PhysAddr,
        permissions: Permissions,
    ) -> Result<(), LinkError> {
        self.table().map(part, phys, permissions)
    }

    #[inline]
    fn announce(&self, range: IovaRange) -> Result<(), SyncError> {
        self.hardware().mapped(range)
    }

    #[cold]
    fn undo(&self, part: IovaRange) -> Result<(), UnmapFailure> {
        let ticket = self.unlink(part)?;
        match Self::sync(self) {
            Ok(_) => {
                self.forgotten(ticket);
                Ok(())
            }
            Err(error) => Err(UnmapFailure::Hardware { range: part, error }),
        }
    }

    fn unlink(&self, part: IovaRange) -> Result<Ticket, UnmapFailure> {
        self.unlink_part(part)
    }

    #[inline]
    fn unmap(
        &self,
        _cpu: &impl CpuGuard,
        range: IovaRange,
    ) -> Result<Option<Ticket>, UnmapFailure> {
        self.unmap_strict(range).map(Some)
    }

    #[inline]
    fn unmap_strict(&self, range: IovaRange) -> Result<Ticket, UnmapFailure> {
        Self::unmap(self, self.mapped(range))
    }

    #[inline]
    fn unmap_later(&self, range: IovaRange) -> Result<Ticket, UnmapFailure> {
        Self::unmap_later(self, self.mapped(range))
    }

    fn invalidate_many<'a, I: Iterator<Item = &'a Gather>>(
        &self,
        gathers: &impl Fn() -> I,
    ) -> Result<(), SyncError> {
        Self::invalidate_many(self, gathers)
    }

    fn sync(&self) -> Result<Proof, SyncError> {
        Self::sync(self)
    }

    #[inline]
    fn redeem(
        &self,
        cpu: &impl CpuGuard,
        ticket: Ticket,
        proof: &Proof,
    ) -> Result<(), RedeemFailure> {
        Self::redeem(self, cpu, ticket, proof)
    }

    #[inline]
    fn redeem_covered(&self, cpu: &impl CpuGuard, ticket: Ticket, proof: &Proof) -> bool {
        Self::redeem_covered(self, cpu, ticket, proof)
    }

    fn lookup(&self, iova: Iova) -> Option<PhysAddr> {
        self.table().iova_to_phys(iova)
    }
}

/// Strict in everything but [`unmap`](Translate::unmap).
impl<P, S, F, M, H> Translate for Lazy<P, S, F, M, H>
where
    P: Platform,
    S: AsRef<[CpuSlot<CpuCache>]> + Send + Sync,
    F: Format,
    M: TableMemory + Send + Sync,
    H: Hardware,
{
    const IS_LAZY: bool = true;

    fn id(&self) -> DomainId {
        self.domain().id()
    }

    #[inline]
    fn granule(&self) -> Granule {
        self.domain().granule()
    }

    #[inline]
    fn map(
        &self,
        cpu: &impl CpuGuard,
        runs: impl Iterator<Item = PhysRange> + Clone,
        permissions: Permissions,
        align: u64,
        limit: DmaMask,
    ) -> Result<IovaRange, MapError> {
        Translate::map(self.domain(), cpu, runs, permissions, align, limit)
    }

    #[inline]
    fn reserve(
        &self,
        cpu: &impl CpuGuard,
        len: u64,
        align: u64,
        limit: DmaMask,
    ) -> Result<IovaRange, AllocError> {
        self.domain().reserve(cpu, len, align, limit)
    }

    fn release(&self, cpu: &impl CpuGuard, range: IovaRange) {
        self.domain().release(cpu, range);
    }

    #[inline]
    fn link(
        &self,
        part: IovaRange,
        phys: PhysAddr,
        permissions: Permissions,
    ) -> Result<(), LinkError> {
        self.domain().link(part, phys, permissions)
    }

    fn announce(&self, range: IovaRange) -> Result<(), SyncError> {
        self.domain().announce(range)
    }

    fn undo(&self, part: IovaRange) -> Result<(), UnmapFailure> {
        self.domain().undo(part)
    }

    fn unlink(&self, part: IovaRange) -> Result<Ticket, UnmapFailure> {
        self.domain().unlink(part)
    }

    #[inline]
    fn unmap(&self, cpu: &impl CpuGuard, range: IovaRange) -> Result<Option<Ticket>, UnmapFailure> {
        let mapped = self.domain().mapped(range);
        Self::unmap(self, cpu, mapped).map(|()| None)
    }

    fn unmap_strict(&self, range: IovaRange) -> Result<Ticket, UnmapFailure> {
        self.domain().unmap_strict(range)
    }

    fn unmap_later(&self, range: IovaRange) -> Result<Ticket, UnmapFailure> {
        Translate::unmap_later(self.domain(), range)
    }

    fn invalidate_many<'a, I: Iterator<Item = &'a Gather>>(
        &self,
        gathers: &impl Fn() -> I,
    ) -> Result<(), SyncError> {
        Translate::invalidate_many(self.domain(), gathers)
    }

    fn sync(&self) -> Result<Proof, SyncError> {
        self.domain().sync()
    }

    fn redeem(
        &self,
        cpu: &impl CpuGuard,
        ticket: Ticket,
        proof: &Proof,
    ) -> Result<(), RedeemFailure> {
        self.domain().redeem(cpu, ticket, proof)
    }

    fn redeem_covered(&self, cpu: &impl CpuGuard, ticket: Ticket, proof: &Proof) -> bool {
        Translate::redeem_covered(self.domain(), cpu, ticket, proof)
    }

    fn lookup(&self, iova: Iova) -> Option<PhysAddr> {
        self.domain().lookup(iova)
    }
}

/// The domain of machines without an IOMMU: there is none, so nothing can be asked of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoTranslation {}

impl Translate for NoTranslation {
    const IS_LAZY: bool = false;

    fn id(&self) -> DomainId {
        match *self {}
    }

    fn granule(&self) -> Granule {
        match *self {}
    }

    fn map(
        &self,
        _: &impl CpuGuard,
        _: impl Iterator<Item = PhysRange> + Clone,
        _: Permissions,
        _: u64,
        _: DmaMask,
    ) -> Result<IovaRange, MapError> {
        match *self {}
    }

    fn reserve(
        &self,
        _: &impl CpuGuard,
        _: u64,
        _: u64,
        _: DmaMask,
    ) -> Result<IovaRange, AllocError> {
        match *self {}
    }

    fn release(&self, _: &impl CpuGuard, _: IovaRange) {
        match *self {}
    }

    fn link(&self, _: IovaRange, _: PhysAddr, _: Permissions) -> Result<(), LinkError> {
        match *self {}
    }

    fn announce(&self, _: IovaRange) -> Result<(), SyncError> {
        match *self {}
    }

    fn undo(&self, _: IovaRange) -> Result<(), UnmapFailure> {
        match *self {}
    }

    fn unlink(&self, _: IovaRange) -> Result<Ticket, UnmapFailure> {
        match *self {}
    }

    fn unmap(&self, _: &impl CpuGuard, _: IovaRange) -> Result<Option<Ticket>, UnmapFailure> {
        match *self {}
    }

    fn unmap_strict(&self, _: IovaRange) -> Result<Ticket, UnmapFailure> {
        match *self {}
    }

    fn unmap_later(&self, _: IovaRange) -> Result<Ticket, UnmapFailure> {
        match *self {}
    }

    fn invalidate_many<'a, I: Iterator<Item = &'a Gather>>(
        &self,
        _: &impl Fn() -> I,
    ) -> Result<(), SyncError> {
        match *self {}
    }

    fn sync(&self) -> Result<Proof, SyncError> {
        match *self {}
    }

    fn redeem(&self, _: &impl CpuGuard, _: Ticket, _: &Proof) -> Result<(), RedeemFailure> {
        match *self {}
    }

    fn redeem_covered(&self, _: &impl CpuGuard, _: Ticket, _: &Proof) -> bool {
        match *self {}
    }

    fn lookup(&self, _: Iova) -> Option<PhysAddr> {
        match *self {}
    }
}
