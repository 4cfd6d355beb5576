//! Free runs of up to 64 slots, by exact length and by where they start.

use alloc::boxed::Box;
use alloc::vec;

use crate::entry::{Entry, NONE};
use crate::fit::Wish;

/// The longest run that has a list of its own length.
pub(crate) const LISTED_MAX: u32 = 64;

/// Every 1st, 2nd, 4th … 32nd bit.
const EVERY: [u32; 6] = [
    u32::MAX,
    0x5555_5555,
    0x1111_1111,
    0x0101_0101,
    0x0001_0001,
    1,
];

/// Lists of free runs, one for each length and each residue of the first slot.
///
/// Keyed so, a run that fits an alignment is found, or known not to exist, without looking at any
/// run that does not fit. A list is last in, first out: what was freed last is warm.
pub(crate) struct RunLists {
    /// Bit `n - 1`: there is a run of `n` slots.
    lengths: u64,
    /// For each length, the residues that occur.
    residues: [u32; LISTED_MAX as usize],
    /// For each length, the residue of the run that came last.
    latest: [u8; LISTED_MAX as usize],
    heads: Box<[u32]>,
    /// log2 of how many residues are told apart.
    shift: u32,
}

/// What the lists know about a wish.
pub(crate) enum Listed {
    /// A run that fits: its first slot and its length.
    Run(u32, u32),
    /// No listed run fits.
    None,
    /// Runs are long enough but the lists do not tell apart where they start.
    Unclear,
}

impl RunLists {
    /// Lists for an area of `slots`: small areas tell fewer residues apart, to stay small.
    pub(crate) fn new(slots: u32) -> Self {
        let shift = if slots < 4096 { 1 } else { 5 };
        Self {
            lengths: 0,
            residues: [0; LISTED_MAX as usize],
            latest: [0; LISTED_MAX as usize],
            heads: vec![NONE; (LISTED_MAX as usize) << shift].into_boxed_slice(),
            shift,
        }
    }

    /// Whether a run of `slots` or more is listed.
    #[inline]
    pub(crate) fn has(&self, slots: u32) -> bool {
        slots <= LISTED_MAX && self.lengths >> (slots - 1) != 0
    }

    /// The length of the longest listed run.
    #[inline]
    pub(crate) fn longest(&self) -> u32 {
        u64::BITS - self.lengths.leading_zeros()
    }

    /// Bytes on the heap.
    pub(crate) fn heap_bytes(&self) -> usize {
        size_of_val(&*self.heads)
    }

    /// Adds the run of `len` slots at `start`, in front.
    #[inline]
    pub(crate) fn push(&mut self, entries: &mut [Entry], start: u32, len: u32) {
        let (class, residue, list) = self.key(start, len);
        let next = if self.residues[class] & (1 << residue) != 0 {
            let next = self.heads[list];
            entries[next as usize].set_previous(start);
            next
        } else {
            NONE
        };
        entries[start as usize].set_next(next);
        self.heads[list] = start;
        self.residues[class] |= 1 << residue;
        self.latest[class] = residue as u8;
        self.lengths |= 1 << class;
    }

    /// Takes the run of `len` slots at `start` out.
    #[inline]
    pub(crate) fn remove(&mut self, entries: &mut [Entry], start: u32, len: u32) {
        let (class, residue, list) = self.key(start, len);
        let next = entries[start as usize].next();
        if self.heads[list] != start {
            // The first of a list has no valid link back, so that taking it touches no other entry.
            let previous = entries[start as usize].previous();
            entries[previous as usize].set_next(next);
            if next != NONE {
                entries[next as usize].set_previous(previous);
            }
        } else if next != NONE {
            self.heads[list] = next;
        } else {
            self.residues[class] &= !(1 << residue);
            if self.residues[class] == 0 {
                self.lengths &= !(1 << class);
            }
        }
    }

    /// The best run for a wish: the shortest that fits and, of those, one that came last.
    #[inline]
    pub(crate) fn find(&self, wish: Wish, probes: &mut u32) -> Listed {
        *probes += 1;
        let Wish { slots, align, .. } = wish;
        if slots > LISTED_MAX || self.lengths >> (slots - 1) == 0 {
            return Listed::None;
        }
        if align == 1 {
            return self.any(slots, probes);
        }
        self.find_aligned(wish, probes)
    }

    fn find_aligned(&self, wish: Wish, probes: &mut u32) -> Listed {
        let (slots, ample) = (wish.slots, wish.ample());
        let told_apart = wish.align <= 1 << self.shift;
        if told_apart {
            let every = EVERY[wish.align.trailing_zeros() as usize];
            let mut wanted = 0;
            for len in slots..ample.min(LISTED_MAX + 1) {
                // One slot of slack more admits starts one slot earlier.
                wanted |= every.rotate_left(wish.residue.wrapping_sub(len - slots) & 31);
                *probes += 1;
                if self.residues[len as usize - 1] & wanted != 0 {
                    return self.first(len, wanted);
                }
            }
        }
        if ample <= LISTED_MAX && self.lengths >> (ample - 1) != 0 {
            return self.any(ample, probes);
        }
        if told_apart {
            Listed::None
        } else {
            Listed::Unclear
        }
    }

    /// Any run of at least `slots`, of which there is one.
    #[inline]
    fn any(&self, slots: u32, probes: &mut u32) -> Listed {
        *probes += 1;
        let len = slots + (self.lengths >> (slots - 1)).trailing_zeros();
        self.first(len, u32::MAX)
    }

    #[inline]
    fn first(&self, len: u32, wanted: u32) -> Listed {
        let class = len as usize - 1;
        let latest = u32::from(self.latest[class]);
        let turned = (self.residues[class] & wanted).rotate_right(latest);
        let residue = (latest + turned.trailing_zeros()) & 31;
        Listed::Run(self.heads[(class << self.shift) + residue as usize], len)
    }

    #[inline]
    fn key(&self, start: u32, len: u32) -> (usize, u32, usize) {
        let class = len as usize - 1;
        let residue = start & ((1 << self.shift) - 1);
        (class, residue, (class << self.shift) + residue as usize)
    }
}
