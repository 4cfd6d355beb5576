//! Requests that no area can serve by itself.

use dmakit_platform::Platform;
use lock_api::MutexGuard;

use crate::shared_area::{AreaState, Begin};
use crate::slot_pool::{AREAS_MAX, SlotPool};
use crate::{Fit, NoRun};

type Guards<'a, P> = [Option<MutexGuard<'a, <P as Platform>::IrqLock, AreaState>>; AREAS_MAX];

impl<P: Platform> SlotPool<P> {
    /// Takes a run across the seams of areas. The areas' ends say where one may lie; the locks of
    /// those that it touches are taken in the order of their numbers, which is the lock order, and
    /// held together, so that it is taken whole or not at all.
    #[cold]
    pub(crate) fn take_spanning(&self, fit: &Fit, begin: &Begin) -> Result<u32, NoRun> {
        let mut start = 0;
        let mut len = 0_u32;
        let mut first = 0;
        for hint in self.hints() {
            let slots = self
                .slots()
                .saturating_sub(first)
                .min(1 << self.area_shift());
            let ends = hint.ends();
            len += ends.prefix;
            if ends.prefix < slots {
                if let Some(at) = self.try_span(fit, start, len, begin) {
                    return Ok(at);
                }
                len = ends.suffix;
                start = first + slots - len;
            }
            first += slots;
        }
        self.try_span(fit, start, len, begin)
            .ok_or_else(|| self.no_run(fit))
    }

    /// Takes a place in the run of `len` slots at `start`, if it is still free.
    fn try_span(&self, fit: &Fit, start: u32, len: u32, begin: &Begin) -> Option<u32> {
        let at = fit.place(start, len)?;
        let past = at + fit.slots;
        let (low, high) = (at >> self.area_shift(), (past - 1) >> self.area_shift());
        let mut guards: Guards<'_, P> = [const { None }; AREAS_MAX];
        for index in low..=high {
            let state = self.areas[index as usize].0.lock();
            let (from, slots) = self.part(index, at, past);
            let free = if from == 0 {
                state.area.prefix() >= slots
            } else {
                state.area.suffix() >= slots
            };
            if state.closed || !free {
                return None;
            }
            guards[index as usize] = Some(state);
        }
        for index in low..=high {
            let (from, slots) = self.part(index, at, past);
            let Some(state) = &mut guards[index as usize] else {
                continue;
            };
            let taken = state.area.take_at(from, slots);
            assert!(taken, "the end of an area was not as free as it said");
            self.enter(state, index as usize);
            if index == low {
                state.area.set_record(from, begin.record);
                state.begin(begin);
            }
        }
        Some(at)
    }

    /// Which slots of area `index` belong to the slots from `at` up to `past` of the pool.
    fn part(&self, index: u32, at: u32, past: u32) -> (u32, u32) {
        let first = index << self.area_shift();
        let from = at.max(first);
        let to = past.min(first + (1 << self.area_shift()));
        (from - first, to - from)
    }
}
