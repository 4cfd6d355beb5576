//! Mappings that are known by their address alone, for callers who cannot keep a token.

use dmakit_addr::{DirectionType, PhysAddr};
use dmakit_platform::Platform;

use crate::bounce_pool::{BY_ADDRESS, COHERENT, DIRECTION, ForeignBuffer, PoolRef};
use crate::buffer::{FIRST, GROWN, Place, RESERVE};
use crate::{BounceBuffer, BouncePool, DeviceId, NotMapped};

/// What lies at an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found {
    /// The first mapped byte.
    pub start: PhysAddr,
    /// How many bytes are mapped.
    pub len: u64,
    /// The device that they are counted to.
    pub device: DeviceId,
}

impl<P: Platform, M> BouncePool<P, M> {
    /// Gives the token up for the address of the first mapped byte; [`claim`](Self::claim) makes
    /// it again. Where the mapping began in its source is forgotten.
    ///
    /// # Errors
    /// [`ForeignBuffer`] with the mapping, where it is not of these pools.
    pub fn into_address<D: DirectionType>(
        &self,
        buffer: BounceBuffer<D>,
    ) -> Result<PhysAddr, ForeignBuffer<D>> {
        let give_up = |pool: PoolRef<'_, P>| {
            let own = pool.slot(buffer.start).is_some();
            own.then(|| {
                let change = |record: &crate::Record| Some(record.flags | BY_ADDRESS);
                pool.slots.change_flags(buffer.first, change)
            })
        };
        match self.pool(buffer.pool).and_then(give_up).flatten() {
            Some(_) => Ok(buffer.start),
            None => Err(ForeignBuffer(buffer)),
        }
    }

    /// The token of the mapping whose first mapped byte lies at `address`. It succeeds once for
    /// each [`into_address`](Self::into_address), so there are never two tokens of one mapping.
    /// Constant time but for one word for each 64 slots of padding.
    ///
    /// # Errors
    /// [`NotMapped`] where no such mapping of that direction was given up.
    pub fn claim<D: DirectionType>(&self, address: PhysAddr) -> Result<BounceBuffer<D>, NotMapped> {
        let missing = NotMapped { address };
        let (number, pool) = self.pool_at(address).ok_or(missing)?;
        let slot = pool.slot(address).ok_or(missing)?;
        let first = pool.slots.mapping_at(slot).ok_or(missing)?;
        let claim = |record: &crate::Record| {
            let expected = D::DIRECTION as u16 | BY_ADDRESS;
            let claimable = record.flags & (DIRECTION | BY_ADDRESS | COHERENT) == expected
                && pool.address(first, record.offset) == address;
            claimable.then_some(record.flags & !BY_ADDRESS)
        };
        let record = pool.slots.change_flags(first, claim).ok_or(missing)?;
        let place = Place {
            start: address,
            len: pool.mapped_len(&record),
            first,
            pool: number,
            device: DeviceId::new(record.device),
        };
        Ok(BounceBuffer::new(place, 0))
    }

    /// The mapping that has a byte at `address`, its own or padding. The pool is found in constant
    /// time, the mapping's start in one word for each 64 slots before the address.
    pub fn find(&self, address: PhysAddr) -> Option<Found> {
        let (_, pool) = self.pool_at(address)?;
        let slot = pool.slot(address)?;
        let first = pool.slots.mapping_at(slot)?;
        let record = pool.slots.record(first)?;
        (slot - first < record.slots).then(|| Found {
            start: pool.address(first, record.offset),
            len: pool.mapped_len(&record),
            device: DeviceId::new(record.device),
        })
    }

    /// The pool that an address lies in, and its number.
    fn pool_at(&self, address: PhysAddr) -> Option<(u16, PoolRef<'_, P>)> {
        if self.first.slot(address).is_some() {
            return Some((FIRST, PoolRef::Fixed(&self.first)));
        }
        let growth = self.growth.as_deref()?;
        if growth.reserve.slot(address).is_some() {
            return Some((RESERVE, PoolRef::Fixed(&growth.reserve)));
        }
        let index = growth.index.find(address.raw())?;
        let pool = growth.places.get(index)?.get()?;
        Some((GROWN + index as u16, PoolRef::Grown(pool)))
    }
}
