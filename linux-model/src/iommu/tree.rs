//! Ranges in use, and the search for a free one from the top down.

use std::collections::BTreeMap;

/// Where a search begins: above everything.
const ANCHOR: u64 = u64::MAX;

/// Granules below 4 GiB are searched, and remembered, apart.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    /// Last granule by first.
    used: BTreeMap<u64, u64>,
    /// First granule that may be handed out: never 0, which means failure to callers.
    first: u64,
    /// One past the last granule below 4 GiB.
    end_32: u64,
    /// Where the next search begins, for limits up to 4 GiB and above.
    cached: [u64; 2],
    /// As it was before the last search.
    before: [u64; 2],
    /// A size that did not fit below 4 GiB, until something there is freed.
    hopeless_32: u64,
}

/// What a search came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Searched {
    pub start: Option<u64>,
    /// Ranges that were looked at.
    pub steps: u64,
}

impl Tree {
    pub fn new(granule: u64) -> Self {
        let end_32 = (1 << 32) / granule;
        Self {
            used: BTreeMap::new(),
            first: 1,
            end_32,
            cached: [ANCHOR; 2],
            before: [ANCHOR; 2],
            hopeless_32: end_32,
        }
    }

    /// Withholds `first..=last` for good, joined with what it touches.
    pub fn reserve(&mut self, first: u64, last: u64) {
        let (mut first, mut last) = (first, last);
        let touching: Vec<u64> = self
            .used
            .range(..=last)
            .rev()
            .take_while(|(_, end)| **end >= first)
            .map(|(start, _)| *start)
            .collect();
        for start in touching {
            if let Some(end) = self.used.remove(&start) {
                first = first.min(start);
                last = last.max(end);
            }
        }
        self.used.insert(first, last);
    }

    /// Takes `granules` at a multiple of their power of two, all of them below `end`.
    pub fn take(&mut self, granules: u64, end: u64) -> Searched {
        self.before = self.cached;
        let which = usize::from(end > self.end_32);
        if which == 0 && granules >= self.hopeless_32 {
            return Searched {
                start: None,
                steps: 0,
            };
        }
        let cached = self.cached[which];
        let (mut start, mut steps) = self.search(granules, cached, end, self.first);
        // What lies above the place where the search began was not seen: once more from the top.
        let seen_to = self.last_of(cached);
        if start.is_none() && seen_to < end {
            let (found, more) = self.search(granules, ANCHOR, end, seen_to + 1);
            start = found;
            steps += more;
        }
        match start {
            Some(start) => {
                self.used.insert(start, start + granules - 1);
                self.cached[usize::from(start + granules > self.end_32)] = start;
            }
            None => self.hopeless_32 = granules,
        }
        Searched { start, steps }
    }

    /// Gives a range back by its first granule.
    pub fn give(&mut self, start: u64) {
        let Some(last) = self.used.remove(&start) else {
            return;
        };
        let next = self
            .used
            .range(start..)
            .next()
            .map_or(ANCHOR, |(next, _)| *next);
        if start == self.cached[0] || (last < self.end_32 && start >= self.cached[0]) {
            self.cached[0] = next;
        }
        if start < self.end_32 {
            self.hopeless_32 = self.end_32;
        }
        if start >= self.cached[1] {
            self.cached[1] = next;
        }
    }

    /// Undoes the last [`take`](Self::take).
    pub fn put_back(&mut self, start: u64) {
        self.used.remove(&start);
        self.cached = self.before;
    }

    /// Takes `granules` at `start`; whether they were free.
    pub fn take_at(&mut self, start: u64, granules: u64) -> bool {
        let end = start + granules;
        let below = self.used.range(..end).next_back();
        if below.is_some_and(|(_, last)| *last >= start) {
            return false;
        }
        self.used.insert(start, end - 1);
        self.cached[usize::from(end > self.end_32)] = start;
        true
    }

    fn last_of(&self, cached: u64) -> u64 {
        match cached {
            ANCHOR => ANCHOR,
            start => self.used.get(&start).copied().unwrap_or(start),
        }
    }

    /// From the range `from` downwards to `low`.
    fn search(&self, granules: u64, from: u64, end: u64, low: u64) -> (Option<u64>, u64) {
        let align_mask = !(granules.next_power_of_two() - 1);
        let place = |high: u64| high.checked_sub(granules).map(|start| start & align_mask);
        let mut high = end.min(from);
        let mut steps = 0;
        // Ranges above the limit bound nothing.
        for (start, last) in self.used.range(..from.min(end)).rev() {
            steps += 1;
            let Some(found) = place(high).filter(|found| *found >= low) else {
                return (None, steps);
            };
            if found > *last {
                return (Some(found), steps);
            }
            high = high.min(*start);
        }
        (place(high).filter(|found| *found >= low), steps)
    }
}
