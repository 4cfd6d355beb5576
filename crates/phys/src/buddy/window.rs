//! The cheapest window, known beforehand.

use dmakit_addr::PfnRange;

use super::bits::Bits;
use super::clear::frame_range;
use super::nested::Layout;
use super::{Buddy, PAGEBLOCK_FRAMES, Status};
use crate::frame::Frame;
use crate::page_allocator::PAGEBLOCK_ORDER;
use crate::window::WindowIn;

/// What is looked for.
#[derive(Clone, Copy)]
pub(crate) struct Wanted<'w> {
    pub(crate) within: PfnRange,
    /// More than zero.
    pub(crate) frames: u64,
    /// A power of two.
    pub(crate) align: u64,
    /// Frames that will not do.
    pub(crate) excluded: &'w [PfnRange],
    pub(crate) memory: WindowIn,
}

/// A window and what it costs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Found {
    pub(crate) start: u64,
    /// Frames of the allocations in it, also of their parts outside.
    pub(crate) moves: u64,
    /// Those of them that are leased.
    pub(crate) leased: u64,
}

impl Found {
    pub(super) fn beats(&self, other: &Self) -> bool {
        (self.moves, self.leased) < (other.moves, other.leased)
    }
}

impl Wanted<'_> {
    /// Whether every window lies in one page block, and no two have a frame in common.
    pub(super) fn is_nested(&self) -> bool {
        self.frames <= self.align && self.align <= PAGEBLOCK_FRAMES
    }

    /// Whether frames of `range` will not do, or somebody else is clearing them.
    pub(super) fn avoids<S: AsRef<[Frame]> + AsMut<[Frame]>>(
        &self,
        buddy: &Buddy<S>,
        range: PfnRange,
    ) -> bool {
        self.excluded.iter().any(|other| other.overlaps(&range))
            || buddy.being_cleared(range).is_some()
    }
}

/// The whole page blocks that every window from a start block on covers.
#[derive(Clone, Copy, Default)]
pub(super) struct Inner {
    first: u64,
    end: u64,
    moves: u64,
    leased: u64,
    /// The last one seen that cannot be cleared.
    blocked: Option<u64>,
}

/// A search that can be left and gone on with: windows by the page block they start in.
///
/// It goes over the blocks twice, looking at their counts: first for the block with the least
/// bound, whose windows are looked at frame by frame; then for all whose bound is below the best
/// window that is known. A block is looked at frame by frame at most once as a first and twice as
/// a last one. Where all windows lie in one page block each, what a block costs at least is noted or
/// worked out of the counts of its groups, and is most often what its cheapest window costs: then the
/// first pass is the last.
pub(crate) struct Scan {
    pub(super) zone: u16,
    pub(super) layout: Option<Layout>,
    pub(super) low: u64,
    /// The last start.
    pub(super) high: u64,
    pub(super) at: u64,
    inner: Inner,
    pub(super) seed: Option<(u64, u64, Inner)>,
    /// Frames to move of windows that are of interest, where windows lie in one page block each.
    pub(super) most: u64,
    pub(super) best: Option<Found>,
    pub(super) seeded: bool,
    /// Counts of page blocks read, and page blocks looked at frame by frame.
    pub(crate) steps: u64,
}

impl Scan {
    /// A search in one zone; `None` where no window fits there.
    pub(crate) fn new(zone: u16, low: u64, high: u64, wanted: &Wanted<'_>) -> Option<Self> {
        let low = low
            .max(wanted.within.start().raw())
            .checked_next_multiple_of(wanted.align)?;
        let high = high
            .min(wanted.within.end().raw())
            .checked_sub(wanted.frames)?;
        let high = high / wanted.align * wanted.align;
        (low <= high).then_some(Self {
            zone,
            layout: Layout::of(wanted),
            low,
            high,
            at: low >> PAGEBLOCK_ORDER,
            inner: Inner::default(),
            seed: None,
            most: wanted.frames,
            best: None,
            seeded: false,
            steps: 0,
        })
    }

    pub(crate) fn best(&self) -> Option<Found> {
        self.best
    }

