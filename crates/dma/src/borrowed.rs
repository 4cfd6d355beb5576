//! Transfers of memory that is only borrowed.

use core::panic::Location;

use dmakit_addr::{Attributes, DirectionType, PhysAddr, ReadableByCpu, ToDevice};
use dmakit_platform::{CopySource, Platform};

use crate::bounce::Ask;
use crate::check::Checker;
use crate::mapping::{Record, Route};
use crate::{BounceCause, Device, DmaSegment, MapError};

/// Low bits of a pointer that are also those of the physical address behind it.
const SAME_LOW_BITS: usize = dmakit_addr::PAGE_BYTES as usize - 1;

impl<'m, P: Platform, M, C: Checker<'m>> Device<'m, P, M, C> {
    /// Lets the device read a copy of `bytes` while `body` runs. No device ever sees borrowed memory
    /// itself, so this always bounces; `body` returns when the device is done.
    ///
    /// Where `body` panics the slots are leaked, and counted as live: nobody knows then whether the
    /// device is done with them.
    ///
    /// # Errors
    /// [`MapError`] where the device has no pool, the pool no room, or the attributes make no sense.
    #[track_caller]
    pub fn bounce_to_device<R>(
        &self,
        bytes: &[u8],
        attributes: Attributes,
        body: impl FnOnce(DmaSegment) -> R,
    ) -> Result<R, MapError> {
        let record = self.bounce_borrowed::<ToDevice>(bytes, attributes, Location::caller())?;
        let result = body(record.segment());
        self.end_borrowed(record, &mut [], 0);
        Ok(result)
    }

    /// Lets the device write, or read and write, a copy of `bytes` while `body` runs; `body` returns
    /// when the device is done, and says with its result how many bytes the device wrote, as far as
    /// was checked. Only these are copied back.
    ///
    /// Otherwise as [`bounce_to_device`](Self::bounce_to_device).
    ///
    /// # Errors
    /// As [`bounce_to_device`](Self::bounce_to_device).
    #[track_caller]
    pub fn bounce_from_device<D: ReadableByCpu, R>(
        &self,
        bytes: &mut [u8],
        attributes: Attributes,
        body: impl FnOnce(DmaSegment) -> (R, u64),
    ) -> Result<R, MapError> {
        let record = self.bounce_borrowed::<D>(bytes, attributes, Location::caller())?;
        let (result, len) = body(record.segment());
        self.end_borrowed(record, bytes, len);
        Ok(result)
    }

    fn bounce_borrowed<D: DirectionType>(
        &self,
        bytes: &[u8],
        attributes: Attributes,
        caller: &'static Location<'static>,
    ) -> Result<Record<D>, MapError> {
        let len = bytes.len_bytes();
        let low_bits = bytes.as_ptr() as usize & SAME_LOW_BITS;
        let ask = Ask {
            cause: BounceCause::Borrowed,
            original: PhysAddr::new(low_bits as u64),
            len,
            is_single: true,
        };
        let record = self
            .check_request(len, attributes)
            .and_then(|()| self.bounce(bytes, attributes, &ask, None))
            .inspect_err(|error| self.counters.failed(error, attributes))?;
        // The device sees slots only, and nothing else of a slot's owner is known.
        self.begin(&record, core::iter::empty(), caller);
        Ok(record)
    }

    fn end_borrowed<D: DirectionType>(&self, record: Record<D>, target: &mut [u8], len: u64) {
        self.finish(&record);
        let wants_data = D::DIRECTION.device_writes() && !record.skips_sync;
        let drops_lines = wants_data && record.needs_caches;
        let len = if wants_data { len.min(record.len) } else { 0 };
        if let Route::Bounced(buffer) = record.route {
            self.end_bounced(buffer, target, len, drops_lines);
        }
    }
}
