//! Mappings through a domain.
//!
//! The device sees one range of addresses, whatever the memory. What shares a granule with other
//! data and must not be shown to the device lies in bounce slots: only those edges, and only they are
//! copied. Which edges these are is asked of the page table, never of the device's present settings.

use core::convert::Infallible;

use dmakit_addr::{
    Address, AlignMask, Attributes, Direction, DirectionType, DmaAddr, DmaRange, Granule, Iova,
    IovaRange, PhysAddr, PhysRange,
};
use dmakit_io_pgtable::{Access, Memory, Permissions};
use dmakit_iommu::LinkCursor;
use dmakit_platform::{CopySource, CopyTarget, Platform, Window};
use dmakit_swiotlb::{BounceBuffer, BouncePool};

use crate::check::Checker;
use crate::fragments::{Piece, each_piece, pieces};
use crate::mapping::{Record, Route, Slots};
use crate::{
    BounceCause, Device, DmaMemory, DomainError, MapError, MaskKind, PoolId, StrictDomain,
    Translate, Trust, bounce, cache,
};

/// How many edges wait for one sync together where a mapping has several.
const EDGES_AT_ONCE: usize = 8;

/// A mapping that was just made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Translated {
    pub(crate) range: IovaRange,
    pub(crate) slots: Slots,
}

/// What must not be shown to a device.
#[derive(Clone, Copy)]
struct Guard {
    /// Granules that hold anything else.
    granules: bool,
    /// Lines of so many bytes that hold anything else.
    lines: Option<u64>,
}

impl Guard {
    fn is_needed(self) -> bool {
        self.granules || self.lines.is_some()
    }

    /// Why a part of a piece bounces, where one does.
    #[inline(never)]
    fn cause_in(self, piece: Piece, granule: Granule) -> Option<BounceCause> {
        let mut parts = piece.fragments(granule);
        parts.find_map(|part| self.cause(&part, granule))
    }

    /// Why a part that does not have its granules to itself bounces.
    fn cause(self, part: &Piece, granule: Granule) -> Option<BounceCause> {
        let run = part.run;
        if !part.is_ragged(granule) {
            return None;
        }
        if self.granules {
            return Some(BounceCause::SharedPage { run });
        }
        let line_bytes = self.lines.filter(|&line| !cache::has_whole(run, line))?;
        Some(BounceCause::SharedLine { run, line_bytes })
    }
}

/// Memory that is to be mapped, looked at once.
#[derive(Default)]
struct Survey {
    /// Bytes of all granules that it touches.
    span: u64,
    /// Its own bytes.
    bytes: u64,
    /// Where it begins.
    first: u64,
    /// All addresses at which one run ends and another begins.
    seams: u64,
    /// Why some of it must not be shown to the device.
    cause: Option<BounceCause>,
}

impl Survey {
    /// Where the device sees it, as one stretch; `None` where there are gaps.
    #[inline]
    fn seamless(&self, range: IovaRange, granule: Granule) -> Option<DmaRange> {
        let start = range.start().raw() + (self.first & granule.mask());
        let whole = DmaRange::new(DmaAddr::new(start), self.bytes).ok();
        whole.filter(|_| self.seams & granule.mask() == 0)
    }
}

/// The bytes of a part, as those of all that is mapped.
pub(crate) struct Part<R> {
    pub(crate) of: R,
    pub(crate) at: u64,
}

impl<S: CopySource + ?Sized> CopySource for Part<&S> {
    fn len_bytes(&self) -> u64 {
        self.of.len_bytes().saturating_sub(self.at)
    }

    fn copy_to(&self, offset: u64, window: Window<'_>) {
        self.of.copy_to(self.at + offset, window);
    }
}

impl<S: CopySource + ?Sized> CopySource for Part<&mut S> {
    fn len_bytes(&self) -> u64 {
        self.of.len_bytes().saturating_sub(self.at)
    }

    fn copy_to(&self, offset: u64, window: Window<'_>) {
        self.of.copy_to(self.at + offset, window);
    }
}

impl<S: CopyTarget + ?Sized> CopyTarget for Part<&mut S> {
    fn copy_from(&mut self, offset: u64, window: Window<'_>) {
        self.of.copy_from(self.at + offset, window);
    }
}

/// Memory under a mapping that ends.
pub(crate) trait Original {
    /// Where what the device wrote to slots goes.
    type Bytes: CopyTarget + ?Sized;

