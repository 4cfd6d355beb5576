//! Free runs of more than 64 slots, by where they start.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use crate::Fit;

const FAN_OUT: usize = 64;
const FAN_SHIFT: u32 = FAN_OUT.trailing_zeros();

/// Slots that a run offers: to any start, to an even and to an odd one.
type Capacity = [u32; 3];

/// Long free runs. At most one starts in each leaf of 64 slots, so a leaf is one word; above the
/// leaves stands a 64-ary tree of the greatest capacities.
///
/// Both page alignment and the half-page phase are exact at every level, because a page is two
/// slots: such a search goes straight down. Larger alignments are exact at the leaves only.
pub(crate) struct RunTree {
    /// For each leaf, the length of the long run that starts in it, above six bits that say where;
    /// 0 for none.
    leaves: Box<[u32]>,
    /// From the lowest level up; the last is the root alone.
    levels: Vec<Box<[Capacity]>>,
}

#[inline]
fn capacity(leaf: u32) -> Capacity {
    let len = leaf >> FAN_SHIFT;
    let odd = leaf & 1;
    if len == 0 {
        [0; 3]
    } else {
        [len, len - odd, len - (odd ^ 1)]
    }
}

impl RunTree {
    pub(crate) fn new(slots: u32) -> Self {
        let leaf_count = (slots as usize).div_ceil(FAN_OUT).max(1);
        let mut levels = Vec::new();
        let mut count = leaf_count;
        loop {
            count = count.div_ceil(FAN_OUT);
            levels.push(vec![[0; 3]; count].into_boxed_slice());
            if count == 1 {
                break;
            }
        }
        Self {
            leaves: vec![0; leaf_count].into_boxed_slice(),
            levels,
        }
    }

    /// The length of the longest run here.
    #[inline]
    pub(crate) fn longest(&self) -> u32 {
        self.levels
            .last()
            .and_then(|root| root.first())
            .map_or(0, |root| root[0])
    }

    /// Bytes on the heap.
    pub(crate) fn heap_bytes(&self) -> usize {
        let above: usize = self.levels.iter().map(|level| size_of_val(&**level)).sum();
        size_of_val(&*self.leaves) + above
    }

    pub(crate) fn insert(&mut self, start: u32, len: u32) {
        self.set(
            start >> FAN_SHIFT,
            (len << FAN_SHIFT) | (start % FAN_OUT as u32),
        );
    }

    pub(crate) fn remove(&mut self, start: u32) {
        self.set(start >> FAN_SHIFT, 0);
    }

    fn set(&mut self, leaf: u32, word: u32) {
        let mut index = leaf as usize;
        let mut old = capacity(self.leaves[index]);
        let mut new = capacity(word);
        self.leaves[index] = word;
        for level in 0..self.levels.len() {
            index /= FAN_OUT;
            let was = self.levels[level][index];
            let mut now = was;
            for kind in 0..now.len() {
                if new[kind] >= was[kind] {
                    now[kind] = new[kind];
                } else if old[kind] == was[kind] {
                    now[kind] = self.greatest(level, index, kind);
                }
            }
            if now == was {
                return;
            }
            self.levels[level][index] = now;
            (old, new) = (was, now);
        }
    }

    /// The greatest capacity among the children of a node.
    fn greatest(&self, level: usize, index: usize, kind: usize) -> u32 {
        let children = index * FAN_OUT..;
        let greatest = match level.checked_sub(1) {
            None => self.leaves[children]
                .iter()
                .take(FAN_OUT)
                .map(|leaf| capacity(*leaf)[kind])
                .max(),
            Some(below) => {
                let below = &self.levels[below][children];
                below.iter().take(FAN_OUT).map(|node| node[kind]).max()
            }
        };
        greatest.unwrap_or(0)
    }

    /// A run in which `fit`, whose boundary and limit are not looked at, has a place: its start
    /// and length.
    pub(crate) fn find(&self, fit: &Fit, probes: &mut u32) -> Option<(u32, u32)> {
        let Fit { slots, align, .. } = *fit;
        *probes += 1;
        if self.longest() < slots {
            return None;
        }
        match align {
            1 => self.descend(0, slots, probes),
            2 => self.descend(1 + fit.residue() as usize, slots, probes),
            _ => {
                let ample = slots.saturating_add(align - 1);
                self.descend(0, ample, probes)
                    .or_else(|| self.sift(fit, probes))
            }
        }
    }

    fn descend(&self, kind: usize, slots: u32, probes: &mut u32) -> Option<(u32, u32)> {
        let mut index = 0;
        if self.levels.last()?.first()?[kind] < slots {
            return None;
        }
        for level in self.levels.iter().rev().skip(1) {
            *probes += 1;
            let first = index * FAN_OUT;
            index = first
                + level[first..]
                    .iter()
                    .take(FAN_OUT)
                    .position(|node| node[kind] >= slots)?;
        }
        *probes += 1;
        let first = index * FAN_OUT;
        let leaves = self.leaves[first..].iter().take(FAN_OUT);
        let found = first
            + leaves
                .map(|leaf| capacity(*leaf)[kind])
                .position(|free| free >= slots)?;
        Some(self.run(found))
    }

    /// Looks at every run that is long enough; nodes without one are passed over.
    fn sift(&self, fit: &Fit, probes: &mut u32) -> Option<(u32, u32)> {
        let uncut = Fit {
            boundary: 0,
            limit: u32::MAX,
            ..*fit
        };
        for (index, node) in self.levels[0].iter().enumerate() {
            *probes += u32::from(index % FAN_OUT == 0);
            if node[0] < fit.slots {
                continue;
            }
            *probes += 1;
            let first = index * FAN_OUT;
            for leaf in first..self.leaves.len().min(first + FAN_OUT) {
                let (start, len) = self.run(leaf);
                if len >= fit.slots && uncut.place(start, len).is_some() {
                    return Some((start, len));
                }
            }
        }
        None
    }

    #[inline]
    fn run(&self, leaf: usize) -> (u32, u32) {
        let word = self.leaves[leaf];
        let start = (leaf * FAN_OUT) as u32 + word % FAN_OUT as u32;
        (start, word >> FAN_SHIFT)
    }
}
