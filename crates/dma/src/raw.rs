//! Mappings without tokens, for interfaces that only know addresses.

use core::ops::Range;
use core::panic::Location;

use dmakit_addr::{
    Attributes, Bidirectional, Direction, DirectionType, DmaRange, FromDevice, PhysRange,
    ReadableByCpu, ToDevice, WritableByCpu,
};
use dmakit_platform::{CopySource, CopyTarget, Platform};
use dmakit_swiotlb::BounceBuffer;

use crate::bounce::{self, Ask};
use crate::cache;
use crate::check::{Checker, Event, Kind};
use crate::mapping::Route;
use crate::{Device, DmaSegment, MapError, MaskKind, Path, RawError, Translate};

impl<'m, P: Platform, M, C: Checker<'m>, T: Translate> Device<'m, P, M, C, T> {
    /// Lends the memory of `run`, whose bytes are `source`, to the device; what comes back is all
    /// that is known of the mapping, and a driver may keep it anywhere.
    ///
    /// This is for adapters to interfaces made of addresses. Nothing here proves that the memory
    /// stays where it is, that `run` and `source` are the same bytes, or that anything is unmapped
    /// once: that is the adapter's duty, and a [`Ledger`](crate::Ledger) watches it. Costs and
    /// context as [`map`](Self::map).
    ///
    /// # Errors
    /// As [`map`](Self::map).
    #[track_caller]
    pub fn map_raw<S: CopySource + ?Sized>(
        &self,
        run: PhysRange,
        source: &S,
        direction: Direction,
        attributes: Attributes,
    ) -> Result<DmaSegment, MapError> {
        let caller = Location::caller();
        let mapped = match direction {
            Direction::ToDevice => self.try_map_raw::<ToDevice, S>(run, source, attributes),
            Direction::FromDevice => self.try_map_raw::<FromDevice, S>(run, source, attributes),
            Direction::Bidirectional => {
                self.try_map_raw::<Bidirectional, S>(run, source, attributes)
            }
        };
        let handle = mapped.inspect_err(|error| self.counters.failed(error, attributes))?;
        self.counters.mapped();
        let event = Event::new(Kind::Raw, handle, direction).by(caller);
        self.checker
            .began(&self.info, &event, core::iter::once(run));
        Ok(handle)
    }

    /// Ends a mapping of [`map_raw`](Self::map_raw); what the device wrote is in `target`
    /// afterwards, unless `SKIP_CPU_SYNC` is among the attributes (others mean nothing here). `run`
    /// is the memory that was mapped.
    ///
    /// Where the mapping bounced, all of handle, direction and length are checked. Where it did not,
    /// nothing is kept of it anywhere, so only the address is.
    ///
    /// # Errors
    /// [`RawError`]; the mapping, if there is one, stands.
    #[track_caller]
    pub fn unmap_raw<B: CopyTarget + ?Sized>(
        &self,
        handle: DmaSegment,
        direction: Direction,
        run: PhysRange,
        target: &mut B,
        attributes: Attributes,
    ) -> Result<(), RawError> {
        let wants_data = !attributes.contains(Attributes::SKIP_CPU_SYNC);
        let target = Some(target).filter(|_| wants_data && direction.device_writes());
        let ended = match direction {
            Direction::ToDevice => self.try_unmap_raw::<ToDevice, B>(handle, run, target),
            Direction::FromDevice => self.try_unmap_raw::<FromDevice, B>(handle, run, target),
            Direction::Bidirectional => self.try_unmap_raw::<Bidirectional, B>(handle, run, target),
        };
        if let Err(error) = ended {
            self.checker.misused(&self.info, &error, Location::caller());
            return Err(error);
        }
        self.counters.unmapped();
        let event = Event::new(Kind::Raw, handle, direction);
        self.checker.ended(&self.info, &event);
        Ok(())
    }

    /// Where the device finds `window`, which is not RAM: another device's registers or memory, or the
    /// doorbell that its interrupts are written to. Never bounced, no cache maintenance; through a
    /// domain all granules that it touches are mapped, as device memory. Never sleeps.
    ///
    /// # Errors
    /// [`MapError`] where the device cannot reach it, an attribute other than `MMIO`, `NO_WARN` and
    /// `SKIP_CPU_SYNC` is asked for, or the domain is full; where the device is not trusted, for a
    /// window that shares a granule with others.
    #[track_caller]
    pub fn map_resource(
        &self,
        window: PhysRange,
        direction: Direction,
        attributes: Attributes,
    ) -> Result<DmaSegment, MapError> {
        let caller = Location::caller();
        let first = self
            .try_map_resource(window, direction, attributes)
            .inspect_err(|error| self.counters.failed(error, attributes))?;
        self.counters.mapped();
        let event = Event::new(Kind::Resource, first.into(), direction).by(caller);
        let runs = core::iter::once(window);
        self.checker.began(&self.info, &event, runs);
        Ok(first.into())
    }

    /// Ends a mapping of [`map_resource`](Self::map_resource); through a domain, whether strict or
    /// lazy, the device cannot reach the window afterwards. Never sleeps; spins, for a bounded time.
    ///
    /// # Errors
    /// [`RawError`] where nothing is mapped there, or hardware did not say that it has forgotten it.
    #[track_caller]
    pub fn unmap_resource(&self, handle: DmaSegment, direction: Direction) -> Result<(), RawError> {
        if let Some(domain) = self.translation() {
            let caller = Location::caller();
            self.unmap_window(domain, handle)
                .inspect_err(|error| self.checker.misused(&self.info, error, caller))?;
        }
        self.counters.unmapped();
        let event = Event::new(Kind::Resource, handle, direction);
        self.checker.ended(&self.info, &event);
        Ok(())
    }

    fn try_map_resource(
        &self,
        window: PhysRange,
        direction: Direction,
        attributes: Attributes,
    ) -> Result<DmaRange, MapError> {
        let known = Attributes::MMIO | Attributes::NO_WARN | Attributes::SKIP_CPU_SYNC;
        let refused = Attributes::from_bits(attributes.bits() & !known.bits());
        if refused != Attributes::NONE {
            return Err(MapError::Attributes(refused));
        }
        if window.is_empty() {
            return Err(MapError::Empty);
        }
        if let Some(domain) = self.translation() {
            return self.map_window(domain, window, direction);
        }
        self.info
            .direct(window, MaskKind::Streaming)
            .ok_or_else(|| MapError::Unreachable {
                window,
                reach: self.info.reach(MaskKind::Streaming),
            })
    }

    fn try_map_raw<D: DirectionType, S: CopySource + ?Sized>(
        &self,
        run: PhysRange,
        source: &S,
        attributes: Attributes,
    ) -> Result<DmaSegment, MapError> {
        if source.len_bytes() != run.len() {
            return Err(MapError::LengthMismatch {
                run,
                len: source.len_bytes(),
            });
        }
        self.check_request(run.len(), attributes)?;
        if let Some(domain) = self.translation() {
            return self.map_raw_translated::<D, S>(domain, run, source, attributes);
        }
        let mut first = None;
        let cause = self.find_cause(core::iter::once(run), D::DIRECTION, |dma| first = Some(dma));
        let Some(cause) = cause else {
            let first = first.ok_or(MapError::Empty)?;
            let limits = self.info.limits;
            if !limits.allows(first) {
                return Err(MapError::Limits {
                    segment: first,
                    limits,
                });
            }
            if !self.info.is_coherent() && !attributes.contains(Attributes::SKIP_CPU_SYNC) {
                cache::before_device(&self.platform, run, D::DIRECTION);
            }
            return Ok(first.into());
        };
        let ask = Ask {
            cause,
            original: run.start(),
            len: run.len(),
            is_single: true,
        };
        let record = self.bounce::<D, S>(source, attributes, &ask, None)?;
        let handle = record.segment();
        if let (Route::Bounced(buffer), Path::Bounced { pool, .. }) = (record.route, self.path) {
            // The pool has just given it, so it takes it.
            let given_up = pool.into_address(buffer);
            debug_assert!(given_up.is_ok());
        }
        Ok(handle)
    }

    /// The bounce mapping behind a handle; `None` where the handle leads to memory itself.
    fn claim_raw<D: DirectionType>(
        &self,
        handle: DmaSegment,
        run: PhysRange,
    ) -> Result<Option<BounceBuffer<D>>, RawError> {
        let unknown = RawError::Unknown { handle };
        let dma = DmaRange::new(handle.addr, handle.len).map_err(|_| unknown)?;
        let behind = self.info.memory_behind(dma).ok_or(unknown)?;
        if behind == run {
            return Ok(None);
        }
        let Path::Bounced { pool, .. } = self.path else {
            return Err(RawError::OtherMemory { handle, behind });
        };
        let Some(found) = pool.find(behind.start()) else {
            return Err(RawError::OtherMemory { handle, behind });
        };
        if found.start == behind.start() && found.len != handle.len {
            return Err(RawError::WrongLength {
                handle,
                mapped: found.len,
            });
        }
        let buffer = pool.claim::<D>(behind.start());
        buffer.map(Some).map_err(|_| RawError::NotMapped {
            handle,
            direction: D::DIRECTION,
        })
    }

    fn try_unmap_raw<D: DirectionType, B: CopyTarget + ?Sized>(
        &self,
        handle: DmaSegment,
        run: PhysRange,
        target: Option<&mut B>,
    ) -> Result<(), RawError> {
        let needs_caches = !self.info.is_coherent();
        if let Some(domain) = self.translation() {
            return self.unmap_raw_translated::<D, B>(domain, handle, run, target);
        }
        match (self.claim_raw::<D>(handle, run)?, target) {
            (Some(buffer), Some(target)) => {
                self.end_bounced(buffer, target, handle.len, needs_caches);
            }
            (Some(buffer), None) => self.end_bounced::<D, [u8]>(buffer, &mut [], 0, false),
            (None, Some(_)) if needs_caches => cache::before_cpu_reads(&self.platform, run),
            (None, _) => {}
        }
        Ok(())
    }

    /// Brings what the device wrote to `part` of a raw mapping, counted from its first byte, to the
    /// CPU. Nothing to do where the device only reads.
    ///
    /// # Errors
    /// As [`unmap_raw`](Self::unmap_raw), and where the part does not lie inside.
    #[track_caller]
    pub fn sync_raw_for_cpu<B: CopyTarget + ?Sized>(
        &self,
        handle: DmaSegment,
        direction: Direction,
        run: PhysRange,
        target: &mut B,
        part: Range<u64>,
    ) -> Result<(), RawError> {
        let synced = match direction {
            Direction::ToDevice => Ok(()),
            Direction::FromDevice => self.fetch_raw::<FromDevice, B>(handle, run, target, part),
            Direction::Bidirectional => {
                self.fetch_raw::<Bidirectional, B>(handle, run, target, part)
            }
        };
        let caller = Location::caller();
        synced.inspect_err(|error| self.checker.misused(&self.info, error, caller))
    }

    /// Brings what the CPU wrote to `part` of a raw mapping, counted from its first byte, to the
    /// device. Nothing to do where the device only writes.
    ///
    /// # Errors
    /// As [`sync_raw_for_cpu`](Self::sync_raw_for_cpu).
    #[track_caller]
    pub fn sync_raw_for_device<S: CopySource + ?Sized>(
        &self,
        handle: DmaSegment,
        direction: Direction,
        run: PhysRange,
        source: &S,
        part: Range<u64>,
    ) -> Result<(), RawError> {
        let synced = match direction {
            Direction::FromDevice => Ok(()),
            Direction::ToDevice => self.push_raw::<ToDevice, S>(handle, run, source, part),
            Direction::Bidirectional => {
                self.push_raw::<Bidirectional, S>(handle, run, source, part)
            }
        };
        let caller = Location::caller();
        synced.inspect_err(|error| self.checker.misused(&self.info, error, caller))
    }

    fn fetch_raw<D: ReadableByCpu, B: CopyTarget + ?Sized>(
        &self,
        handle: DmaSegment,
        run: PhysRange,
        target: &mut B,
        part: Range<u64>,
    ) -> Result<(), RawError> {
        if let Some(domain) = self.translation() {
            return self.fetch_raw_translated::<D, B>(domain, handle, run, target, part);
        }
        self.visit_raw::<D>(handle, run, part, |memory, buffer, offset, len| {
            if !self.info.is_coherent() {
                cache::before_cpu_reads(&self.platform, memory);
            }
            if let (Some(buffer), Path::Bounced { pool, .. }) = (buffer, self.path) {
                // The part was checked to lie inside a mapping of this pool.
                let copied = pool.sync_for_cpu(buffer, target, offset, len);
                debug_assert!(copied.is_ok());
                self.counters.copied_out(len);
            }
        })
    }

    fn push_raw<D: WritableByCpu, S: CopySource + ?Sized>(
        &self,
        handle: DmaSegment,
        run: PhysRange,
        source: &S,
        part: Range<u64>,
    ) -> Result<(), RawError> {
        if let Some(domain) = self.translation() {
            return self.push_raw_translated::<D, S>(domain, handle, run, source, part);
        }
        self.visit_raw::<D>(handle, run, part, |memory, buffer, offset, len| {
            if let (Some(buffer), Path::Bounced { pool, .. }) = (buffer, self.path) {
                // As in `fetch_raw`.
                let copied = pool.sync_for_device(buffer, source, offset, len);
                debug_assert!(copied.is_ok());
                self.counters.copied_in(len);
            }
            if !self.info.is_coherent() {
                cache::after_cpu_wrote(&self.platform, memory);
            }
        })
    }

    /// Shows `visit` the memory that the device uses for `part`, its slots where there are some, and
    /// the part's offset and length.
    fn visit_raw<D: DirectionType>(
        &self,
        handle: DmaSegment,
        run: PhysRange,
        part: Range<u64>,
        visit: impl FnOnce(PhysRange, Option<&BounceBuffer<D>>, u64, u64),
    ) -> Result<(), RawError> {
        let len = part.end.saturating_sub(part.start);
        let buffer = self.claim_raw::<D>(handle, run)?;
        let whole = buffer.as_ref().map_or(run, bounce::slots);
        let memory = whole.slice(part.start, len);
        if let Some(memory) = memory {
            visit(memory, buffer.as_ref(), part.start, len);
        }
        if let (Some(buffer), Path::Bounced { pool, .. }) = (buffer, self.path) {
            // It was claimed a moment ago, so it is this pool's.
            let given_up = pool.into_address(buffer);
            debug_assert!(given_up.is_ok());
        }
        match memory {
            Some(_) => Ok(()),
            None => Err(RawError::OutOfRange {
                handle,
                end: part.end,
            }),
        }
    }
}
