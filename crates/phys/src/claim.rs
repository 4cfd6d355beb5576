//! Contiguous ranges: clear, then take.

use alloc::collections::TryReserveError;
use alloc::vec::Vec;

use dmakit_addr::PfnRange;
use dmakit_platform::{Instant, Platform};

use crate::buddy::{Scan, Survey, Wanted, frame_range, page_blocks, part_in};
use crate::claim_error::{Blocking, ClaimError, ClaimFailure, Obstacle};
use crate::clearing::Clearing;
use crate::frame::{BOOKED, Frame};
use crate::migration::{Migrate, MigrationCause, Refusal};
use crate::movable_memory::MovableMemory;
use crate::obstacles::named;
use crate::page_allocator::Frames;
use crate::window::{Window, WindowRequest};

/// Start blocks that a search looks at under one hold of the lock.
const SCAN_BUDGET: u32 = 32;

/// How long a claim goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClaimLimits {
    /// Nothing new is begun after this.
    pub deadline: Instant,
    /// How often frames that are busy are asked again.
    pub tries: u32,
}

/// What a claim does not look into, as far as there is memory to note it.
#[derive(Default)]
struct Avoided {
    /// Did not move when it was asked.
    blocked: Vec<PfnRange>,
    /// Its holders need not let go in time.
    leased: Vec<PfnRange>,
    /// Somebody else is about to claim it.
    entered: Vec<PfnRange>,
    all: Vec<PfnRange>,
}

impl Avoided {
    /// Brings `all` up to date: everything, and what was `asked` to be left out.
    fn gather(&mut self, asked: &[PfnRange]) -> Result<(), TryReserveError> {
        self.all.clear();
        for more in [asked, &self.blocked, &self.leased, &self.entered] {
            self.all.try_reserve(more.len())?;
            self.all.extend_from_slice(more);
        }
        Ok(())
    }

    fn exclude(&mut self, blocking: &[Blocking]) -> Result<(), TryReserveError> {
        self.blocked.try_reserve(blocking.len())?;
        let frames = blocking.iter().map(|blocking| blocking.frames);
        self.blocked.extend(frames);
        Ok(())
    }
}

impl<P: Platform, S: AsRef<[Frame]> + AsMut<[Frame]>, M: Migrate> MovableMemory<P, S, M> {
    /// The window that is cheapest to clear: the fewest frames move, and of those as few as can be
    /// are leased. Nothing in it is unmovable, pinned, or being cleared by somebody else.
    ///
    /// Steps: for each page block of the ranges its counts at most eight times, and at most three
    /// looks at the bits of its frames; where windows lie in one page block each, two looks at what it
    /// costs at least, which is kept, and at the words of those that may do. Takes the allocator's
    /// lock for 32 blocks at a time.
    ///
    /// # Errors
    /// [`ClaimError`] with what is in the way.
    pub fn find(&self, request: &WindowRequest<'_>) -> Result<Window, ClaimError> {
        match self.search(request) {
            Some((window, _)) => Ok(window),
            None => Err(self.no_window(request)),
        }
    }

    /// The same for whoever may not allocate memory, as in hard interrupts: does not say what is in
    /// the way.
    pub fn find_quietly(&self, request: &WindowRequest<'_>) -> Option<Window> {
        self.search(request).map(|(window, _)| window)
    }

