//! Which granules of a space are free, and aligned blocks of them found in bounded steps.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::node::{FANOUT, FREE, FULL, LEVELS_MAX, Node, Room, child_order};
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

const CHUNK_NODES: usize = 16;

/// A 64-way tree over granules `[0, 2^(6 (levels + 1)))`.
///
/// Every node knows, for each order, which children have an aligned free block of that order, so a
/// search goes straight down and a failure is known at the root: at most one node per level is
/// visited, twice where a limit cuts through one. Nodes exist only where a child is neither free
/// nor taken as one block; they come from a stock that is filled apart, so that nothing here
/// allocates memory.
pub(crate) struct Tree {
    chunks: Vec<Box<[Node]>>,
    /// Clean nodes by level (`[level - 1]`), every granule free, ready to hang in.
    stock: [Vec<u32>; LEVELS_MAX as usize],
    /// Nodes in any state.
    blank: Vec<u32>,
    levels: u32,
    root: u32,
    free: u64,
}

#[derive(Clone, Copy)]
struct Step {
    node: u32,
    child: u32,
}

impl Tree {
    /// A tree for at least `granules`, all of them taken; `None` where there is no memory or that
    /// is more than the tree can hold.
    pub(crate) fn new(granules: u64) -> Option<Self> {
        let levels = (1..=LEVELS_MAX).find(|&level| granules <= 1 << child_order(level + 1))?;
        let mut tree = Self {
            chunks: Vec::new(),
            stock: Default::default(),
            blank: Vec::new(),
            levels,
            root: 0,
            free: 0,
        };
        tree.reserve(1)?;
        tree.root = tree.blank.pop()?;
        *tree.node(tree.root) = Node::full();
        Some(tree)
    }

    /// How many granules are free.
    pub(crate) fn free_granules(&self) -> u64 {
        self.free
    }

    /// Bytes that the tree occupies.
    pub(crate) fn bytes(&self) -> usize {
        self.chunks.len() * CHUNK_NODES * size_of::<Node>()
            + self
                .stock
                .iter()
                .map(|stock| stock.capacity() * 4)
                .sum::<usize>()
            + self.blank.capacity() * 4
    }

    /// Nodes that can be hung in before the stock must be filled again.
    pub(crate) fn spare_nodes(&self) -> usize {
        self.blank.len() + self.stock.iter().map(Vec::len).sum::<usize>()
    }

    /// Fills the stock to `nodes`; allocates memory. `None` where there is none.
    pub(crate) fn reserve(&mut self, nodes: usize) -> Option<()> {
        while self.spare_nodes() < nodes {
            let mut chunk = Vec::new();
            chunk.try_reserve_exact(CHUNK_NODES).ok()?;
            chunk.resize(CHUNK_NODES, Node::full());
            self.chunks.try_reserve(1).ok()?;
            let total = (self.chunks.len() + 1) * CHUNK_NODES;
            // A list never holds more than all nodes, so that giving one back needs no memory.
            for list in self.stock.iter_mut().chain([&mut self.blank]) {
                list.try_reserve_exact(total - list.len()).ok()?;
            }
            let first = (self.chunks.len() * CHUNK_NODES) as u32;
            self.chunks.push(chunk.into_boxed_slice());
            self.blank.extend(first..first + CHUNK_NODES as u32);
        }
        Some(())
    }

    /// The most nodes that one operation can hang in.
    pub(crate) const fn nodes_per_operation() -> usize {
        // One per level on the way to the block, and one per level where its tail goes back.
        2 * LEVELS_MAX as usize
    }

