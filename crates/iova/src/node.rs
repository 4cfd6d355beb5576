//! Nodes of the tree: 64 children and, for every order, which of them have room.

use crate::word::{self, WORD_ORDER};

/// Children of a node, bits of a word.
pub(crate) const FANOUT: u32 = 64;

/// Levels of nodes at the most: spaces of up to `2^42` granules.
pub(crate) const LEVELS_MAX: u32 = 6;

/// Orders that a word can have room for.
const WORD_ORDERS: usize = WORD_ORDER as usize + 1;

/// Orders that a child can have room for: `0..=6 * LEVELS_MAX`.
const ORDERS: usize = (WORD_ORDER * LEVELS_MAX) as usize + 1;

/// What a child has room for: one more than the order of its largest aligned free block, 0 where it
/// is full.
pub(crate) type Room = u32;

/// The order of a whole child at `level`, words being the children at level 1.
#[inline]
pub(crate) const fn child_order(level: u32) -> u32 {
    WORD_ORDER * level
}

/// A place in a list of nodes that wait to be hung in: one more than the number of the next.
pub(crate) trait Linked {
    fn link(&mut self) -> &mut u32;
}

/// A node at level 1: 64 words of free bits.
///
/// One cache line says which words have room, another holds the word: a random block that comes
/// back touches two.
#[derive(Clone)]
#[repr(align(64))]
pub(crate) struct Leaf {
    /// Bit `w` of `fits[o]`: word `w` has an aligned free group of order `o`.
    fits: [u64; WORD_ORDERS],
    link: u32,
    /// What the node as a whole has room for.
    room: Room,
    words: [u64; FANOUT as usize],
}

impl Linked for Leaf {
    fn link(&mut self) -> &mut u32 {
        &mut self.link
    }
}

impl Leaf {
    pub(crate) const FREE: Self = Self {
        fits: [u64::MAX; WORD_ORDERS],
        link: 0,
        room: 2 * WORD_ORDER + 1,
        words: [u64::MAX; FANOUT as usize],
    };

    pub(crate) const FULL: Self = Self {
        fits: [0; WORD_ORDERS],
        link: 0,
        room: 0,
        words: [0; FANOUT as usize],
    };

    #[inline]
    pub(crate) fn word(&self, word: u32) -> u64 {
        self.words[word as usize]
    }

    /// Words with an aligned free group of `order`, which is below that of a whole word or equal.
    #[inline]
    pub(crate) fn fitting(&self, order: u32) -> u64 {
        self.fits[order as usize]
    }

    /// Words that are free as a whole.
    #[inline]
    pub(crate) fn whole(&self) -> u64 {
        self.fits[WORD_ORDER as usize]
    }

    /// Of the words in `allowed` with room for `order`, those whose largest group is smallest:
    /// breaking up a larger one than need be is what makes it unavailable later.
    #[inline]
    pub(crate) fn tightest(&self, order: u32, allowed: u64) -> u64 {
        let fitting = self.fits[order as usize] & allowed;
        let mut best = fitting;
        // Every order is looked at, so that there is no branch: what fits has room for the lower
        // ones, and nothing is left of it there.
        for larger in self.fits[1..].iter().rev() {
            let tighter = fitting & !larger;
            best = if tighter != 0 { tighter } else { best };
        }
        best
    }

    #[inline]
    pub(crate) fn room(&self) -> Room {
        self.room
    }

    /// Takes free bits out of a word.
    #[inline]
    pub(crate) fn take_bits(&mut self, word: u32, bits: u64) {
        self.set_word(word, self.word(word) & !bits);
        // Another word may still have the most room.
        let stays = self.room <= WORD_ORDER + 1 && self.fits[self.room as usize - 1] != 0;
        if !stays {
            self.find_room();
        }
    }

    /// Gives bits back to a word.
    #[inline]
    pub(crate) fn give_bits(&mut self, word: u32, bits: u64) {
        let room = self.set_word(word, self.word(word) | bits);
        if room > WORD_ORDER {
            self.find_room();
        } else {
            self.room = self.room.max(room);
        }
    }

    /// Sets the free bits of a word, and says what it has room for then.
    #[inline]
    fn set_word(&mut self, word: u32, bits: u64) -> Room {
        self.words[word as usize] = bits;
        let sizes = word::sizes(bits);
        for (fits, has) in self.fits.iter_mut().zip(sizes) {
            *fits = *fits & !(1 << word) | u64::from(has) << word;
        }
        sizes.iter().map(|has| u32::from(*has)).sum()
    }

    #[inline]
    fn find_room(&mut self) {
        self.room = match word::largest(self.whole()) {
            Some(order) => WORD_ORDER + order + 1,
            // What fits a group fits all smaller ones.
            None => self.fits.iter().map(|fits| u32::from(*fits != 0)).sum(),
        };
    }

    /// Sets `2^order` words from `word` on free or full as wholes.
    #[inline]
    pub(crate) fn set_words(&mut self, word: u32, order: u32, bits: u64) {
        let count = 1 << order;
        for word in self.words.iter_mut().skip(word as usize).take(count) {
            *word = bits;
        }
        let group = word::group_mask(word, order);
        for fits in &mut self.fits {
            *fits = *fits & !group | bits & group;
        }
        self.find_room();
    }
}

/// A child no granule of which is free.
pub(crate) const FULL: u32 = 0;

/// A child every granule of which is free.
pub(crate) const FREE: u32 = u32::MAX;

/// A node at level `l` from 2 on: each child covers `2^(6 l)` granules, and is [`FREE`], [`FULL`] or
/// one more than the number of a node.
#[derive(Clone)]
#[repr(align(64))]
pub(crate) struct Inner {
    /// Bit `c` of `fits[o]`: child `c` has an aligned free block of order `o`.
    fits: [u64; ORDERS],
    /// Bit `o`: some child has an aligned free block of order `o`.
    present: u64,
    pub(crate) slots: [u32; FANOUT as usize],
    link: u32,
}

impl Linked for Inner {
    fn link(&mut self) -> &mut u32 {
        &mut self.link
    }
}

impl Inner {
    pub(crate) const FULL: Self = Self {
        fits: [0; ORDERS],
        present: 0,
        slots: [FULL; FANOUT as usize],
        link: 0,
    };

    /// A node at `level` with every granule free.
    pub(crate) fn free(level: u32) -> Self {
        let mut node = Self::FULL;
        node.slots = [FREE; FANOUT as usize];
        for order in 0..=child_order(level) {
            node.fits[order as usize] = u64::MAX;
            node.present |= 1 << order;
        }
        node
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
            self.present &= !(u64::from(*fits == 0) << order);
        }
    }
}

const _: () = assert!(size_of::<Leaf>() == 576 && size_of::<Inner>() == 576);
const _: () = assert!(WORD_ORDER == FANOUT.trailing_zeros());
