//! Mapping, unmapping and syncing.

use dmakit_addr::{DirectionType, PhysAddr, ReadableByCpu, WritableByCpu};
use dmakit_platform::{CopySource, CopyTarget, CpuGuard, Platform, Window};

use crate::bounce_pool::{CHARGED, ForeignBuffer};
use crate::buffer::{FIRST, Place};
use crate::growth::Taking;
use crate::layout::Layout;
use crate::pool::Pool;
use crate::shared_area::Begin;
use crate::{
    BounceBuffer, BouncePool, DeviceId, DeviceLimits, Full, MapError, MapRequest, OutOfMapping,
    Record, Trust,
};

impl<P: Platform, M> BouncePool<P, M> {
    /// Bounces a part of `source` for a device.
    ///
    /// Whatever the direction, the slots begin with the original's bytes, so that what the device
    /// does not write comes back as it was; for an untrusted device that only writes they begin
    /// with zeroes. Constant time but for the copy, and a look at each area.
    ///
    /// # Errors
    /// [`MapError`]; nothing has changed then, but growth may have been asked for.
    #[inline]
    pub fn map<D: DirectionType, S: CopySource + ?Sized>(
        &self,
        device: DeviceId,
        limits: &DeviceLimits,
        source: &S,
        request: &MapRequest,
    ) -> Result<BounceBuffer<D>, MapError> {
        let (end, len) = (request.offset.checked_add(request.len), source.len_bytes());
        if end.is_none_or(|end| end > len) {
            let end = end.unwrap_or(u64::MAX);
            return Err(MapError::OutOfSource { end, len });
        }
        let layout = self.layout(limits, request)?;
        let copied = match limits.trust {
            Trust::Untrusted if !D::DIRECTION.device_reads() => 0,
            _ => request.len,
        };
        let taking = Taking {
            layout: &layout,
            limits,
            lifetime: request.lifetime,
            cpu: self.platform.enter_cpu().cpu(),
            begin: Begin {
                record: Record {
                    slots: layout.slots,
                    offset: layout.offset,
                    tail: layout.tail,
                    device: device.raw(),
                    flags: D::DIRECTION as u16,
                },
                copied,
            },
        };
        let (pool, first) = self.take(device, taking)?;
        let Some(lent) = self.pool(pool) else {
            unreachable!("slots were just taken there")
        };
        let start = lent.address(first, layout.offset);
        self.fill(&lent, start, &layout, |window| match copied {
            0 => window.fill(0),
            _ => source.copy_to(request.offset, window),
        });
        let place = Place {
            start,
            len: request.len,
            first,
            pool,
            device,
        };
        Ok(BounceBuffer::new(place, request.offset))
    }

    #[inline]
    fn layout(&self, limits: &DeviceLimits, request: &MapRequest) -> Result<Layout, MapError> {
        let MapRequest {
            original,
            len,
            align,
            ..
        } = *request;
        let layout = Layout::new(self.shift, original, len, limits.min_align, align)?;
        if layout.is_cut(self.shift, limits.boundary, len) {
            return Err(MapError::Boundary {
                mask: limits.boundary.raw(),
                len,
            });
        }
        Ok(layout)
    }

    /// Charges and takes slots.
    #[inline]
    pub(crate) fn take(
        &self,
        device: DeviceId,
        mut taking: Taking<'_>,
    ) -> Result<(u16, u32), MapError> {
        let account = self
            .account(device)
            .ok_or(MapError::UnknownDevice(device))?;
        let slots = taking.layout.slots;
        let charged = match account.charge(slots) {
            Ok(charged) => charged,
            Err(exceeded) => {
                self.failures.count_quota();
                return Err(MapError::Quota(exceeded));
            }
        };
        if charged {
            taking.begin.record.flags |= CHARGED;
        }
        let taken = match &self.growth {
            None => taking.take(&self.first).map(|slot| (FIRST, slot)),
            Some(growth) => growth.take(&self.first, &self.level, &taking),
        };
        taken.map_err(|_| {
            if charged {
                account.refund(slots);
            }
            self.failed(&taking)
        })
    }

    /// Why a request failed, counted.
    #[cold]
    fn failed(&self, taking: &Taking<'_>) -> MapError {
        let Taking { layout, limits, .. } = *taking;
        let capacity = self.capacity();
        if u64::from(layout.slots) > capacity.max_slots {
            self.failures.count_too_large();
            let len = self.shift.address(layout.slots);
            return MapError::TooLarge { len };
        }
        if !self.each_pool(|pool| pool.is_reachable(layout, limits)) {
            self.failures.count_unreachable();
            let limit = limits.mask.last();
            return MapError::Unreachable { limit };
        }
        let mut largest = 0;
        self.each_pool(|pool| {
            largest = largest.max(pool.slots.largest());
            false
        });
        let full = Full {
            slots: layout.slots,
            align: layout.align(),
            largest,
            used: self.level.drawn(),
            total: capacity.slots,
        };
        self.failures.count_full(&full);
        MapError::Full(full)
    }

