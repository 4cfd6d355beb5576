//! Ending mappings through a domain.

use dmakit_addr::{Bidirectional, Direction, DirectionType, FromDevice, IovaRange, PhysAddr};
use dmakit_platform::{CopyTarget, Platform};

use super::{Original, Translated};
use crate::check::Checker;
use crate::debt::Owed;
use crate::mapping::{Record, Slots};
use crate::part::Part;
use crate::{Device, Path, StrictDomain, Translate, bounce, cache};

impl<'m, P: Platform, M, C: Checker<'m>, T: Translate> Device<'m, P, M, C, T> {
    /// Ends a mapping, after bringing the first `len` bytes of what the device wrote to its memory.
    #[inline]
    pub(crate) fn end_translated<D: DirectionType, O: Original>(
        &self,
        translated: Translated,
        original: &mut O,
        len: u64,
        record: &Record<D>,
    ) -> Owed {
        let Some(domain) = self.translation() else {
            return Owed::Lost;
        };
        let drops_lines = record.leaves_stale_lines();
        if translated.slots == Slots::None {
            let range = translated.range;
            let owed = self.retire(range, range.len());
            if drops_lines && matches!(owed, Owed::Since(_)) {
                // Nobody waits for the flush of a lazy domain, and the device is said to be done.
                for run in original.runs() {
                    cache::before_cpu_reads(&self.platform, run);
                }
            }
            return owed;
        }
        let wants_data = D::DIRECTION.device_writes() && !record.skips_sync;
        let wanted = wants_data.then_some(len);
        self.end_guarded::<D, O>(domain, translated, original, wanted, drops_lines)
    }

    /// Ends a mapping part of which lies in slots. Hardware must have forgotten these before anybody
    /// else gets them, so this syncs at once.
    #[cold]
    pub(crate) fn end_guarded<D: DirectionType, O: Original>(
        &self,
        domain: &'m T::Domain,
        translated: Translated,
        original: &mut O,
        wanted: Option<u64>,
        drops_lines: bool,
    ) -> Owed {
        let (range, done) = (translated.range, translated.range.len());
        let apart =
            self.take_apart::<D, O>(domain, translated, original, done, wanted, drops_lines);
        if apart {
            domain.release(&self.platform.enter_cpu(), range);
            Owed::Paid
        } else {
            self.counters.lost();
            Owed::Lost
        }
    }

    /// Copies the first `len` bytes of the slots at `start` to a part.
    pub(crate) fn copy_out<B: CopyTarget + ?Sized>(
        &self,
        start: PhysAddr,
        mut target: Part<&mut B>,
        len: u64,
        direction: Direction,
    ) {
        let Some((pool, _)) = self.pool().filter(|_| len > 0) else {
            return;
        };
        let is_copied = match direction {
            Direction::ToDevice => false,
            Direction::FromDevice => {
                bounce::copy_out::<P, M, FromDevice, _>(pool, start, &mut target, len)
            }
            Direction::Bidirectional => {
                bounce::copy_out::<P, M, Bidirectional, _>(pool, start, &mut target, len)
            }
        };
        if is_copied {
            self.counters.copied_out(len);
        }
    }

    /// Unmaps the first `mapped` bytes of a range: what the driver owes for it.
    #[inline]
    pub(crate) fn retire(&self, range: IovaRange, mapped: u64) -> Owed {
        let unmapped = match (self.strict_domain(), self.path) {
            (Some(domain), _) => domain.unmap_strict(range, mapped).map(Some),
            (None, Path::Translated { domain, .. }) => {
                domain.unmap(&self.platform.enter_cpu(), range, mapped)
            }
            (None, _) => Ok(None),
        };
        match unmapped {
            Ok(Some(ticket)) => Owed::Ticket(ticket),
            Ok(None) => Owed::Since(self.epoch()),
            Err(_) => {
                self.counters.lost();
                Owed::Lost
            }
        }
    }
}
