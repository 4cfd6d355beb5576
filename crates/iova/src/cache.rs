//! Each CPU's own stock of recently freed blocks.

use core::num::NonZeroU64;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::extent::Class;

/// Blocks that pass between CPUs at once.
pub(crate) const MAGAZINE: usize = if cfg!(loom) { 2 } else { 64 };

/// Sizes that are cached: 4 KiB to 4 MiB.
pub(crate) const CLASSES: Range<Class> = 12..23;

/// How many they are.
pub(crate) const BINS: usize = (CLASSES.end - CLASSES.start) as usize;

/// Blocks of one class that a CPU keeps.
const KEPT: usize = 2 * MAGAZINE;

/// All places. Those of a class lie between two that hold 0 for good: what is read at the one says that
/// there is no block, what at the other that there is no place. No place between them is ever 0.
const PLACES: usize = 2 + BINS * (KEPT + 1);

/// The place of sizes that are not cached, with nothing before and after it.
const NOWHERE: usize = 1;

/// Below them in a state stands the place of the block that came last.
const HIT: u64 = 1 << 16;

/// One CPU's cache: up to 128 free blocks of each size, last in, first out, so that what is warm in
/// translation caches and page tables is used first. 11.6 KiB.
///
/// Only its CPU touches it, under a guard, with plain loads and stores; the atomics are there so
/// that statistics may be read from anywhere.
pub struct CpuCache {
    /// For each class, requests served and the place of the block that came last: one word, so that
    /// serving one is one store. A size finds it without being looked at further.
    states: [AtomicU64; u64::BITS as usize],
    /// No block held starts below this; `u64::MAX` where none is held.
    lowest: AtomicU64,
    misses: AtomicU64,
    /// Addresses at which blocks start, those of each class from the end of its places.
    places: [AtomicU64; PLACES],
}

impl Default for CpuCache {
    fn default() -> Self {
        Self::new()
    }
}

impl CpuCache {
    /// An empty cache.
    pub const fn new() -> Self {
        let mut states = [const { AtomicU64::new(NOWHERE as u64) }; u64::BITS as usize];
        let mut places = [const { AtomicU64::new(u64::MAX) }; PLACES];
        places[NOWHERE - 1] = AtomicU64::new(0);
        places[NOWHERE] = AtomicU64::new(0);
        let mut class = CLASSES.start;
        while class < CLASSES.end {
            states[class as usize] = AtomicU64::new(empty_place(class) as u64);
            places[empty_place(class)] = AtomicU64::new(0);
            class += 1;
        }
        Self {
            states,
            lowest: AtomicU64::new(u64::MAX),
            misses: AtomicU64::new(0),
            places,
        }
    }

    /// Where a block of `len` bytes, a power of two, starts that lies below `end`.
    #[inline]
    pub(crate) fn pop(&self, len: u64, end: u64) -> Option<NonZeroU64> {
        let slot = self.state(len.trailing_zeros());
        let state = slot.load(Relaxed);
        let place = self.places.get(place(state))?;
        let start = NonZeroU64::new(place.load(Relaxed))?;
        // A block is aligned to its size: this is its last byte.
        if start.get() | len.wrapping_sub(1) >= end {
            return None;
        }
        slot.store(state.wrapping_add(HIT + 1), Relaxed);
        Some(start)
    }

    /// Keeps a free block, which is not at 0; false where there is no place.
    #[inline]
    pub(crate) fn push(&self, class: Class, start: u64) -> bool {
        let slot = self.state(class);
        let state = slot.load(Relaxed);
        let Some(place) = self.places.get(place(state).wrapping_sub(1)) else {
            return false;
        };
        if place.load(Relaxed) == 0 {
            return false;
        }
        place.store(start, Relaxed);
        slot.store(state.wrapping_sub(1), Relaxed);
        if start < self.lowest.load(Relaxed) {
            self.lowest.store(start, Relaxed);
        }
        true
    }

    /// Takes in another CPU's blocks.
    pub(crate) fn load(&self, class: Class, starts: &[u64; MAGAZINE]) {
        for &start in starts {
            self.push(class, start);
        }
    }

    /// Whether no block of the class, one that is cached, is held.
    #[inline]
    pub(crate) fn is_empty(&self, class: Class) -> bool {
        self.held(class) == 0
    }

    /// Whether a block may be held that starts below `end`.
    #[inline]
    pub(crate) fn has_below(&self, end: u64) -> bool {
        self.lowest.load(Relaxed) < end
    }

    /// Moves up to a magazine of blocks of a cached class that start below `end`, the oldest first,
    /// into `starts`; says how many.
    pub(crate) fn unload(&self, class: Class, end: u64, starts: &mut [u64; MAGAZINE]) -> usize {
        let slot = self.state(class);
        let state = slot.load(Relaxed);
        let (mut moved, mut kept) = (0, empty_place(class));
        for place in (place(state)..empty_place(class)).rev() {
            let start = self.places[place].load(Relaxed);
            if start < end && moved < MAGAZINE {
                starts[moved] = start;
                moved += 1;
            } else {
                kept -= 1;
                self.places[kept].store(start, Relaxed);
            }
        }
        slot.store(state.wrapping_add(moved as u64), Relaxed);
        moved
    }

    /// Finds out anew where the lowest block starts.
    pub(crate) fn find_lowest(&self) {
        let held = CLASSES.flat_map(|class| {
            let held = place(self.state(class).load(Relaxed))..empty_place(class);
            self.places[held].iter().map(|start| start.load(Relaxed))
        });
        self.lowest.store(held.min().unwrap_or(u64::MAX), Relaxed);
    }

    pub(crate) fn missed(&self) {
        let misses = self.misses.load(Relaxed);
        self.misses.store(misses.wrapping_add(1), Relaxed);
    }

    /// Requests that the cache served.
    pub(crate) fn hits(&self) -> u64 {
        let hits = |class| self.state(class).load(Relaxed) / HIT;
        CLASSES.map(hits).sum()
    }

    /// Requests that went past it.
    pub(crate) fn misses(&self) -> u64 {
        self.misses.load(Relaxed)
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> u64 {
        CLASSES
            .map(|class| (self.held(class) as u64) << class)
            .sum()
    }

    /// How many blocks of a cached class are held.
    #[inline]
    fn held(&self, class: Class) -> usize {
        empty_place(class).saturating_sub(place(self.state(class).load(Relaxed)))
    }

    #[inline]
    fn state(&self, class: Class) -> &AtomicU64 {
        &self.states[class as usize % u64::BITS as usize]
    }
}

/// The place that a state names.
#[inline]
fn place(state: u64) -> usize {
    (state % HIT) as usize
}

/// The place after those of a cached class.
#[inline]
const fn empty_place(class: Class) -> usize {
    let bin = (class - CLASSES.start) as usize;
    NOWHERE + (bin + 1) * (KEPT + 1)
}
