//! Tables in memory, and those that wait to be used.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use dmakit_addr::PhysAddr;
use dmakit_platform::{Arena, Segment};

/// One table: what hardware reads, and the numbers of the tables below it.
pub(crate) struct Table {
    pub(crate) segment: Segment,
    /// One more than the number of the table under each entry, 0 for none. Empty at height 0.
    pub(crate) below: Box<[AtomicU32]>,
    /// The next table of the list that this one is in, plus one.
    pub(crate) next: AtomicU32,
}

impl Table {
    /// A table of `entries` in a zeroed segment; `None` where there is no memory for its records.
    pub(crate) fn new(segment: Segment, entries: usize, height: u32) -> Result<Self, Segment> {
        let mut below = Vec::new();
        if height > 0 {
            if below.try_reserve_exact(entries).is_err() {
                return Err(segment);
            }
            below.resize_with(entries, AtomicU32::default);
        }
        Ok(Self {
            segment,
            below: below.into_boxed_slice(),
            next: AtomicU32::new(0),
        })
    }

    /// Its entries.
    #[inline]
    pub(crate) fn words(&self) -> &[AtomicU64] {
        // A table's segment is aligned to its size.
        self.segment.window().words64().unwrap_or(&[])
    }

    #[inline]
    pub(crate) fn phys(&self) -> PhysAddr {
        self.segment.range().start()
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

/// Clean tables, last in, first out, shared without a lock.
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
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            table.next.store(head as u32, Ordering::Relaxed);
            let new = head & !u64::from(u32::MAX) | u64::from(number + 1);
            match self
                .head
                .compare_exchange_weak(head, new, Ordering::Release, Ordering::Relaxed)
            {
                Ok(_) => break,
                Err(now) => head = now,
            }
        }
        self.len.fetch_add(1, Ordering::Relaxed);
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
