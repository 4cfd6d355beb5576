//! Which granules of a space are free, and aligned blocks of them found in bounded steps.

use crate::node::{FANOUT, FREE, FULL, Inner, LEVELS_MAX, Leaf, Room, child_order};
use crate::pool::{List, Pool, Supply};
use crate::word::{self, WORD_ORDER};

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
}

/// Nodes above the one at hand, and through which child the way went on.
struct Path {
    steps: [(u32, u32); LEVELS_MAX as usize],
    len: usize,
}

impl Path {
    const fn new() -> Self {
        Self {
            steps: [(0, 0); LEVELS_MAX as usize],
            len: 0,
        }
    }

    #[inline]
    fn push(&mut self, node: u32, child: u32) {
        self.steps[self.len] = (node, child);
        self.len += 1;
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
        let start = self
            .take_block(order, end, policy)
            .ok_or(TreeError::NoRoom)?;
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

    fn set(&mut self, to: Fill, start: u64, len: u64) -> Result<(), TreeError> {
        let end = start.checked_add(len).ok_or(TreeError::WrongState)?;
        if end > self.capacity() {
            return Err(TreeError::WrongState);
        }
        if len.is_power_of_two() && start & (len - 1) == 0 {
            return self.set_block(to, start, len.trailing_zeros());
        }
        if blocks(start, end).any(|(at, order)| !self.can_become(to, at, order)) {
            return Err(TreeError::WrongState);
        }
        blocks(start, end).try_for_each(|(at, order)| self.set_block(to, at, order))
    }

    /// The first granule that the tree has no place for.
    fn capacity(&self) -> u64 {
        1 << child_order(self.levels + 1)
    }

    fn take_block(&mut self, order: u32, end: u64, policy: Policy) -> Option<u64> {
        let mut path = Path::new();
        let (mut index, mut level, mut base) = (self.root, self.levels, 0);
        // Where the limit falls inside the node at hand, or past its end.
        let mut below = end.min(self.capacity());
        while level > 1 {
            let span = child_order(level);
            let node = self.inners.get(index);
            let allowed = low_bits(below >> span);
            if order >= span {
                let groups = word::groups(node.whole(level) & allowed, order - span);
                if groups == 0 {
                    return None;
                }
                let child = policy.pick(groups);
                let before = node.room(level);
                self.set_group(index, level, child, order - span, Fill::Full);
                self.climb(&path, before, self.inners.get(index).room(level), level);
                return Some(base + (u64::from(child) << span));
            }
            let child = choose(node.fitting(order), allowed, below, span, order, policy)?;
            below = if allowed >> child & 1 != 0 {
                1 << span
            } else {
                below & ((1 << span) - 1)
            };
            base += u64::from(child) << span;
            path.push(index, child);
            index = self.descend(index, child, level)?;
            level -= 1;
        }
        let start = self.take_from_leaf(&path, index, order, below, policy)?;
        Some(base + start)
    }

    #[inline]
    fn take_from_leaf(
        &mut self,
        path: &Path,
        index: u32,
        order: u32,
        below: u64,
        policy: Policy,
    ) -> Option<u64> {
        let leaf = self.leaves.get_mut(index);
        let before = leaf.room();
        let allowed = low_bits(below >> WORD_ORDER);
        let start = if order >= WORD_ORDER {
            let groups = word::groups(leaf.whole() & allowed, order - WORD_ORDER);
            if groups == 0 {
                return None;
            }
            let word = policy.pick(groups);
            leaf.set_words(word::group_mask(word, order - WORD_ORDER), 0);
            u64::from(word) << WORD_ORDER
        } else {
            let words = leaf.tightest(order, allowed);
            let (word, bits) = if words != 0 {
                (policy.pick(words), u64::MAX)
            } else {
                // Only the word that the limit cuts can still have room below it.
                let cut = (below >> WORD_ORDER) as u32;
                (cut, low_bits(below % u64::from(FANOUT)))
            };
            if word >= FANOUT {
                return None;
            }
            let groups = word::groups(leaf.word(word) & bits, order);
            if groups == 0 {
                return None;
            }
            let bit = policy.pick(groups);
            leaf.set_word(word, leaf.word(word) & !word::group_mask(bit, order));
            u64::from(word << WORD_ORDER | bit)
        };
        let after = leaf.room();
        self.climb(path, before, after, 1);
        Some(start)
    }

    /// The node under `child`, hung in from the stock where the child was free or full as a whole.
    #[inline]
    fn descend(&mut self, index: u32, child: u32, level: u32) -> Option<u32> {
        match self.inners.get(index).slots[child as usize] {
            slot @ (FREE | FULL) => self.hang(index, child, level, slot),
            slot => Some(slot - 1),
        }
    }

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
    /// room for changed.
    #[inline]
    fn climb(&mut self, path: &Path, mut before: Room, mut after: Room, mut level: u32) {
        for &(index, child) in path.steps[..path.len].iter().rev() {
            if before == after {
                return;
            }
            level += 1;
            if after == child_order(level) + 1 {
                self.prune(index, child, level);
            }
            let node = self.inners.get_mut(index);
            let old = node.room(level);
            node.set_room(child, before, after);
            (before, after) = (old, node.room(level));
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

    /// Whether every granule of the aligned block is in the other state.
    fn can_become(&self, to: Fill, start: u64, order: u32) -> bool {
        let (mut index, mut level) = (self.root, self.levels);
        while level > 1 {
            let span = child_order(level);
            let child = (start >> span) as u32 % FANOUT;
            let node = self.inners.get(index);
            if order >= span {
                return is_apart(node, level, word::group_mask(child, order - span), to);
            }
            match node.slots[child as usize] {
                FREE => return to == Fill::Full,
                FULL => return to == Fill::Free,
                slot => index = slot - 1,
            }
            level -= 1;
        }
        leaf_is_apart(self.leaves.get(index), start, order, to)
    }

    /// Sets every granule of an aligned block to another state; all must be in the one opposite.
    /// Nothing changes on an error, but that nodes may have been hung in.
    #[inline]
    fn set_block(&mut self, to: Fill, start: u64, order: u32) -> Result<(), TreeError> {
        let mut path = Path::new();
        let (mut index, mut level) = (self.root, self.levels);
        while level > 1 {
            let span = child_order(level);
            let child = (start >> span) as u32 % FANOUT;
            let node = self.inners.get(index);
            if order >= span {
                let group = word::group_mask(child, order - span);
                if !is_apart(node, level, group, to) {
                    return Err(TreeError::WrongState);
                }
                let before = node.room(level);
                self.drop_nodes(index, level, child, order - span);
                self.set_group(index, level, child, order - span, to);
                self.climb(&path, before, self.inners.get(index).room(level), level);
                return Ok(());
            }
            match (node.slots[child as usize], to) {
                (FREE, Fill::Free) | (FULL, Fill::Full) => return Err(TreeError::WrongState),
                _ => {}
            }
            path.push(index, child);
            let below = self.descend(index, child, level);
            index = below.ok_or(TreeError::NoNodes)?;
            level -= 1;
        }
        let leaf = self.leaves.get_mut(index);
        if !leaf_is_apart(leaf, start, order, to) {
            return Err(TreeError::WrongState);
        }
        let before = leaf.room();
        let bits = if to == Fill::Free { u64::MAX } else { 0 };
        let word = (start >> WORD_ORDER) as u32 % FANOUT;
        if order >= WORD_ORDER {
            leaf.set_words(word::group_mask(word, order - WORD_ORDER), bits);
        } else {
            let group = word::group_mask(start as u32 % FANOUT, order);
            leaf.set_word(word, leaf.word(word) & !group | bits & group);
        }
        let after = leaf.room();
        self.climb(&path, before, after, 1);
        Ok(())
    }

    /// Takes back the nodes of `2^order` children that are full bit by bit, before they become
    /// free as wholes.
    fn drop_nodes(&mut self, index: u32, level: u32, child: u32, order: u32) {
        for child in child..child + (1 << order) {
            let slot = self.inners.get(index).slots[child as usize];
            if slot != FULL && slot != FREE {
                self.discard(slot - 1, level - 1);
            }
        }
    }

    /// Takes a full node and all below it back as blank ones.
    fn discard(&mut self, index: u32, level: u32) {
        if level == 1 {
            self.leaves.discard(index);
            return;
        }
        for child in 0..FANOUT as usize {
            let slot = self.inners.get(index).slots[child];
            if slot != FULL && slot != FREE {
                self.discard(slot - 1, level - 1);
            }
        }
        self.inners.discard(index);
    }
}

/// A child with room for `order` below a limit: one that lies below it as a whole, else the one
/// that the limit cuts.
///
/// The first in the policy's direction, not the tightest: what is in use stays close together.
#[inline]
fn choose(
    fitting: u64,
    allowed: u64,
    below: u64,
    span: u32,
    order: u32,
    policy: Policy,
) -> Option<u32> {
    if fitting & allowed != 0 {
        return Some(policy.pick(fitting & allowed));
    }
    let child = (below >> span) as u32;
    let rest = below & ((1 << span) - 1);
    (rest >= 1 << order && child < FANOUT && fitting >> child & 1 != 0).then_some(child)
}

/// Whether all of a group of children is in the state opposite to `to`.
#[inline]
fn is_apart(node: &Inner, level: u32, group: u64, to: Fill) -> bool {
    match to {
        Fill::Full => node.whole(level) & group == group,
        Fill::Free => node.fitting(0) & group == 0,
    }
}

#[inline]
fn leaf_is_apart(leaf: &Leaf, start: u64, order: u32, to: Fill) -> bool {
    let word = (start >> WORD_ORDER) as u32 % FANOUT;
    let (free, some, group) = if order >= WORD_ORDER {
        let group = word::group_mask(word, order - WORD_ORDER);
        (leaf.whole(), leaf.fitting(0), group)
    } else {
        let group = word::group_mask(start as u32 % FANOUT, order);
        (leaf.word(word), leaf.word(word), group)
    };
    match to {
        Fill::Full => free & group == group,
        Fill::Free => some & group == 0,
    }
}

/// The aligned blocks that make up `[start, end)`, in order, each with the log2 of its length.
fn blocks(start: u64, end: u64) -> impl Iterator<Item = (u64, u32)> {
    let mut at = start;
    core::iter::from_fn(move || {
        let left = end - at;
        if left == 0 {
            return None;
        }
        let fits = u64::BITS - 1 - left.leading_zeros();
        let order = fits.min(at.trailing_zeros());
        let block = (at, order);
        at += 1 << order;
        Some(block)
    })
}

/// The lowest `count` bits; all of them from 64 on.
#[inline]
fn low_bits(count: u64) -> u64 {
    if count >= u64::from(u64::BITS) {
        u64::MAX
    } else {
        (1 << count) - 1
    }
}

#[cfg(test)]
mod tests;
