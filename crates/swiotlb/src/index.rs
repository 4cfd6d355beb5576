//! From an address to its grown pool, in constant time.

use alloc::boxed::Box;

use crate::sync::{AtomicU64, Ordering};

/// No granule was ever here.
const EMPTY: u64 = 0;
/// A granule was here.
const REMOVED: u64 = 1;
const POOL_BITS: u32 = 6;

/// A hash table from granules of memory to pools, at most half full: two probes are expected, and
/// the table's length is the bound.
///
/// One writer at a time; readers take no lock. A reader looks only for pools that hold a mapping of
/// its own, and those are not removed.
pub(crate) struct AddressIndex {
    granule_shift: u32,
    buckets: Box<[AtomicU64]>,
}

impl AddressIndex {
    /// An index of up to `granules` granules.
    pub(crate) fn new(granule_shift: u32, granules: u64) -> Self {
        let buckets = (granules.max(1) * 2).next_power_of_two();
        Self {
            granule_shift,
            buckets: (0..buckets).map(|_| AtomicU64::new(EMPTY)).collect(),
        }
    }

    /// The pool that `address` may lie in.
    pub(crate) fn find(&self, address: u64) -> Option<usize> {
        let key = self.key(address);
        for bucket in self.probe(key) {
            match bucket.load(Ordering::Acquire) {
                EMPTY => return None,
                found if found >> POOL_BITS == key => {
                    return Some((found & ((1 << POOL_BITS) - 1)) as usize);
                }
                _ => {}
            }
        }
        None
    }

    /// Enters `pool` for every granule from `first` to `last`.
    pub(crate) fn insert(&self, first: u64, last: u64, pool: usize) {
        for key in self.key(first)..=self.key(last) {
            let free = self
                .probe(key)
                .find(|bucket| bucket.load(Ordering::Relaxed) <= REMOVED);
            if let Some(bucket) = free {
                bucket.store((key << POOL_BITS) | pool as u64, Ordering::Release);
            }
        }
    }

    /// Undoes [`insert`](Self::insert).
    pub(crate) fn remove(&self, first: u64, last: u64) {
        for key in self.key(first)..=self.key(last) {
            let found = self
                .probe(key)
                .find(|bucket| bucket.load(Ordering::Relaxed) >> POOL_BITS == key);
            if let Some(bucket) = found {
                bucket.store(REMOVED, Ordering::Release);
            }
        }
        self.sweep();
    }

    /// Forgets removed granules that nothing stands behind, so that they do not pile up.
    fn sweep(&self) {
        let mut after = self.buckets[0].load(Ordering::Relaxed);
        for bucket in self.buckets.iter().rev() {
            let word = bucket.load(Ordering::Relaxed);
            if word == REMOVED && after == EMPTY {
                bucket.store(EMPTY, Ordering::Release);
            }
            after = bucket.load(Ordering::Relaxed);
        }
    }

    /// Never 0 or below, so that no entry looks empty.
    fn key(&self, address: u64) -> u64 {
        (address >> self.granule_shift) + 1
    }

    fn probe(&self, key: u64) -> impl Iterator<Item = &AtomicU64> {
        let shift = u64::BITS - self.buckets.len().trailing_zeros();
        let start = key.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> shift;
        let (before, from) = self.buckets.split_at(start as usize);
        from.iter().chain(before)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_removed_granule_does_not_hide_what_collided_with_it() {
        let index = AddressIndex::new(20, 8);
        for pool in 0..8_u64 {
            index.insert(pool << 30, (pool << 30) + 1, pool as usize);
        }
        for pool in 0..8_u64 {
            assert_eq!(index.find((pool << 30) + 4096), Some(pool as usize));
            index.remove(pool << 30, (pool << 30) + 1);
            assert_eq!(index.find((pool << 30) + 4096), None);
            for other in pool + 1..8 {
                assert_eq!(index.find(other << 30), Some(other as usize));
            }
        }
    }

    #[test]
    fn coming_and_going_leaves_the_table_empty() {
        let index = AddressIndex::new(20, 4);
        for round in 0..1000_u64 {
            index.insert(round << 20, round << 20, 3);
            index.remove(round << 20, round << 20);
        }
        let words = index.buckets.iter().map(|b| b.load(Ordering::Relaxed));
        assert!(words.filter(|word| *word != EMPTY).count() <= 1);
    }
}
