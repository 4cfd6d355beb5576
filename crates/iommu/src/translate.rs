//! What a mapping API needs of a domain.

use dmakit_addr::{DmaMask, Granule, Iova, IovaRange, PhysAddr, PhysRange};
use dmakit_io_pgtable::{Cursor, FallenTables, Format, Gather, MapError as LinkError, Permissions};
use dmakit_iova::{AllocError, CpuCache};
use dmakit_platform::{CpuGuard, CpuSlot, Platform, TableMemory};

use crate::{
    Domain, DomainId, Hardware, Lazy, MapError, Proof, RedeemFailure, SyncError, Ticket,
    UnmapFailure, Withheld, WithholdError,
};

/// What stands between a device and memory, seen by a mapping API: a seam that leaves out of what
/// parts a domain is made, and says when hardware forgets what was unmapped.
///
/// Implemented by [`Domain`], which is strict, by [`Lazy`], by [`Switched`](crate::Switched) for a
/// choice that is made while running, and by [`NoTranslation`](crate::NoTranslation) for machines without an IOMMU. It is a static parameter
/// of whoever maps, so a page costs no indirect call.
pub trait Translate: Send + Sync {
    /// The domain itself.
    type Domain: StrictDomain;

    /// The domain, for everything that is the same however it is flushed.
    fn domain(&self) -> &Self::Domain;

    /// Whether [`unmap`](Self::unmap) may leave hardware what it knows until a later flush, and owes
    /// nothing.
    fn is_lazy(&self) -> bool;

    /// Ends a mapping of the first `mapped` bytes of `range`, the addresses of all of it included:
    /// `None` where nothing is owed for it, because the domain is lazy. Never sleeps.
    ///
    /// # Errors
    /// [`UnmapFailure`]: what lay behind it must not be used again.
    fn unmap(
        &self,
        cpu: &impl CpuGuard,
        range: IovaRange,
        mapped: u64,
    ) -> Result<Option<Ticket>, UnmapFailure>;
}

/// A domain, seen by a mapping API that keeps its own records.
///
/// Nothing here sleeps or allocates; all may be called in hard interrupts and from any CPU.
///
/// Addresses are plain ranges here. Whoever calls keeps each one that [`map`](Self::map) or
/// [`reserve`](Self::reserve) gave, hands it back once, and lets nobody else do so: what
/// [`Mapped`](crate::Mapped) does for those who call a domain themselves.
pub trait StrictDomain: Send + Sync {
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

    /// As [`link`](Self::link), for many parts that allow the same: keeps a leaf table at hand.
    type Cursor<'a>: LinkCursor
    where
        Self: 'a;

    /// A cursor for parts of what its holder has reserved.
    fn cursor(&self, permissions: Permissions) -> Self::Cursor<'_>;

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

    /// Ends a mapping of the first `mapped` bytes of `range`, the addresses of all of it included, and
    /// queues the invalidation.
    ///
    /// # Errors
    /// [`UnmapFailure`]: what lay behind it must not be used again.
    fn unmap_strict(&self, range: IovaRange, mapped: u64) -> Result<Ticket, UnmapFailure>;

    /// Clears the first `mapped` bytes of `range`, and adds them to `gather`, with nothing queued yet:
    /// for a [`Batch`](crate::Batch), which does so when it closes. After the sync that follows it
    /// [`recycles`](Self::recycle) what fell out and [`releases`](Self::release) the addresses.
    ///
    /// # Errors
    /// As [`unmap_strict`](Self::unmap_strict).
    fn unmap_gathered(
        &self,
        range: IovaRange,
        mapped: u64,
        gather: &mut Gather,
    ) -> Result<(), UnmapFailure>;

    /// Takes tables back that hardware has forgotten.
    fn recycle(&self, fallen: FallenTables);

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

    /// Keeps hardware from a part while the memory behind it moves, as [`Domain::withhold`].
    ///
    /// # Errors
    /// [`WithholdError`]: the part is mapped as before.
    fn withhold(&self, part: IovaRange) -> Result<Withheld, WithholdError>;

    /// Lets hardware in again, as [`Domain::readmit`].
    ///
    /// # Errors
    /// What was withheld, where it is another domain's; the inner error as there.
    fn readmit(&self, withheld: Withheld) -> Result<Result<(), SyncError>, Withheld>;

    /// Where an address leads; `None` where nothing is mapped.
    fn lookup(&self, iova: Iova) -> Option<PhysAddr>;

