//! Which granules of a space are free, and aligned blocks of them found in bounded steps.

use crate::node::{FANOUT, FREE, FULL, Inner, LEVELS_MAX, Leaf, Room, child_order};
use crate::pool::{List, Pool, Supply};
use crate::word::{self, WORD_ORDER};

mod set;
mod take;
#[cfg(test)]
mod tests;

/// Which of several equally good places to take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Policy {
    /// The highest.
    TopDown,
    /// The lowest.
    LowFirst,
}

impl Policy {
    #[inline]
    fn pick(self, places: u64) -> u32 {
        match self {
            Self::TopDown => u64::BITS - 1 - places.leading_zeros(),
            Self::LowFirst => places.trailing_zeros(),
        }
    }
}

/// Why a tree operation did nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum TreeError {
    /// No aligned free block of the order lies below the limit.
    NoRoom,
    /// The stock of nodes is short.
    NoNodes,
    /// Something to be freed is free already, or something to be taken is not.
    WrongState,
}

/// What becomes of a block.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fill {
    Free,
    Full,
}

/// A 64-way tree over granules `[0, 2^(6 (levels + 1)))`.
///
/// Every node knows, for each order, which children have an aligned free block of that order, so a
/// search goes straight down and a failure is known at the root: at most one node per level is
/// visited, twice where a limit cuts through one. Nodes exist only where a child is neither free
/// nor taken as one block; they come from a stock that is filled apart, so that nothing here
/// allocates memory.
pub(crate) struct Tree {
    leaves: Pool<Leaf>,
    inners: Pool<Inner>,
    /// Clean nodes by level (`[level - 1]`), every granule free, ready to hang in.
    clean: [List; LEVELS_MAX as usize],
    levels: u32,
    root: u32,
    free: u64,
    missing: Missing,
}

/// What the last request that found no room was for, while it would still find none: no aligned
/// block of the order, nor a larger one, is free below the end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Missing {
    pub(crate) order: u32,
    /// A granule.
    pub(crate) end: u64,
}

impl Missing {
    /// Nothing that is known.
    const NONE: Self = Self { order: 0, end: 0 };

    /// Whether it says that a request finds no room.
    #[inline]
    pub(crate) fn rules_out(self, order: u32, end: u64) -> bool {
        order >= self.order && end <= self.end
    }
}

/// The way down to the node at hand: by level, a node above it and through which child it went on.
struct Path([(u32, u32); PATH]);

/// Levels rounded up to a power of two, so that a place needs no check.
const PATH: usize = (LEVELS_MAX as usize + 1).next_power_of_two();

impl Path {
    #[inline]
    const fn new() -> Self {
        Self([(0, 0); PATH])
    }

    #[inline]
    fn set(&mut self, level: u32, node: u32, child: u32) {
        self.0[level as usize % PATH] = (node, child);
    }

    #[inline]
    fn at(&self, level: u32) -> (u32, u32) {
        self.0[level as usize % PATH]
    }
}

/// Memory that a tree wants, to be brought without its lock.
pub(crate) struct Wanted {
    leaves: Option<usize>,
    inners: Option<usize>,
}

/// Memory for a tree, or what one has no use for.
pub(crate) struct Supplies {
    leaves: Option<Supply<Leaf>>,
    inners: Option<Supply<Inner>>,
}

impl Wanted {
    /// The memory; `None` where there is none.
    pub(crate) fn bring(self) -> Option<Supplies> {
        let leaves = match self.leaves {
            Some(directory) => Some(Supply::new(directory, &Leaf::FULL)?),
            None => None,
        };
        let inners = match self.inners {
            Some(directory) => Some(Supply::new(directory, &Inner::FULL)?),
            None => None,
        };
        Some(Supplies { leaves, inners })
    }
}

impl Tree {
    /// A tree for at least `granules`, all of them taken; `None` where there is no memory or that
    /// is more than the tree can hold.
    pub(crate) fn new(granules: u64) -> Option<Self> {
        let levels = (2..=LEVELS_MAX).find(|&level| granules <= 1 << child_order(level + 1))?;
        let mut tree = Self {
            leaves: Pool::new(),
            inners: Pool::new(),
            clean: Default::default(),
            levels,
            root: 0,
            free: 0,
            missing: Missing::NONE,
        };
        tree.stock(1)?;
        tree.root = tree.inners.take_blank()?;
        *tree.inners.get_mut(tree.root) = Inner::FULL;
        Some(tree)
    }

