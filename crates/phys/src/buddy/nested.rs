//! Windows that lie in one page block each, by the counts of its groups.

use super::bits::Bits;
use super::clear::frame_range;
use super::window::{Inner, Scan, Wanted};
use super::{Buddy, PAGEBLOCK_FRAMES};
use crate::block::{self, Block, GROUP, RECORD};
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

    /// At least how many frames of each window of word `index` have to move.
    #[inline]
    fn sums(&self, record: &[Frame; RECORD], index: usize) -> u64 {
        // A frame that is blocked counts as one that moves, or its group as many: a window with it is
        // of no use anyway.
        let (counts, unit) = match self.lanes {
            Lanes::Frames => (!block::free(record, index), 0),
            Lanes::Groups => (block::groups(record, index), 3),
            Lanes::Whole => return 0,
        };
        let mut sums = counts & self.inside;
        for order in unit..self.order {
            // Below the lowest bits of lanes twice as wide lie those of one.
            let width = 1 << order;
            let mask = LOWS[order as usize + 1].wrapping_mul(u64::MAX >> (64 - width));
            sums = (sums & mask) + (sums >> width & mask);
        }
        sums
    }

    fn words(&self) -> usize {
        (PAGEBLOCK_FRAMES / self.frames) as usize
    }

    /// At least how many frames of the cheapest window of a page block have to move.
    pub(super) fn least(&self, record: &[Frame; RECORD]) -> u64 {
        let bits = 1 << self.order;
        let lanes = (0..self.words()).flat_map(|index| {
            let sums = self.sums(record, index);
            (0..64 / bits).map(move |lane| sums >> (lane * bits) & (u64::MAX >> (64 - bits)))
        });
        lanes.min().unwrap_or(0)
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
    /// Looks at all windows of a page block, and weighs only those that may be better than the best
    /// that is known.
    pub(super) fn look_inside<S: AsRef<[Frame]> + AsMut<[Frame]>>(
        &mut self,
        buddy: &mut Buddy<S>,
        wanted: &Wanted<'_>,
        block: u64,
    ) {
        self.steps += 1;
        let first = block << PAGEBLOCK_ORDER;
        let fewer = self.fewer(wanted);
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
        for index in 0..layout.words() {
            let sums = layout.sums(record, index);
            if layout.below(sums, self.fewer(wanted)) != 0 {
                self.weigh_lanes(buddy, wanted, &layout, (block, index), sums);
            }
        }
    }

    /// Weighs the windows of one word that may be better than the best.
    #[cold]
    fn weigh_lanes<S: AsRef<[Frame]> + AsMut<[Frame]>>(
        &mut self,
        buddy: &Buddy<S>,
        wanted: &Wanted<'_>,
        layout: &Layout,
        (block, index): (u64, usize),
        sums: u64,
    ) {
        self.steps += 1;
        let edges = [Some(Bits::of(buddy, wanted, self.zone, block))];
        let (low, high) = self.starts(wanted, block);
        let first = (block << PAGEBLOCK_ORDER) + index as u64 * layout.frames;
        let mut seen = 0;
        loop {
            let found = layout.below(sums, self.fewer(wanted)) & !seen;
            if found == 0 {
                return;
            }
            let top = found & found.wrapping_neg();
            seen |= top | (top - 1);
            let start = first + u64::from(top.trailing_zeros() >> layout.order) * wanted.align;
            let end = start + wanted.frames;
            let mut parts = edges.iter().flatten();
            let blocked = parts.any(|bits| bits.last_blocked(start, end).is_some());
            if start >= low && start <= high && !blocked {
                self.weigh(buddy, &edges, Inner::default(), (start, end));
            }
        }
    }

    /// A window has to have fewer frames to move than this to be better than the best, or as good
    /// with fewer of them leased.
    #[inline]
    fn fewer(&self, wanted: &Wanted<'_>) -> u64 {
        match self.best {
            Some(best) if best.leased > 0 => (best.moves + 1).min(wanted.frames + 1),
            Some(best) => best.moves.min(wanted.frames + 1),
            None => wanted.frames + 1,
        }
    }
}
