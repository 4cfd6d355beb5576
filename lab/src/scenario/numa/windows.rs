//! A naive look at an area: which windows a claim could have, and what the cheapest costs.

use dmakit_addr::PfnRange;
use dmakit_sim::{PageId, Programs};

/// What the frames of an area are, one by one.
pub struct Frames {
    ranges: Vec<Range>,
}

struct Range {
    start: u64,
    /// Before each frame, and after the last: how many are blocked, and how many have to move.
    blocked: Vec<u64>,
    moving: Vec<u64>,
    /// Of each frame, how many frames of its page lie before it.
    before: Vec<u64>,
    /// And after it.
    after: Vec<u64>,
}

impl Frames {
    /// Looks at every frame. `is_blocked` says which do not move whatever happens; of the others
    /// those of programs move, and the rest are free.
    pub fn look(
        ranges: &[PfnRange],
        programs: &Programs,
        is_blocked: impl Fn(dmakit_addr::Pfn, Option<PageId>) -> bool,
    ) -> Self {
        let look = |range: &PfnRange| {
            let start = range.start().raw();
            let count = range.len() as usize;
            let mut seen = Range {
                start,
                blocked: vec![0; count + 1],
                moving: vec![0; count + 1],
                before: vec![0; count],
                after: vec![0; count],
            };
            for index in 0..count {
                let frame = dmakit_addr::Pfn::new(start + index as u64);
                let page = programs.page_in(frame);
                let blocked = is_blocked(frame, page);
                let place = page.and_then(|page| programs.range_of(page));
                seen.blocked[index + 1] = seen.blocked[index] + u64::from(blocked);
                seen.moving[index + 1] = seen.moving[index] + u64::from(place.is_some());
                if let Some(place) = place {
                    seen.before[index] = frame.raw() - place.start().raw();
                    seen.after[index] = place.end().raw() - 1 - frame.raw();
                }
            }
            seen
        };
        Self {
            ranges: ranges.iter().map(look).collect(),
        }
    }

    /// The least number of frames that have to move for a window; `None` where there is none.
    pub fn cheapest(&self, frames: u64, align_order: u32) -> Option<u64> {
        let ranges = self.ranges.iter();
        ranges
            .filter_map(|range| range.cheapest(frames, 1 << align_order))
            .min()
    }
}

impl Range {
    fn cheapest(&self, frames: u64, step: u64) -> Option<u64> {
        let count = self.before.len() as u64;
        let first = self.start.next_multiple_of(step) - self.start;
        let last = count.checked_sub(frames)?;
        let starts = (first..=last).step_by(step as usize);
        let free = starts.filter_map(|start| {
            let (from, to) = (start as usize, (start + frames) as usize);
            let blocked = self.blocked[to] - self.blocked[from];
            let inside = self.moving[to] - self.moving[from];
            // Pages that straddle an edge move whole.
            let outside = self.before[from] + self.after[to - 1];
            (blocked == 0).then_some(inside + outside)
        });
        free.min()
    }
}