    /// How many granules are free.
    pub(crate) fn free_granules(&self) -> u64 {
        self.free
    }

    /// What the whole has room for.
    pub(crate) fn room(&self) -> Room {
        self.inners.get(self.root).room(self.levels)
    }

    /// What is known not to be there.
    pub(crate) fn missing(&self) -> Missing {
        self.missing
    }

    /// Bytes that the tree occupies.
    pub(crate) fn bytes(&self) -> usize {
        self.leaves.bytes() + self.inners.bytes()
    }

    /// What is missing for `leaves` nodes at level 1, and half as many above, to be in stock.
    pub(crate) fn wanted(&self, leaves: usize) -> Option<Wanted> {
        let wanted = Wanted {
            leaves: (self.spare_leaves() < leaves).then(|| self.leaves.directory_wanted()),
            inners: (self.spare_inners() < leaves.div_ceil(2))
                .then(|| self.inners.directory_wanted()),
        };
        (wanted.leaves.is_some() || wanted.inners.is_some()).then_some(wanted)
    }

    /// Takes memory in. What comes back is to be dropped without a lock.
    pub(crate) fn accept(&mut self, supplies: Supplies) -> Supplies {
        Supplies {
            leaves: supplies.leaves.and_then(|s| self.leaves.accept(s)),
            inners: supplies.inners.and_then(|s| self.inners.accept(s)),
        }
    }

    /// Fills the stock, where nobody else knows the tree. `None` where there is no memory.
    pub(crate) fn stock(&mut self, leaves: usize) -> Option<()> {
        while let Some(wanted) = self.wanted(leaves) {
            self.accept(wanted.bring()?);
        }
        Some(())
    }

    /// Nodes at level 1 that one operation may hang in: on the way to the block, and where its
    /// tail goes back.
    pub(crate) const LEAVES_PER_OPERATION: usize = 2;

    /// Nodes above level 1 that one operation may hang in.
    const INNERS_PER_OPERATION: usize = 2 * (LEVELS_MAX as usize - 1);

    fn spare_leaves(&self) -> usize {
        self.leaves.blanks() + self.clean[0].len()
    }

    fn spare_inners(&self) -> usize {
        self.inners.blanks() + self.clean[1..].iter().map(List::len).sum::<usize>()
    }

    fn has_nodes(&self) -> bool {
        self.spare_leaves() >= Self::LEAVES_PER_OPERATION
            && (self.inners.blanks() >= Self::INNERS_PER_OPERATION
                || self.spare_inners() >= Self::INNERS_PER_OPERATION)
    }

    /// Takes `len` granules at a multiple of `2^order` (`len <= 2^order`), all below `end`.
    ///
    /// The rest of the block stays free. O(levels).
    pub(crate) fn take(
        &mut self,
        order: u32,
        len: u64,
        end: u64,
        policy: Policy,
    ) -> Result<u64, TreeError> {
        if !self.has_nodes() {
            return Err(TreeError::NoNodes);
        }
        let Some(start) = self.take_block(order, end, policy) else {
            self.missing = Missing { order, end };
            return Err(TreeError::NoRoom);
        };
        let whole = 1_u64 << order;
        self.free -= whole;
        if len < whole {
            self.give(start + len, whole - len)?;
        }
        Ok(start)
    }

    /// Frees `len` granules from `start`, all of them taken. Nothing changes on an error.
    ///
    /// O(levels) for each of the at most `2 x log2 len` aligned blocks that make up the run.
    pub(crate) fn give(&mut self, start: u64, len: u64) -> Result<(), TreeError> {
        self.set(Fill::Free, start, len)?;
        self.free += len;
        Ok(())
    }

    /// Takes exactly `[start, start + len)`, all of it free. Nothing changes on an error.
    ///
    /// O(levels) for each of the at most `2 x log2 len` aligned blocks.
    pub(crate) fn take_at(&mut self, start: u64, len: u64) -> Result<(), TreeError> {
        // Each end of the run cuts through at most one node per level.
        if !self.has_nodes() {
            return Err(TreeError::NoNodes);
        }
        self.set(Fill::Full, start, len)?;
        self.free -= len;
        Ok(())
    }

