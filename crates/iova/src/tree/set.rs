//! A run set free or full.

use crate::node::{FANOUT, FREE, FULL, Inner, Leaf, child_order};
use crate::tree::{Fill, Path, Tree, TreeError};
use crate::word::{self, WORD_ORDER};

impl Tree {
    /// Sets a run to another state; all of it must be in the one opposite. Nothing changes on an
    /// error, but that nodes may have been hung in.
    #[inline]
    pub(super) fn set(&mut self, to: Fill, start: u64, len: u64) -> Result<(), TreeError> {
        let end = start.checked_add(len).ok_or(TreeError::WrongState)?;
        if end > self.capacity() {
            return Err(TreeError::WrongState);
        }
        if len.is_power_of_two() && start & (len - 1) == 0 {
            return self.set_block(to, start, len.trailing_zeros());
        }
        self.set_blocks(to, start, end)
    }

    #[inline(never)]
    fn set_blocks(&mut self, to: Fill, start: u64, end: u64) -> Result<(), TreeError> {
        if blocks(start, end).any(|(at, order)| !self.can_become(to, at, order)) {
            return Err(TreeError::WrongState);
        }
        blocks(start, end).try_for_each(|(at, order)| self.set_block(to, at, order))
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
                if to == Fill::Free {
                    self.note_given(start, u64::MAX);
                }
                self.set_group(index, level, child, order - span, to);
                self.climb(&path, before, self.inners.get(index).room(level), level);
                return Ok(());
            }
            path.set(level, index, child);
            index = match (node.slots[child as usize], to) {
                (FREE, Fill::Free) | (FULL, Fill::Full) => return Err(TreeError::WrongState),
                (slot @ (FREE | FULL), _) => {
                    let below = self.hang(index, child, level, slot);
                    below.ok_or(TreeError::NoNodes)?
                }
                (slot, _) => slot - 1,
            };
            level -= 1;
        }
        let leaf = self.leaves.get_mut(index);
        if !leaf_is_apart(leaf, start, order, to) {
            return Err(TreeError::WrongState);
        }
        let before = leaf.room();
        let word = (start >> WORD_ORDER) as u32 % FANOUT;
        if order >= WORD_ORDER {
            let bits = if to == Fill::Free { u64::MAX } else { 0 };
            leaf.set_words(word, order - WORD_ORDER, bits);
        } else {
            let bits = word::group_mask(start as u32 % FANOUT, order);
            match to {
                Fill::Free => leaf.give_bits(word, bits),
                Fill::Full => leaf.take_bits(word, bits),
            }
        }
        let (after, bits) = (leaf.room(), leaf.word(word));
        if to == Fill::Free {
            self.note_given(start, bits);
        }
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