    /// What can only be unmapped as a whole around an address, which is contiguous memory; `None` where
    /// nothing is mapped.
    fn unit(&self, iova: Iova) -> Option<IovaRange>;
}

/// Links parts one after the other: see [`StrictDomain::cursor`].
pub trait LinkCursor {
    /// As [`StrictDomain::link`].
    ///
    /// # Errors
    /// [`LinkError`]: nothing of the part is mapped then.
    fn map(&mut self, part: IovaRange, phys: PhysAddr) -> Result<(), LinkError>;

    /// Links one granule, where that is short; false where [`map`](Self::map) has to. Both addresses
    /// are multiples of it.
    fn map_granule(&mut self, start: Iova, phys: PhysAddr) -> bool;
}

impl<F: Format, P: Platform, M: TableMemory> LinkCursor for Cursor<'_, F, P, M> {
    #[inline]
    fn map(&mut self, part: IovaRange, phys: PhysAddr) -> Result<(), LinkError> {
        Cursor::map(self, part, phys)
    }

    #[inline(always)]
    fn map_granule(&mut self, start: Iova, phys: PhysAddr) -> bool {
        Cursor::map_granule(self, start.raw(), phys)
    }
}

impl<P, S, F, M, H> StrictDomain for Domain<P, S, F, M, H>
where
    P: Platform,
    S: AsRef<[CpuSlot<CpuCache>]> + Send + Sync,
    F: Format,
    M: TableMemory + Send + Sync,
    H: Hardware,
{
    #[inline]
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

    #[inline(always)]
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
        Self::release(self, cpu, range);
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

    type Cursor<'a>
        = Cursor<'a, F, P, M>
    where
        Self: 'a;

    #[inline(always)]
    fn cursor(&self, permissions: Permissions) -> Self::Cursor<'_> {
        self.table().cursor(permissions)
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
    fn unmap_strict(&self, range: IovaRange, mapped: u64) -> Result<Ticket, UnmapFailure> {
        self.unmap_range(range, mapped)
    }

    #[inline]
    fn unmap_gathered(
        &self,
        range: IovaRange,
        mapped: u64,
        gather: &mut Gather,
    ) -> Result<(), UnmapFailure> {
        self.clear(range, mapped, gather)
    }

    #[inline]
    fn recycle(&self, fallen: FallenTables) {
        Self::recycle(self, fallen);
    }

    fn invalidate_many<'a, I: Iterator<Item = &'a Gather>>(
        &self,
        gathers: &impl Fn() -> I,
    ) -> Result<(), SyncError> {
        Self::invalidate_many(self, gathers)
    }

    #[inline]
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

    fn withhold(&self, part: IovaRange) -> Result<Withheld, WithholdError> {
        Self::withhold(self, part)
    }

    fn readmit(&self, withheld: Withheld) -> Result<Result<(), SyncError>, Withheld> {
        Self::readmit(self, withheld)
    }

    fn lookup(&self, iova: Iova) -> Option<PhysAddr> {
        self.table().iova_to_phys(iova)
    }

    fn unit(&self, iova: Iova) -> Option<IovaRange> {
        self.table().unit_at(iova)
    }
}

impl<P, S, F, M, H> Translate for Domain<P, S, F, M, H>
where
    P: Platform,
    S: AsRef<[CpuSlot<CpuCache>]> + Send + Sync,
    F: Format,
    M: TableMemory + Send + Sync,
    H: Hardware,
{
    type Domain = Self;

    #[inline]
    fn domain(&self) -> &Self {
        self
    }

    #[inline]
    fn is_lazy(&self) -> bool {
        false
    }

    #[inline]
    fn unmap(
        &self,
        _cpu: &impl CpuGuard,
        range: IovaRange,
        mapped: u64,
    ) -> Result<Option<Ticket>, UnmapFailure> {
        self.unmap_range(range, mapped).map(Some)
    }
}

impl<P, S, F, M, H> Translate for Lazy<P, S, F, M, H>
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
        Self::domain(self)
    }

    #[inline]
    fn is_lazy(&self) -> bool {
        true
    }

    #[inline]
    fn unmap(
        &self,
        cpu: &impl CpuGuard,
        range: IovaRange,
        mapped: u64,
    ) -> Result<Option<Ticket>, UnmapFailure> {
        self.unmap_range(cpu, range, mapped)
    }
}
