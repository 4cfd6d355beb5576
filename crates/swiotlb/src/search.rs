//! Finding a run in an area.

use crate::fit::Wish;
use crate::lists::Listed;
use crate::{Area, Fit};

/// A maximal free run, as a search found it.
#[derive(Clone, Copy)]
pub(crate) struct Run {
    pub(crate) start: u32,
    pub(crate) len: u32,
}

impl Area {
    #[inline]
    pub(crate) fn take_uncut(&mut self, wish: Wish, probes: &mut u32) -> Option<u32> {
        if wish.slots.wrapping_sub(1) >= self.slots {
            return None;
        }
        let (run, at) = self.find(wish, probes)?;
        self.carve(run, at, wish.slots);
        Some(at)
    }

    #[inline]
    fn find(&self, wish: Wish, probes: &mut u32) -> Option<(Run, u32)> {
        match self.lists.find(wish, probes) {
            Listed::Run(start, len) => placed(start, len, wish.place(start, len)),
            Listed::None => self.find_long(wish, probes),
            Listed::Unclear => {
                let unclear =
                    |probes| self.scan(probes, u32::MAX, |start, len| wish.place(start, len));
                self.find_long(wish, probes).or_else(|| unclear(probes))
            }
        }
    }

    /// Looks at the rest, then at the long runs.
    fn find_long(&self, wish: Wish, probes: &mut u32) -> Option<(Run, u32)> {
        *probes += 1;
        let (start, len) = (self.rest_start, self.rest_len);
        if let Some(at) = wish.place(start, len) {
            return Some((Run { start, len }, at));
        }
        let (start, len) = self.tree.find(wish, probes)?;
        placed(start, len, wish.place(start, len))
    }

    /// With a limit or an edge inside the area, an index that knows neither still answers most
    /// wishes: a run that it finds may lie well, and where it finds none there is none.
    #[cold]
    pub(crate) fn take_cut(&mut self, fit: &Fit, probes: &mut u32) -> Option<u32> {
        let wish = fit.wish(0);
        if !fit.is_cut(self.slots) {
            return self.take_uncut(wish, probes);
        }
        if wish.slots.wrapping_sub(1) >= self.slots {
            return None;
        }
        let (run, _) = self.find(wish, probes)?;
        let place = |start, len| fit.place(start, len);
        let (run, at) = placed(run.start, run.len, place(run.start, run.len))
            .or_else(|| self.scan(probes, fit.limit, place))?;
        self.carve(run, at, fit.slots);
        Some(at)
    }

    /// Looks at every free run that starts below `limit`.
    #[cold]
    fn scan(
        &self,
        probes: &mut u32,
        limit: u32,
        place: impl Fn(u32, u32) -> Option<u32>,
    ) -> Option<(Run, u32)> {
        let mut from = 0;
        while from < limit {
            let (start, len) = self.next_run(from, probes)?;
            if let Some(found) = placed(start, len, place(start, len)) {
                return Some(found);
            }
            from = start + len;
        }
        None
    }
}

#[inline]
fn placed(start: u32, len: u32, at: Option<u32>) -> Option<(Run, u32)> {
    at.map(|at| (Run { start, len }, at))
}
