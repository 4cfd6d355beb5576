//! The domain of machines without an IOMMU.

use dmakit_addr::{DmaMask, Granule, Iova, IovaRange, PhysAddr, PhysRange};
use dmakit_io_pgtable::{FallenTables, Gather, MapError as LinkError, Permissions};
use dmakit_iova::AllocError;
use dmakit_platform::CpuGuard;

use crate::{
    DomainId, LinkCursor, MapError, Proof, RedeemFailure, StrictDomain, SyncError, Ticket,
    Translate, UnmapFailure, Withheld, WithholdError,
};

/// There is none, so nothing can be asked of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoTranslation {}

impl StrictDomain for NoTranslation {
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

    type Cursor<'a> = Self;

    fn cursor(&self, _: Permissions) -> Self {
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

    fn unmap_strict(&self, _: IovaRange, _: u64) -> Result<Ticket, UnmapFailure> {
        match *self {}
    }

    fn unmap_gathered(&self, _: IovaRange, _: u64, _: &mut Gather) -> Result<(), UnmapFailure> {
        match *self {}
    }

    fn recycle(&self, _: FallenTables) {
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

    fn withhold(&self, _: IovaRange) -> Result<Withheld, WithholdError> {
        match *self {}
    }

    fn readmit(&self, _: Withheld) -> Result<Result<(), SyncError>, Withheld> {
        match *self {}
    }

    fn lookup(&self, _: Iova) -> Option<PhysAddr> {
        match *self {}
    }

    fn unit(&self, _: Iova) -> Option<IovaRange> {
        match *self {}
    }
}

impl LinkCursor for NoTranslation {
    fn map(&mut self, _: IovaRange, _: PhysAddr) -> Result<(), LinkError> {
        match *self {}
    }

    fn map_granule(&mut self, _: Iova, _: PhysAddr) -> bool {
        match *self {}
    }
}

impl Translate for NoTranslation {
    type Domain = Self;

    fn domain(&self) -> &Self {
        match *self {}
    }

    fn is_lazy(&self) -> bool {
        match *self {}
    }

    fn unmap(
        &self,
        _: &impl CpuGuard,
        _: IovaRange,
        _: u64,
    ) -> Result<Option<Ticket>, UnmapFailure> {
        match *self {}
    }
}
