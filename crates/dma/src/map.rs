//! Lending buffers to a device.

use core::panic::Location;

use dmakit_addr::{
    Attributes, Direction, DirectionType, DmaAddr, DmaRange, PAGE_BYTES, PhysAddr, PhysRange,
};
use dmakit_platform::{CopySource, CpuBuffer, Platform};

use crate::bounce::{self, Ask};
use crate::cache;
use crate::check::{Checker, Event, Kind};
use crate::mapping::{Record, Route, Slots};
use crate::segments::OneSegment;
use crate::translated::Translated;
use crate::{
    BounceCause, BounceWhen, Device, DmaMemory, MapError, MapFailure, Mapping, MaskKind, Path,
    TokenError, Translate, Trust,
};

/// What a streaming mapping can be asked for. The rest would be silently ignored, so it is refused:
///
/// * `SKIP_CPU_SYNC`: map and unmap do no cache maintenance, and unmap no copy back; explicit syncs
///   still do both. Bounce slots are filled at map all the same: what stood in them is nobody's.
/// * `REQUIRE_COHERENT`: refused where a cache operation or a bounce would be needed.
/// * `NO_WARN`: a failure is counted apart.
/// * `WEAK_ORDERING`, `PRIVILEGED`: licences that this path has no use for.
const STREAMING: Attributes = Attributes::SKIP_CPU_SYNC
    .union(Attributes::REQUIRE_COHERENT)
    .union(Attributes::NO_WARN)
    .union(Attributes::WEAK_ORDERING)
    .union(Attributes::PRIVILEGED);

