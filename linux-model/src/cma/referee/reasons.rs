//! Why an answer differs, and what it tells.

use super::{Referee, Running, SoFar};
use crate::cma::{Call, Outcome, Reason};

const EINTR: i32 = -4;
/// Ranges that one call is believed to have passed over.
const PASSED_MAX: usize = 4096;

impl Referee<'_> {
    pub(super) fn has_told(&mut self, running: &Running, kernel: Outcome) -> bool {
        if running.so_far != SoFar::Equal {
            return running.so_far == SoFar::Told;
        }
        let call = &self.demand.calls[running.call as usize];
        let pages = call.wish.pages;
        match kernel {
            Outcome::At(pfn) if self.is_free_as_it_was(running.call, pfn, pages) => {
                self.unseen[call.area as usize].refute(pfn, pages)
                    || self.learns(running.call, running.from, pfn)
            }
            _ => false,
        }
    }

    fn is_free_as_it_was(&self, call: u32, pfn: u64, pages: u64) -> bool {
        let area = self.beside(call, |other| self.place_of(other));
        area.is_free(pfn, pages)
    }

    /// Whether the kernel, which tried `pfn`, passed over ranges from page `from` of the area on of
    /// which nothing shows whether they were claimed before the recording: then each of them was,
    /// in part.
    pub(super) fn learns(&mut self, call: u32, from: u64, pfn: u64) -> bool {
        let area = self.beside(call, |other| self.place_of(other)).into_owned();
        let Call {
            area: index, wish, ..
        } = self.demand.calls[call as usize];
        let unseen = &mut self.unseen[index as usize];
        let mut passed = Vec::new();
        let mut next = unseen.find(&area, wish, from);
        while let Some(at) = next.filter(|at| *at < pfn) {
            if !unseen.is_open(at, wish.pages) || passed.len() == PASSED_MAX {
                return false;
            }
            passed.push(at);
            next = unseen.find(&area, wish, area.after_busy(wish, at));
        }
        let is_all = !passed.is_empty() && next == Some(pfn);
        is_all && unseen.refuse(&passed, wish.pages)
    }

    pub(super) fn reason(&self, running: &Running, kernel: Outcome) -> Reason {
        let call = &self.demand.calls[running.call as usize];
        let index = call.area as usize;
        if running.so_far == SoFar::Other {
            return Reason::OtherRangeBusy;
        }
        match (kernel, running.at) {
            (Outcome::Failed(Some(EINTR)), _) => Reason::Interrupted,
            (Outcome::Failed(_), None) => Reason::OtherError,
            (Outcome::Failed(_), Some(at)) => match self.printed_free(running.call, at) {
                Some(true) => Reason::NotMoved,
                Some(false) if self.unseen[index].is_open(at, call.wish.pages) => {
                    Reason::BeforeRecording
                }
                None if self.unseen[index].is_open(at, call.wish.pages) => Reason::BeforeRecording,
                Some(false) => Reason::PassedOver,
                None => Reason::NotMoved,
            },
            (Outcome::At(pfn), at) => {
                if self.areas[index].is_free(pfn, call.wish.pages) && at.is_some_and(|at| at < pfn)
                {
                    Reason::PassedOver
                } else {
                    Reason::ReleaseNotRecorded
                }
            }
        }
    }

    /// Whether the kernel's own free runs, printed with this failure, hold a place.
    fn printed_free(&self, call: u32, at: u64) -> Option<bool> {
        let runs = self.reports[call as usize]?.free_runs.as_ref()?;
        let asked = &self.demand.calls[call as usize];
        let at = at - self.areas[asked.area as usize].base();
        Some(
            runs.iter()
                .any(|(from, len)| *from <= at && at + asked.wish.pages <= from + len),
        )
    }
}
