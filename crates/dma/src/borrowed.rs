//! Transfers of memory that is only borrowed.

use core::panic::Location;

use dmakit_addr::{Attributes, DirectionType, PhysAddr, PhysRange, ReadableByCpu, ToDevice};
use dmakit_platform::{CopySource, Platform};

use crate::bounce::Ask;
use crate::check::Checker;
use crate::mapping::{Record, Route};
use crate::translated::{OneRun, Translated};
use crate::{BounceCause, Device, DmaSegment, MapError, Translate};

/// Low bits of a pointer that are also those of the physical address behind it.
const SAME_LOW_BITS: usize = dmakit_addr::PAGE_BYTES as usize - 1;

impl<'m, P: Platform, M, C: Checker<'m>, T: Translate> Device<'m, P, M, C, T> {
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
            .and_then(|()| match self.translation() {
                Some(domain) => self.copy_behind(domain, bytes, attributes, &ask),
                None => self.bounce(bytes, attributes, &ask, |slots| self.cut_none(slots)),
            })
            .inspect_err(|error| self.counters.failed(error, attributes))?;
        // The device sees slots only, and nothing else of a slot's owner is known.
        self.begin(&record, core::iter::empty(), caller);
        Ok(record)
    }

    /// As [`bounce`](Self::bounce), of slots that the device sees through a domain.
    fn copy_behind<D: DirectionType>(
        &self,
        domain: &'m T::Domain,
        bytes: &[u8],
        attributes: Attributes,
        ask: &Ask,
    ) -> Result<Record<D>, MapError> {
        if attributes.contains(Attributes::REQUIRE_COHERENT) {
            return Err(MapError::WouldBounce(ask.cause));
        }
        let run = PhysRange::new(ask.original, ask.len).map_err(|_| MapError::Empty)?;
        let (translated, dma) =
            self.translate_copy::<D, [u8]>(domain, run, bytes, attributes, ask.cause)?;
        let limits = self.info.limits;
        if !limits.allows(dma) {
            let len = translated.range.len();
            self.undo::<D>(domain, translated, core::iter::once(run), len);
            return Err(MapError::Limits {
                segment: dma,
                limits,
            });
        }
        let Translated { range, slots } = translated;
        Ok(Record {
            device: self.info.id,
            start: dma.start(),
            len: ask.len,
            segments: 1,
            route: Route::Translated { range, slots },
            is_quiet: false,
            needs_caches: !self.info.is_coherent(),
            skips_sync: attributes.contains(Attributes::SKIP_CPU_SYNC),
        })
    }

    fn end_borrowed<D: DirectionType>(&self, record: Record<D>, target: &mut [u8], len: u64) {
        self.finish(&record, &self.platform.enter_cpu());
        let wants_data = D::DIRECTION.device_writes() && !record.skips_sync;
        let drops_lines = wants_data && record.needs_caches;
        let len = if wants_data { len.min(record.len) } else { 0 };
        if let Some(translated) = record.translated() {
            // The low bits are those of the bytes, so the slots are found where they were put.
            let offset = record.start.raw() & SAME_LOW_BITS as u64;
            if let Ok(run) = PhysRange::new(PhysAddr::new(offset), record.len) {
                let mut original = OneRun { run, bytes: target };
                // What is lost are slots, which the device alone has seen, and it is counted.
                let _ = self.end_translated(translated, &mut original, len, &record);
            }
            return;
        }
        if let Route::Bounced(buffer) = record.route {
            self.end_bounced(buffer, target, len, drops_lines);
        }
    }
}