    /// Zeroes padding and tail, and lets `body` fill what is mapped.
    #[inline]
    pub(crate) fn fill(
        &self,
        pool: &Pool<P>,
        start: PhysAddr,
        layout: &Layout,
        body: impl FnOnce(Window<'_>),
    ) {
        let (offset, tail) = (u64::from(layout.offset), u64::from(layout.tail));
        let whole = self.shift.address(layout.slots);
        let base = PhysAddr::new(start.raw() - offset);
        let Some(window) = pool.window(base, whole) else {
            unreachable!("slots lie in their pool")
        };
        if let Some(padding) = window.slice(0, offset).filter(|w| !w.is_empty()) {
            padding.fill(0);
        }
        if let Some(mapped) = window.slice(offset, whole - offset - tail) {
            body(mapped);
        }
        if let Some(tail) = window.slice(whole - tail, tail).filter(|w| !w.is_empty()) {
            tail.fill(0);
        }
    }

    /// Ends a mapping; what the device may have written is copied to `target`, where the source
    /// was.
    ///
    /// # Errors
    /// [`ForeignBuffer`] with the mapping, where it is not of these pools.
    #[inline]
    pub fn unmap<D: DirectionType, T: CopyTarget + ?Sized>(
        &self,
        buffer: BounceBuffer<D>,
        target: &mut T,
    ) -> Result<(), ForeignBuffer<D>> {
        let len = buffer.len;
        self.unmap_validated(buffer, target, len)
    }

    /// As [`unmap`](Self::unmap), but of what the device wrote only the first `validated` bytes
    /// count, as for an untrusted device that says how much it wrote: the rest of `target` stays.
    ///
    /// # Errors
    /// [`ForeignBuffer`] with the mapping, where it is not of these pools.
    #[inline]
    pub fn unmap_validated<D: DirectionType, T: CopyTarget + ?Sized>(
        &self,
        buffer: BounceBuffer<D>,
        target: &mut T,
        validated: u64,
    ) -> Result<(), ForeignBuffer<D>> {
        self.end(buffer, |pool, buffer| {
            let len = buffer.len.min(validated);
            if !D::DIRECTION.device_writes() || len == 0 {
                return 0;
            }
            if let Some(window) = pool.window(buffer.start, len) {
                target.copy_from(buffer.source_offset, window);
            }
            len
        })
    }

    /// Ends a mapping and copies nothing: the caller has synced what it needs.
    ///
    /// # Errors
    /// [`ForeignBuffer`] with the mapping, where it is not of these pools.
    #[inline]
    pub fn unmap_unsynced<D: DirectionType>(
        &self,
        buffer: BounceBuffer<D>,
    ) -> Result<(), ForeignBuffer<D>> {
        self.end(buffer, |_, _| 0)
    }

    #[inline]
    fn end<D: DirectionType>(
        &self,
        buffer: BounceBuffer<D>,
        copy: impl FnOnce(&Pool<P>, &BounceBuffer<D>) -> u64,
    ) -> Result<(), ForeignBuffer<D>> {
        let Some(pool) = self.pool_of(&buffer) else {
            return Err(ForeignBuffer(buffer));
        };
        let copied = copy(&pool, &buffer);
        match pool.slots.give_back(buffer.first, copied) {
            Some(record) => {
                self.refund(&record);
                Ok(())
            }
            None => Err(ForeignBuffer(buffer)),
        }
    }

    #[inline]
    pub(crate) fn refund(&self, record: &Record) {
        if record.flags & CHARGED != 0 {
            if let Some(account) = self.devices.get(usize::from(record.device)) {
                account.refund(record.slots);
            }
        }
    }

    /// Copies what the device may have written of a part to `target`; `offset` counts from the
    /// first mapped byte.
    ///
    /// # Errors
    /// [`OutOfMapping`] where the part does not lie inside, or the mapping is not of these pools.
    pub fn sync_for_cpu<D: ReadableByCpu, T: CopyTarget + ?Sized>(
        &self,
        buffer: &BounceBuffer<D>,
        target: &mut T,
        offset: u64,
        len: u64,
    ) -> Result<(), OutOfMapping> {
        let at = buffer.source_offset;
        self.sync(buffer, offset, len, |window| {
            target.copy_from(at + offset, window);
        })
    }

    /// Copies a part of `source` to where the device finds it; `offset` counts from the first
    /// mapped byte.
    ///
    /// # Errors
    /// [`OutOfMapping`] where the part does not lie inside, or the mapping is not of these pools.
    pub fn sync_for_device<D: WritableByCpu, S: CopySource + ?Sized>(
        &self,
        buffer: &BounceBuffer<D>,
        source: &S,
        offset: u64,
        len: u64,
    ) -> Result<(), OutOfMapping> {
        let at = buffer.source_offset;
        self.sync(buffer, offset, len, |window| {
            source.copy_to(at + offset, window);
        })
    }

    fn sync<D: DirectionType>(
        &self,
        buffer: &BounceBuffer<D>,
        offset: u64,
        len: u64,
        copy: impl FnOnce(Window<'_>),
    ) -> Result<(), OutOfMapping> {
        let end = offset.saturating_add(len);
        let outside = OutOfMapping {
            end,
            len: buffer.len,
        };
        if end > buffer.len {
            return Err(outside);
        }
        let pool = self.pool_of(buffer).ok_or(outside)?;
        // From the mapping's own start: where the slots begin plays no part.
        let start = PhysAddr::new(buffer.start.raw() + offset);
        copy(pool.window(start, len).ok_or(outside)?);
        pool.slots.count_copied(buffer.first, len);
        Ok(())
    }
}
