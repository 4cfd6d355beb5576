//! Windows that lie in one page block each, by the counts of its groups.

use super::clear::frame_range;
use super::window::{Found, Inner, Scan, Wanted};
use super::{Buddy, PAGEBLOCK_FRAMES};
use crate::block::{self, Block, GROUP, GROUP_WORDS, RECORD, WORDS};
use crate::frame::Frame;
use crate::page_allocator::PAGEBLOCK_ORDER;

/// The lowest bit of each lane, for lanes of 2^n bits.
const LOWS: [u64; 7] = [
    u64::MAX,
    0x5555_5555_5555_5555,
    0x1111_1111_1111_1111,
    0x0101_0101_0101_0101,
    0x0001_0001_0001_0001,
    0x0000_0001_0000_0001,
    1,
];

/// Windows as lanes of words: of bits, one for each frame, or of bytes, one for each group.
#[derive(Clone, Copy)]
enum Lanes {
    Frames,
    Groups,
    /// One window for each word: too few to be worth a look before they are weighed.
    Whole,
}

/// How the windows of a page block are looked at, several at once.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    lanes: Lanes,
    /// Frames of a word.
    frames: u64,
    /// log2 of the bits of a lane.
    order: u32,
    /// The bits of what lies wholly in the windows.
    inside: u64,
    /// log2 of the length of windows that are as long as they are aligned.
    full: Option<u32>,
    /// The lowest bit of each lane, and the highest.
    lows: u64,
    tops: u64,
}

impl Layout {
    /// `None` where windows are not nested in page blocks, or too small to be lanes.
    pub(super) fn of(wanted: &Wanted<'_>) -> Option<Self> {
        let nested = wanted.is_nested() && wanted.align >= 4;
        nested.then(|| Self::new(wanted.frames, wanted.align))
    }

    /// For windows of 2^`order` frames, aligned to as many.
    pub(super) fn full(order: u32) -> Option<Self> {
        let frames = 1 << order;
        let nested = (4..=PAGEBLOCK_FRAMES).contains(&frames);
        nested.then(|| Self::new(frames, frames))
    }

    fn new(len: u64, align: u64) -> Self {
        let group = GROUP as u64;
        let (lanes, frames, bits, used) = match align {
            4 | 8 => (Lanes::Frames, 64, align, len),
            16..=128 => {
                let used = len / group * 8;
                (Lanes::Groups, 8 * group, align / group * 8, used)
            }
            align => (Lanes::Whole, align, 64, 64),
        };
        let order = bits.ilog2();
        let lows = LOWS[order as usize];
        let low = if used == 0 {
            0
        } else {
            u64::MAX >> (64 - used)
        };
        Self {
            lanes,
            frames,
            order,
            inside: low.wrapping_mul(lows),
            full: (len == align && !matches!(lanes, Lanes::Whole)).then(|| len.ilog2()),
            lows,
            tops: lows << (bits - 1),
        }
    }

    /// At least how many frames of each window of each word have to move.
    #[inline]
    fn sums(&self, record: &[Frame; RECORD]) -> [u64; WORDS] {
        // A frame that is blocked counts as one that moves, or its group as many: a window with it is
        // of no use anyway.
        let mut sums = [0; WORDS];
        let unit = match self.lanes {
            Lanes::Frames => {
                for (index, sum) in sums.iter_mut().enumerate() {
                    *sum = !block::free(record, index) & self.inside;
                }
                0
            }
            Lanes::Groups => {
                for (index, sum) in sums[..GROUP_WORDS].iter_mut().enumerate() {
                    *sum = block::groups(record, index) & self.inside;
                }
                3
            }
            Lanes::Whole => return sums,
        };
        for order in unit..self.order {
            // Below the lowest bits of lanes twice as wide lie those of one.
            let width = 1 << order;
            let mask = LOWS[order as usize + 1].wrapping_mul(u64::MAX >> (64 - width));
            for sum in &mut sums {
                *sum = (*sum & mask) + (*sum >> width & mask);
            }
        }
        sums
    }

    fn words(&self) -> usize {
        (PAGEBLOCK_FRAMES / self.frames) as usize
    }

