//! What a run of slots must look like to serve a request.

/// The shape of a wanted run of slots, in the slot numbers of one area or pool.
///
/// Alignment and boundary are those of device addresses, not of slot numbers: `origin` says how
/// the two relate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fit {
    /// How many slots; at least one.
    pub slots: u32,
    /// Alignment of the first slot's device address, a power of two in slots.
    pub align: u32,
    /// What the first slot's device address leaves modulo `align`, in slots.
    pub phase: u32,
    /// Edges that the run must not cross lie this many slots apart, a power of two; 0 for none.
    pub boundary: u64,
    /// The device address of slot 0, in slots.
    pub origin: u64,
    /// The first slot that is out of the device's reach.
    pub limit: u32,
}

impl Fit {
    /// `slots` anywhere.
    #[inline]
    pub const fn anywhere(slots: u32) -> Self {
        Self {
            slots,
            align: 1,
            phase: 0,
            boundary: 0,
            origin: 0,
            limit: u32::MAX,
        }
    }

    /// `slots` that start at a multiple of `align` slots, a power of two.
    pub const fn aligned(slots: u32, align: u32) -> Self {
        Self {
            align,
            ..Self::anywhere(slots)
        }
    }

    /// The same wish, in the numbers of an area whose first slot is `first` here.
    #[inline]
    #[must_use]
    pub fn within(&self, first: u32) -> Self {
        Self {
            origin: self.origin.wrapping_add(u64::from(first)),
            limit: self.limit.saturating_sub(first),
            ..*self
        }
    }

    /// What an index of an area whose first slot is `first` here must know.
    #[inline]
    pub(crate) fn wish(&self, first: u32) -> Wish {
        let low = (self.origin as u32).wrapping_add(first);
        Wish {
            slots: self.slots,
            align: self.align,
            residue: self.phase.wrapping_sub(low) & (self.align - 1),
        }
    }

    /// Whether more than alignment must be looked at in an area of `slots` slots.
    pub(crate) fn is_cut(&self, slots: u32) -> bool {
        self.limit < slots || (self.boundary != 0 && self.is_crossed(0, slots))
    }

    /// The lowest place in the free run of `len` slots at `start` where the wish is met.
    #[inline]
    pub(crate) fn place(&self, start: u32, len: u32) -> Option<u32> {
        let end = (start + len).min(self.limit);
        let wish = self.wish(0);
        let first = wish.align_up(start);
        if u64::from(first) + u64::from(self.slots) > u64::from(end) {
            return None;
        }
        if self.boundary == 0 || !self.is_crossed(first, self.slots) {
            return Some(first);
        }
        self.place_past_edge(wish, first, end)
    }

    #[cold]
    fn place_past_edge(&self, wish: Wish, first: u32, end: u32) -> Option<u32> {
        // The best place after an edge is the first aligned one: if a run from there crosses the
        // next edge, so does every other, because edges repeat with the alignment or oftener.
        let past = self.boundary - self.past_edge(first);
        let edge = u32::try_from(u64::from(first) + past).ok()?;
        let second = wish.align_up(edge);
        let fits = u64::from(second) + u64::from(self.slots) <= u64::from(end)
            && !self.is_crossed(second, self.slots);
        fits.then_some(second)
    }

    #[inline]
    fn is_crossed(&self, first: u32, slots: u32) -> bool {
        self.past_edge(first) + u64::from(slots) > self.boundary
    }

    /// How far `slot` lies past the last edge.
    #[inline]
    fn past_edge(&self, slot: u32) -> u64 {
        self.origin.wrapping_add(u64::from(slot)) & (self.boundary - 1)
    }
}

/// How many slots, and where the first may lie, in the slot numbers of one area.
#[derive(Clone, Copy)]
pub(crate) struct Wish {
    pub(crate) slots: u32,
    pub(crate) align: u32,
    /// What the first slot's number leaves modulo `align`.
    pub(crate) residue: u32,
}

impl Wish {
    /// A run of this many slots has a place wherever it starts.
    #[inline]
    pub(crate) fn ample(&self) -> u32 {
        self.slots.saturating_add(self.align - 1)
    }

    /// The lowest place in the free run of `len` slots at `start`.
    #[inline]
    pub(crate) fn place(&self, start: u32, len: u32) -> Option<u32> {
        let skipped = self.residue.wrapping_sub(start) & (self.align - 1);
        let fits = u64::from(skipped) + u64::from(self.slots) <= u64::from(len);
        fits.then(|| start + skipped)
    }

    #[inline]
    fn align_up(&self, slot: u32) -> u32 {
        slot.saturating_add(self.residue.wrapping_sub(slot) & (self.align - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_origin_shifts_alignment_and_boundary() {
        let fit = Fit {
            align: 4,
            phase: 1,
            boundary: 8,
            origin: 3,
            ..Fit::anywhere(4)
        };
        // Device slots are 3 more: the first is 5 or 9 (5 would cross the edge at 8).
        assert_eq!(fit.place(0, 20), Some(6));
        assert_eq!(fit.place(0, 9), None);
        assert_eq!(fit.place(0, 10), Some(6));
    }

    #[test]
    fn a_run_longer_than_the_boundary_has_no_place() {
        let fit = Fit {
            boundary: 8,
            ..Fit::anywhere(9)
        };
        assert_eq!(fit.place(0, 100), None);
    }

    #[test]
    fn slots_past_the_limit_are_not_used() {
        let fit = Fit {
            limit: 10,
            ..Fit::anywhere(4)
        };
        assert_eq!(fit.place(6, 20), Some(6));
        assert_eq!(fit.place(7, 20), None);
    }
}