    fn runs(&self) -> impl Iterator<Item = PhysRange> + Clone + '_;

    fn bytes(&mut self) -> &mut Self::Bytes;
}

impl<B: DmaMemory> Original for B {
    type Bytes = B;

    #[inline]
    fn runs(&self) -> impl Iterator<Item = PhysRange> + Clone + '_ {
        DmaMemory::runs(self)
    }

    #[inline]
    fn bytes(&mut self) -> &mut B {
        self
    }
}

/// One run, and its bytes.
pub(crate) struct OneRun<'a, B: ?Sized> {
    pub(crate) run: PhysRange,
    pub(crate) bytes: &'a mut B,
}

impl<B: CopyTarget + ?Sized> Original for OneRun<'_, B> {
    type Bytes = B;

    fn runs(&self) -> impl Iterator<Item = PhysRange> + Clone + '_ {
        core::iter::once(self.run)
    }

    fn bytes(&mut self) -> &mut B {
        self.bytes
    }
}

/// Runs of whose bytes nothing is wanted.
struct Runs<I>(I);

impl<I: Iterator<Item = PhysRange> + Clone> Original for Runs<I> {
    type Bytes = [u8];

    fn runs(&self) -> impl Iterator<Item = PhysRange> + Clone + '_ {
        self.0.clone()
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut []
    }
}

/// Bytes of a mapping, all in one place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Touched {
    /// Where the part that they are of is in the memory that is mapped.
    pub(crate) at: u64,
    /// Which bytes of the part.
    pub(crate) offset: u64,
    pub(crate) len: u64,
    /// Where the part's slots begin.
    pub(crate) slots: Option<PhysAddr>,
    run: PhysRange,
}

impl Touched {
    /// Where the device reads and writes them.
    pub(crate) fn memory(&self) -> PhysRange {
        let start = self.slots.unwrap_or(self.run.start());
        let whole = PhysRange::new(start, self.run.len());
        let part = whole
            .ok()
            .and_then(|whole| whole.slice(self.offset, self.len));
        part.unwrap_or(self.run)
    }
}