    /// At least how many frames of the cheapest window of a page block have to move.
    pub(super) fn least(&self, record: &[Frame; RECORD]) -> u64 {
        let sums = self.sums(record);
        let words = sums[1..self.words()].iter();
        let mut least = words.fold(sums[0], |least, sum| self.lesser(least, *sum));
        let lane = 1 << self.order;
        let mut half = 32;
        while half >= lane {
            // What is shifted in is zero, and no lane that is looked at from here on.
            least = self.lesser(least, least >> half);
            half /= 2;
        }
        least & (u64::MAX >> (64 - lane))
    }

    /// The lesser one of each two lanes.
    #[inline]
    fn lesser(&self, one: u64, other: u64) -> u64 {
        // The top of a lane, which no sum reaches, is lent to the lane and kept where it is enough.
        let tops = ((one | self.tops) - other) & self.tops;
        let others = tops | (tops - (tops >> ((1 << self.order) - 1)));
        other & others | one & !others
    }

    /// The same, where it is noted since a frame of the page block changed.
    #[inline]
    fn noted(&self, record: &[Frame; RECORD]) -> Option<u64> {
        block::least(record, self.full?)
    }

    /// Notes and says the same.
    fn note(&self, record: &mut [Frame; RECORD]) -> u64 {
        let least = self.least(record);
        if let Some(order) = self.full {
            block::set_least(record, order, least);
        }
        least
    }

    /// The highest bit of each lane that holds less than `fewer`.
    #[inline]
    fn below(&self, sums: u64, fewer: u64) -> u64 {
        // They are all that borrows from the top of its lane, which no sum and no `fewer` reaches.
        !((sums | self.tops) - fewer * self.lows) & self.tops
    }
}

impl Scan {
    /// [`advance`](Self::advance) where every window lies in one page block.
    pub(super) fn advance_inside<S: AsRef<[Frame]> + AsMut<[Frame]>>(
        &mut self,
        buddy: &mut Buddy<S>,
        wanted: &Wanted<'_>,
        budget: u32,
    ) -> bool {
        let last = self.high >> PAGEBLOCK_ORDER;
        if !self.seeded {
            self.bound_inside(buddy, wanted, last.min(self.at + u64::from(budget) - 1));
            if self.at <= last {
                return false;
            }
            if self.is_settled(buddy, wanted) {
                return true;
            }
            self.seeded = true;
            self.at = self.low >> PAGEBLOCK_ORDER;
            return false;
        }
        for _ in 0..budget {
            let found = self.best.is_some_and(|best| best.moves == 0);
            if found || self.at > last {
                return true;
            }
            self.steps += 1;
            self.look_inside(buddy, wanted, self.at);
            self.at += 1;
        }
        false
    }

    /// Looks at the block that costs least at least, for windows that cost no more: whether there is
    /// one.
    fn is_settled<S: AsRef<[Frame]> + AsMut<[Frame]>>(
        &mut self,
        buddy: &mut Buddy<S>,
        wanted: &Wanted<'_>,
    ) -> bool {
        let Some((bound, block, _)) = self.seed else {
            return true;
        };
        self.most = bound;
        self.look_inside(buddy, wanted, block);
        self.most = wanted.frames;
        self.best
            .is_some_and(|best| (best.moves, best.leased) <= (bound, 0))
    }

    /// Goes on to block `last`, looking for the one whose windows cost least at least; to the end where
    /// that is nothing.
    fn bound_inside<S: AsRef<[Frame]> + AsMut<[Frame]>>(
        &mut self,
        buddy: &mut Buddy<S>,
        wanted: &Wanted<'_>,
        last: u64,
    ) {
        let first = self.at;
        self.at = last + 1;
        let frame = |block| block << PAGEBLOCK_ORDER;
        if let Some(records) = buddy.records_mut(frame(first), frame(last)) {
            self.bound_records(records, wanted, first);
        } else {
            for block in first..=last {
                if let Some(records) = buddy.records_mut(frame(block), frame(block)) {
                    self.bound_records(records, wanted, block);
                }
            }
        }
        if self.seed.is_some_and(|(bound, ..)| bound == 0) {
            self.at = (self.high >> PAGEBLOCK_ORDER) + 1;
        }
    }

