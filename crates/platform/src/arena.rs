//! A growing list that is read without a lock.

use alloc::alloc::{Layout, alloc_zeroed, dealloc};
use alloc::vec::Vec;
use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::ptr;
#[cfg(not(loom))]
use core::sync::atomic::AtomicPtr as Place;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
#[cfg(loom)]
use loom::sync::atomic::AtomicPtr as Place;

/// log2 of the length of the first bucket.
const FIRST_SHIFT: u32 = 5;

/// Buckets: each twice as long as the one before, `2^32` values in all.
const BUCKETS: usize = 27;

/// Values that are added one by one, never move, and stay until the arena is dropped.
///
/// Any thread may add, and any thread may look, with no lock: looking is three loads. It is how page
/// tables and the like are reached by number from safe code while other CPUs add more.
///
/// Some values can be kept at hand, each in a place that its user numbers as he likes: looking there
/// is one load. What is kept where is a hint, and who looks sees by the value whether it is the one.
pub struct Arena<T> {
    reserved: AtomicUsize,
    buckets: [AtomicPtr<Entry<T>>; BUCKETS],
    /// Each null, or a value of an entry that is full.
    places: Vec<Place<T>>,
}

struct Entry<T> {
    /// Set once, after `value` was written, and never cleared.
    full: AtomicBool,
    value: UnsafeCell<MaybeUninit<T>>,
}

// SAFETY: values are moved in and out by threads (`Send`), and looked at by several (`Sync`).
unsafe impl<T: Send> Send for Arena<T> {}
// SAFETY: as above; an entry is written by one thread only, before `full` is set.
unsafe impl<T: Send + Sync> Sync for Arena<T> {}

/// Where value `index` lies: its bucket, and its place there.
#[inline]
fn place(index: usize) -> (usize, usize) {
    // Counted from the first bucket's length on, the highest bit says the bucket and the rest the
    // place. What wraps around ends in a bucket that there is not.
    let shifted = index.wrapping_add(bucket_len(0));
    let top = (usize::BITS - 1).wrapping_sub(shifted.leading_zeros());
    let bucket = top.wrapping_sub(FIRST_SHIFT) as usize;
    (bucket, shifted ^ 1_usize.wrapping_shl(top))
}

#[inline]
fn bucket_len(bucket: usize) -> usize {
    1 << (bucket as u32 + FIRST_SHIFT)
}

impl<T> Default for Arena<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Arena<T> {
    /// An empty arena. Allocates nothing.
    pub const fn new() -> Self {
        Self {
            reserved: AtomicUsize::new(0),
            buckets: [const { AtomicPtr::new(ptr::null_mut()) }; BUCKETS],
            places: Vec::new(),
        }
    }

    /// An empty arena with so many places for what is kept at hand; `None` where there is no memory
    /// for them.
    pub fn with_places(count: usize) -> Option<Self> {
        let mut arena = Self::new();
        arena.places.try_reserve_exact(count).ok()?;
        arena
            .places
            .resize_with(count, || Place::new(ptr::null_mut()));
        Some(arena)
    }

    /// Adds a value: its number. Allocates memory now and then, by the program's allocator.
    ///
    /// # Errors
    /// The value, where there is no memory or no number left. The number meant for it stays unused.
    pub fn push(&self, value: T) -> Result<usize, T> {
        let index = self.reserved.fetch_add(1, Ordering::Relaxed);
        let (bucket, at) = place(index);
        let Some(entries) = self
            .buckets
            .get(bucket)
            .and_then(|slot| Self::bucket(slot, bucket))
        else {
            return Err(value);
        };
        // SAFETY: `at` is below the bucket's length, and this index was reserved by this call alone,
        // so nobody else writes the entry, and nobody reads it before `full` is set.
        unsafe {
            let entry = &*entries.add(at);
            if entry.full.load(Ordering::Relaxed) {
                // Left by a drain that was dropped half way: somebody may look at it.
                return Err(value);
            }
            (*entry.value.get()).write(value);
            entry.full.store(true, Ordering::Release);
        }
        Ok(index)
    }

    /// The value of a number, or `None` where there is none (yet).
    #[inline]
    pub fn get(&self, index: usize) -> Option<&T> {
        let (bucket, at) = place(index);
        let entries = self.buckets.get(bucket)?.load(Ordering::Acquire);
        if entries.is_null() {
            return None;
        }
        // SAFETY: a bucket, once there, has its length's worth of entries and stays until drop;
        // an entry that is full was written before, and is never written again.
        unsafe {
            let entry = &*entries.add(at);
            entry
                .full
                .load(Ordering::Acquire)
                .then(|| (*entry.value.get()).assume_init_ref())
        }
    }

    /// Keeps the value of a number at hand in a place, instead of what was there; nothing where there
    /// is no such value or place.
    #[inline]
    pub fn keep(&self, place: usize, index: usize) {
        if let (Some(place), Some(value)) = (self.places.get(place), self.get(index)) {
            // Release: who finds the value there finds it written.
            place.store(ptr::from_ref(value).cast_mut(), Ordering::Release);
        }
    }

