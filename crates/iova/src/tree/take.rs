//! An aligned block found and taken.

use crate::node::{FANOUT, child_order};
use crate::tree::{Fill, Path, Policy, Tree};
use crate::word::{self, WORD_ORDER};

impl Tree {
    /// Takes an aligned block of `2^order` granules below `end`: its start.
    pub(super) fn take_block(&mut self, order: u32, end: u64, policy: Policy) -> Option<u64> {
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

/// The lowest `count` bits; all of them from 64 on.
#[inline]
fn low_bits(count: u64) -> u64 {
    if count >= u64::from(u64::BITS) {
        u64::MAX
    } else {
        (1 << count) - 1
    }
}