    /// Looks at up to `budget` more start blocks; `true` once all is seen, or nothing can be
    /// better.
    pub(crate) fn advance<S: AsRef<[Frame]> + AsMut<[Frame]>>(
        &mut self,
        buddy: &mut Buddy<S>,
        wanted: &Wanted<'_>,
        budget: u32,
    ) -> bool {
        if wanted.is_nested() {
            return self.advance_inside(buddy, wanted, budget);
        }
        // The last block of one window is the first of the next, and nothing changes under the lock.
        let mut kept = None;
        for _ in 0..budget {
            if self.best.is_some_and(|best| best.moves == 0) {
                return true;
            }
            if self.at > self.high >> PAGEBLOCK_ORDER {
                if self.seeded {
                    return true;
                }
                self.seeded = true;
                self.at = self.low >> PAGEBLOCK_ORDER;
                if let Some(seed) = self.seed {
                    self.look(buddy, wanted, seed, &mut kept);
                }
                self.inner = Inner::default();
                continue;
            }
            let block = self.at;
            // Where starts are further apart than page blocks are long, most blocks have none.
            let next = ((block + 1) << PAGEBLOCK_ORDER).next_multiple_of(wanted.align);
            self.at = next >> PAGEBLOCK_ORDER;
            self.slide(buddy, wanted, block);
            if let Some(bound) = self.bound(buddy, wanted, block) {
                self.consider(buddy, wanted, block, bound, &mut kept);
            }
        }
        false
    }

    fn consider<S: AsRef<[Frame]> + AsMut<[Frame]>>(
        &mut self,
        buddy: &Buddy<S>,
        wanted: &Wanted<'_>,
        block: u64,
        bound: u64,
        kept: &mut Option<Bits>,
    ) {
        if !self.seeded {
            if self.seed.is_none_or(|(least, ..)| bound < least) {
                self.seed = Some((bound, block, self.inner));
            }
            return;
        }
        let known = self.seed.is_some_and(|(_, seed, _)| seed == block);
        let hopeless = self
            .best
            .is_some_and(|best| (best.moves, best.leased) <= (bound, 0));
        if !known && !hopeless {
            self.look(buddy, wanted, (bound, block, self.inner), kept);
        }
    }

    /// The first start in a block, and the last.
    pub(super) fn starts(&self, wanted: &Wanted<'_>, block: u64) -> (u64, u64) {
        let first = (block << PAGEBLOCK_ORDER).max(self.low);
        let last = (((block + 1) << PAGEBLOCK_ORDER) - 1).min(self.high);
        // A power of two.
        let mask = wanted.align - 1;
        ((first + mask) & !mask, last & !mask)
    }

    /// Moves the inner blocks on to those of windows that start in `block`.
    fn slide<S: AsRef<[Frame]> + AsMut<[Frame]>>(
        &mut self,
        buddy: &Buddy<S>,
        wanted: &Wanted<'_>,
        block: u64,
    ) {
        let (start, _) = self.starts(wanted, block);
        let first = block + 1;
        let end = ((start + wanted.frames - 1) >> PAGEBLOCK_ORDER).max(first);
        let mut inner = self.inner;
        if inner.end < first {
            (inner.first, inner.end) = (first, first);
            (inner.moves, inner.leased) = (0, 0);
        }
        while inner.first < first {
            let left = self.whole(buddy, wanted, inner.first).unwrap_or_default();
            // Counts may have changed since they were added: a search is not a snapshot.
            inner.moves = inner.moves.saturating_sub(left.0);
            inner.leased = inner.leased.saturating_sub(left.1);
            inner.first += 1;
        }
        while inner.end < end {
            match self.whole(buddy, wanted, inner.end) {
                Some((moves, leased)) => {
                    inner.moves += moves;
                    inner.leased += leased;
                }
                None => inner.blocked = Some(inner.end),
            }
            inner.end += 1;
        }
        self.inner = inner;
    }

    /// What clearing a whole page block costs; `None` where it cannot be cleared.
    fn whole<S: AsRef<[Frame]> + AsMut<[Frame]>>(
        &mut self,
        buddy: &Buddy<S>,
        wanted: &Wanted<'_>,
        block: u64,
    ) -> Option<(u64, u64)> {
        self.steps += 1;
        let start = block << PAGEBLOCK_ORDER;
        let counts = buddy.block(start)?;
        let range = frame_range(start, start + PAGEBLOCK_FRAMES);
        let ours = counts.zone == self.zone && wanted.memory.has(&counts);
        let clear = counts.blocked == 0 && ours && !wanted.avoids(buddy, range);
        clear.then_some((counts.moves(), u64::from(counts.leased)))
    }