impl<'m, P: Platform, M, C: Checker<'m>, T: Translate> Device<'m, P, M, C, T> {
    /// What the device may do with memory that is mapped this way.
    #[inline]
    pub(crate) fn permissions(&self, direction: Direction, attributes: Attributes) -> Permissions {
        let access = match direction {
            Direction::ToDevice => Access::Read,
            Direction::FromDevice => Access::Write,
            Direction::Bidirectional => Access::ReadWrite,
        };
        let memory = if attributes.contains(Attributes::MMIO) {
            Memory::Device
        } else if self.info.is_coherent() {
            Memory::Cached
        } else {
            Memory::Uncached
        };
        Permissions {
            access,
            memory,
            privileged: attributes.contains(Attributes::PRIVILEGED),
            ..Permissions::READ_WRITE
        }
    }

    pub(crate) fn guards(&self, direction: Direction) -> bool {
        self.guard(direction).is_needed()
    }

    fn guard(&self, direction: Direction) -> Guard {
        let minds_lines = !self.info.is_coherent() && direction.device_writes();
        Guard {
            granules: self.info.trust == Trust::Untrusted,
            lines: minds_lines.then(|| self.platform.cache_line_bytes()),
        }
    }

    /// Maps `runs`, whose bytes are `source`, and shows each stretch of device addresses to `place`.
    ///
    /// # Errors
    /// [`MapError`]: nothing is mapped then.
    #[inline]
    pub(crate) fn translate<D: DirectionType, S: CopySource + ?Sized>(
        &self,
        domain: &T::Domain,
        runs: impl Iterator<Item = PhysRange> + Clone,
        source: &S,
        attributes: Attributes,
        mut place: impl FnMut(DmaRange),
    ) -> Result<Translated, MapError> {
        let granule = domain.granule();
        let survey = self.survey(runs.clone(), granule, D::DIRECTION);
        let range = {
            let limit = self.info.reach(MaskKind::Streaming);
            let cpu = self.platform.enter_cpu();
            let range = domain.reserve(&cpu, survey.span, 1, limit);
            range.map_err(|error| MapError::Domain(DomainError::Space(error)))?
        };
        let permissions = self.permissions(D::DIRECTION, attributes);
        let mut done = 0;
        match survey.seamless(range, granule) {
            Some(whole) => place(whole),
            None => {
                let places = pieces(runs.clone(), granule);
                let places = places.filter_map(|piece| piece.dma(range, granule));
                places.for_each(&mut place);
            }
        }
        let slots = match survey.cause {
            None => Slots::None,
            Some(_) => Slots::Edges,
        };
        let linked = match survey.cause {
            None => self.link_whole(
                domain,
                range,
                runs.clone(),
                permissions,
                D::DIRECTION,
                attributes,
                &mut done,
            ),
            Some(cause) => self.link_guarded::<D, S>(
                domain,
                range,
                parts(runs.clone(), Slots::Edges, granule),
                source,
                permissions,
                attributes,
                cause,
                &mut done,
            ),
        };
        let announced = linked.and_then(|()| {
            domain
                .announce(range)
                .map_err(|error| MapError::Domain(DomainError::Hardware(error)))
        });
        match announced {
            Ok(()) => {
                if slots != Slots::None {
                    self.counters.bounced();
                }
                Ok(Translated { range, slots })
            }
            Err(error) => {
                self.undo::<D>(domain, Translated { range, slots }, runs, done);
                Err(error)
            }
        }
    }

    /// What has to be known of runs before the first of them is linked.
    #[inline]
    fn survey(
        &self,
        runs: impl Iterator<Item = PhysRange> + Clone,
        granule: Granule,
        direction: Direction,
    ) -> Survey {
        let guard = self.guard(direction);
        let is_needed = guard.is_needed();
        let (mut survey, mut end) = (Survey::default(), 0);
        let surveyed = each_piece(runs, granule, |piece| {
            let start = piece.run.start().raw();
            match piece.base {
                0 => survey.first = start,
                _ => survey.seams |= end | start,
            }
            end = piece.run.end().raw();
            survey.span = piece.base + piece.span(granule);
            survey.bytes = piece.at + piece.run.len();
            if is_needed && survey.cause.is_none() {
                survey.cause = guard.cause_in(piece, granule);
            }
            Ok::<_, Infallible>(())
        });
        let Ok(()) = surveyed;
        survey
    }

    /// Fills the table for runs that the device may see with all their granules.
    #[inline]
    #[allow(clippy::too_many_arguments)]
    fn link_whole(
        &self,
        domain: &T::Domain,
        range: IovaRange,
        runs: impl Iterator<Item = PhysRange> + Clone,
        permissions: Permissions,
        direction: Direction,
        attributes: Attributes,
        done: &mut u64,
    ) -> Result<(), MapError> {
        let granule = domain.granule();
        let cleans = !self.info.is_coherent() && !attributes.contains(Attributes::SKIP_CPU_SYNC);
        let mut cursor = domain.cursor(permissions);
        each_piece(runs, granule, |piece| {
            if cleans {
                cache::before_device(&self.platform, piece.run, direction);
            }
            let (phys, span) = (
                piece.run.start().align_down(granule.bytes()),
                piece.span(granule),
            );
            // A part of what was counted to be as long as the range.
            let part = range.slice(piece.base, span).ok_or(MapError::Empty)?;
            let is_linked = span == granule.bytes() && cursor.map_granule(part.start(), phys);
            if !is_linked {
                let linked = cursor.map(part, phys);
                linked.map_err(|error| MapError::Domain(DomainError::Table(error.failure)))?;
            }
            *done = piece.base + span;
            Ok(())
        })
    }

    /// Fills the table with slots in place of the edges that the device must not see.
    #[cold]
    #[allow(clippy::too_many_arguments)]
    fn link_guarded<D: DirectionType, S: CopySource + ?Sized>(
        &self,
        domain: &T::Domain,
        range: IovaRange,
        parts: impl Iterator<Item = Piece>,
        source: &S,
        permissions: Permissions,
        attributes: Attributes,
        cause: BounceCause,
        done: &mut u64,
    ) -> Result<(), MapError> {
        if attributes.contains(Attributes::REQUIRE_COHERENT) {
            return Err(MapError::WouldBounce(cause));
        }
        let (pool, id) = self.pool().ok_or(MapError::NoBouncePool(cause))?;
        let granule = domain.granule();
        let guard = self.guard(D::DIRECTION);
        let cleans = !self.info.is_coherent() && !attributes.contains(Attributes::SKIP_CPU_SYNC);
        for part in parts {
            match guard.cause(&part, granule) {
                Some(cause) => {
                    let buffer =
                        self.take_slots::<D, S>(pool, id, &part, granule, source, cause)?;
                    self.link_slots(domain, range, &part, buffer, permissions)?;
                }
                None => {
                    if cleans {
                        cache::before_device(&self.platform, part.run, D::DIRECTION);
                    }
                    let phys = part.run.start().align_down(granule.bytes());
                    link(domain, range, &part, phys, permissions)?;
                }
            }
            *done = part.base + part.span(granule);
        }
        Ok(())
    }

    /// Links one piece, whose bytes are `source`, to addresses that are reserved; says whether part of
    /// it lies in slots.
    ///
    /// # Errors
    /// [`MapError`]: nothing of it is linked then.
    #[inline]
    pub(crate) fn link_piece<D: DirectionType, S: CopySource + ?Sized>(
        &self,
        domain: &T::Domain,
        range: IovaRange,
        piece: Piece,
        source: &S,
        attributes: Attributes,
    ) -> Result<bool, MapError> {
        let granule = domain.granule();
        let guard = self.guard(D::DIRECTION);
        let permissions = self.permissions(D::DIRECTION, attributes);
        let mut fragments = piece.fragments(granule);
        let cause = match guard.is_needed() {
            true => fragments.find_map(|part| guard.cause(&part, granule)),
            false => None,
        };
        let Some(cause) = cause else {
            let cleans =
                !self.info.is_coherent() && !attributes.contains(Attributes::SKIP_CPU_SYNC);
            if cleans {
                cache::before_device(&self.platform, piece.run, D::DIRECTION);
            }
            let phys = piece.run.start().align_down(granule.bytes());
            link(domain, range, &piece, phys, permissions)?;
            return Ok(false);
        };
        let mut done = piece.base;
        let parts = piece.fragments(granule);
        let linked = self.link_guarded::<D, S>(
            domain,
            range,
            parts,
            source,
            permissions,
            attributes,
            cause,
            &mut done,
        );
        if linked.is_err() {
            self.unlink_fragments::<D>(domain, range, piece, done);
        }
        linked.map(|()| true)
    }

    /// Undoes the fragments of a piece that were linked, up to `done`.
    #[cold]
    fn unlink_fragments<D: DirectionType>(
        &self,
        domain: &T::Domain,
        range: IovaRange,
        piece: Piece,
        done: u64,
    ) {
        let granule = domain.granule();
        let slots = Slots::Edges;
        for part in piece.fragments(granule) {
            if part.base >= done {
                break;
            }
            let start = self.slots_start(domain, Translated { range, slots }, &part);
            let place = range.slice(part.base, part.span(granule));
            match place.map(|place| domain.undo(place)) {
                Some(Ok(())) => start
                    .into_iter()
                    .for_each(|start| self.free_slots::<D>(start)),
                _ => self.counters.lost(),
            }
        }
    }

    /// Slots that have their granules to themselves, with the bytes of a part.
    fn take_slots<D: DirectionType, S: CopySource + ?Sized>(
        &self,
        pool: &'m BouncePool<P, M>,
        id: PoolId,
        part: &Piece,
        granule: Granule,
        source: &S,
        cause: BounceCause,
    ) -> Result<BounceBuffer<D>, MapError> {
        // A granule is a power of two.
        let align = AlignMask::of_size(granule.bytes()).unwrap_or(AlignMask::NONE);
        let buffer = bounce::map_guarded::<P, M, D, S>(pool, id, &self.info, align, source, part)
            .map_err(|error| MapError::Bounce { cause, error })?;
        if !self.info.is_coherent() {
            cache::before_device(&self.platform, bounce::slots(&buffer), D::DIRECTION);
        }
        self.counters
            .copied_in(bounce::prefilled::<D>(&self.info, part.run.len()));
        Ok(buffer)
    }

    /// Maps slots in a part's place; they are found again by their address.
    fn link_slots<D: DirectionType>(
        &self,
        domain: &T::Domain,
        range: IovaRange,
        part: &Piece,
        buffer: BounceBuffer<D>,
        permissions: Permissions,
    ) -> Result<(), MapError> {
        let Some((pool, _)) = self.pool() else {
            return Ok(());
        };
        let phys = bounce::slots(&buffer).start();
        let phys = phys.align_down(domain.granule().bytes());
        if let Err(error) = link(domain, range, part, phys, permissions) {
            bounce::give_back(pool, buffer);
            return Err(error);
        }
        // The pool has just given it, so it takes it.
        let given_up = pool.into_address(buffer);
        debug_assert!(given_up.is_ok());
        Ok(())
    }

    /// A copy of `source`, which is only borrowed, in slots that the device sees through the domain.
    pub(crate) fn translate_copy<D: DirectionType, S: CopySource + ?Sized>(
        &self,
        domain: &T::Domain,
        run: PhysRange,
        source: &S,
        attributes: Attributes,
        cause: BounceCause,
    ) -> Result<(Translated, DmaRange), MapError> {
        let (pool, id) = self.pool().ok_or(MapError::NoBouncePool(cause))?;
        let granule = domain.granule();
        let part = Piece {
            run,
            at: 0,
            base: 0,
        };
        let range = {
            let limit = self.info.reach(MaskKind::Streaming);
            let cpu = self.platform.enter_cpu();
            let range = domain.reserve(&cpu, part.span(granule), 1, limit);
            range.map_err(|error| MapError::Domain(DomainError::Space(error)))?
        };
        let permissions = self.permissions(D::DIRECTION, attributes);
        let mut done = 0;
        let mapped = self
            .take_slots::<D, S>(pool, id, &part, granule, source, cause)
            .and_then(|buffer| self.link_slots(domain, range, &part, buffer, permissions))
            .and_then(|()| {
                done = range.len();
                domain
                    .announce(range)
                    .map_err(|error| MapError::Domain(DomainError::Hardware(error)))
            });
        let translated = Translated {
            range,
            slots: Slots::All,
        };
        let dma = part.dma(range, granule).ok_or(MapError::Empty);
        match mapped.and(dma) {
            Ok(dma) => {
                self.counters.bounced();
                Ok((translated, dma))
            }
            Err(error) => {
                self.undo::<D>(domain, translated, core::iter::once(run), done);
                Err(error)
            }
        }
    }

    /// Ends a mapping that nobody was told of, of which the first `done` bytes are linked.
    #[cold]
    pub(crate) fn undo<D: DirectionType>(
        &self,
        domain: &T::Domain,
        translated: Translated,
        runs: impl Iterator<Item = PhysRange> + Clone,
        done: u64,
    ) {
        let Translated { range, slots } = translated;
        let undone = match (slots, range.slice(0, done)) {
            (Slots::None, Some(part)) if done > 0 => domain.undo(part).is_ok(),
            (Slots::None, _) => true,
            _ => self.take_apart::<D, _>(domain, translated, &mut Runs(runs), done, None, false),
        };
        if undone {
            domain.release(&self.platform.enter_cpu(), range);
        } else {
            self.counters.lost();
        }
    }

    /// Unmaps the first `done` bytes of a mapping with slots, waits until hardware has forgotten
    /// them, and only then copies out what the device wrote to them below `wanted` and gives the
    /// slots back: a write that was translated before is done by the end of the wait. `drops_lines`
    /// asks that the CPU holds no line of what the device wrote then. False where hardware did not
    /// forget: what is left is lost.
    pub(crate) fn take_apart<D: DirectionType, O: Original>(
        &self,
        domain: &T::Domain,
        translated: Translated,
        original: &mut O,
        done: u64,
        wanted: Option<u64>,
        drops_lines: bool,
    ) -> bool {
        let granule = domain.granule();
        let mut from = 0;
        while from < done {
            let mut held = [const { None }; EDGES_AT_ONCE];
            let (mut count, mut to) = (0, from);
            let all = parts(original.runs(), translated.slots, granule);
            for part in all.skip_while(|part| part.base < from) {
                if part.base >= done || count == held.len() {
                    break;
                }
                to = part.base + part.span(granule);
                if let Some(start) = self.slots_start(domain, translated, &part) {
                    held[count] = Some((part, start));
                    count += 1;
                }
            }
            let Some(unmapped) = translated.range.slice(from, to - from) else {
                return false;
            };
            if to == from || domain.undo(unmapped).is_err() {
                return false;
            }
            // Whatever was on its way has landed, so this is the last state of memory and slots.
            if drops_lines {
                let all = parts(original.runs(), translated.slots, granule);
                for part in all.skip_while(|part| part.base < from) {
                    if part.base >= to {
                        break;
                    }
                    self.drop_lines(&part, &held);
                }
            }
            for (part, start) in held.into_iter().flatten() {
                let len = wanted.unwrap_or(0).saturating_sub(part.at);
                let of = original.bytes();
                let target = Part { of, at: part.at };
                self.copy_out(start, target, len.min(part.run.len()), D::DIRECTION);
                self.free_slots::<D>(start);
            }
            from = to;
        }
        true
    }

    /// Drops the lines of a part where it lies: among slots, or as it is.
    fn drop_lines(&self, part: &Piece, held: &[Option<(Piece, PhysAddr)>]) {
        let same = |held: &&(Piece, PhysAddr)| held.0.base == part.base;
        let slots = held.iter().flatten().find(same).map(|(_, start)| *start);
        let memory = PhysRange::new(slots.unwrap_or(part.run.start()), part.run.len());
        if let Ok(memory) = memory {
            cache::before_cpu_reads(&self.platform, memory);
        }
    }

    pub(crate) fn free_slots<D: DirectionType>(&self, start: PhysAddr) {
        let Some((pool, _)) = self.pool() else { return };
        // Slots that are no mapping's of this direction stay with whoever has them.
        if let Ok(buffer) = pool.claim::<D>(start) {
            bounce::give_back(pool, buffer);
        }
    }

    /// Where the slots in a part's place begin, where there are some.
    fn slots_start(
        &self,
        domain: &T::Domain,
        translated: Translated,
        part: &Piece,
    ) -> Option<PhysAddr> {
        let granule = domain.granule();
        if translated.slots == Slots::Edges && !part.is_ragged(granule) {
            return None;
        }
        let dma = part.dma(translated.range, granule)?;
        let phys = domain.lookup(Iova::new(dma.start().raw()))?;
        let (pool, _) = self.pool()?;
        // Memory of a pool is nobody's to map but as slots.
        let found = pool.find(phys)?;
        (found.start == phys).then_some(phys)
    }

    /// The parts of a mapping that `len` bytes from `offset` touch, which bytes of each these are,
    /// and where the slots begin in which it lies, if it does.
    pub(crate) fn touched(
        &self,
        domain: &'m T::Domain,
        translated: Translated,
        runs: impl Iterator<Item = PhysRange> + Clone,
        offset: u64,
        len: u64,
    ) -> impl Iterator<Item = Touched> {
        let slots = translated.slots;
        parts(runs, slots, domain.granule()).filter_map(move |part| {
            let start = offset.max(part.at);
            let end = (offset + len).min(part.at + part.run.len());
            let inside = end.checked_sub(start).filter(|&len| len > 0)?;
            Some(Touched {
                at: part.at,
                offset: start - part.at,
                len: inside,
                slots: match slots {
                    Slots::None => None,
                    _ => self.slots_start(domain, translated, &part),
                },
                run: part.run,
            })
        })
    }
}

