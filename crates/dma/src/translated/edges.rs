//! Slots in the place of what a device must not see.
//!
//! What shares a granule with other data lies in bounce slots: only those edges, and only they are
//! copied. Which edges these are is asked of the page table, never of the device's present settings.

use dmakit_addr::{
    Address, AlignMask, Attributes, DirectionType, DmaRange, Granule, Iova, IovaRange, PhysAddr,
    PhysRange,
};
use dmakit_io_pgtable::Permissions;
use dmakit_platform::{CopySource, Platform};
use dmakit_swiotlb::{BounceBuffer, BouncePool};

use super::{Original, Translated, link, parts};
use crate::check::Checker;
use crate::fragments::Piece;
use crate::mapping::Slots;
use crate::part::Part;
use crate::{
    BounceCause, Device, DomainError, MapError, MaskKind, PoolId, StrictDomain, Translate, bounce,
    cache,
};

/// How many edges wait for one sync together where a mapping has several.
const EDGES_AT_ONCE: usize = 8;

impl<'m, P: Platform, M, C: Checker<'m>, T: Translate> Device<'m, P, M, C, T> {
    /// Fills the table with slots in place of the edges that the device must not see.
    #[cold]
    #[allow(clippy::too_many_arguments)]
    pub(super) fn link_guarded<D: DirectionType, S: CopySource + ?Sized>(
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

    /// Undoes the fragments of a piece that were linked, up to `done`.
    #[cold]
    pub(super) fn unlink_fragments<D: DirectionType>(
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
    pub(super) fn slots_start(
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
}
