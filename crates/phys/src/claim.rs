//! Contiguous ranges: clear, then take.

use alloc::vec::Vec;

use dmakit_addr::PfnRange;
use dmakit_platform::{Instant, Platform};

use crate::buddy::{Scan, Status, Survey, Wanted, frame_range, page_blocks, part_in};
use crate::claim_error::{Blocking, ClaimError, ClaimFailure, Obstacle};
use crate::clearing::Clearing;
use crate::frame::Frame;
use crate::migration::{Migrate, MigrationCause, Refusal};
use crate::movable_memory::MovableMemory;
use crate::page_allocator::Frames;
use crate::pin_table::Entry;
use crate::window::{Window, WindowIn, WindowRequest};

/// Start blocks that a search looks at under one hold of the lock.
const SCAN_BUDGET: u32 = 32;

/// Blocking frames that an error names.
pub(crate) const NAMED_MAX: usize = 8;

/// How long a claim goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClaimLimits {
    /// Nothing new is begun after this.
    pub deadline: Instant,
    /// How often frames that are busy are asked again.
    pub tries: u32,
}

impl<P: Platform, S: AsRef<[Frame]> + AsMut<[Frame]>, M: Migrate> MovableMemory<P, S, M> {
    /// The window that is cheapest to clear: the fewest frames move, and of those as few as can be
    /// are leased. Nothing in it is unmovable, pinned, or being cleared by somebody else.
    ///
    /// Steps: for each page block of the ranges its counts at most eight times, and at most three
    /// looks at the bits of its frames; where windows lie in one page block each, one look at what it
    /// costs at least, which is kept, and at the words of those that may do. Takes the allocator's
    /// lock for 32 blocks at a time.
    ///
    /// # Errors
    /// [`ClaimError`] with what is in the way.
    pub fn find(&self, request: &WindowRequest<'_>) -> Result<Window, ClaimError> {
        let align = 1_u64.checked_shl(request.align_order);
        let (Some(align), true) = (align, request.frames > 0) else {
            return Err(self.refuse(request.frames, ClaimFailure::Request, Vec::new()));
        };
        let mut steps = 0;
        let mut best: Option<Window> = None;
        for within in request.within {
            let wanted = Wanted {
                within: *within,
                frames: request.frames,
                align,
                excluded: request.excluded,
                memory: request.memory,
            };
            let span = |zone| self.allocator.locked(|buddy| buddy.zone_span(zone));
            let spans = (0..).map_while(|zone| span(zone).map(|span| (zone, span)));
            for (zone, (low, high)) in spans {
                let Some(mut scan) = Scan::new(zone, low, high, &wanted) else {
                    continue;
                };
                while !self
                    .allocator
                    .locked(|buddy| scan.advance(buddy, &wanted, SCAN_BUDGET))
                {}
                steps += scan.steps;
                let window = scan.best().map(|found| Window {
                    range: frame_range(found.start, found.start + request.frames),
                    moves: found.moves,
                    leased: found.leased,
                    steps,
                });
                best = [best, window]
                    .into_iter()
                    .flatten()
                    .min_by_key(|window| (window.moves, window.leased));
            }
        }
        match best {
            Some(window) => Ok(Window { steps, ..window }),
            None => Err(self.no_window(request)),
        }
    }

    /// Claims the cheapest window. Where it turns out that something in it does not move, the
    /// cheapest without that is tried, as long as the deadline is not past. May sleep.
    ///
    /// It fails only where every window holds something that is unmovable, pinned, leased for
    /// longer than the deadline, refused by its mover, or being cleared by somebody else, or where
    /// there is no room to move to.
    ///
    /// # Errors
    /// [`ClaimError`]: of the last window tried, or with what is in the way of all.
    pub fn claim_window(
        &self,
        request: &WindowRequest<'_>,
        limits: &ClaimLimits,
    ) -> Result<Frames, ClaimError> {
        self.claim_window_in(request, limits, |_| true, |_| {})
    }

    /// The same for whoever keeps books of claims: `enter` writes a window down before anything in
    /// it moves, or says that somebody else has it, and `withdraw` takes it out again where it comes
    /// to nothing. No lock is held when they are called.
    ///
    /// # Errors
    /// As for [`claim_window`](Self::claim_window).
    pub fn claim_window_in(
        &self,
        request: &WindowRequest<'_>,
        limits: &ClaimLimits,
        mut enter: impl FnMut(&Window) -> bool,
        mut withdraw: impl FnMut(&Window),
    ) -> Result<Frames, ClaimError> {
        self.movers.drain();
        let mut excluded = request.excluded.to_vec();
        let mut leased = self.unrecallable(request.within, limits.deadline);
        let mut entered: Vec<PfnRange> = Vec::new();
        let mut rounds = 0;
        let mut last = None;
        loop {
            let avoided = [&excluded[..], &leased[..], &entered[..]].concat();
            let narrowed = WindowRequest {
                excluded: &avoided,
                ..*request
            };
            let window = match self.find(&narrowed) {
                Ok(window) => window,
                Err(_) if !leased.is_empty() => {
                    // Their holders need not let go in time, but they may.
                    leased.clear();
                    continue;
                }
                Err(_) if !entered.is_empty() && rounds < limits.tries => {
                    // Those who have entered them may not get them.
                    entered.clear();
                    rounds += 1;
                    continue;
                }
                Err(error) => return Err(last.unwrap_or(error)),
            };
            if !enter(&window) {
                entered.push(window.range);
                continue;
            }
            let error = match self.claim(window.range, limits) {
                Ok(frames) => return Ok(frames),
                Err(error) => error,
            };
            withdraw(&window);
            let elsewhere = match error.reason {
                ClaimFailure::Blocked | ClaimFailure::Tries => true,
                // The cheapest window has no room for one frame, so no other has.
                ClaimFailure::NoRoom(error) => error.frames > 1,
                _ => false,
            };
            if !elsewhere || error.blocking.is_empty() || self.platform.now() >= limits.deadline {
                return Err(error);
            }
            excluded.extend(error.blocking.iter().map(|blocking| blocking.frames));
            last = Some(error);
        }
    }