impl<'m, P: Platform, M, C: Checker<'m>, T: Translate> Device<'m, P, M, C, T> {
    /// Lends `buffer` to the device as one segment.
    ///
    /// Cleans and invalidates caches, or copies into bounce slots, as the device needs. Never
    /// sleeps. O(runs) and, where lines are maintained or bytes copied, O(bytes).
    ///
    /// # Errors
    /// [`MapFailure`] with the buffer, untouched: nothing has changed but a counter.
    #[track_caller]
    pub fn map<D: DirectionType>(
        &self,
        buffer: CpuBuffer,
        attributes: Attributes,
    ) -> Result<Mapping<D>, MapFailure<CpuBuffer>> {
        let caller = Location::caller();
        match self.try_map(&buffer, attributes) {
            Ok(record) => {
                self.begin(&record, buffer.runs(), caller);
                Ok(Mapping {
                    memory: buffer,
                    record,
                })
            }
            Err(error) => Err(self.refuse(error, buffer, attributes)),
        }
    }

    /// Whether a record is this device's and holds these bytes.
    #[inline]
    pub(crate) fn check_token<D>(
        &self,
        record: &Record<D>,
        offset: u64,
        len: u64,
    ) -> Result<(), TokenError> {
        if record.device != self.info.id {
            return Err(TokenError::Foreign {
                owner: record.device,
                device: self.info.id,
            });
        }
        if offset > record.len || len > record.len - offset {
            return Err(TokenError::OutOfRange {
                offset,
                len,
                mapped: record.len,
            });
        }
        Ok(())
    }

    #[inline]
    pub(crate) fn begin<D: DirectionType>(
        &self,
        record: &Record<D>,
        runs: impl Iterator<Item = PhysRange> + Clone,
        caller: &'static Location<'static>,
    ) {
        self.counters.mapped_on(&self.platform.enter_cpu());
        let segment = record.segment();
        let event = Event::new(Kind::Streaming, segment, D::DIRECTION).by(caller);
        self.checker.began(&self.info, &event, runs);
    }

    #[cold]
    pub(crate) fn refuse<B>(
        &self,
        error: MapError,
        memory: B,
        attributes: Attributes,
    ) -> MapFailure<B> {
        self.counters.failed(&error, attributes);
        MapFailure { error, memory }
    }

    /// What `map` does, on borrowed memory.
    #[inline]
    fn try_map<D: DirectionType, B: DmaMemory>(
        &self,
        memory: &B,
        attributes: Attributes,
    ) -> Result<Record<D>, MapError> {
        self.check_request(memory.len_bytes(), attributes)?;
        let mut joined = OneSegment::default();
        if let Some(domain) = self.translation() {
            let place = |dma| joined.push(dma);
            let runs = memory.runs();
            let translated = self.translate::<D, B>(domain, runs, memory, attributes, place)?;
            return match joined.finish(self.info.limits) {
                Ok(first) => Ok(self.lend_translated(memory, translated, first, 1, attributes)),
                Err(error) => {
                    let len = translated.range.len();
                    self.undo::<D>(domain, translated, memory.runs(), len);
                    Err(error)
                }
            };
        }
        let cause = self.find_cause(memory.runs(), D::DIRECTION, |run| joined.push(run));
        if let Some(cause) = cause {
            let cut = |slots| self.cut_none(slots);
            return self.bounce_memory(memory, attributes, cause, true, cut);
        }
        let first = joined.finish(self.info.limits)?;
        Ok(self.lend(memory, first, 1, attributes))
    }

    pub(crate) fn check_request(&self, len: u64, attributes: Attributes) -> Result<(), MapError> {
        let refused = Attributes::from_bits(attributes.bits() & !STREAMING.bits());
        if refused != Attributes::NONE {
            return Err(MapError::Attributes(refused));
        }
        if len == 0 {
            return Err(MapError::Empty);
        }
        if attributes.contains(Attributes::REQUIRE_COHERENT) && !self.info.is_coherent() {
            return Err(MapError::NotCoherent);
        }
        Ok(())
    }

    /// Shows each run's place on the bus to `visit`, or says why one of them has none that is safe.
    #[inline]
    pub(crate) fn find_cause(
        &self,
        runs: impl Iterator<Item = PhysRange>,
        direction: Direction,
        mut visit: impl FnMut(DmaRange),
    ) -> Option<BounceCause> {
        if let Path::Bounced {
            when: BounceWhen::Always,
            ..
        } = self.path
        {
            return Some(BounceCause::Forced);
        }
        let minds_lines = !self.info.is_coherent() && direction.device_writes();
        let minds_pages = self.info.trust == Trust::Untrusted;
        for run in runs {
            if run.is_empty() {
                continue;
            }
            let Some(dma) = self.info.direct(run, MaskKind::Streaming) else {
                let reach = self.info.reach(MaskKind::Streaming);
                return Some(BounceCause::OutOfReach { run, reach });
            };
            if minds_pages && !cache::has_whole(run, PAGE_BYTES) {
                return Some(BounceCause::SharedPage { run });
            }
            if minds_lines {
                let line_bytes = self.platform.cache_line_bytes();
                if !cache::has_whole(run, line_bytes) {
                    return Some(BounceCause::SharedLine { run, line_bytes });
                }
            }
            visit(dma);
        }
        None
    }

    /// Hands the memory itself to the device.
    #[inline]
    pub(crate) fn lend<D: DirectionType, B: DmaMemory>(
        &self,
        memory: &B,
        start: DmaAddr,
        segments: u32,
        attributes: Attributes,
    ) -> Record<D> {
        let needs_caches = !self.info.is_coherent();
        let skips_sync = attributes.contains(Attributes::SKIP_CPU_SYNC);
        if needs_caches && !skips_sync {
            for run in memory.runs() {
                cache::before_device(&self.platform, run, D::DIRECTION);
            }
        }
        Record {
            device: self.info.id,
            start,
            len: memory.len_bytes(),
            segments,
            route: Route::Direct,
            is_quiet: !needs_caches,
            needs_caches,
            skips_sync,
        }
    }

    /// Hands the memory to the device by way of a domain, which maps it already.
    #[inline]
    pub(crate) fn lend_translated<D: DirectionType, B: DmaMemory>(
        &self,
        memory: &B,
        translated: Translated,
        start: DmaAddr,
        segments: u32,
        attributes: Attributes,
    ) -> Record<D> {
        let Translated { range, slots } = translated;
        let needs_caches = !self.info.is_coherent();
        Record {
            device: self.info.id,
            start,
            len: memory.len_bytes(),
            segments,
            route: Route::Translated { range, slots },
            is_quiet: !needs_caches && slots == Slots::None,
            needs_caches,
            skips_sync: attributes.contains(Attributes::SKIP_CPU_SYNC),
        }
    }

    #[cold]
    pub(crate) fn bounce_memory<D: DirectionType, B: DmaMemory>(
        &self,
        memory: &B,
        attributes: Attributes,
        cause: BounceCause,
        is_single: bool,
        cut: impl FnOnce(DmaRange) -> Result<u32, MapError>,
    ) -> Result<Record<D>, MapError> {
        let first = memory.runs().find(|run| !run.is_empty());
        let ask = Ask {
            cause,
            original: first.map_or(PhysAddr::new(0), |run| run.start()),
            len: memory.len_bytes(),
            is_single,
        };
        self.bounce(memory, attributes, &ask, cut)
    }

    /// Hands a copy of `source` to the device; `cut` says how many segments the slots are.
    pub(crate) fn bounce<D: DirectionType, S: CopySource + ?Sized>(
        &self,
        source: &S,
        attributes: Attributes,
        ask: &Ask,
        cut: impl FnOnce(DmaRange) -> Result<u32, MapError>,
    ) -> Result<Record<D>, MapError> {
        if attributes.contains(Attributes::REQUIRE_COHERENT) {
            return Err(MapError::WouldBounce(ask.cause));
        }
        let (pool, id) = self.pool().ok_or(MapError::NoBouncePool(ask.cause))?;
        let (buffer, first) = bounce::map::<P, M, D, S>(pool, id, &self.info, source, ask)?;
        let count = match cut(first) {
            Ok(count) => count,
            Err(error) => {
                bounce::give_back(pool, buffer);
                return Err(error);
            }
        };
        let needs_caches = !self.info.is_coherent();
        if needs_caches {
            // Even where the caller does without syncs: what the pool wrote must not be written
            // back over what the device writes, nor stay hidden from it.
            cache::before_device(&self.platform, bounce::slots(&buffer), D::DIRECTION);
        }
        self.counters.bounced();
        self.counters
            .copied_in(bounce::prefilled::<D>(&self.info, ask.len));
        Ok(Record {
            device: self.info.id,
            start: first.start(),
            len: ask.len,
            segments: count,
            route: Route::Bounced(buffer),
            is_quiet: false,
            needs_caches,
            skips_sync: attributes.contains(Attributes::SKIP_CPU_SYNC),
        })
    }

    /// Bounce slots as one segment.
    pub(crate) fn cut_none(&self, slots: DmaRange) -> Result<u32, MapError> {
        let limits = self.info.limits;
        match limits.allows(slots) {
            true => Ok(1),
            false => Err(MapError::Limits {
                segment: slots,
                limits,
            }),
        }
    }
}
