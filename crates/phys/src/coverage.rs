//! How often each frame is held by one owner.

use alloc::collections::TryReserveError;
use alloc::vec::Vec;

use dmakit_addr::PfnRange;

/// A run of frames held equally often.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Run {
    start: u64,
    end: u64,
    times: u32,
}

/// Ranges held by one owner, which may overlap: how many frames that are, each counted once.
///
/// A list of disjoint runs, ascending; at most two for each range, so that taking one out needs
/// no memory. Adding and taking out move the tail of the list.
#[derive(Default, Debug)]
pub(crate) struct Coverage {
    runs: Vec<Run>,
    ranges: usize,
    frames: u64,
}

impl Coverage {
    /// Frames held, each counted once.
    pub(crate) fn frames(&self) -> u64 {
        self.frames
    }

    /// Makes room for so many more ranges.
    pub(crate) fn reserve(&mut self, ranges: usize) -> Result<(), TryReserveError> {
        let most = 2 * (self.ranges + ranges) + 2;
        self.runs.try_reserve(most.saturating_sub(self.runs.len()))
    }

    /// Adds a range, for which there is room; says how many of its frames were not held.
    pub(crate) fn add(&mut self, range: PfnRange) -> u64 {
        let (start, end) = (range.start().raw(), range.end().raw());
        self.cut(start);
        self.cut(end);
        let mut fresh = 0;
        let (mut index, mut at) = (self.first_from(start), start);
        while at < end {
            let next = self.runs.get(index).filter(|run| run.start < end).copied();
            match next {
                Some(run) if run.start == at => {
                    self.runs[index].times += 1;
                    at = run.end;
                }
                next => {
                    let stop = next.map_or(end, |run| run.start);
                    let run = Run {
                        start: at,
                        end: stop,
                        times: 1,
                    };
                    self.runs.insert(index, run);
                    fresh += stop - at;
                    at = stop;
                }
            }
            index += 1;
        }
        self.ranges += 1;
        self.frames += fresh;
        self.join(start, end);
        fresh
    }

    /// Takes out a range that was added; says how many of its frames are not held any more.
    pub(crate) fn remove(&mut self, range: PfnRange) -> u64 {
        let (start, end) = (range.start().raw(), range.end().raw());
        self.cut(start);
        self.cut(end);
        let mut gone = 0;
        let mut index = self.first_from(start);
        while let Some(run) = self.runs.get_mut(index).filter(|run| run.start < end) {
            run.times -= 1;
            if run.times == 0 {
                gone += run.end - run.start;
                self.runs.remove(index);
            } else {
                index += 1;
            }
        }
        self.ranges -= 1;
        self.frames -= gone;
        self.join(start, end);
        gone
    }

    fn first_from(&self, frame: u64) -> usize {
        self.runs.partition_point(|run| run.start < frame)
    }

    /// Makes a run end at `frame` where one goes on across it.
    fn cut(&mut self, frame: u64) {
        let index = self.first_from(frame);
        let Some(run) = index
            .checked_sub(1)
            .and_then(|below| self.runs.get_mut(below))
        else {
            return;
        };
        if run.end > frame {
            let above = Run {
                start: frame,
                ..*run
            };
            run.end = frame;
            self.runs.insert(index, above);
        }
    }

    /// Joins what was cut and is alike, from the run before `start` to the one after `end`.
    fn join(&mut self, start: u64, end: u64) {
        let mut index = self.first_from(start).saturating_sub(1);
        while let [run, next, ..] = self.runs[index.min(self.runs.len())..] {
            if run.start > end {
                return;
            }
            if run.end == next.start && run.times == next.times {
                self.runs[index].end = next.end;
                self.runs.remove(index + 1);
            } else {
                index += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use dmakit_addr::Pfn;

    #[test]
    fn each_frame_is_counted_once_however_often_it_is_held() {
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let mut draw = |below: u64| {
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            (state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % below
        };
        let mut coverage = Coverage::default();
        let mut held: Vec<PfnRange> = Vec::new();
        let mut times = vec![0_u32; 80];
        for _ in 0..20_000 {
            let before = times.iter().filter(|times| **times > 0).count() as u64;
            if draw(2) == 0 && held.len() < 12 {
                let start = draw(64);
                let range = PfnRange::new(Pfn::new(start), 1 + draw(16)).unwrap();
                coverage.reserve(1).unwrap();
                let fresh = coverage.add(range);
                (start..range.end().raw()).for_each(|frame| times[frame as usize] += 1);
                let after = times.iter().filter(|times| **times > 0).count() as u64;
                assert_eq!(fresh, after - before);
                held.push(range);
            } else if !held.is_empty() {
                let range = held.swap_remove(draw(held.len() as u64) as usize);
                let room = coverage.runs.capacity();
                let gone = coverage.remove(range);
                assert_eq!(coverage.runs.capacity(), room, "taking out needs no memory");
                let frames = range.start().raw()..range.end().raw();
                frames.for_each(|frame| times[frame as usize] -= 1);
                let after = times.iter().filter(|times| **times > 0).count() as u64;
                assert_eq!(gone, before - after);
            }
            let counted = times.iter().filter(|times| **times > 0).count() as u64;
            assert_eq!(coverage.frames(), counted);
            assert!(
                coverage.runs.len() <= 2 * held.len().max(1),
                "two runs a range"
            );
        }
    }
}
