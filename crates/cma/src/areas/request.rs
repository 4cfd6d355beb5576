//! One claim.

use core::ops::Deref;
use core::sync::atomic::Ordering::Relaxed;

use dmakit_addr::{PAGE_BYTES, PAGE_SHIFT, Pfn, PfnRange};
use dmakit_phys::{ClaimLimits, Frame, Frames, Migrate, MovableMemory, WindowIn, WindowRequest};
use dmakit_platform::Platform;

use super::{Active, AreaClaim, AreaClaimError, AreaId, Areas, NoClaim};
use crate::area::RANGES_MAX;

/// Idle windows that one claim tries.
const IDLE_TRIES: usize = 4;

/// The ranges of an area in which windows are looked for.
enum Within<'r> {
    All(&'r [PfnRange]),
    /// As far as a limit allows, and how many that leaves.
    Cut([PfnRange; RANGES_MAX], usize),
}

impl Deref for Within<'_> {
    type Target = [PfnRange];

    fn deref(&self) -> &[PfnRange] {
        match self {
            Self::All(ranges) => ranges,
            Self::Cut(ranges, count) => &ranges[..*count],
        }
    }
}

/// One claim on its way.
pub(super) struct Request<'r, P: Platform, S, M> {
    memory: &'r MovableMemory<P, S, M>,
    area: &'r Active<P>,
    id: AreaId,
    asked: AreaClaim,
    /// Whole units.
    frames: u64,
    align_order: u32,
}

impl<'r, P, S, M> Request<'r, P, S, M>
where
    P: Platform,
    S: AsRef<[Frame]> + AsMut<[Frame]>,
    M: Migrate,
{
    pub(super) fn new(
        areas: &'r Areas<'_, P, S, M>,
        id: AreaId,
        claim: &AreaClaim,
    ) -> Result<Self, AreaClaimError> {
        let refused = AreaClaimError {
            claim: *claim,
            area: id,
            reason: NoClaim::NoArea,
        };
        let area = areas.areas.get(id.index()).ok_or(refused)?;
        let unit = 1 << area.unit_order;
        Ok(Self {
            memory: areas.memory,
            area,
            id,
            asked: *claim,
            // Too many stay too many.
            frames: claim
                .frames
                .checked_next_multiple_of(unit)
                .unwrap_or(claim.frames),
            align_order: claim.align_order.max(area.unit_order),
        })
    }

    /// A window that is idle, or the one that is cheapest to clear.
    pub(super) fn claim(&self, limits: &ClaimLimits) -> Result<Frames, NoClaim> {
        // Where the last claim found its first window lent, so does the next, most likely.
        if self.area.lent.load(Relaxed) {
            let cheapest = self.claim_cheapest(limits);
            return cheapest.or_else(|error| self.claim_first()?.ok_or(error));
        }
        if let Some(frames) = self.claim_first()? {
            return Ok(frames);
        }
        self.area.lent.store(true, Relaxed);
        self.claim_cheapest(limits)
    }

    /// The window that the books name first, if it is idle and within the limit.
    pub(super) fn claim_first(&self) -> Result<Option<Frames>, NoClaim> {
        let window = self.area.books.claim(self.frames, self.align_order);
        let window = window.map_err(NoClaim::Full)?;
        let reached = window
            .bytes()
            .is_some_and(|bytes| self.asked.limit.reaches(&bytes));
        let frames = reached.then(|| self.claim_entered(window)).flatten();
        if frames.is_none() {
            self.withdraw(window);
        }
        Ok(frames)
    }

    /// A window that is idle, looked for in the page allocator.
    pub(super) fn claim_idle(&self) -> Result<Frames, NoClaim> {
        let within = self.within()?;
        let mut entered = [PfnRange::EMPTY; IDLE_TRIES];
        for tried in 0..IDLE_TRIES {
            let windows = self.windows(&within, &entered[..tried]);
            let Some(window) = self.memory.find_quietly(&windows) else {
                break;
            };
            if window.moves > 0 {
                break;
            }
            if self.area.books.claim_at(window.range) {
                match self.claim_entered(window.range) {
                    Some(frames) => return Ok(frames),
                    None => self.withdraw(window.range),
                }
            }
            // Somebody else was faster.
            entered[tried] = window.range;
        }
        Err(NoClaim::Lent)
    }

    /// The window that is cheapest to clear.
    fn claim_cheapest(&self, limits: &ClaimLimits) -> Result<Frames, NoClaim> {
        let within = self.within()?;
        let mut moves = 0;
        let claimed = self.memory.claim_window_in(
            &self.windows(&within, &[]),
            limits,
            |window| {
                moves = window.moves;
                self.area.books.claim_at(window.range)
            },
            |window| self.withdraw(window.range),
        );
        let frames = claimed.map_err(NoClaim::InTheWay)?;
        match moves {
            0 => self.area.lent.store(false, Relaxed),
            _ => self.area.counters.moved(moves),
        }
        Ok(frames)
    }

    /// A window that is in the books, if it is idle.
    fn claim_entered(&self, window: PfnRange) -> Option<Frames> {
        let frames = self.memory.claim_free(window)?;
        self.memory.allocator().book(&frames);
        Some(frames)
    }

    /// The ranges of the area, as far as the limit allows.
    fn within(&self) -> Result<Within<'r>, NoClaim> {
        let last = self.asked.limit.last();
        let end = Pfn::new((last >> PAGE_SHIFT) + u64::from(last % PAGE_BYTES == PAGE_BYTES - 1));
        if self.area.ranges.iter().all(|range| range.end() <= end) {
            return Ok(Within::All(&self.area.ranges));
        }
        let reached = self.area.ranges.iter().filter_map(|range| {
            let within = PfnRange::between(range.start(), range.end().min(end))?;
            (!within.is_empty()).then_some(within)
        });
        let (mut ranges, mut count) = ([PfnRange::EMPTY; RANGES_MAX], 0);
        for (place, range) in ranges.iter_mut().zip(reached) {
            (*place, count) = (range, count + 1);
        }
        match count {
            0 => Err(NoClaim::OutOfReach),
            _ => Ok(Within::Cut(ranges, count)),
        }
    }

    fn windows<'w>(&self, within: &'w [PfnRange], excluded: &'w [PfnRange]) -> WindowRequest<'w> {
        WindowRequest {
            within,
            frames: self.frames,
            align_order: self.align_order,
            excluded,
            memory: WindowIn::Areas,
        }
    }

    /// Takes a window out of the books again that did not become a claim.
    fn withdraw(&self, window: PfnRange) {
        let released = self.area.books.release(window);
        debug_assert!(released.is_ok(), "the books lost frames {window}");
    }

    pub(super) fn done(&self, found: Result<Frames, NoClaim>) -> Result<Frames, AreaClaimError> {
        match found {
            Ok(frames) => {
                self.area.counters.claimed(frames.range().len());
                Ok(frames)
            }
            Err(reason) => {
                self.area.counters.failed(self.asked.frames);
                Err(AreaClaimError {
                    claim: self.asked,
                    area: self.id,
                    reason,
                })
            }
        }
    }
}