    /// Claims exactly these frames: checks that nothing in them is unmovable, that there is room for
    /// what moves, and that the gate is not closed; keeps what is free in them, has everything moved
    /// out, nearest node first, and takes them. They are one unmovable allocation then.
    ///
    /// Claims of ranges that do not overlap go on beside each other. May sleep.
    ///
    /// # Errors
    /// [`ClaimError`]. What has moved stays where it is now; everything else is as it was.
    pub fn claim(&self, range: PfnRange, limits: &ClaimLimits) -> Result<Frames, ClaimError> {
        self.claim_for(range, MigrationCause::Claim, limits)
    }

    /// The same for another cause, of which the gate is told: huge pages, compaction, unplug.
    ///
    /// # Errors
    /// As for [`claim`](Self::claim).
    pub fn claim_for(
        &self,
        range: PfnRange,
        cause: MigrationCause,
        limits: &ClaimLimits,
    ) -> Result<Frames, ClaimError> {
        let refuse = |reason, blocking| self.refuse(range.len(), reason, blocking);
        if range.is_empty() {
            return Err(refuse(ClaimFailure::Request, Vec::new()));
        }
        let mut survey = self.survey(range);
        // Where nothing is in the way, nothing needs to be cleared.
        let free = survey.free == range.len();
        if let Some(frames) = free.then(|| self.claim_free(range)).flatten() {
            return Ok(frames);
        }
        if self.is_hopeless(range, &survey) {
            // By frames that nobody has, perhaps.
            self.movers.drain();
            survey = self.survey(range);
        }
        if survey.blocked + survey.elsewhere > 0 {
            return Err(refuse(ClaimFailure::Blocked, self.blocking(range, None)));
        }
        if self.is_hopeless(range, &survey) {
            let full = ClaimFailure::Full {
                moves: range.len() - survey.free,
                free: self.allocator.free_frames().saturating_sub(survey.free),
            };
            return Err(refuse(full, self.in_the_way(range, Obstacle::NoRoom)));
        }
        if !self.movers.permits_cause(cause) {
            self.count_closed(cause);
            let why = Obstacle::Refused(Refusal::NotPermitted);
            let blocking = self.in_the_way(range, why);
            return Err(refuse(ClaimFailure::NotPermitted, blocking));
        }
        let clearing = match Clearing::begin(self, range) {
            Ok(clearing) => clearing,
            Err(None) => return Err(refuse(ClaimFailure::TooManyClaims, Vec::new())),
            Err(Some(frames)) => {
                let blocking = self.name(frames, Obstacle::BeingCleared);
                return Err(refuse(ClaimFailure::Blocked, alloc::vec![blocking]));
            }
        };
        self.movers.drain();
        self.recall(range);
        match clearing.clear(cause, limits) {
            Ok(()) => Ok(clearing.take()),
            Err((reason, blocking)) => {
                clearing.give_up();
                Err(refuse(reason, blocking))
            }
        }
    }

    /// What a range holds. Takes the lock for a page block at a time.
    fn survey(&self, range: PfnRange) -> Survey {
        let start = range.start().raw();
        let zone = self.allocator.locked(|buddy| buddy.zone_of(start));
        let parts = page_blocks(range).map(|block| part_in(range, block));
        parts.fold(Survey::default(), |sum, (start, end)| {
            let part = self
                .allocator
                .locked(|buddy| buddy.survey(start, end, zone));
            Survey {
                free: sum.free + part.free,
                blocked: sum.blocked + part.blocked,
                elsewhere: sum.elsewhere + part.elsewhere,
            }
        })
    }

    /// Whether something in a range does not move, or it is certain that there is no room for what
    /// has to: as many frames as are not free in it have to be free outside of it.
    fn is_hopeless(&self, range: PfnRange, survey: &Survey) -> bool {
        survey.blocked + survey.elsewhere > 0 || self.allocator.free_frames() < range.len()
    }