    /// What windows that start in `block` cost at least; `None` where none can be cleared.
    fn bound<S: AsRef<[Frame]> + AsMut<[Frame]>>(
        &mut self,
        buddy: &Buddy<S>,
        wanted: &Wanted<'_>,
        block: u64,
    ) -> Option<u64> {
        let Inner { first, end, .. } = self.inner;
        if self.inner.blocked.is_some_and(|blocked| blocked >= first) {
            return None;
        }
        let (start, last) = self.starts(wanted, block);
        let inside = (end - first) << PAGEBLOCK_ORDER;
        let edges = [block, (last + wanted.frames - 1) >> PAGEBLOCK_ORDER];
        let first_tail = (start + wanted.frames - 1) >> PAGEBLOCK_ORDER;
        let free = |index: u64| {
            let counts = buddy.block(index << PAGEBLOCK_ORDER);
            counts.map_or(0, |counts| u64::from(counts.free))
        };
        let mut spare = free(edges[0]);
        if edges[1] > edges[0] {
            spare += free(edges[1]);
        }
        if first_tail > edges[0] && first_tail < edges[1] {
            spare += free(first_tail);
        }
        self.steps += 3;
        Some(self.inner.moves + (wanted.frames - inside).saturating_sub(spare))
    }

    /// Looks at the windows that start in a block, as long as one may be better than the best that is
    /// known; none costs less than the bound.
    pub(super) fn look<S: AsRef<[Frame]> + AsMut<[Frame]>>(
        &mut self,
        buddy: &Buddy<S>,
        wanted: &Wanted<'_>,
        (bound, block, inner): (u64, u64, Inner),
        kept: &mut Option<Bits>,
    ) {
        let (mut start, last) = self.starts(wanted, block);
        let tails = [start, last].map(|start| (start + wanted.frames - 1) >> PAGEBLOCK_ORDER);
        let mut edges = [None, None, None];
        let known = kept.take().filter(|bits| bits.block == block);
        edges[0] = known.or_else(|| Some(Bits::of(buddy, wanted, self.zone, block)));
        for (index, tail) in tails.into_iter().enumerate() {
            if tail > block && (index == 0 || tail > tails[0]) {
                edges[index + 1] = Some(Bits::of(buddy, wanted, self.zone, tail));
            }
            self.steps += 1;
        }
        while start <= last {
            let end = start + wanted.frames;
            let parts = edges.iter().flatten();
            if let Some(blocked) = parts.filter_map(|bits| bits.last_blocked(start, end)).max() {
                start = (blocked + 1).next_multiple_of(wanted.align);
                continue;
            }
            let inside = self.weigh(buddy, &edges, inner, (start, end));
            let best = self.best.map_or(0, |best| best.moves);
            if self
                .best
                .is_some_and(|best| (best.moves, best.leased) <= (bound, 0))
            {
                break;
            }
            // A step on leaves at most as many moves behind as it is long.
            let ahead = inside.saturating_sub(best).max(1);
            start += ahead.next_multiple_of(wanted.align);
        }
        *kept = edges.into_iter().flatten().last();
    }

    /// Says how many frames of a window have to move, of those in whole page blocks and at its
    /// edges; notes the window where it is better than the best.
    pub(super) fn weigh<S: AsRef<[Frame]> + AsMut<[Frame]>>(
        &mut self,
        buddy: &Buddy<S>,
        edges: &[Option<Bits>],
        inner: Inner,
        (start, end): (u64, u64),
    ) -> u64 {
        let mut found = Found {
            start,
            moves: inner.moves,
            leased: inner.leased,
        };
        for bits in edges.iter().flatten() {
            found.moves += bits.count(&bits.moves, start, end);
            found.leased += bits.count(&bits.leased, start, end);
        }
        let inside = found.moves;
        self.compare(buddy, found, end);
        inside
    }

    /// Notes a window that ends at `end`, and so much of which moves inside, if it is the best.
    pub(super) fn compare<S: AsRef<[Frame]> + AsMut<[Frame]>>(
        &mut self,
        buddy: &Buddy<S>,
        mut found: Found,
        end: u64,
    ) {
        if self.best.is_none_or(|best| found.beats(&best)) {
            add_overhang(buddy, &mut found, end);
            if self.best.is_none_or(|best| found.beats(&best)) {
                self.best = Some(found);
            }
        }
    }
}

/// Adds the frames outside the window of allocations that reach into it.
fn add_overhang<S: AsRef<[Frame]> + AsMut<[Frame]>>(buddy: &Buddy<S>, found: &mut Found, end: u64) {
    let (before, after) = (buddy.span_at(found.start), buddy.span_at(end - 1));
    let outside = [
        (before.status, found.start - before.start.min(found.start)),
        (after.status, after.end.saturating_sub(end)),
    ];
    for (status, frames) in outside {
        if matches!(status, Status::Movable | Status::Leased | Status::Moving) {
            found.moves += frames;
        }
        if status == Status::Leased {
            found.leased += frames;
        }
    }
}
