//! Tables in memory, and those that wait to be used.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::Ordering;

use dmakit_addr::PhysAddr;
use dmakit_platform::{Arena, Words};

use crate::hint::NOWHERE;
use crate::sync::{AtomicU32, AtomicU64, Word};

/// One table: what hardware reads, and the numbers of the tables below it.
pub(crate) struct Table {
    pub(crate) words: Words,
    /// The first address that it maps, with its height: see `hint`.
    pub(crate) start: AtomicU64,
    /// One more than the number of the table under each entry, 0 for none. Empty at height 0.
    pub(crate) below: Box<[AtomicU32]>,
    /// The next table of the list that this one is in, plus one.
    pub(crate) next: AtomicU32,
}

impl Table {
    /// A table of `entries`; the words, where there is no memory for its records.
    pub(crate) fn new(words: Words, entries: usize, height: u32) -> Result<Self, Words> {
        let mut below = Vec::new();
        if height > 0 {
            if below.try_reserve_exact(entries).is_err() {
                return Err(words);
            }
            below.resize_with(entries, AtomicU32::default);
        }
        Ok(Self {
            words,
            start: AtomicU64::new(NOWHERE),
            below: below.into_boxed_slice(),
            next: AtomicU32::new(0),
        })
    }

    /// Its entries.
    #[inline(always)]
    pub(crate) fn words(&self) -> &[Word] {
        &self.words
    }

    /// As [`child`](Self::child), never an old value: a read-modify-write meets the last one.
    #[cold]
    pub(crate) fn latest_child(&self, index: usize) -> Option<u32> {
        self.below
            .get(index)?
            .fetch_or(0, Ordering::AcqRel)
            .checked_sub(1)
    }

    /// How many of the entries `indices` there are before the first with a table under it.
    #[inline]
    pub(crate) fn leaves_from(&self, indices: Range<usize>) -> usize {
        // A leaf table has no records of tables below.
        let below = self.below.get(indices.clone()).unwrap_or(&[]);
        below
            .iter()
            .position(|child| child.load(Ordering::Acquire) != 0)
            .unwrap_or(indices.len())
    }

    /// Whether nothing is mapped by the entries `indices`, nor by tables under them.
    pub(crate) fn is_clear(&self, indices: Range<usize>) -> bool {
        let words = self.words().get(indices.clone()).unwrap_or(&[]);
        words.iter().all(|word| word.load(Ordering::Relaxed) == 0)
            && self.leaves_from(indices.clone()) == indices.len()
    }

    /// Puts table `number` under entry `index`, unless another one came first: its number then.
    pub(crate) fn install(&self, index: usize, number: u32) -> Result<(), u32> {
        self.below[index]
            .compare_exchange(0, number + 1, Ordering::AcqRel, Ordering::Acquire)
            .map(|_| ())
            .map_err(|there| there - 1)
    }

    #[inline]
    pub(crate) fn phys(&self) -> PhysAddr {
        self.words.segment().range().start()
    }

    /// The number of the table under entry `index`.
    #[inline]
    pub(crate) fn child(&self, index: usize) -> Option<u32> {
        self.below
            .get(index)?
            .load(Ordering::Acquire)
            .checked_sub(1)
    }
}

/// Tables out of use, last in, first out, shared without a lock.
///
/// A count in the head's upper half changes with every pop, so that a head which left and came back
/// meanwhile is not taken for the one that was looked at.
#[derive(Default)]
pub(crate) struct Stock {
    head: AtomicU64,
    len: AtomicU32,
}

impl Stock {
    pub(crate) fn len(&self) -> u32 {
        self.len.load(Ordering::Relaxed)
    }

    pub(crate) fn push(&self, tables: &Arena<Table>, number: u32) {
        let Some(table) = tables.get(number as usize) else {
            return;
        };
        // Before it can be popped, so that the count is never short of one.
        self.len.fetch_add(1, Ordering::Relaxed);
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            table.next.store(head as u32, Ordering::Relaxed);
            let new = head & !u64::from(u32::MAX) | u64::from(number + 1);
            match self
                .head
                .compare_exchange_weak(head, new, Ordering::Release, Ordering::Relaxed)
            {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    pub(crate) fn pop(&self, tables: &Arena<Table>) -> Option<u32> {
        let mut head = self.head.load(Ordering::Acquire);
        loop {
            let number = (head as u32).checked_sub(1)?;
            // Tables stay in the arena, so that a stale head can be looked at without harm.
            let next = tables.get(number as usize)?.next.load(Ordering::Relaxed);
            let count = (head >> 32).wrapping_add(1);
            let new = count << 32 | u64::from(next);
            match self
                .head
                .compare_exchange_weak(head, new, Ordering::Acquire, Ordering::Acquire)
            {
                Ok(_) => {
                    self.len.fetch_sub(1, Ordering::Relaxed);
                    return Some(number);
                }
                Err(now) => head = now,
            }
        }
    }
}
