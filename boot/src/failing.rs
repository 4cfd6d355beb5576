//! A domain that refuses some mappings, for finding out what its users do then.

use dmakit_addr::{DmaMask, Granule, Iova, IovaRange, PhysAddr, PhysRange};
use dmakit_dma::Translate;
use dmakit_io_pgtable::{Gather, Permissions};
use dmakit_iommu::{
    DomainId, LinkError, MapError, Proof, RedeemFailure, SyncError, Ticket, UnmapFailure,
};
use dmakit_iova::{AllocCause, AllocError};
use dmakit_platform::{CpuGuard, IrqMutex};

use crate::board::Board;
use crate::noise::Noise;

/// Which mappings are refused.
struct Refusing {
    /// One in this many; 0 for none.
    one_in: u64,
    noise: Noise,
    refused: u64,
}

static REFUSING: IrqMutex<Board, Option<Refusing>> = IrqMutex::<Board, _>::new(None);

/// From now on refuses one mapping in `one_in`, or none if that is 0.
pub fn start(one_in: u64, seed: u64) {
    *REFUSING.lock() = Some(Refusing {
        one_in,
        noise: Noise::new(seed),
        refused: 0,
    });
}

/// Refuses nothing more; how many were refused.
pub fn stop() -> u64 {
    REFUSING
        .lock()
        .take()
        .map_or(0, |refusing| refusing.refused)
}

fn refuses() -> bool {
    let mut refusing = REFUSING.lock();
    let Some(refusing) = refusing.as_mut() else {
        return false;
    };
    let refuses = refusing.one_in > 0 && refusing.noise.below(refusing.one_in) == 0;
    refusing.refused += u64::from(refuses);
    refuses
}

/// A domain that refuses mappings, as if it were full, between [`start`] and [`stop`].
pub struct Failing<T: 'static>(pub &'static T);

impl<T: Translate> Translate for Failing<T> {
    const IS_LAZY: bool = T::IS_LAZY;

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
        if refuses() {
            return Err(MapError::Space(AllocError {
                asked: runs.map(|run| run.len()).sum(),
                align,
                limit,
                cause: AllocCause::Full { free: 0 },
            }));
        }
        self.0.map(cpu, runs, permissions, align, limit)
    }

    fn reserve(
        &self,
        cpu: &impl CpuGuard,
        len: u64,
        align: u64,
        limit: DmaMask,
    ) -> Result<IovaRange, AllocError> {
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

    fn announce(&self, range: IovaRange) -> Result<(), SyncError> {
        self.0.announce(range)
    }

    fn undo(&self, part: IovaRange) -> Result<(), UnmapFailure> {
        self.0.undo(part)
    }

    fn unlink(&self, part: IovaRange) -> Result<Ticket, UnmapFailure> {
        self.0.unlink(part)
    }

    fn unmap(&self, cpu: &impl CpuGuard, range: IovaRange) -> Result<Option<Ticket>, UnmapFailure> {
        self.0.unmap(cpu, range)
    }

    fn unmap_strict(&self, range: IovaRange) -> Result<Ticket, UnmapFailure> {
        self.0.unmap_strict(range)
    }

    fn unmap_later(&self, range: IovaRange) -> Result<Ticket, UnmapFailure> {
        self.0.unmap_later(range)
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

    fn redeem_covered(&self, cpu: &impl CpuGuard, ticket: Ticket, proof: &Proof) -> bool {
        self.0.redeem_covered(cpu, ticket, proof)
    }

    fn lookup(&self, iova: Iova) -> Option<PhysAddr> {
        self.0.lookup(iova)
    }
}
