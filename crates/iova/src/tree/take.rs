//! An aligned block found and taken.

use crate::node::{FANOUT, FREE, FULL, child_order};
use crate::tree::{Fill, Path, Policy, Tree};
use crate::word::{self, WORD_ORDER};

impl Tree {
    /// Takes an aligned block of `2^order` granules below `end`: its start.
    pub(super) fn take_block(&mut self, order: u32, end: u64, policy: Policy) -> Option<u64> {
        let mut path = Path::new();
        let (mut index, mut level, mut base) = (self.root, self.levels, 0);
        // Where the limit falls inside the node at hand; past its end says that it does not matter.
        let mut below = match end < self.capacity() {
            true => end,
            false => NO_LIMIT,
        };
        while level > 1 {
            let span = child_order(level);
            let node = self.inners.get(index);
            if order >= span {
                let whole = node.whole(level) & low_bits(below >> span);
                let groups = word::groups(whole, order - span);
                if groups == 0 {
                    return None;
                }
                let child = policy.pick(groups);
                let before = node.room(level);
                self.set_group(index, level, child, order - span, Fill::Full);
                self.climb(&path, before, self.inners.get(index).room(level), level);
                return Some(base + (u64::from(child) << span));
            }
            let mut fitting = node.fitting(order);
            if below != NO_LIMIT {
                (fitting, below) = limit(fitting, below, span, order);
            }
            if fitting == 0 {
                return None;
            }
            let child = policy.pick(fitting);
            base += u64::from(child) << span;
            path.set(level, index, child);
            index = match node.slots[child as usize] {
                slot @ (FREE | FULL) => self.hang(index, child, level, slot)?,
                slot => slot - 1,
            };
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
            leaf.set_words(word, order - WORD_ORDER, 0);
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
            leaf.take_bits(word, word::group_mask(bit, order));
            u64::from(word << WORD_ORDER | bit)
        };
        let after = leaf.room();
        self.climb(path, before, after, 1);
        Some(start)
    }
}

/// A limit that no node reaches.
const NO_LIMIT: u64 = u64::MAX;

/// Of the children with room for `order` those that lie below a limit as wholes, else the one that it
/// cuts; and where it falls inside the child that is then chosen.
///
/// Any will do, not only the tightest: what is in use stays close together.
#[inline]
fn limit(fitting: u64, below: u64, span: u32, order: u32) -> (u64, u64) {
    let whole = fitting & low_bits(below >> span);
    if whole != 0 {
        return (whole, NO_LIMIT);
    }
    let (cut, rest) = (below >> span, below & ((1 << span) - 1));
    match cut < u64::from(FANOUT) && rest >= 1 << order {
        true => (fitting & 1 << cut, rest),
        false => (0, rest),
    }
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