    /// The first allocation that would have to move.
    fn in_the_way(&self, range: PfnRange, why: Obstacle) -> Vec<Blocking> {
        let found = page_blocks(range).find_map(|block| {
            let (start, end) = part_in(range, block);
            self.allocator
                .locked(|buddy| buddy.next_to_move(start, end))
        });
        let frames = found.map(|span| frame_range(span.start, span.end));
        frames
            .map(|frames| self.name(frames, why))
            .into_iter()
            .collect()
    }

    /// Claims exactly these frames if all of them are free, as one unmovable allocation; `None`, and
    /// nothing has changed, where some are not, or are not all of one zone of one node. Asks nobody
    /// and never sleeps: takes the allocator's lock for a page block at a time.
    ///
    /// It takes frames that their map set aside too: what was used before there was an allocator.
    pub fn claim_free(&self, range: PfnRange) -> Option<Frames> {
        let survey = self.survey(range);
        let free = survey.free == range.len() && survey.elsewhere == 0;
        (free && !range.is_empty()).then(|| self.take(range))?
    }

    /// Takes a range that is free. `None`, and nothing has changed, where some of it is not free.
    fn take(&self, range: PfnRange) -> Option<Frames> {
        for block in page_blocks(range) {
            let (start, end) = part_in(range, block);
            if self.allocator.locked(|buddy| buddy.take(start, end)) {
                continue;
            }
            for taken in page_blocks(range).take_while(|taken| *taken < block) {
                let (start, end) = part_in(range, taken);
                self.allocator.locked(|buddy| buddy.give_back(start, end));
            }
            return None;
        }
        let start = range.start().raw();
        let number = self
            .allocator
            .locked(|buddy| buddy.seal(start, range.len()));
        Some(Frames::new(start, range.len(), number))
    }

    /// What in a range cannot be cleared: up to eight allocations. Of most page blocks the counts
    /// say that there is nothing.
    fn blocking(&self, range: PfnRange, memory: Option<WindowIn>) -> Vec<Blocking> {
        let mut found: Vec<Blocking> = Vec::new();
        let start = range.start().raw();
        let zone = self.allocator.locked(|buddy| buddy.zone_of(start));
        for block in page_blocks(range) {
            let counts = self.allocator.locked(|buddy| buddy.block(block));
            let clear =
                counts.is_some_and(|counts| Some(counts.zone) == zone && counts.blocked == 0);
            let (mut at, end) = part_in(range, block);
            let other = memory.filter(|memory| counts.is_some_and(|counts| !memory.has(&counts)));
            if other.is_some() {
                add(
                    &mut found,
                    self.name(frame_range(at, end), Obstacle::OtherMemory),
                );
                continue;
            }
            while !clear && at < end && found.len() < NAMED_MAX {
                let (span, here) = self
                    .allocator
                    .locked(|buddy| (buddy.span_at(at), buddy.zone_of(at)));
                let elsewhere = (here != zone).then_some(Obstacle::NotHere);
                if let Some(why) = obstacle(span.status).or(elsewhere) {
                    add(
                        &mut found,
                        self.name(frame_range(span.start, span.end), why),
                    );
                }
                at = span.end;
            }
        }
        found
    }

    fn no_window(&self, request: &WindowRequest<'_>) -> ClaimError {
        let mut blocking = Vec::new();
        for within in request.within {
            blocking.extend(self.blocking(*within, Some(request.memory)));
        }
        blocking.truncate(NAMED_MAX);
        self.refuse(request.frames, ClaimFailure::NoWindow, blocking)
    }

    /// An obstacle with whoever holds the frames.
    pub(crate) fn name(&self, frames: PfnRange, why: Obstacle) -> Blocking {
        let holder = self.pins.locked(|books| {
            let mut pins = books.pins().iter().filter(|pin| pin.overlaps(frames));
            match why {
                Obstacle::Pinned => pins.find(|pin| pin.terms.is_none()).map(Entry::info),
                Obstacle::Leased => pins.find(|pin| pin.terms.is_some()).map(Entry::info),
                _ => None,
            }
        });
        Blocking {
            frames,
            why,
            holder,
        }
    }

    fn refuse(&self, frames: u64, reason: ClaimFailure, blocking: Vec<Blocking>) -> ClaimError {
        ClaimError {
            frames,
            reason,
            blocking,
        }
    }
}

/// Adds an obstacle to those before it: frames beside each other that are no allocation are one.
fn add(found: &mut Vec<Blocking>, next: Blocking) {
    let Some(last) = found.last_mut() else {
        return found.push(next);
    };
    let alike =
        last.why == next.why && matches!(next.why, Obstacle::NotHere | Obstacle::OtherMemory);
    if alike && last.frames.end() == next.frames.start() {
        last.frames = frame_range(last.frames.start().raw(), next.frames.end().raw());
    } else if last.frames != next.frames {
        found.push(next);
    }
}

/// Why a span can never be cleared as it is.
pub(crate) fn obstacle(status: Status) -> Option<Obstacle> {
    match status {
        Status::Missing => Some(Obstacle::NotHere),
        Status::Unmovable => Some(Obstacle::Unmovable),
        Status::Pinned => Some(Obstacle::Pinned),
        Status::Free
        | Status::Movable
        | Status::Leased
        | Status::Moving
        | Status::Passing
        | Status::Kept => None,
    }
}
