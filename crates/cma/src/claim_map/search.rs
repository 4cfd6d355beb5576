//! Where the next claim fits.

use super::ClaimMap;
use crate::block::aligned_starts;
use crate::filing::{CHUNK_ORDER, CHUNK_UNITS};

impl ClaimMap {
    /// Where a window is free, in units of the chunks.
    #[inline]
    pub(super) fn find(&mut self, units: u32, align_order: u32) -> Option<u32> {
        if units.wrapping_sub(1) >= self.free {
            return None;
        }
        self.flush();
        let order = align_order.max(units.next_power_of_two().ilog2());
        if order <= CHUNK_ORDER {
            if let Some(at) = self.find_open(order) {
                return Some(at);
            }
            self.settle();
            let words = self.chunks.as_flattened();
            let found = self.filing.find(order, |word| words[word as usize]);
            if found.is_some() || align_order == order && units == 1 << order {
                return found;
            }
            return self.scan(units, align_order);
        }
        self.settle();
        self.find_chunks(units, align_order)
    }

    /// Looks into the chunk that was changed last. A wholly free one is left whole if it can be.
    #[inline]
    fn find_open(&self, order: u32) -> Option<u32> {
        let chunk = self.chunks.get(self.open as usize)?;
        let first = self.open << CHUNK_ORDER;
        if order > 6 {
            let pairs = [chunk[0] & chunk[1], chunk[2] & chunk[3]];
            let low = pairs[0] == u64::MAX;
            let high = pairs[1] == u64::MAX;
            return match (low, high, order) {
                (true, false, 7) => Some(first),
                (false, true, 7) => Some(first + CHUNK_UNITS / 2),
                _ => None,
            };
        }
        if chunk.iter().all(|word| *word == u64::MAX) {
            return None;
        }
        // Without a branch for each word: which one has room is anyone's guess.
        let starts = chunk.map(|word| aligned_starts(word, order));
        let mut room = 0;
        for (bit, starts) in starts.iter().enumerate() {
            room |= u32::from(*starts != 0) << bit;
        }
        let index = room.trailing_zeros();
        let starts = starts.get(index as usize)?;
        Some(first + index * 64 + starts.trailing_zeros())
    }

    /// A window of more than a chunk, or aligned to more than one.
    fn find_chunks(&mut self, units: u32, align_order: u32) -> Option<u32> {
        let whole = units.div_ceil(CHUNK_UNITS);
        let over = align_order.saturating_sub(CHUNK_ORDER);
        let step = 1_u32.checked_shl(over);
        let sufficient = step.and_then(|step| whole.checked_add(step - 1));
        if let Some(chunk) = sufficient.and_then(|len| self.filing.find_chunks(len)) {
            return self.align(chunk << CHUNK_ORDER, align_order);
        }
        let exact = align_order == CHUNK_ORDER && units % CHUNK_UNITS == 0;
        if exact {
            None
        } else {
            self.scan(units, align_order)
        }
    }

    /// Whether a unit is aligned in physical memory.
    #[inline]
    pub(super) fn is_aligned(&self, at: u32, align_order: u32) -> bool {
        let unit = (self.origin << CHUNK_ORDER) + u64::from(at);
        unit == 0 || unit.trailing_zeros() >= align_order
    }

    /// The first unit from `at` on that is aligned in physical memory.
    fn align(&self, at: u32, align_order: u32) -> Option<u32> {
        let low = (self.origin << CHUNK_ORDER) + u64::from(at);
        let mask = 1_u64.checked_shl(align_order).unwrap_or(0).wrapping_sub(1);
        let up = low.wrapping_neg() & mask;
        u32::try_from(up).ok()?.checked_add(at)
    }

    /// Looks at every free run, unless blocks of about half the size are missing.
    #[cold]
    fn scan(&mut self, units: u32, align_order: u32) -> Option<u32> {
        // A window holds an aligned block of the power of two at or below its length, at its start
        // where it is aligned that far; otherwise of the half of that, wherever it lies.
        let floor = units.ilog2();
        let inside = if floor <= align_order {
            floor
        } else {
            floor - 1
        };
        let possible = match inside.checked_sub(CHUNK_ORDER) {
            Some(above) => self.filing.longest_chunks() >= 1 << above,
            None => self.filing.has(inside),
        };
        if !possible {
            return None;
        }
        self.scans.searches += 1;
        let (mut from, mut words, mut found) = (0, 0, None);
        while let Some((start, len)) = self.next_run(from, &mut words) {
            let end = start + len;
            let at = self.align(start, align_order);
            found = at.filter(|at| *at < end && units <= end - at);
            if found.is_some() {
                break;
            }
            from = end;
        }
        self.scans.words += words;
        found
    }

    /// The first maximal free run at or above `from`. Counts the words read.
    pub(super) fn next_run(&self, from: u32, read: &mut u64) -> Option<(u32, u32)> {
        let start = self.next_bit(from, 0, read)?;
        let end = self.next_bit(start, u64::MAX, read);
        let end = end.unwrap_or(self.chunks.len() as u32 * CHUNK_UNITS);
        Some((start, end - start))
    }

    /// The first unit at or above `from` whose bit, inverted by `flip`, is set.
    fn next_bit(&self, from: u32, flip: u64, read: &mut u64) -> Option<u32> {
        let mut index = (from / 64) as usize;
        let mut word = (self.word(index)? ^ flip) & u64::MAX << (from % 64);
        *read += 1;
        while word == 0 {
            index += 1;
            word = self.word(index)? ^ flip;
            *read += 1;
        }
        Some(index as u32 * 64 + word.trailing_zeros())
    }
}