/// The parts of a mapping, cut where slots may begin or end.
fn parts(
    runs: impl Iterator<Item = PhysRange> + Clone,
    slots: Slots,
    granule: Granule,
) -> impl Iterator<Item = Piece> + Clone {
    pieces(runs, granule).flat_map(move |piece| {
        let (whole, cut) = match slots {
            Slots::Edges => (None, Some(piece.fragments(granule))),
            Slots::None | Slots::All => (Some(piece), None),
        };
        whole.into_iter().chain(cut.into_iter().flatten())
    })
}

/// Fills the table for a part.
#[inline]
fn link<T: StrictDomain>(
    domain: &T,
    range: IovaRange,
    part: &Piece,
    phys: PhysAddr,
    permissions: Permissions,
) -> Result<(), MapError> {
    let place = range.slice(part.base, part.span(domain.granule()));
    // A part of what was counted to be as long as the range.
    let place = place.ok_or(MapError::Empty)?;
    domain
        .link(place, phys, permissions)
        .map_err(|error| MapError::Domain(DomainError::Table(error.failure)))
}

/// Where a mapping's record says that it lies.
impl<D> Record<D> {
    pub(crate) fn translated(&self) -> Option<Translated> {
        match self.route {
            Route::Translated { range, slots } => Some(Translated { range, slots }),
            Route::Direct | Route::Bounced(_) => None,
        }
    }
}
