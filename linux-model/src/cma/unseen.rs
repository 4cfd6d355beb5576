//! What is not known of the time before the recording.

use std::collections::BTreeSet;

use super::bitmap::Bitmap;
use super::{Area, Wish};

/// Refused ranges that are remembered: far more than any kernel claims before it can be recorded.
const REFUSED_MAX: usize = 4096;

/// Pages whose state before the recording nothing shows yet, and what is known of them together.
///
/// A page is settled once an event names it: it was claimed in the recording, so nobody had it, or
/// it was released without having been claimed, so somebody did. Of the others it is assumed that
/// they are free, until the kernel passes over a range of them.
#[derive(Clone, Debug)]
pub(super) struct Unseen {
    settled: Bitmap,
    base: u64,
    /// Ranges that were not wholly free although all that was known of them was: somebody has at
    /// least one of their unsettled pages.
    refused: BTreeSet<(u64, u64)>,
    /// Ranges that are taken for refused until the kernel uses one of them.
    assumed: BTreeSet<(u64, u64)>,
    /// Pages of the longest of both.
    longest: u64,
}

impl Unseen {
    pub(super) fn new(area: &Area) -> Self {
        Self {
            settled: Bitmap::new(area.pages()),
            base: area.base(),
            refused: BTreeSet::new(),
            assumed: BTreeSet::new(),
            longest: 0,
        }
    }

    /// An event names these pages.
    pub(super) fn settle(&mut self, pfn: u64, pages: u64) {
        if let Some(at) = pfn.checked_sub(self.base) {
            self.settled.write(at, pages, true);
        }
    }

    /// Somebody got this place before the recording, although the kernel takes the lowest: so all
    /// places below it were taken then, in part, and it is assumed that they still are. Places
    /// with settled pages need no such explanation. All that somebody had has to be settled
    /// before.
    pub(super) fn assume_below(&mut self, pfn: u64, pages: u64) {
        let order = pages.max(1).next_power_of_two().ilog2();
        let step = 1 << order.min(super::ALIGN_ORDER_MAX);
        let first = self.base.next_multiple_of(step);
        let count = pfn.saturating_sub(first) / step;
        if self.assumed.len() as u64 + count > REFUSED_MAX as u64 {
            return;
        }
        for place in (0..count).map(|index| first + index * step - self.base) {
            let end = place + pages;
            if end <= pfn - self.base && self.settled.next(place, end, true).is_none() {
                self.assumed.insert((place, pages));
                self.longest = self.longest.max(pages);
            }
        }
    }

    /// The kernel uses this place. If it was assumed to be taken, nothing is assumed any more; if a
    /// refused range said so, it was refused for another reason. The answer is whether that is so.
    pub(super) fn refute(&mut self, pfn: u64, pages: u64) -> bool {
        let Some(at) = pfn.checked_sub(self.base) else {
            return false;
        };
        let overlaps = |(start, len): &(u64, u64)| start + len > at && *start < at + pages;
        let is_refuted = self.assumed.iter().any(overlaps);
        if is_refuted {
            self.assumed.clear();
        }
        let near = (at.saturating_sub(self.longest), 0)..(at + pages, 0);
        let ruled = |(start, len): &&(u64, u64)| self.has_taken(*start, *len, at, pages);
        let wrong: Vec<_> = self.refused.range(near).filter(ruled).copied().collect();
        for range in &wrong {
            self.refused.remove(range);
        }
        is_refuted || !wrong.is_empty()
    }

    pub(super) fn is_settled(&self, page: u64) -> bool {
        self.settled.has(page)
    }

    /// Whether some page of the range is unsettled.
    pub(super) fn is_open(&self, pfn: u64, pages: u64) -> bool {
        let at = pfn.saturating_sub(self.base);
        self.settled.next(at, at + pages, false).is_some()
    }

    /// The kernel passed over ranges of so many pages at these places. `false`, and nothing has
    /// changed, where they are too many to be remembered.
    pub(super) fn refuse(&mut self, places: &[u64], pages: u64) -> bool {
        let fits = self.refused.len() + places.len() <= REFUSED_MAX;
        if fits {
            let ranges = places.iter().map(|pfn| (pfn - self.base, pages));
            self.refused.extend(ranges);
            self.longest = self.longest.max(pages);
        }
        fits
    }

    /// The first place from page `from` of the area on that neither a claim nor a refused range
    /// rules out.
    pub(super) fn find(&self, area: &Area, wish: Wish, mut from: u64) -> Option<u64> {
        loop {
            let pfn = area.find(wish, from)?;
            if !self.rules_out(pfn - self.base, wish.pages) {
                return Some(pfn);
            }
            from = area.after_busy(wish, pfn);
        }
    }

    /// Whether all open pages of a refused range lie in this one: then one of its pages is taken.
    fn rules_out(&self, at: u64, pages: u64) -> bool {
        let near = (at.saturating_sub(self.longest), 0)..(at + pages, 0);
        let ruled = |(start, len): &(u64, u64)| self.has_taken(*start, *len, at, pages);
        self.refused.range(near.clone()).any(ruled) || self.assumed.range(near).any(ruled)
    }

    /// Whether a refused range has open pages and all of them lie in this one.
    fn has_taken(&self, start: u64, len: u64, at: u64, pages: u64) -> bool {
        let end = start + len;
        let mut from = start;
        let mut is_refusal = false;
        while let Some(open) = self.settled.next(from, end, false) {
            if open < at || open >= at + pages {
                return false;
            }
            is_refusal = true;
            from = open + 1;
        }
        is_refusal
    }

    /// Pages that somebody had all along, as far as can be told: those of refused ranges that no
    /// event names, where no refused range inside tells it more closely.
    pub(super) fn held(&self) -> Vec<u64> {
        let mut pages = Vec::new();
        for (start, len) in &self.refused {
            let end = start + len;
            let is_inside = |(other, others): &(u64, u64)| {
                others < len && other + others <= end && self.is_refusal(*other, *others)
            };
            if self.refused.range((*start, 0)..(end, 0)).any(is_inside) {
                continue;
            }
            let mut from = *start;
            while let Some(open) = self.settled.next(from, end, false) {
                pages.push(self.base + open);
                from = open + 1;
            }
        }
        pages.sort_unstable();
        pages.dedup();
        pages
    }

    /// Whether some page of a refused range is still open, so that it can be the one taken.
    fn is_refusal(&self, start: u64, len: u64) -> bool {
        self.settled.next(start, start + len, false).is_some()
    }
}
