//! Each CPU's own stock of recently freed blocks.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// Blocks in a magazine: one page of records holds those of a few orders.
pub(crate) const MAGAZINE: usize = 64;

/// Orders that are cached: 1 granule to 1024, 4 KiB to 4 MiB at 4 KiB.
pub(crate) const ORDERS: usize = 11;

/// Starts of free blocks of one order, last in, first out, so that what is warm in translation
/// caches and page tables is used first.
struct Magazine {
    len: AtomicU32,
    starts: [AtomicU64; MAGAZINE],
}

impl Magazine {
    const fn new() -> Self {
        Self {
            len: AtomicU32::new(0),
            starts: [const { AtomicU64::new(0) }; MAGAZINE],
        }
    }

    #[inline]
    fn pop(&self, size: u64, end: u64) -> Option<u64> {
        let last = self.len.load(Relaxed).checked_sub(1)?;
        let start = self.starts.get(last as usize)?.load(Relaxed);
        if start + size > end {
            return None;
        }
        self.len.store(last, Relaxed);
        Some(start)
    }

    #[inline]
    fn push(&self, start: u64) -> bool {
        let len = self.len.load(Relaxed);
        let Some(slot) = self.starts.get(len as usize) else {
            return false;
        };
        slot.store(start, Relaxed);
        self.len.store(len + 1, Relaxed);
        true
    }

    fn fill(&self, starts: &[u64; MAGAZINE]) {
        for (slot, start) in self.starts.iter().zip(starts) {
            slot.store(*start, Relaxed);
        }
        self.len.store(MAGAZINE as u32, Relaxed);
    }

    fn empty(&self, starts: &mut [u64; MAGAZINE]) -> usize {
        let len = (self.len.load(Relaxed) as usize).min(MAGAZINE);
        for (start, slot) in starts.iter_mut().zip(&self.starts[..len]) {
            *start = slot.load(Relaxed);
        }
        self.len.store(0, Relaxed);
        len
    }
}

struct Shelf {
    magazines: [Magazine; 2],
    /// Which of the two is in use.
    loaded: AtomicU32,
}

impl Shelf {
    const fn new() -> Self {
        Self {
            magazines: [const { Magazine::new() }; 2],
            loaded: AtomicU32::new(0),
        }
    }
}

/// One CPU's cache: two magazines for each order, and its counters. 11.6 KiB.
///
/// Only its CPU touches it, under a guard, with plain loads and stores; the atomics are there so
/// that statistics may be read from anywhere.
pub struct CpuCache {
    shelves: [Shelf; ORDERS],
    pub(crate) hits: AtomicU64,
    pub(crate) misses: AtomicU64,
}

impl Default for CpuCache {
    fn default() -> Self {
        Self::new()
    }
}

impl CpuCache {
    /// An empty cache.
    pub const fn new() -> Self {
        Self {
            shelves: [const { Shelf::new() }; ORDERS],
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    /// A block of `2^order` granules that lies below `end`.
    #[inline]
    pub(crate) fn pop(&self, order: usize, end: u64) -> Option<u64> {
        let shelf = self.shelves.get(order)?;
        let size = 1 << order;
        let loaded = shelf.loaded.load(Relaxed) as usize & 1;
        let start = match shelf.magazines[loaded].pop(size, end) {
            Some(start) => start,
            None => {
                let start = shelf.magazines[loaded ^ 1].pop(size, end)?;
                shelf.loaded.store(loaded as u32 ^ 1, Relaxed);
                start
            }
        };
        self.hits
            .store(self.hits.load(Relaxed).wrapping_add(1), Relaxed);
        Some(start)
    }

    /// Keeps a free block; false where both magazines are full.
    #[inline]
    pub(crate) fn push(&self, order: usize, start: u64) -> bool {
        let Some(shelf) = self.shelves.get(order) else {
            return false;
        };
        let loaded = shelf.loaded.load(Relaxed) as usize & 1;
        if shelf.magazines[loaded].push(start) {
            return true;
        }
        if shelf.magazines[loaded ^ 1].push(start) {
            shelf.loaded.store(loaded as u32 ^ 1, Relaxed);
            return true;
        }
        false
    }

    /// Puts a full magazine in the place of the one in use, which must be empty.
    pub(crate) fn load(&self, order: usize, starts: &[u64; MAGAZINE]) {
        let shelf = &self.shelves[order];
        shelf.magazines[shelf.loaded.load(Relaxed) as usize & 1].fill(starts);
    }

    /// Whether neither magazine of the order holds a block.
    pub(crate) fn is_empty(&self, order: usize) -> bool {
        self.shelves[order]
            .magazines
            .iter()
            .all(|magazine| magazine.len.load(Relaxed) == 0)
    }

    /// Empties one of the order's magazines, the idle one first, into `starts`; says how many.
    pub(crate) fn unload(&self, order: usize, starts: &mut [u64; MAGAZINE]) -> usize {
        let shelf = &self.shelves[order];
        let loaded = shelf.loaded.load(Relaxed) as usize & 1;
        match shelf.magazines[loaded ^ 1].empty(starts) {
            0 => shelf.magazines[loaded].empty(starts),
            count => count,
        }
    }

    pub(crate) fn missed(&self) {
        self.misses
            .store(self.misses.load(Relaxed).wrapping_add(1), Relaxed);
    }

    /// Granules held.
    pub(crate) fn granules(&self) -> u64 {
        let held = |(order, shelf): (usize, &Shelf)| {
            shelf
                .magazines
                .iter()
                .map(|m| u64::from(m.len.load(Relaxed)) << order)
                .sum::<u64>()
        };
        self.shelves.iter().enumerate().map(held).sum()
    }
}