    /// The first granule that the tree has no place for.
    fn capacity(&self) -> u64 {
        1 << child_order(self.levels + 1)
    }

    /// A node under `child`, from the stock, for one that is free or full as a whole as `slot` says.
    #[cold]
    fn hang(&mut self, index: u32, child: u32, level: u32, slot: u32) -> Option<u32> {
        let below = match (slot, level - 1) {
            (FREE, below) => self.clean(below)?,
            (_, 1) => {
                let below = self.any_leaf()?;
                *self.leaves.get_mut(below) = Leaf::FULL;
                below
            }
            _ => {
                let below = self.any_inner()?;
                *self.inners.get_mut(below) = Inner::FULL;
                below
            }
        };
        self.inners.get_mut(index).slots[child as usize] = below + 1;
        Some(below)
    }

    /// A node at `level` with every granule free.
    fn clean(&mut self, level: u32) -> Option<u32> {
        let list = &mut self.clean[level as usize - 1];
        if level == 1 {
            if let Some(index) = self.leaves.pop(list) {
                return Some(index);
            }
            let index = self.any_leaf()?;
            *self.leaves.get_mut(index) = Leaf::FREE;
            return Some(index);
        }
        if let Some(index) = self.inners.pop(list) {
            return Some(index);
        }
        let index = self.any_inner()?;
        *self.inners.get_mut(index) = Inner::free(level);
        Some(index)
    }

    fn any_leaf(&mut self) -> Option<u32> {
        let blank = self.leaves.take_blank();
        blank.or_else(|| self.leaves.pop(&mut self.clean[0]))
    }

    fn any_inner(&mut self) -> Option<u32> {
        let blank = self.inners.take_blank();
        blank.or_else(|| {
            let mut lists = self.clean[1..].iter_mut();
            lists.find_map(|list| self.inners.pop(list))
        })
    }

    /// Sets `2^order` children of a node, from `child` on, free or full as wholes.
    fn set_group(&mut self, index: u32, level: u32, child: u32, order: u32, to: Fill) {
        let whole = child_order(level) + 1;
        let (slot, old, new) = match to {
            Fill::Full => (FULL, whole, 0),
            Fill::Free => (FREE, 0, whole),
        };
        let node = self.inners.get_mut(index);
        for child in child..child + (1 << order) {
            node.slots[child as usize] = slot;
            node.set_room(child, old, new);
        }
    }

    /// Tells the nodes of `path`, from the bottom, that what the node at its end, at `level`, has
    /// room for changed, if it did.
    #[inline]
    fn climb(&mut self, path: &Path, before: Room, after: Room, level: u32) {
        if before != after {
            self.climb_on(path, before, after, level);
        }
    }

    #[inline(never)]
    fn climb_on(&mut self, path: &Path, mut before: Room, mut after: Room, level: u32) {
        for level in level + 1..=self.levels {
            let (index, child) = path.at(level);
            if after == child_order(level) + 1 {
                self.prune(index, child, level);
            }
            let node = self.inners.get_mut(index);
            // Where another child is free as a whole, one that neither was nor is does not count.
            if before.max(after) <= child_order(level) && node.whole(level) != 0 {
                node.set_room(child, before, after);
                return;
            }
            let old = node.room(level);
            node.set_room(child, before, after);
            (before, after) = (old, node.room(level));
            if before == after {
                return;
            }
        }
    }

    /// Forgets what is missing where a block that was given serves it, `bits` being the word in
    /// which it starts. Only what contains that block was not free before.
    #[inline]
    fn note_given(&mut self, start: u64, bits: u64) {
        if start < self.missing.end {
            let order = self.missing.order.min(WORD_ORDER);
            let bit = start as u32 % FANOUT;
            let group = word::group_mask(bit & (u32::MAX << order), order);
            if bits & group == group {
                self.missing = Missing::NONE;
            }
        }
    }

    /// Takes the node under `child`, every granule of which is free, back into the stock.
    fn prune(&mut self, index: u32, child: u32, level: u32) {
        let slot = &mut self.inners.get_mut(index).slots[child as usize];
        let below = core::mem::replace(slot, FREE) - 1;
        let list = &mut self.clean[level as usize - 2];
        if level == 2 {
            self.leaves.push(list, below);
        } else {
            self.inners.push(list, below);
        }
    }
}
