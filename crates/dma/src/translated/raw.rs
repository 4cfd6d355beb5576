//! Raw mappings and windows through a domain: all that is known of them is in the page table.

use core::ops::Range;

use dmakit_addr::{
    Address, Attributes, Direction, DirectionType, DmaAddr, DmaRange, Iova, IovaRange, PhysRange,
    ReadableByCpu, WritableByCpu,
};
use dmakit_iommu::Ticket;
use dmakit_platform::{CopySource, CopyTarget, Platform};

use super::{OneRun, Translated};
use crate::check::Checker;
use crate::debt::Owed;
use crate::fragments::{Piece, pieces};
use crate::mapping::Slots;
use crate::part::Touched;
use crate::segments::OneSegment;
use crate::{
    BounceCause, Device, DmaSegment, DomainError, MapError, MaskKind, RawError, StrictDomain,
    Translate, Trust, bounce, cache,
};

impl<'m, P: Platform, M, C: Checker<'m>, T: Translate> Device<'m, P, M, C, T> {
    pub(crate) fn map_raw_translated<D: DirectionType, S: CopySource + ?Sized>(
        &self,
        domain: &'m T::Domain,
        run: PhysRange,
        source: &S,
        attributes: Attributes,
    ) -> Result<DmaSegment, MapError> {
        let mut one = OneSegment::default();
        let runs = core::iter::once(run);
        let place = |dma| one.push(dma);
        let translated = self.translate::<D, S>(domain, runs.clone(), source, attributes, place)?;
        match one.finish(self.info.limits) {
            Ok(addr) => Ok(DmaSegment {
                addr,
                len: run.len(),
            }),
            Err(error) => {
                self.undo::<D>(domain, translated, runs, translated.range.len());
                Err(error)
            }
        }
    }

    /// Ends a raw mapping, and waits until hardware has forgotten it where the domain is strict.
    pub(crate) fn unmap_raw_translated<D: DirectionType, B: CopyTarget + ?Sized>(
        &self,
        domain: &'m T::Domain,
        handle: DmaSegment,
        run: PhysRange,
        target: Option<&mut B>,
    ) -> Result<(), RawError> {
        let translated = self.find_translated(domain, handle, run)?;
        let needs_caches = !self.info.is_coherent();
        let drops_lines = target.is_some() && needs_caches;
        let owed = match (translated.slots, target) {
            (Slots::None, _) => self.retire(translated.range, translated.range.len()),
            (_, Some(bytes)) => {
                let wanted = Some(run.len());
                let mut original = OneRun { run, bytes };
                self.end_guarded::<D, _>(domain, translated, &mut original, wanted, drops_lines)
            }
            (_, None) => {
                let bytes: &mut [u8] = &mut [];
                let mut original = OneRun { run, bytes };
                self.end_guarded::<D, _>(domain, translated, &mut original, None, false)
            }
        };
        match self.settle(owed) {
            true => {
                // What was on its way to memory has landed. Slots have seen to themselves.
                if drops_lines && translated.slots == Slots::None {
                    cache::before_cpu_reads(&self.platform, run);
                }
                Ok(())
            }
            false => Err(RawError::Lost { handle }),
        }
    }

    /// Waits until nothing is owed; false where that will never be.
    pub(crate) fn settle(&self, owed: Owed) -> bool {
        match (owed, self.translation()) {
            (Owed::Since(_) | Owed::Paid, _) => true,
            (Owed::Ticket(ticket), Some(domain)) => match domain.sync() {
                Ok(proof) => {
                    let cpu = self.platform.enter_cpu();
                    domain.redeem(&cpu, ticket, &proof).is_ok()
                }
                Err(_) => {
                    self.counters.lost();
                    false
                }
            },
            _ => false,
        }
    }

    /// What a strict unmap owes. A lazy domain's debts are not for a device's syncs to pay, so it is
    /// synced at once.
    pub(crate) fn owed_strictly<E>(&self, unmapped: Result<Ticket, E>) -> Owed {
        match unmapped {
            Ok(ticket) if self.strict_domain().is_some() => Owed::Ticket(ticket),
            Ok(ticket) => match self.settle(Owed::Ticket(ticket)) {
                true => Owed::Paid,
                false => Owed::Lost,
            },
            Err(_) => {
                self.counters.lost();
                Owed::Lost
            }
        }
    }

    /// The mapping of `run` that a handle names, as the page table knows it. O(granules) where it is
    /// looked up, and not at all for whole granules but for the first and the last.
    fn find_translated(
        &self,
        domain: &'m T::Domain,
        handle: DmaSegment,
        run: PhysRange,
    ) -> Result<Translated, RawError> {
        let unknown = RawError::Unknown { handle };
        let granule = domain.granule();
        if handle.len != run.len() {
            let mapped = run.len();
            return Err(RawError::WrongLength { handle, mapped });
        }
        let start = Iova::new(handle.addr.raw()).align_down(granule.bytes());
        let piece = pieces(core::iter::once(run), granule).next();
        let piece = piece.ok_or(unknown)?;
        let range = IovaRange::new(start, piece.span(granule)).map_err(|_| unknown)?;
        if piece.dma(range, granule).map(|dma| dma.start()) != Some(handle.addr) {
            return Err(unknown);
        }
        let mut slots = Slots::None;
        for part in piece.fragments(granule) {
            if self.is_in_slots(domain, range, &part, handle)? {
                slots = Slots::Edges;
            }
        }
        Ok(Translated { range, slots })
    }

    /// Whether a part of a raw mapping lies in slots.
    fn is_in_slots(
        &self,
        domain: &T::Domain,
        range: IovaRange,
        part: &Piece,
        handle: DmaSegment,
    ) -> Result<bool, RawError> {
        let unknown = RawError::Unknown { handle };
        let dma = part.dma(range, domain.granule()).ok_or(unknown)?;
        let [first, last] = [0, part.run.len() - 1]
            .map(|offset| domain.lookup(Iova::new(dma.start().raw() + offset)));
        let (Some(first), Some(last)) = (first, last) else {
            return Err(unknown);
        };
        if first == part.run.start() && Some(last) == part.run.last() {
            return Ok(false);
        }
        let found = self.pool().and_then(|(pool, _)| pool.find(first));
        match found.filter(|found| found.start == first && found.len == part.run.len()) {
            Some(_) if part.is_ragged(domain.granule()) => Ok(true),
            _ => Err(RawError::OtherMemory {
                handle,
                behind: PhysRange::between(first, last).unwrap_or(part.run),
            }),
        }
    }

    /// What the device wrote to a part of a raw mapping.
    pub(crate) fn fetch_raw_translated<D: ReadableByCpu, B: CopyTarget + ?Sized>(
        &self,
        domain: &'m T::Domain,
        handle: DmaSegment,
        run: PhysRange,
        target: &mut B,
        mut part: Range<u64>,
    ) -> Result<(), RawError> {
        while let Some(here) = self.next_raw(domain, handle, run, part.clone())? {
            if !self.info.is_coherent() {
                cache::before_cpu_reads(&self.platform, here.memory());
            }
            if let Some((start, (pool, _))) = here.slots.zip(self.pool()) {
                if bounce::fetch::<P, M, D, B>(pool, start, target, &here) {
                    self.counters.copied_out(here.len);
                }
            }
            part.start = here.at + here.offset + here.len;
        }
        Ok(())
    }

    /// What the CPU wrote to a part of a raw mapping.
    pub(crate) fn push_raw_translated<D: WritableByCpu, S: CopySource + ?Sized>(
        &self,
        domain: &'m T::Domain,
        handle: DmaSegment,
        run: PhysRange,
        source: &S,
        mut part: Range<u64>,
    ) -> Result<(), RawError> {
        while let Some(here) = self.next_raw(domain, handle, run, part.clone())? {
            if let Some((start, (pool, _))) = here.slots.zip(self.pool()) {
                if bounce::push::<P, M, D, S>(pool, start, source, &here) {
                    self.counters.copied_in(here.len);
                }
            }
            if !self.info.is_coherent() {
                cache::after_cpu_wrote(&self.platform, here.memory());
            }
            part.start = here.at + here.offset + here.len;
        }
        Ok(())
    }

    /// The first stretch of `part` of a raw mapping that lies in one place; `None` where there are no
    /// more.
    fn next_raw(
        &self,
        domain: &'m T::Domain,
        handle: DmaSegment,
        run: PhysRange,
        part: Range<u64>,
    ) -> Result<Option<Touched>, RawError> {
        let translated = self.find_translated(domain, handle, run)?;
        if part.start > part.end || part.end > run.len() {
            let end = part.end;
            return Err(RawError::OutOfRange { handle, end });
        }
        let runs = core::iter::once(run);
        let len = part.end - part.start;
        Ok(self
            .touched(domain, translated, runs, part.start, len)
            .next())
    }

    /// Maps a window that is not RAM, with all granules that it touches.
    pub(crate) fn map_window(
        &self,
        domain: &'m T::Domain,
        window: PhysRange,
        direction: Direction,
    ) -> Result<DmaRange, MapError> {
        let granule = domain.granule();
        let piece = pieces(core::iter::once(window), granule).next();
        let piece = piece.ok_or(MapError::Empty)?;
        if self.info.trust == Trust::Untrusted && piece.span(granule) != window.len() {
            return Err(MapError::WouldBounce(BounceCause::SharedPage {
                run: window,
            }));
        }
        let whole = PhysRange::new(
            window.start().align_down(granule.bytes()),
            piece.span(granule),
        );
        let whole = whole.map_err(|_| MapError::Empty)?;
        let permissions = self.permissions(direction, Attributes::MMIO);
        let limit = self.info.reach(MaskKind::Streaming);
        let range = {
            let cpu = self.platform.enter_cpu();
            domain.map(&cpu, core::iter::once(whole), permissions, 1, limit)
        };
        let range = range.map_err(|error| MapError::Domain(error.into()))?;
        let dma = piece.dma(range, granule);
        dma.ok_or(MapError::Domain(DomainError::Shape {
            len: window.len(),
            granule: granule.bytes(),
        }))
    }

    /// Ends a window: nothing of its granules is in the device's reach afterwards.
    pub(crate) fn unmap_window(
        &self,
        domain: &'m T::Domain,
        handle: DmaSegment,
    ) -> Result<(), RawError> {
        let unknown = RawError::Unknown { handle };
        let granule = domain.granule();
        let start = Iova::new(handle.addr.raw()).align_down(granule.bytes());
        let end = handle.addr.checked_add(handle.len);
        let end = end.and_then(|end: DmaAddr| Iova::new(end.raw()).align_up(granule.bytes()));
        let range = end.and_then(|end| IovaRange::between(start, end));
        let range = range.filter(|range| !range.is_empty()).ok_or(unknown)?;
        if domain.lookup(start).is_none() {
            return Err(unknown);
        }
        let owed = match domain.unmap_strict(range, range.len()) {
            Ok(ticket) => Owed::Ticket(ticket),
            Err(_) => Owed::Lost,
        };
        match self.settle(owed) {
            true => Ok(()),
            false => Err(RawError::Lost { handle }),
        }
    }
}