    /// Takes `len` granules at a multiple of `2^order` (`len <= 2^order`), all below `end`.
    ///
    /// The rest of the block stays free. O(levels x orders).
    pub(crate) fn take(
        &mut self,
        order: u32,
        len: u64,
        end: u64,
        policy: Policy,
    ) -> Result<u64, TreeError> {
        if self.spare_nodes() < Self::nodes_per_operation() {
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
        let end = start.checked_add(len).ok_or(TreeError::WrongState)?;
        if end > self.capacity() || blocks(start, end).any(|(at, order)| !self.is(FULL, at, order))
        {
            return Err(TreeError::WrongState);
        }
        for (block, order) in blocks(start, end) {
            self.set_block(FREE, block, order)?;
        }
        self.free += len;
        Ok(())
    }

    /// Takes exactly `[start, start + len)`, all of it free. Nothing changes on an error.
    ///
    /// Allocates nodes; O(levels) for each of the at most `2 x log2 len` aligned blocks.
    pub(crate) fn take_at(&mut self, start: u64, len: u64) -> Result<(), TreeError> {
        let end = start.checked_add(len).ok_or(TreeError::WrongState)?;
        if end > self.capacity() || blocks(start, end).any(|(at, order)| !self.is(FREE, at, order))
        {
            return Err(TreeError::WrongState);
        }
        // Each end of the run cuts through at most one node per level.
        self.reserve(Self::nodes_per_operation())
            .ok_or(TreeError::NoNodes)?;
        for (block, order) in blocks(start, end) {
            self.set_block(FULL, block, order)?;
        }
        self.free -= len;
        Ok(())
    }

    /// The first granule that the tree has no place for.
    fn capacity(&self) -> u64 {
        1 << child_order(self.levels + 1)
    }

    fn node(&mut self, index: u32) -> &mut Node {
        let index = index as usize;
        &mut self.chunks[index / CHUNK_NODES][index % CHUNK_NODES]
    }

    fn peek(&self, index: u32) -> &Node {
        let index = index as usize;
        &self.chunks[index / CHUNK_NODES][index % CHUNK_NODES]
    }

    fn take_block(&mut self, order: u32, end: u64, policy: Policy) -> Option<u64> {
        let mut path = [Step { node: 0, child: 0 }; LEVELS_MAX as usize];
        let mut depth = 0;
        let (mut index, mut level, mut base) = (self.root, self.levels, 0);
        // Where the limit falls inside the node at hand, or past its end.
        let mut below = end.min(self.capacity());
        loop {
            let span = child_order(level);
            let allowed = low_bits(below >> span);
            let node = self.peek(index);
            if order >= span {
                let groups = word::groups(node.whole(level) & allowed, order - span);
                if groups == 0 {
                    return None;
                }
                let child = policy.pick(groups);
                self.set_group(index, level, child, order - span, FULL);
                self.climb(&path[..depth], index, level);
                return Some(base + (u64::from(child) << span));
            }
            let places = node.tightest(order, allowed);
            let child = if places != 0 {
                let child = policy.pick(places);
                below = 1 << span;
                child
            } else {
                // Only the child that the limit cuts can still have room below it.
                let rest = below & ((1 << span) - 1);
                let child = (below >> span) as u32;
                if rest < 1 << order || child >= FANOUT || node.fitting(order) >> child & 1 == 0 {
                    return None;
                }
                below = rest;
                child
            };
            base += u64::from(child) << span;
            if level == 1 {
                let bit = self.take_bits(index, child, order, below, policy)?;
                self.climb(&path[..depth], index, level);
                return Some(base + u64::from(bit));
            }
            path[depth] = Step { node: index, child };
            depth += 1;
            index = self.descend(index, child, level)?;
            level -= 1;
        }
    }

    /// Takes a group of bits in a word of a level-1 node.
    fn take_bits(
        &mut self,
        index: u32,
        child: u32,
        order: u32,
        below: u64,
        policy: Policy,
    ) -> Option<u32> {
        let node = self.node(index);
        let free = node.slots[child as usize];
        let groups = word::groups(free & low_bits(below), order);
        if groups == 0 {
            return None;
        }
        let bit = policy.pick(groups);
        let left = free & !word::group_mask(bit, order);
        node.slots[child as usize] = left;
        node.set_room(child, word_room(free), word_room(left));
        Some(bit)
    }

    /// The node under `child`, hung in from the stock where the child was free or full as a whole.
    fn descend(&mut self, index: u32, child: u32, level: u32) -> Option<u32> {
        let slot = self.peek(index).slots[child as usize];
        let below = match slot {
            FREE => self.clean(level - 1)?,
            FULL => {
                let below = self.any()?;
                *self.node(below) = Node::full();
                below
            }
            slot => return Some((slot - 1) as u32),
        };
        self.node(index).slots[child as usize] = u64::from(below) + 1;
        Some(below)
    }

    /// A node at `level` with every granule free.
    fn clean(&mut self, level: u32) -> Option<u32> {
        if let Some(index) = self.stock[level as usize - 1].pop() {
            return Some(index);
        }
        let index = self.any()?;
        *self.node(index) = Node::free(level);
        Some(index)
    }

    fn any(&mut self) -> Option<u32> {
        self.blank
            .pop()
            .or_else(|| self.stock.iter_mut().find_map(Vec::pop))
    }

    /// Sets `2^order` children of a node, from `child` on, free or full as wholes.
    fn set_group(&mut self, index: u32, level: u32, child: u32, order: u32, state: u64) {
        let whole = child_order(level) + 1;
        let (old, new) = if state == FULL {
            (whole, 0)
        } else {
            (0, whole)
        };
        for child in child..child + (1 << order) {
            let node = self.node(index);
            node.slots[child as usize] = state;
            node.set_room(child, old, new);
        }
    }

    /// Tells the nodes of `path`, from the bottom, what the node at its end has room for now.
    fn climb(&mut self, path: &[Step], mut index: u32, mut level: u32) {
        for step in path.iter().rev() {
            let room = self.peek(index).room(level);
            let old = self.peek(step.node).child_room(step.child);
            level += 1;
            if room == child_order(level) + 1 {
                self.prune(step.node, step.child, level);
            }
            if room == old {
                return;
            }
            self.node(step.node).set_room(step.child, old, room);
            index = step.node;
        }
    }

    /// Takes the node under `child`, every granule of which is free, back into the stock.
    fn prune(&mut self, index: u32, child: u32, level: u32) {
        let slot = self.peek(index).slots[child as usize];
        if slot == FREE || slot == FULL {
            return;
        }
        self.node(index).slots[child as usize] = FREE;
        self.stock[level as usize - 2].push((slot - 1) as u32);
    }

    /// Whether every granule of the aligned block is in `state`.
    fn is(&self, state: u64, start: u64, order: u32) -> bool {
        let (mut index, mut level) = (self.root, self.levels);
        loop {
            let span = child_order(level);
            let child = (start >> span) as u32 % FANOUT;
            let node = self.peek(index);
            if order >= span {
                let group = word::group_mask(child, order - span);
                return match state {
                    FREE => node.whole(level) & group == group,
                    _ => node.fitting(0) & group == 0,
                };
            }
            match node.slots[child as usize] {
                FREE => return state == FREE,
                FULL => return state == FULL,
                bits if level == 1 => {
                    let group = word::group_mask(start as u32 % FANOUT, order);
                    return bits & group == group & state;
                }
                slot => index = (slot - 1) as u32,
            }
            level -= 1;
        }
    }

    /// Sets every granule of an aligned block, all of them in the other state, to `state`.
    fn set_block(&mut self, state: u64, start: u64, order: u32) -> Result<(), TreeError> {
        let mut path = [Step { node: 0, child: 0 }; LEVELS_MAX as usize];
        let mut depth = 0;
        let (mut index, mut level) = (self.root, self.levels);
        loop {
            let span = child_order(level);
            let child = (start >> span) as u32 % FANOUT;
            if order >= span {
                self.drop_nodes(index, level, child, order - span);
                self.set_group(index, level, child, order - span, state);
                break;
            }
            if level == 1 {
                let group = word::group_mask(start as u32 % FANOUT, order);
                let node = self.node(index);
                let old = node.slots[child as usize];
                let new = old & !group | group & state;
                node.slots[child as usize] = new;
                node.set_room(child, word_room(old), word_room(new));
                break;
            }
            path[depth] = Step { node: index, child };
            depth += 1;
            index = self
                .descend(index, child, level)
                .ok_or(TreeError::NoNodes)?;
            level -= 1;
        }
        self.climb(&path[..depth], index, level);
        Ok(())
    }

    /// Takes back the nodes of `2^order` children that are full bit by bit, before they become
    /// free as wholes.
    fn drop_nodes(&mut self, index: u32, level: u32, child: u32, order: u32) {
        for child in child..child + (1 << order) {
            let slot = self.peek(index).slots[child as usize];
            if level > 1 && slot != FULL && slot != FREE {
                self.discard((slot - 1) as u32, level - 1);
                self.node(index).slots[child as usize] = FULL;
            }
        }
    }

    /// Takes a full node and all below it back as blank ones.
    fn discard(&mut self, index: u32, level: u32) {
        if level > 1 {
            for child in 0..FANOUT as usize {
                let slot = self.peek(index).slots[child];
                if slot != FULL && slot != FREE {
                    self.discard((slot - 1) as u32, level - 1);
                }
            }
        }
        self.blank.push(index);
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

#[inline]
fn word_room(bits: u64) -> Room {
    word::largest(bits).map_or(0, |order| order + 1)
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

const _: () = assert!(WORD_ORDER == FANOUT.trailing_zeros());

#[cfg(test)]
mod tests;
