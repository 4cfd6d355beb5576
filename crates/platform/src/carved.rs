//! A run of RAM lent out piece by piece.

use core::fmt;

use dmakit_addr::{Address, PhysRange};

use crate::Segment;

/// A segment cut into equal units, of which runs are taken out as segments of their own and put
/// back; which are out is kept here, one bit each, and not in the memory itself.
///
/// Holding a piece that was taken proves that nobody else holds any of its bytes: the whole gives
/// no access to its own. `B` keeps the bits, 64 units in each word: an array, or memory lent by the
/// caller.
pub struct Carved<B> {
    whole: Segment,
    unit_bytes: u64,
    taken: B,
}

impl<const WORDS: usize> Carved<[u64; WORDS]> {
    /// `whole`, cut into units of `unit_bytes`; what is left over at the end is not lent.
    ///
    /// # Errors
    /// The segment as it was, where a unit has no bytes or there would be too many.
    pub fn new(whole: Segment, unit_bytes: u64) -> Result<Self, Segment> {
        Self::with_bits(whole, unit_bytes, [0; WORDS])
    }
}

impl<B: AsRef<[u64]> + AsMut<[u64]>> Carved<B> {
    /// The same with the bits kept in `taken`, whatever stands there.
    ///
    /// # Errors
    /// The segment as it was, where a unit has no bytes or there would be too many.
    pub fn with_bits(whole: Segment, unit_bytes: u64, mut taken: B) -> Result<Self, Segment> {
        let bits = taken.as_ref().len() as u64 * 64;
        match whole.len().checked_div(unit_bytes) {
            Some(units) if units <= bits => {
                taken.as_mut().fill(0);
                Ok(Self {
                    whole,
                    unit_bytes,
                    taken,
                })
            }
            _ => Err(whole),
        }
    }

    /// The physical run of the whole.
    pub fn range(&self) -> PhysRange {
        self.whole.range()
    }

    /// How many units there are.
    pub fn units(&self) -> usize {
        // At most the bits that there are, see `with_bits`.
        (self.whole.len() / self.unit_bytes) as usize
    }

    /// Whether nothing is out.
    pub fn is_whole(&self) -> bool {
        self.taken.as_ref().iter().all(|word| *word == 0)
    }

    /// Whether a unit is out; one that does not exist is.
    pub fn is_out(&self, unit: usize) -> bool {
        unit >= self.units() || self.taken.as_ref()[unit / 64] >> (unit % 64) & 1 != 0
    }

    /// The units from `first` on, `count` of them, as a segment; `None` where they are not all
    /// here. O(count / 64).
    pub fn take(&mut self, first: usize, count: usize) -> Option<Segment> {
        let end = first
            .checked_add(count)
            .filter(|end| *end <= self.units())?;
        if count == 0 || !self.each_word(first, end, |word, bits| word & bits == 0) {
            return None;
        }
        self.mark(first, end, |word, bits| word | bits);
        let unit = self.unit_bytes;
        // SAFETY: the run lies inside the whole, and its units' bits were clear: no other segment
        // has any of its bytes, and none gets them before `put` takes this one back.
        unsafe { self.whole.part(first as u64 * unit, count as u64 * unit) }
    }

    /// Takes a run of units back that was taken from here. O(count / 64).
    ///
    /// # Errors
    /// The segment as it was, where it is not a run of whole units that are out.
    pub fn put(&mut self, segment: Segment) -> Result<(), Segment> {
        let offset = segment
            .range()
            .start()
            .offset_from(self.whole.range().start());
        let units = offset.filter(|offset| {
            self.whole.range().contains_range(&segment.range())
                && offset % self.unit_bytes == 0
                && segment.len() % self.unit_bytes == 0
                && self.whole.is_same_memory(&segment, *offset)
        });
        let Some(offset) = units else {
            return Err(segment);
        };
        let first = (offset / self.unit_bytes) as usize;
        let end = first + (segment.len() / self.unit_bytes) as usize;
        if !self.each_word(first, end, |word, bits| word & bits == bits) {
            return Err(segment);
        }
        self.mark(first, end, |word, bits| word & !bits);
        Ok(())
    }

    /// The whole again.
    ///
    /// # Errors
    /// As it was, where something is out.
    pub fn into_segment(self) -> Result<Segment, Self> {
        if self.is_whole() {
            Ok(self.whole)
        } else {
            Err(self)
        }
    }

    /// All that is not out, ascending; what is out belongs to whoever has it, for good.
    pub fn into_held(self) -> Held<B> {
        Held {
            carved: self,
            offset: 0,
        }
    }

    fn each_word(&self, first: usize, end: usize, holds: impl Fn(u64, u64) -> bool) -> bool {
        words(first, end).all(|(index, bits)| holds(self.taken.as_ref()[index], bits))
    }

    fn mark(&mut self, first: usize, end: usize, change: impl Fn(u64, u64) -> u64) {
        let taken = self.taken.as_mut();
        for (index, bits) in words(first, end) {
            taken[index] = change(taken[index], bits);
        }
    }
}

/// What was not out of a [`Carved`], as segments.
pub struct Held<B> {
    carved: Carved<B>,
    /// All bytes below were given or are out.
    offset: u64,
}

impl<B: AsRef<[u64]> + AsMut<[u64]>> Iterator for Held<B> {
    type Item = Segment;

    fn next(&mut self) -> Option<Segment> {
        let Carved {
            whole, unit_bytes, ..
        } = &self.carved;
        let units = self.carved.units();
        let mut unit = (self.offset / unit_bytes) as usize;
        while unit < units && self.carved.is_out(unit) {
            unit += 1;
        }
        let start = self.offset.max(unit as u64 * unit_bytes);
        while unit < units && !self.carved.is_out(unit) {
            unit += 1;
        }
        // What is left over at the end was never lent.
        let end = match unit < units {
            true => unit as u64 * unit_bytes,
            false => whole.len(),
        };
        self.offset = end;
        if start >= end {
            return None;
        }
        // SAFETY: the run's units are not out, and none of them is taken any more: this iterator
        // owns the whole, gives no access to it, and passes each byte once, since the offset only
        // goes up.
        unsafe { whole.part(start, end - start) }
    }
}

impl<B> fmt::Debug for Held<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Held({}, from {})",
            self.carved.whole.range(),
            self.offset
        )
    }
}

/// The words of a bitmap that the bits from `first` up to `end` touch, each with those bits.
fn words(first: usize, end: usize) -> impl Iterator<Item = (usize, u64)> {
    (first / 64..end.div_ceil(64)).map(move |index| {
        let low = first.saturating_sub(index * 64);
        let high = (end - index * 64).min(64);
        (index, (u64::MAX >> (64 - high)) & (u64::MAX << low))
    })
}

impl<B: AsRef<[u64]> + AsMut<[u64]>> fmt::Debug for Carved<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let out: u32 = self
            .taken
            .as_ref()
            .iter()
            .map(|word| word.count_ones())
            .sum();
        write!(
            f,
            "Carved({}, {out} of {} units out)",
            self.range(),
            self.units()
        )
    }
}
