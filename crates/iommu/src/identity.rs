//! Memory that a device reaches at its own address.

use dmakit_addr::{Iova, IovaRange, PhysRange};
use dmakit_io_pgtable::{Format, Gather, Permissions};
use dmakit_iova::{Claim, CpuCache};
use dmakit_platform::{CpuSlot, Platform, TableMemory};

use crate::error::{IdentityError, UnmapFailure};
use crate::ticket::Addresses;
use crate::{Domain, DomainId, Hardware, Ticket};

/// Memory that a device reaches at its own address: what firmware, or an earlier kernel, set the
/// device up with, and that it goes on using before its driver takes over.
///
/// It is moved, never copied. Forgetting one leaves it mapped, and the domain open.
#[derive(PartialEq, Eq, Debug)]
pub struct IdentityRegion {
    domain: DomainId,
    claim: Claim,
}

impl IdentityRegion {
    /// The addresses.
    pub fn range(&self) -> IovaRange {
        self.claim.range()
    }
}

impl<P, S, F, M, H> Domain<P, S, F, M, H>
where
    P: Platform,
    S: AsRef<[CpuSlot<CpuCache>]>,
    F: Format,
    M: TableMemory,
    H: Hardware,
{
    /// Maps memory at its own address: for each region that firmware reports for a device, before
    /// the device's stream is attached to the domain, so that its transactions never stop. Nothing
    /// else gets these addresses, and the domain does not [close](Self::close), until the region is
    /// [unmapped](Self::unmap_identity).
    ///
    /// Before anything else is mapped, nothing can stand in the way but a reserved window: two
    /// regions that overlap are mapped as one. May sleep; O(leaves).
    ///
    /// # Errors
    /// [`IdentityError`]: the domain is as before.
    pub fn map_identity(
        &self,
        range: PhysRange,
        permissions: Permissions,
    ) -> Result<IdentityRegion, IdentityError> {
        let [start, end] = [range.start(), range.end()].map(|end| Iova::new(end.raw()));
        let iova = IovaRange::between(start, end).ok_or(IdentityError::Range(range))?;
        let claim = self.space().claim(iova).map_err(IdentityError::Space)?;
        let linked = self.table().map(iova, range.start(), permissions);
        let (error, mapped) = match linked {
            Err(error) => (IdentityError::Table(error), 0),
            Ok(()) => match self.hardware().mapped(iova) {
                Err(error) => (IdentityError::Hardware(error), iova.len()),
                Ok(()) => {
                    let domain = self.id();
                    return Ok(IdentityRegion { domain, claim });
                }
            },
        };
        match self.take_out(iova.slice(0, mapped).unwrap_or(iova)) {
            true => self.space().unclaim(claim),
            false => self.quarantine(claim.into_range()),
        }
        Err(error)
    }

    /// Unmaps a region that the device has done with, and queues the invalidation. Its addresses are
    /// free once the ticket is redeemed. Never sleeps.
    ///
    /// # Errors
    /// The region, where it is another domain's; else as for [`unmap`](Self::unmap).
    pub fn unmap_identity(
        &self,
        region: IdentityRegion,
    ) -> Result<Result<Ticket, UnmapFailure>, IdentityRegion> {
        if region.domain != self.id() {
            return Err(region);
        }
        let range = region.claim.into_range();
        let mut gather = Gather::new();
        let cleared = self.clear(range, range.len(), &mut gather);
        Ok(cleared.and_then(|()| self.owe(range, gather, Addresses::Unclaim)))
    }
}
