//! Coherent memory from the first pool, for devices that may reach nothing else.

use dmakit_addr::PhysAddr;
use dmakit_platform::{CpuGuard, Platform, Window};

use crate::bounce_pool::{CHARGED, COHERENT};
use crate::growth::Taking;
use crate::layout::Layout;
use crate::shared_area::Begin;
use crate::{BouncePool, DeviceId, DeviceLimits, Lifetime, MapError, Record};

/// Slots that a device and the CPU share for long. Dropping it leaks the slots.
#[must_use = "dropping coherent slots leaks them"]
#[derive(Debug)]
pub struct CoherentSlots {
    start: PhysAddr,
    len: u64,
    first: u32,
}

impl CoherentSlots {
    /// Where the device finds the first byte, before the bus offset.
    pub fn start(&self) -> PhysAddr {
        self.start
    }

    /// How many bytes were asked for; more than zero.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> u64 {
        self.len
    }
}

impl<P: Platform, M> BouncePool<P, M> {
    /// `len` zeroed bytes for a device, naturally aligned: whole pages that start at a multiple of
    /// the power of two at or above their size. They come from the first pool, because they stay.
    ///
    /// Never sleeps.
    ///
    /// # Errors
    /// [`MapError`]; nothing has changed then.
    pub fn alloc_coherent(
        &self,
        device: DeviceId,
        limits: &DeviceLimits,
        len: u64,
    ) -> Result<CoherentSlots, MapError> {
        let layout = Layout::natural(self.shift, len)?;
        let record = Record {
            slots: layout.slots,
            offset: 0,
            tail: 0,
            device: device.raw(),
            flags: COHERENT,
        };
        let taking = Taking {
            layout: &layout,
            limits,
            lifetime: Lifetime::Permanent,
            cpu: self.platform.enter_cpu().cpu(),
            begin: Begin { record, copied: 0 },
        };
        let (_, first) = self.take(device, taking)?;
        let start = self.first.address(first, 0);
        self.fill(&self.first, start, &layout, |window| window.fill(0));
        Ok(CoherentSlots { start, len, first })
    }

    /// The bytes. The device may write them at any moment: what is read is copied out, once, and
    /// then checked. `None` where the slots are of other pools.
    pub fn coherent_window(&self, slots: &CoherentSlots) -> Option<Window<'_>> {
        self.first.window(slots.start, slots.len)
    }

    /// Gives coherent memory back. The device must not reach it any more.
    ///
    /// # Errors
    /// The slots, where they are of other pools.
    pub fn free_coherent(&self, slots: CoherentSlots) -> Result<(), CoherentSlots> {
        let own = self.first.slot(slots.start) == Some(slots.first);
        match own
            .then(|| self.first.slots.give_back(slots.first, 0))
            .flatten()
        {
            Some(record) => {
                debug_assert!(record.flags & !CHARGED == COHERENT);
                self.refund(&record);
                Ok(())
            }
            None => Err(slots),
        }
    }
}
