//! What has to be done for memory that leaves a device's reach: slots copied out and given back, lines
//! dropped that the CPU may hold of what the device wrote past its caches.
//!
//! Behind an IOMMU both wait until hardware has forgotten the addresses: a write that was translated
//! before lands until then. So where there is such work there is a sync at once.

use core::ops::Range;

use dmakit_addr::{Address, DirectionType, DmaRange, Iova, IovaRange, PhysAddr, PhysRange};
use dmakit_platform::{CopyTarget, Platform};

use super::state::{Flag, State};
use crate::check::{Checker, Event, Kind};
use crate::debt::Owed;
use crate::mapping::Slots;
use crate::part::Part;
use crate::translated::{OneRun, Translated};
use crate::{Device, DmaSegment, StrictDomain, Translate, cache};

/// How many stretches of memory wait for one sync together.
const STRETCHES_AT_ONCE: usize = 16;

/// Contiguous memory behind device addresses.
struct Stretch {
    /// The first address.
    at: u64,
    memory: PhysRange,
    is_slots: bool,
}

impl<'m, P: Platform, M, C: Checker<'m>, T: Translate> Device<'m, P, M, C, T> {
    /// Whether the CPU may hold lines of what the device wrote, and has to drop them.
    #[inline]
    pub(super) fn leaves_stale_lines<D: DirectionType>(&self, state: &State) -> bool {
        let wants_data = D::DIRECTION.device_writes() && !state.has(Flag::SKIPS_SYNC);
        wants_data && !self.info.is_coherent()
    }

    /// Whether something has to be done for what is linked once hardware has forgotten it. A lazy
    /// domain's says nothing, and the driver has said that the device is done.
    #[inline]
    pub(super) fn works_after_sync<D: DirectionType>(&self, state: &State) -> bool {
        let waits = self.strict_domain().is_some();
        state.has(Flag::BOUNCED) || waits && self.leaves_stale_lines::<D>(state)
    }

    /// Ends what is linked from byte `from` on, some of it at least; the addresses stay.
    #[inline(never)]
    pub(super) fn end_part<D: DirectionType, B: CopyTarget>(
        &self,
        domain: &'m T::Domain,
        state: &State,
        from: u64,
        target: &mut B,
    ) -> Owed {
        let granule = domain.granule();
        if self.leaves_stale_lines::<D>(state) {
            let linked = state.address() + from..state.address() + state.linked();
            let has_slots = state.has(Flag::BOUNCED);
            return self.take_back::<D, B>(domain, linked, has_slots, target);
        }
        let base = match from {
            0 => 0,
            _ => state.offset(granule) + from,
        };
        let len = state.span(granule) - base;
        let Some(part) = state.range(granule).slice(base, len) else {
            return Owed::Lost;
        };
        if !state.has(Flag::BOUNCED) {
            return self.unlinked(domain, part);
        }
        let translated = Translated {
            range: part,
            slots: Slots::Edges,
        };
        let first = PhysAddr::new((state.address() + from) & granule.mask());
        let Ok(run) = PhysRange::new(first, state.linked() - from) else {
            return Owed::Lost;
        };
        let mut original = OneRun { run, bytes: target };
        let wants_data = D::DIRECTION.device_writes() && !state.has(Flag::SKIPS_SYNC);
        let wanted = wants_data.then_some(run.len());
        if self.take_apart::<D, _>(domain, translated, &mut original, len, wanted, false) {
            return Owed::Paid;
        }
        self.counters.lost();
        Owed::Lost
    }

    /// Unmaps a part whose addresses stay reserved, strictly: what is linked there next must not be
    /// taken for what was.
    pub(super) fn unlinked(&self, domain: &T::Domain, part: IovaRange) -> Owed {
        self.owed_strictly(domain.unlink(part))
    }

    /// Unmaps addresses, waits until hardware has forgotten them, and only then drops the lines of the
    /// memory behind and takes what lies in slots back to `target`. Stretch by stretch, as many for
    /// each sync as there is room for. O(leaves).
    pub(super) fn take_back<D: DirectionType, B: CopyTarget + ?Sized>(
        &self,
        domain: &T::Domain,
        linked: Range<u64>,
        has_slots: bool,
        target: &mut B,
    ) -> Owed {
        let granule = domain.granule();
        let mut at = linked.start;
        while at < linked.end {
            let mut held = [const { None }; STRETCHES_AT_ONCE];
            let mut to = at;
            for place in &mut held {
                if to < linked.end {
                    *place = self.stretch(domain, to..linked.end, has_slots);
                    to += place.as_ref().map_or(0, |held: &Stretch| held.memory.len());
                }
            }
            let start = Iova::new(at).align_down(granule.bytes());
            let end = Iova::new(to).align_up(granule.bytes());
            let part = end.and_then(|end| IovaRange::between(start, end));
            let undone = part.filter(|_| to > at).map(|part| domain.undo(part));
            let Some(Ok(())) = undone else {
                self.counters.lost();
                return Owed::Lost;
            };
            // Whatever was on its way has landed.
            for stretch in held.into_iter().flatten() {
                cache::before_cpu_reads(&self.platform, stretch.memory);
                if stretch.is_slots {
                    let at = stretch.at - linked.start;
                    let of = &mut *target;
                    let (start, len) = (stretch.memory.start(), stretch.memory.len());
                    self.copy_out(start, Part { of, at }, len, D::DIRECTION);
                    self.free_slots::<D>(start);
                }
            }
            at = to;
        }
        Owed::Paid
    }

    /// The contiguous memory behind the first of some addresses.
    fn stretch(&self, domain: &T::Domain, linked: Range<u64>, has_slots: bool) -> Option<Stretch> {
        let at = linked.start;
        let first = domain.lookup(Iova::new(at))?;
        let slots = self.slots_at(first).filter(|_| has_slots);
        let is_slots = slots.is_some();
        let unit = |at: u64| domain.unit(Iova::new(at)).map(|unit| unit.end().raw());
        let mut to = match slots {
            Some(slots) => at + slots.len(),
            None => unit(at)?,
        };
        // Edges that lie in slots may follow in memory what is before them by chance.
        while !has_slots && to < linked.end {
            let next = domain.lookup(Iova::new(to));
            if next.is_none() || next != first.checked_add(to - at) {
                break;
            }
            to = unit(to)?;
        }
        let memory = PhysRange::new(first, to.min(linked.end) - at).ok()?;
        Some(Stretch {
            at,
            memory,
            is_slots,
        })
    }

    /// The slots of the mapping that begins at `start`.
    fn slots_at(&self, start: PhysAddr) -> Option<PhysRange> {
        let (pool, _) = self.pool()?;
        let found = pool.find(start).filter(|found| found.start == start)?;
        PhysRange::new(found.start, found.len).ok()
    }

    /// Whether the first granule of a state lies in slots.
    pub(super) fn begins_in_slots(&self, domain: &T::Domain, state: &State) -> bool {
        let first = domain.lookup(Iova::new(state.address()));
        first.is_some_and(|first| self.slots_at(first).is_some())
    }

    /// Drops the lines of what the device wrote where nobody waits for hardware to forget it.
    #[cold]
    pub(super) fn drop_lines_now(&self, domain: &T::Domain, state: &State) {
        let (mut at, end) = (state.address(), state.address() + state.linked());
        while at < end {
            let Some(stretch) = self.stretch(domain, at..end, false) else {
                return;
            };
            cache::before_cpu_reads(&self.platform, stretch.memory);
            at += stretch.memory.len();
        }
    }

    /// Ends links one by one, where the device has no IOMMU.
    pub(super) fn end_alone<D: DirectionType, B: CopyTarget>(
        &self,
        state: &State,
        target: &mut B,
        segments: impl Iterator<Item = DmaSegment>,
    ) -> Owed {
        if !self.looks_at_segments(state) {
            return Owed::Since(self.epoch());
        }
        let wants_data = D::DIRECTION.device_writes() && !state.has(Flag::SKIPS_SYNC);
        let drops_lines = wants_data && !self.info.is_coherent();
        let mut at = 0;
        for segment in segments {
            let dma = DmaRange::new(segment.addr, segment.len).ok();
            if let Some(behind) = dma.and_then(|dma| self.info.memory_behind(dma)) {
                let mine = self.pool().and_then(|(pool, _)| {
                    let found = pool.find(behind.start())?;
                    (found.start == behind.start()).then_some(pool)
                });
                match mine.map(|pool| pool.claim::<D>(behind.start())) {
                    Some(Ok(buffer)) => {
                        let len = if wants_data { segment.len } else { 0 };
                        let mut part = Part {
                            of: &mut *target,
                            at,
                        };
                        self.end_bounced(buffer, &mut part, len, drops_lines);
                    }
                    // Somebody else's slots.
                    Some(Err(_)) => {}
                    None if drops_lines => cache::before_cpu_reads(&self.platform, behind),
                    None => {}
                }
            }
            let event = Event::new(Kind::Request, segment, D::DIRECTION);
            self.checker.ended(&self.info, &event);
            at += segment.len;
        }
        Owed::Since(self.epoch())
    }
}
