//! Tables that were used lately, found without a walk.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use crate::sync::AtomicU64;

/// Numbers of tables of one height, by what they map. One place for each low part of a tag: the
/// last one remembered there is known.
///
/// A table may be remembered only by a caller that works on addresses which it maps, so that nobody
/// takes it out of the tree meanwhile; and whoever takes it out makes it forgotten first for those
/// who get its addresses next.
pub(crate) struct Hints {
    /// The tag in the upper half, one more than the table's number in the lower; 0 for none.
    places: Box<[AtomicU64]>,
    /// log2 of what one table maps.
    shift: u32,
    /// log2 of what one entry maps.
    entry_shift: u32,
    /// The bits below what one table maps.
    table_mask: u64,
    /// Bits that are clear in what whole entries map; all of them where entries are not written
    /// one by one.
    entry_mask: u64,
}

/// Entries of a remembered table.
#[derive(Clone, Copy)]
pub(crate) struct Near {
    /// The table's number.
    pub(crate) number: u32,
    /// The first entry.
    pub(crate) first: usize,
    /// How many, at least one.
    pub(crate) count: usize,
}

impl Hints {
    /// Hints for tables that map `2^shift` bytes by entries of `2^entry_shift`, each of which `is_free`
    /// to be written alone, in `count` places, a power of two; `None` where there is no memory.
    pub(crate) fn new(shift: u32, entry_shift: u32, is_free: bool, count: usize) -> Option<Self> {
        let mut places = Vec::new();
        places.try_reserve_exact(count).ok()?;
        places.resize_with(count, AtomicU64::default);
        Some(Self {
            places: places.into_boxed_slice(),
            shift,
            entry_shift,
            table_mask: (1 << shift) - 1,
            entry_mask: if is_free {
                (1 << entry_shift) - 1
            } else {
                u64::MAX
            },
        })
    }

    /// The entry of a remembered table that alone maps `[at, at + len)` to memory at `to`: the table's
    /// number, and its index there. Only addresses that a tree has are remembered, so that this checks
    /// the range as well.
    #[inline(always)]
    pub(crate) fn entry(&self, at: u64, len: u64, to: u64) -> Option<(u32, usize)> {
        if len != 1 << self.entry_shift || (at | len | to) & self.entry_mask != 0 {
            return None;
        }
        let index = (at & self.table_mask) >> self.entry_shift;
        Some((self.get(at)?, index as usize))
    }

    /// As [`entry`](Self::entry), for some entries, but not all of a table's.
    #[inline(always)]
    pub(crate) fn near(&self, at: u64, len: u64, to: u64) -> Option<Near> {
        let offset = at & self.table_mask;
        let is_part = len.wrapping_sub(1) < self.table_mask && offset + len - 1 <= self.table_mask;
        if (at | len | to) & self.entry_mask != 0 || !is_part {
            return None;
        }
        Some(Near {
            number: self.get(at)?,
            first: (offset >> self.entry_shift) as usize,
            count: (len >> self.entry_shift) as usize,
        })
    }

    /// The number of the table that maps `address`.
    #[inline]
    pub(crate) fn get(&self, address: u64) -> Option<u32> {
        let tag = address >> self.shift;
        let hint = self.place(tag).load(Ordering::Acquire);
        if hint >> 32 != tag {
            return None;
        }
        (hint as u32).checked_sub(1)
    }

    #[inline]
    pub(crate) fn remember(&self, address: u64, number: u32) {
        let tag = address >> self.shift;
        let hint = tag << 32 | u64::from(number + 1);
        self.place(tag).store(hint, Ordering::Release);
    }

    /// Forgets the tables of `[start, start + bytes)`.
    pub(crate) fn forget(&self, start: u64, bytes: u64) {
        let tags = start >> self.shift..(start + bytes).div_ceil(1 << self.shift);
        if tags.end - tags.start < self.places.len() as u64 {
            tags.clone()
                .for_each(|tag| forget_at(self.place(tag), &tags));
        } else {
            self.places.iter().for_each(|place| forget_at(place, &tags));
        }
    }

    #[inline]
    fn place(&self, tag: u64) -> &AtomicU64 {
        &self.places[tag as usize & (self.places.len() - 1)]
    }
}

fn forget_at(place: &AtomicU64, tags: &core::ops::Range<u64>) {
    let seen = place.load(Ordering::Relaxed);
    if tags.contains(&(seen >> 32)) {
        // Where it changed meanwhile it is no longer one of ours.
        let _ = place.compare_exchange(seen, 0, Ordering::AcqRel, Ordering::Relaxed);
    }
}
