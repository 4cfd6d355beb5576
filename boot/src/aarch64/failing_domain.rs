//! A domain that refuses some mappings.

use dmakit_addr::{DmaMask, Granule, Iova, IovaRange, PhysAddr, PhysRange};
use dmakit_io_pgtable::{FallenTables, Gather, MapError as LinkError, Permissions};
use dmakit_iommu::{
    DomainId, MapError, Proof, RedeemFailure, StrictDomain, SyncError, Ticket, Translate,
    UnmapFailure, Withheld, WithholdError,
};
use dmakit_iova::{AllocCause, AllocError};
use dmakit_platform::CpuGuard;

use crate::failing;

/// Lets a mapping pass, or says what a full domain would.
fn admit(asked: u64, align: u64, limit: DmaMask) -> Result<(), AllocError> {
    match failing::refuses() {
        false => Ok(()),
        true => Err(AllocError {
            asked,
            align,
            limit,
            cause: AllocCause::Full {
                free: 0,
                largest: 0,
            },
        }),
    }
}

/// A domain that refuses mappings, as if it were full, between [`failing::start`] and [`failing::stop`].
pub struct Failing<T: Translate + 'static> {
    flushed: &'static T,
    domain: Refused<T::Domain>,
}

impl<T: Translate> Failing<T> {
    pub fn new(domain: &'static T) -> Self {
        Self {
            flushed: domain,
            domain: Refused(domain.domain()),
        }
    }
}

impl<T: Translate> Translate for Failing<T> {
    type Domain = Refused<T::Domain>;

    fn domain(&self) -> &Self::Domain {
        &self.domain
    }

    fn is_lazy(&self) -> bool {
        self.flushed.is_lazy()
    }

    fn unmap(
        &self,
        cpu: &impl CpuGuard,
        range: IovaRange,
        mapped: u64,
    ) -> Result<Option<Ticket>, UnmapFailure> {
        self.flushed.unmap(cpu, range, mapped)
    }
}

/// What all domains do, of one that refuses mappings.
pub struct Refused<D: 'static>(&'static D);

impl<D: StrictDomain> StrictDomain for Refused<D> {
    type Cursor<'a> = D::Cursor<'a>;

    fn id(&self) -> DomainId {
        self.0.id()
    }

    fn granule(&self) -> Granule {
        self.0.granule()
    }

    fn map(
        &self,
        cpu: &impl CpuGuard,
        runs: impl Iterator<Item = PhysRange> + Clone,
        permissions: Permissions,
        align: u64,
        limit: DmaMask,
    ) -> Result<IovaRange, MapError> {
        let len = runs.clone().map(|run| run.len()).sum();
        admit(len, align, limit).map_err(MapError::Space)?;
        self.0.map(cpu, runs, permissions, align, limit)
    }

    fn reserve(
        &self,
        cpu: &impl CpuGuard,
        len: u64,
        align: u64,
        limit: DmaMask,
    ) -> Result<IovaRange, AllocError> {
        admit(len, align, limit)?;
        self.0.reserve(cpu, len, align, limit)
    }

    fn release(&self, cpu: &impl CpuGuard, range: IovaRange) {
        self.0.release(cpu, range);
    }

    fn link(
        &self,
        part: IovaRange,
        phys: PhysAddr,
        permissions: Permissions,
    ) -> Result<(), LinkError> {
        self.0.link(part, phys, permissions)
    }

    fn cursor(&self, permissions: Permissions) -> Self::Cursor<'_> {
        self.0.cursor(permissions)
    }

    fn announce(&self, range: IovaRange) -> Result<(), SyncError> {
        self.0.announce(range)
    }

    fn undo(&self, part: IovaRange) -> Result<(), UnmapFailure> {
        self.0.undo(part)
    }

    fn unlink(&self, part: IovaRange) -> Result<Ticket, UnmapFailure> {
        self.0.unlink(part)
    }

    fn unmap_strict(&self, range: IovaRange, mapped: u64) -> Result<Ticket, UnmapFailure> {
        self.0.unmap_strict(range, mapped)
    }

    fn unmap_gathered(
        &self,
        range: IovaRange,
        mapped: u64,
        gather: &mut Gather,
    ) -> Result<(), UnmapFailure> {
        self.0.unmap_gathered(range, mapped, gather)
    }

    fn recycle(&self, fallen: FallenTables) {
        self.0.recycle(fallen);
    }

    fn invalidate_many<'a, I: Iterator<Item = &'a Gather>>(
        &self,
        gathers: &impl Fn() -> I,
    ) -> Result<(), SyncError> {
        self.0.invalidate_many(gathers)
    }

    fn sync(&self) -> Result<Proof, SyncError> {
        self.0.sync()
    }

    fn redeem(
        &self,
        cpu: &impl CpuGuard,
        ticket: Ticket,
        proof: &Proof,
    ) -> Result<(), RedeemFailure> {
        self.0.redeem(cpu, ticket, proof)
    }

    fn withhold(&self, part: IovaRange) -> Result<Withheld, WithholdError> {
        self.0.withhold(part)
    }

    fn readmit(&self, withheld: Withheld) -> Result<Result<(), SyncError>, Withheld> {
        self.0.readmit(withheld)
    }

    fn lookup(&self, iova: Iova) -> Option<PhysAddr> {
        self.0.lookup(iova)
    }

    fn unit(&self, iova: Iova) -> Option<IovaRange> {
        self.0.unit(iova)
    }
}
