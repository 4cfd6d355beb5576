//! One node of the tree: 64 children and, for every order, which of them have room.

use crate::word::{self, WORD_ORDER};

/// Children of a node, bits of a word.
pub(crate) const FANOUT: u32 = 64;

/// Levels of nodes at the most: spaces of up to `2^42` granules.
pub(crate) const LEVELS_MAX: u32 = 6;

/// Orders that a child can have room for: `0..=6 * LEVELS_MAX`.
const ORDERS: usize = (WORD_ORDER * LEVELS_MAX) as usize + 1;

/// A child no granule of which is free, or, below level 1, a word with no bit set.
pub(crate) const FULL: u64 = 0;

/// A child every granule of which is free, or a word with all bits set.
pub(crate) const FREE: u64 = u64::MAX;

/// What a child has room for: one more than the order of its largest aligned free block, 0 where it
/// is full.
pub(crate) type Room = u32;

/// A node at level `l` (from 1): each child covers `2^(6 l)` granules.
///
/// At level 1 a child is a word of free bits. Above, it is [`FREE`], [`FULL`] or one more than the
/// index of a node. 824 bytes; a search touches one line of `fits` and one of `slots`.
#[derive(Clone)]
pub(crate) struct Node {
    /// Bit `c` of `fits[o]`: child `c` has an aligned free block of order `o`.
    fits: [u64; ORDERS],
    /// Bit `o`: some child has an aligned free block of order `o`.
    present: u64,
    pub(crate) slots: [u64; FANOUT as usize],
}

/// The order of a whole child at `level`.
#[inline]
pub(crate) const fn child_order(level: u32) -> u32 {
    WORD_ORDER * level
}

impl Node {
    /// A node at `level` with every granule free.
    pub(crate) fn free(level: u32) -> Self {
        let mut node = Self::full();
        node.slots = [FREE; FANOUT as usize];
        for order in 0..=child_order(level) {
            node.fits[order as usize] = u64::MAX;
            node.present |= 1 << order;
        }
        node
    }

    /// A node, at any level, with no granule free.
    pub(crate) fn full() -> Self {
        Self {
            fits: [0; ORDERS],
            present: 0,
            slots: [FULL; FANOUT as usize],
        }
    }

    /// Children with an aligned free block of `order`.
    #[inline]
    pub(crate) fn fitting(&self, order: u32) -> u64 {
        self.fits[order as usize]
    }

    /// Children that are free as a whole.
    #[inline]
    pub(crate) fn whole(&self, level: u32) -> u64 {
        self.fits[child_order(level) as usize]
    }

    /// Of the children in `allowed` with room for `order`, those whose largest block is smallest.
    ///
    /// O(orders): breaking up a larger block than need be is what makes it unavailable later.
    #[inline]
    pub(crate) fn tightest(&self, order: u32, allowed: u64) -> u64 {
        let mut fitting = self.fits[order as usize] & allowed;
        if fitting == 0 {
            return 0;
        }
        for larger in order as usize + 1..ORDERS {
            let roomier = self.fits[larger] & allowed;
            if roomier == 0 {
                return fitting;
            }
            if fitting & !roomier != 0 {
                return fitting & !roomier;
            }
            fitting = roomier;
        }
        fitting
    }

    /// What the node as a whole has room for.
    #[inline]
    pub(crate) fn room(&self, level: u32) -> Room {
        match word::largest(self.whole(level)) {
            Some(order) => child_order(level) + order + 1,
            None => u64::BITS - self.present.leading_zeros(),
        }
    }

    /// Notes that what `child` has room for changed.
    #[inline]
    pub(crate) fn set_room(&mut self, child: u32, old: Room, new: Room) {
        let bit = 1_u64 << child;
        for order in old..new {
            self.fits[order as usize] |= bit;
            self.present |= 1 << order;
        }
        for order in new..old {
            let fits = &mut self.fits[order as usize];
            *fits &= !bit;
            if *fits == 0 {
                self.present &= !(1 << order);
            }
        }
    }

    /// What `child` has room for.
    #[inline]
    pub(crate) fn child_room(&self, child: u32) -> Room {
        // Room is monotone: a child that fits an order fits all below it.
        let bit = 1_u64 << child;
        let mut low = 0;
        let mut high = u64::BITS - self.present.leading_zeros();
        while low < high {
            let middle = (low + high) / 2;
            if self.fits[middle as usize] & bit != 0 {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }
}