    /// The cheapest window, and how many frames are free in all memory.
    fn search(&self, request: &WindowRequest<'_>) -> Option<(Window, u64)> {
        let align = align_of(request)?;
        let (mut steps, mut free) = (0, 0);
        let mut best: Option<Window> = None;
        for within in request.within {
            let wanted = Wanted {
                within: *within,
                frames: request.frames,
                align,
                excluded: request.excluded,
                memory: request.memory,
            };
            for zone in 0..self.allocator.zones() {
                let begun = self.allocator.locked(|buddy| {
                    free = buddy.free_total();
                    let (low, high) = buddy.zone_span(zone)?;
                    let mut scan = Scan::new(zone, low, high, &wanted)?;
                    let done = scan.advance(buddy, &wanted, SCAN_BUDGET);
                    Some((scan, done))
                });
                let Some((mut scan, mut done)) = begun else {
                    continue;
                };
                while !done {
                    done = self
                        .allocator
                        .locked(|buddy| scan.advance(buddy, &wanted, SCAN_BUDGET));
                }
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
        best.map(|window| (Window { steps, ..window }, free))
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
        self.claim_cheapest(request, limits, 0, |_| true, |_| {})
    }

    /// The same for whoever keeps books of claims: `enter` writes a window down before anything in
    /// it moves, or says that somebody else has it, and `withdraw` takes it out again where it comes
    /// to nothing. No lock is held when they are called. The frames are
    /// [booked](crate::PageAllocator::book).
    ///
    /// # Errors
    /// As for [`claim_window`](Self::claim_window).
    pub fn claim_window_in(
        &self,
        request: &WindowRequest<'_>,
        limits: &ClaimLimits,
        enter: impl FnMut(&Window) -> bool,
        withdraw: impl FnMut(&Window),
    ) -> Result<Frames, ClaimError> {
        self.claim_cheapest(request, limits, BOOKED, enter, withdraw)
    }

    fn claim_cheapest(
        &self,
        request: &WindowRequest<'_>,
        limits: &ClaimLimits,
        mover: u16,
        mut enter: impl FnMut(&Window) -> bool,
        mut withdraw: impl FnMut(&Window),
    ) -> Result<Frames, ClaimError> {
        let no_memory = || self.refuse(request.frames, ClaimFailure::NoMemory, Vec::new());
        self.movers.drain();
        let leased = self.unrecallable(request.within, limits.deadline);
        let mut avoided = Avoided {
            leased: leased.map_err(|_| no_memory())?,
            ..Avoided::default()
        };
        let (mut rounds, mut last) = (0, None);
        loop {
            avoided.gather(request.excluded).map_err(|_| no_memory())?;
            let narrowed = WindowRequest {
                excluded: &avoided.all,
                ..*request
            };
            let (window, everywhere) = match self.search(&narrowed) {
                Some(found) => found,
                None if !avoided.leased.is_empty() => {
                    // Their holders need not let go in time, but they may.
                    avoided.leased.clear();
                    continue;
                }
                None if !avoided.entered.is_empty() && rounds < limits.tries => {
                    // Those who have entered them may not get them.
                    avoided.entered.clear();
                    rounds += 1;
                    continue;
                }
                None => return Err(last.unwrap_or_else(|| self.no_window(&narrowed))),
            };
            avoided.entered.try_reserve(1).map_err(|_| no_memory())?;
            if !enter(&window) {
                avoided.entered.push(window.range);
                continue;
            }
            // What the search has seen; it passes over what is blocked.
            let survey = Survey {
                free: request.frames.saturating_sub(window.moves),
                everywhere,
                ..Survey::default()
            };
            let cause = MigrationCause::Claim;
            let claimed = self.claim_surveyed(window.range, survey, (cause, mover), limits);
            let error = match claimed {
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
            if avoided.exclude(&error.blocking).is_err() {
                return Err(error);
            }
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
        if range.is_empty() {
            return Err(self.refuse(range.len(), ClaimFailure::Request, Vec::new()));
        }
        self.claim_surveyed(range, self.survey(range), (cause, 0), limits)
    }

    /// The same, by what a survey of the range says, which may be wrong by now; `mover` is [`BOOKED`]
    /// where somebody keeps books of claims, or 0.
    fn claim_surveyed(
        &self,
        range: PfnRange,
        mut survey: Survey,
        (cause, mover): (MigrationCause, u16),
        limits: &ClaimLimits,
    ) -> Result<Frames, ClaimError> {
        let refuse = |reason, blocking| self.refuse(range.len(), reason, blocking);
        // Where nothing is in the way, nothing needs to be cleared.
        let free = survey.free == range.len();
        if let Some(frames) = free
            .then(|| self.take_surveyed(range, &survey, mover))
            .flatten()
        {
            return Ok(frames);
        }
        if is_hopeless(range, &survey) {
            // By frames that nobody has, perhaps.
            self.movers.drain();
            survey = self.survey(range);
        }
        if survey.blocked + survey.elsewhere > 0 {
            return Err(refuse(ClaimFailure::Blocked, self.blocking(range, None)));
        }
        if is_hopeless(range, &survey) {
            let full = ClaimFailure::Full {
                moves: range.len() - survey.free,
                free: survey.everywhere.saturating_sub(survey.free),
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
                return Err(refuse(ClaimFailure::Blocked, named(Some(blocking))));
            }
        };
        self.movers.drain();
        if clearing.is_leased() {
            self.recall(range);
        }
        match clearing.clear(cause, limits) {
            Ok(()) => Ok(clearing.take(mover)),
            Err((reason, blocking)) => {
                clearing.give_up();
                Err(refuse(reason, blocking))
            }
        }
    }

    /// What a range holds. Takes the lock for a page block at a time.
    fn survey(&self, range: PfnRange) -> Survey {
        let start = range.start().raw();
        let mut zone = None;
        let mut sum = Survey::default();
        for block in page_blocks(range) {
            let (from, to) = part_in(range, block);
            let part = self.allocator.locked(|buddy| {
                if from == start {
                    zone = buddy.zone_of(start);
                    sum.everywhere = buddy.free_total();
                }
                buddy.survey(from, to, zone)
            });
            sum.free += part.free;
            sum.blocked += part.blocked;
            sum.elsewhere += part.elsewhere;
        }
        sum
    }

    /// Claims exactly these frames if all of them are free, as one unmovable allocation; `None`, and
    /// nothing has changed, where some are not, or are not all of one zone of one node. Asks nobody
    /// and never sleeps: takes the allocator's lock for a page block at a time.
    ///
    /// It takes frames that their map set aside too: what was used before there was an allocator.
    pub fn claim_free(&self, range: PfnRange) -> Option<Frames> {
        self.take_surveyed(range, &self.survey(range), 0)
    }

    /// Takes a range that is free by its survey. `None`, and nothing has changed, where some of it is
    /// not free.
    fn take_surveyed(&self, range: PfnRange, survey: &Survey, mover: u16) -> Option<Frames> {
        if survey.free != range.len() || survey.elsewhere > 0 || range.is_empty() {
            return None;
        }
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
            .locked(|buddy| buddy.seal(start, range.len(), mover));
        Some(Frames::new(start, range.len(), number))
    }
}

/// The alignment of windows in frames, where there can be such.
pub(crate) fn align_of(request: &WindowRequest<'_>) -> Option<u64> {
    let align = 1_u64.checked_shl(request.align_order);
    align.filter(|_| request.frames > 0)
}

/// Whether something in a range does not move, or it is certain that there is no room for what has
/// to: as many frames as are not free in it have to be free outside of it.
fn is_hopeless(range: PfnRange, survey: &Survey) -> bool {
    survey.blocked + survey.elsewhere > 0 || survey.everywhere < range.len()
}