    /// The same for blocks from `first` on.
    fn bound_records(&mut self, records: &mut [Frame], wanted: &Wanted<'_>, first: u64) {
        let layout = self.layout.as_ref();
        let full = layout.and_then(|layout| layout.full);
        let mut lowest = self.seed.map_or(u64::MAX, |(bound, ..)| bound);
        for (block, record) in (first..).zip(records.chunks_exact_mut(RECORD)) {
            let Some(record) = record.first_chunk_mut() else {
                return;
            };
            self.steps += 1;
            // Of most page blocks it is noted, and is no less than that of another.
            if full.is_some_and(|order| block::is_least(record, order, lowest)) {
                continue;
            }
            let counts = Block::load(record);
            if !wanted.memory.has(&counts) {
                continue;
            }
            let few = wanted.frames.saturating_sub(u64::from(counts.free));
            let least = layout.map_or(0, |layout| {
                let noted = layout.noted(record);
                noted.unwrap_or_else(|| layout.note(record))
            });
            if least.max(few) < lowest {
                lowest = least.max(few);
                self.seed = Some((lowest, block, Inner::default()));
            }
            if lowest == 0 {
                return;
            }
        }
    }

    /// Looks at all windows of a page block, and weighs only those that may be better than the best
    /// that is known.
    fn look_inside<S: AsRef<[Frame]> + AsMut<[Frame]>>(
        &mut self,
        buddy: &mut Buddy<S>,
        wanted: &Wanted<'_>,
        block: u64,
    ) {
        let first = block << PAGEBLOCK_ORDER;
        let fewer = self.fewer();
        let Some(record) = buddy.record_mut(first) else {
            return;
        };
        // Most page blocks have no such window, and have not changed since they were looked at last.
        let noted = self.layout.and_then(|layout| layout.noted(record));
        if noted.is_some_and(|least| least >= fewer) {
            return;
        }
        let counts = Block::load(record);
        let least = wanted.frames.saturating_sub(u64::from(counts.free));
        if !wanted.memory.has(&counts) || least >= fewer {
            return;
        }
        if noted.is_none()
            && self
                .layout
                .is_some_and(|layout| layout.note(record) >= fewer)
        {
            return;
        }
        let buddy = &*buddy;
        let here = frame_range(first, first + PAGEBLOCK_FRAMES);
        let plain = counts.zone == self.zone && !wanted.avoids(buddy, here);
        let layout = self.layout.filter(|_| plain);
        let (Some(layout), Some(record)) = (layout, buddy.record(first)) else {
            return self.look(buddy, wanted, (0, block, Inner::default()), &mut None);
        };
        let sums = layout.sums(record);
        let words = (first..).step_by(layout.frames as usize).zip(sums);
        for (at, sums) in words.take(layout.words()) {
            if layout.below(sums, self.fewer()) != 0 {
                self.weigh_lanes(buddy, wanted, (&layout, record), at, sums);
            }
        }
    }

    /// Weighs the windows of one word, which starts at `first`, that may be better than the best.
    fn weigh_lanes<S: AsRef<[Frame]> + AsMut<[Frame]>>(
        &mut self,
        buddy: &Buddy<S>,
        wanted: &Wanted<'_>,
        (layout, record): (&Layout, &[Frame; RECORD]),
        first: u64,
        sums: u64,
    ) {
        self.steps += 1;
        let mut seen = 0;
        loop {
            let found = layout.below(sums, self.fewer()) & !seen;
            if found == 0 {
                return;
            }
            let top = found & found.wrapping_neg();
            seen |= top | (top - 1);
            let start = first + u64::from(top.trailing_zeros() >> layout.order) * wanted.align;
            let from = (start % PAGEBLOCK_FRAMES) as usize;
            let cost = block::cost(record, from, from + wanted.frames as usize);
            if let Some((moves, leased)) = cost.filter(|_| self.low <= start && start <= self.high)
            {
                let found = Found {
                    start,
                    moves,
                    leased,
                };
                self.compare(buddy, found, start + wanted.frames);
            }
        }
    }

    /// A window has to have fewer frames to move than this to be better than the best, or as good
    /// with fewer of them leased, and no more than is of interest.
    #[inline]
    fn fewer(&self) -> u64 {
        let most = self.most + 1;
        match self.best {
            Some(best) if best.leased > 0 => most.min(best.moves + 1),
            Some(best) => most.min(best.moves),
            None => most,
        }
    }
}
