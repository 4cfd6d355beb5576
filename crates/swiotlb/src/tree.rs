//! Free runs of more than 64 slots, by where they start.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use crate::fit::Wish;

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
    /// From the lowest level up, without the root.
    levels: Vec<Box<[Capacity]>>,
    root: Capacity,
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
        while count > FAN_OUT {
            count = count.div_ceil(FAN_OUT);
            levels.push(vec![[0; 3]; count].into_boxed_slice());
        }
        Self {
            leaves: vec![0; leaf_count].into_boxed_slice(),
            levels,
            root: [0; 3],
        }
    }

    /// The length of the longest run here.
    #[inline]
    pub(crate) fn longest(&self) -> u32 {
        self.root[0]
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
        for level in 0..=self.levels.len() {
            index /= FAN_OUT;
            let was = match self.levels.get(level) {
                Some(nodes) => nodes[index],
                None => self.root,
            };
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
            match self.levels.get_mut(level) {
                Some(nodes) => nodes[index] = now,
                None => self.root = now,
            }
            (old, new) = (was, now);
        }
    }

    /// The greatest capacity among the children of a node.
    fn greatest(&self, level: usize, index: usize, kind: usize) -> u32 {
        let children = index * FAN_OUT..;
        let greatest = match level.checked_sub(1) {
            None => {
                let leaves = self.leaves[children].iter().take(FAN_OUT);
                leaves.map(|leaf| capacity(*leaf)[kind]).max()
            }
            Some(below) => {
                let nodes = self.levels[below][children].iter().take(FAN_OUT);
                nodes.map(|node| node[kind]).max()
            }
        };
        greatest.unwrap_or(0)
    }

    /// A run in which a wish has a place: its start and length.
    pub(crate) fn find(&self, wish: Wish, probes: &mut u32) -> Option<(u32, u32)> {
        *probes += 1;
        if self.longest() < wish.slots {
            return None;
        }
        match wish.align {
            1 => self.descend(0, wish.slots, probes),
            2 => self.descend(1 + wish.residue as usize, wish.slots, probes),
            _ => self
                .descend(0, wish.ample(), probes)
                .or_else(|| self.sift(wish, probes)),
        }
    }

    fn descend(&self, kind: usize, slots: u32, probes: &mut u32) -> Option<(u32, u32)> {
        let mut index = 0;
        if self.root[kind] < slots {
            return None;
        }
        for level in self.levels.iter().rev() {
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
    fn sift(&self, wish: Wish, probes: &mut u32) -> Option<(u32, u32)> {
        let root = [self.root];
        let nodes = self.levels.first().map_or(&root[..], |nodes| nodes);
        for (index, node) in nodes.iter().enumerate() {
            *probes += u32::from(index % FAN_OUT == 0);
            if node[0] < wish.slots {
                continue;
            }
            *probes += 1;
            let first = index * FAN_OUT;
            for leaf in first..self.leaves.len().min(first + FAN_OUT) {
                let (start, len) = self.run(leaf);
                if len >= wish.slots && wish.place(start, len).is_some() {
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
