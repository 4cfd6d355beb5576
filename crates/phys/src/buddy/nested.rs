//! Windows that lie in one page block each, by the counts of its groups.

use super::bits::Bits;
use super::clear::frame_range;
use super::window::{Inner, Scan, Wanted};
use super::{Buddy, PAGEBLOCK_FRAMES};
use crate::block::{self, BLOCKED, Block, GROUP, RECORD};
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
struct Layout {
    lanes: Lanes,
    /// Frames of a word.
    frames: u64,
    /// log2 of the bits of a lane.
    order: u32,
    /// The bits of what lies wholly in the windows.
    inside: u64,
}

impl Layout {
    fn of(wanted: &Wanted<'_>) -> Self {
        let group = GROUP as u64;
        let (lanes, frames, bits, used) = match wanted.align {
            4 | 8 => (Lanes::Frames, 64, wanted.align, wanted.frames),
            16..=128 => {
                let used = wanted.frames / group * 8;
                (Lanes::Groups, 8 * group, wanted.align / group * 8, used)
            }
            align => (Lanes::Whole, align, 64, 64),
        };
        let order = bits.ilog2();
        let low = if used == 0 {
            0
        } else {
            u64::MAX >> (64 - used)
        };
        Self {
            lanes,
            frames,
            order,
            inside: low.wrapping_mul(LOWS[order as usize]),
        }
    }

    /// The highest bit of each lane.
    fn tops(&self) -> u64 {
        LOWS[self.order as usize] << ((1 << self.order) - 1)
    }

    /// Which windows of word `index` may have fewer than `fewer` frames to move: the highest bit of
    /// the lane of each.
    #[inline]
    fn promising(&self, record: &[Frame; RECORD], index: usize, fewer: u64) -> u64 {
        let (counts, unit) = match self.lanes {
            Lanes::Frames => (block::moves(record, index).0, 0),
            Lanes::Groups => (block::groups(record, index), 3),
            Lanes::Whole => return self.tops(),
        };
        if unit > 0 && counts & (BLOCKED * LOWS[3]) != 0 {
            return self.tops();
        }
        let mut sums = counts & self.inside;
        for order in unit..self.order {
            // Below the lowest bits of lanes twice as wide lie those of one.
            let width = 1 << order;
            let mask = LOWS[order as usize + 1].wrapping_mul(u64::MAX >> (64 - width));
            sums = (sums & mask) + (sums >> width & mask);
        }
        // What is below is all that borrows from the top of its lane. A count needs less than that.
        let tops = self.tops();
        !((sums | tops).wrapping_sub(fewer * LOWS[self.order as usize])) & tops
    }
}

impl Scan {
    /// Looks at all windows of a page block, and weighs only those that may be better than the best
    /// that is known.
    pub(super) fn look_inside<S: AsRef<[Frame]> + AsMut<[Frame]>>(
        &mut self,
        buddy: &Buddy<S>,
        wanted: &Wanted<'_>,
        block: u64,
    ) {
        self.steps += 1;
        let first = block << PAGEBLOCK_ORDER;
        let Some(record) = buddy.record(first) else {
            return;
        };
        let counts = Block::load(record);
        let here = frame_range(first, first + PAGEBLOCK_FRAMES);
        let least = wanted.frames.saturating_sub(u64::from(counts.free));
        if !wanted.memory.has(&counts) || least >= self.fewer(wanted) {
            return;
        }
        if counts.zone != self.zone || wanted.align < 4 || wanted.avoids(buddy, here) {
            return self.look(buddy, wanted, (0, block, Inner::default()), &mut None);
        }
        let layout = Layout::of(wanted);
        let (start, last) = self.starts(wanted, block);
        let mut edges = [None];
        for index in 0..(PAGEBLOCK_FRAMES / layout.frames) as usize {
            let mut found = layout.promising(record, index, self.fewer(wanted));
            while found != 0 {
                let lane = u64::from(found.trailing_zeros()) >> layout.order;
                found &= found - 1;
                let at = first + index as u64 * layout.frames + lane * wanted.align;
                if at < start || at > last {
                    continue;
                }
                let bits = edges[0].get_or_insert_with(|| {
                    self.steps += 1;
                    Bits::of(buddy, wanted, self.zone, block)
                });
                if bits.last_blocked(at, at + wanted.frames).is_none() {
                    self.weigh(buddy, &edges, Inner::default(), (at, at + wanted.frames));
                }
            }
        }
    }

    /// A window has to have fewer frames to move than this to be better than the best, or as good
    /// with fewer of them leased.
    fn fewer(&self, wanted: &Wanted<'_>) -> u64 {
        match self.best {
            Some(best) if best.leased > 0 => (best.moves + 1).min(wanted.frames + 1),
            Some(best) => best.moves.min(wanted.frames + 1),
            None => wanted.frames + 1,
        }
    }
}
