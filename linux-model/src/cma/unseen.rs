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
    /// Pages of the longest of them.
    longest: u64,
}

impl Unseen {
    pub(super) fn new(area: &Area) -> Self {
        Self {
            settled: Bitmap::new(area.pages()),
            base: area.base(),
            refused: BTreeSet::new(),
            longest: 0,
        }
    }

    /// An event names these pages.
    pub(super) fn settle(&mut self, pfn: u64, pages: u64) {
        if let Some(at) = pfn.checked_sub(self.base) {
            self.settled.write(at, pages, true);
        }
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
        let near = at.saturating_sub(self.longest)..at + pages;
        let near = (near.start, 0)..(near.end, 0);
        self.refused.range(near).any(|(start, len)| {
            let end = start + len;
            let mut from = *start;
            let mut is_refusal = false;
            while let Some(open) = self.settled.next(from, end, false) {
                if open < at || open >= at + pages {
                    return false;
                }
                is_refusal = true;
                from = open + 1;
            }
            is_refusal
        })
    }

    /// Pages that somebody has for certain: the only open ones of a refused range.
    pub(super) fn certain(&self) -> Vec<u64> {
        let mut pages: Vec<u64> = self
            .refused
            .iter()
            .filter_map(|(start, len)| {
                let first = self.settled.next(*start, start + len, false)?;
                let second = self.settled.next(first + 1, start + len, false);
                second.is_none().then_some(self.base + first)
            })
            .collect();
        pages.sort_unstable();
        pages.dedup();
        pages
    }
}