    /// What is kept in a place, if anything is.
    #[inline(always)]
    pub fn kept(&self, place: usize) -> Option<&T> {
        let value = self.places.get(place)?.load(Ordering::Acquire);
        // SAFETY: a place is null or holds a value that `get` gave out shared, which stays as it is
        // until the arena is dropped or drained: both have exclusive access, and draining empties the
        // places first.
        unsafe { value.cast_const().as_ref() }
    }

    /// How many numbers were given out, used or not.
    pub fn len(&self) -> usize {
        self.reserved.load(Ordering::Relaxed)
    }

    /// Whether nothing was ever added.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes all values out, in the order of their numbers.
    pub fn drain(&mut self) -> impl Iterator<Item = T> + '_ {
        for place in &self.places {
            place.store(ptr::null_mut(), Ordering::Relaxed);
        }
        let len = core::mem::take(self.reserved.get_mut());
        (0..len).filter_map(|index| {
            let (bucket, at) = place(index);
            let entries = *self.buckets.get_mut(bucket)?.get_mut();
            if entries.is_null() {
                return None;
            }
            // SAFETY: exclusive access; a full entry holds a value, which is moved out once, since
            // it is marked as not full.
            unsafe {
                let entry = &mut *entries.add(at);
                core::mem::take(entry.full.get_mut())
                    .then(|| entry.value.get_mut().assume_init_read())
            }
        })
    }

    /// The entries of a bucket, made where they are missing.
    fn bucket(slot: &AtomicPtr<Entry<T>>, bucket: usize) -> Option<*mut Entry<T>> {
        let there = slot.load(Ordering::Acquire);
        if !there.is_null() {
            return Some(there);
        }
        let layout = Layout::array::<Entry<T>>(bucket_len(bucket)).ok()?;
        // SAFETY: an entry has a flag, so the layout is not empty; all zeroes is an entry that is
        // not full.
        let fresh = unsafe { alloc_zeroed(layout) }.cast::<Entry<T>>();
        if fresh.is_null() {
            return None;
        }
        match slot.compare_exchange(ptr::null_mut(), fresh, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Some(fresh),
            Err(there) => {
                // SAFETY: allocated above with this layout, and seen by nobody.
                unsafe { dealloc(fresh.cast(), layout) };
                Some(there)
            }
        }
    }
}

impl<T> Drop for Arena<T> {
    fn drop(&mut self) {
        // A drain that is dropped half way leaks the rest; this one runs to its end.
        self.drain().for_each(drop);
        for (bucket, slot) in self.buckets.iter_mut().enumerate() {
            let entries = *slot.get_mut();
            if let (false, Ok(layout)) = (
                entries.is_null(),
                Layout::array::<Entry<T>>(bucket_len(bucket)),
            ) {
                // SAFETY: allocated by `bucket` with this layout; nothing refers to it any more.
                unsafe { dealloc(entries.cast(), layout) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::vec::Vec;

    #[test]
    fn every_index_has_a_place_of_its_own() {
        let mut expected = (0, 0);
        for index in 0..10_000 {
            assert_eq!(place(index), expected);
            expected.1 += 1;
            if expected.1 == bucket_len(expected.0) {
                expected = (expected.0 + 1, 0);
            }
        }
        assert_eq!(place((1 << 32) - 33).0, BUCKETS - 1);
        for outside in [(1 << 32) - 32, usize::MAX - 32, usize::MAX - 31, usize::MAX] {
            assert!(place(outside).0 >= BUCKETS, "{outside:#x}");
        }
    }

    #[test]
    fn what_is_kept_at_hand_is_the_last_one_put_there_until_all_is_taken_out() {
        let mut arena = Arena::with_places(2).unwrap();
        let numbers = [7, 8].map(|value| arena.push(value).ok().unwrap());
        assert_eq!(arena.kept(0), None);
        arena.keep(0, numbers[0]);
        arena.keep(0, numbers[1]);
        arena.keep(1, 2);
        arena.keep(2, numbers[0]);
        assert_eq!(
            [0, 1, 2].map(|place| arena.kept(place).copied()),
            [Some(8), None, None]
        );
        assert!(ptr::eq(
            arena.kept(0).unwrap(),
            arena.get(numbers[1]).unwrap()
        ));
        drop(arena.drain());
        assert_eq!(arena.kept(0), None);
        // Nothing was taken: what is there stays, and nobody writes over it.
        assert_eq!((arena.push(9), arena.get(0)), (Err(9), Some(&7)));
    }

    #[test]
    fn what_several_threads_add_is_all_there_and_dropped_once() {
        let count = Arc::new(());
        let mut arena = Arena::new();
        std::thread::scope(|scope| {
            for thread in 0..3 {
                let (arena, count) = (&arena, &count);
                scope.spawn(move || {
                    for i in 0..500 {
                        let index = arena.push((thread, i, count.clone())).ok().unwrap();
                        assert_eq!(arena.get(index).map(|v| (v.0, v.1)), Some((thread, i)));
                    }
                });
            }
        });
        assert_eq!(arena.len(), 1500);
        assert!(arena.get(1500).is_none());
        assert_eq!(Arc::strong_count(&count), 1501);
        let some: Vec<_> = arena.drain().collect();
        assert_eq!(some.len(), 1500);
        assert!(arena.get(3).is_none());
        drop(some);
        arena.push((9, 9, count.clone())).ok().unwrap();
        drop(arena);
        assert_eq!(Arc::strong_count(&count), 1);
    }
}
