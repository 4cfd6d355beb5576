//! One pool: areas, cursors and free-run lengths.

use crate::swiotlb::rules::Need;
use crate::swiotlb::{SEGMENT_SLOTS, SLOT_BYTES};

/// One lock's part of a pool.
#[derive(Clone, Copy, Debug, Default)]
struct Area {
    used: u32,
    /// Where the next search begins, relative to the area (next fit).
    cursor: u32,
}

/// A contiguous run of slots.
#[derive(Clone, Debug)]
pub(super) struct Pool {
    start: u64,
    /// Per slot the length of the free run that begins there, within its segment; 0 if taken.
    runs: Vec<u16>,
    areas: Vec<Area>,
    area_slots: u32,
}

impl Pool {
    /// `slots` is a multiple of `areas`, `start` the DMA address of slot 0.
    pub fn new(start: u64, slots: u32, areas: u32) -> Self {
        let runs = (0..slots)
            .map(|slot| (SEGMENT_SLOTS - slot % SEGMENT_SLOTS).min(slots - slot) as u16)
            .collect();
        Self {
            start,
            runs,
            areas: vec![Area::default(); areas as usize],
            area_slots: slots / areas,
        }
    }

    pub fn slots(&self) -> u32 {
        self.runs.len() as u32
    }

    pub fn areas(&self) -> u32 {
        self.areas.len() as u32
    }

    /// Looks for a run in one area. Adds each slot looked at to `probed`.
    ///
    /// O(slots of the area) at worst, as the kernel's own search.
    pub fn find(&self, area: u32, need: &Need, original: u64, probed: &mut u64) -> Option<u32> {
        let state = self.areas[area as usize];
        if need.slots > self.area_slots - state.used {
            return None;
        }
        let base = area * self.area_slots;
        let mut index = state.cursor;
        if need.rounds_cursor {
            index = self.wrapped(u64::from(index).next_multiple_of(u64::from(need.stride)));
        }
        let mut passed = 0;
        while passed < self.area_slots {
            *probed += 1;
            let slot = base + index;
            let dma = self.start.wrapping_add(u64::from(slot) * SLOT_BYTES);
            let step = if need.accepts(dma, original) {
                if self.runs_at(slot) >= need.slots && !crosses(dma, need) {
                    return Some(slot);
                }
                need.stride
            } else {
                1
            };
            index = self.wrapped(u64::from(index) + u64::from(step));
            passed = passed.saturating_add(step);
        }
        None
    }

    /// Takes the run that [`Pool::find`] found; the next search begins behind it.
    pub fn take(&mut self, first: u32, slots: u32) {
        self.retake(first, slots);
        let area = first / self.area_slots;
        let end = u64::from(first - area * self.area_slots) + u64::from(slots);
        self.areas[area as usize].cursor = self.wrapped(end);
    }

    /// Undoes [`Pool::give_back`]; cursors stay.
    pub fn retake(&mut self, first: u32, slots: u32) {
        self.runs[first as usize..(first + slots) as usize].fill(0);
        self.renumber_before(first, 0);
        self.areas[(first / self.area_slots) as usize].used += slots;
    }

    /// Whether all of a run is free.
    pub fn is_free(&self, first: u32, slots: u32) -> bool {
        self.runs_at(first) >= slots
    }

    /// Where the next search of an area begins, relative to it.
    pub fn set_cursor(&mut self, area: u32, cursor: u32) {
        self.areas[area as usize].cursor = self.wrapped(u64::from(cursor));
    }

    /// Gives back what [`Pool::take`] returned for the same number of slots.
    pub fn give_back(&mut self, first: u32, slots: u32) {
        let after = first + slots;
        let mut run = if after % SEGMENT_SLOTS == 0 || after >= self.slots() {
            0
        } else {
            self.runs[after as usize]
        };
        for slot in (first..after).rev() {
            run += 1;
            self.runs[slot as usize] = run;
        }
        self.renumber_before(first, run);
        self.areas[(first / self.area_slots) as usize].used -= slots;
    }

    /// Counts the free slots before `first` up again, to the segment's start or a taken slot.
    fn renumber_before(&mut self, first: u32, mut run: u16) {
        for slot in (first - first % SEGMENT_SLOTS..first).rev() {
            if self.runs[slot as usize] == 0 {
                break;
            }
            run += 1;
            self.runs[slot as usize] = run;
        }
    }

    fn runs_at(&self, slot: u32) -> u32 {
        u32::from(self.runs[slot as usize])
    }

    fn wrapped(&self, index: u64) -> u32 {
        if index >= u64::from(self.area_slots) {
            0
        } else {
            index as u32
        }
    }

    /// Σ used over the areas, and the same counted from the runs; they must agree.
    #[cfg(test)]
    pub fn used_both_ways(&self) -> (u32, u32) {
        let counted = self.areas.iter().map(|area| area.used).sum();
        (
            counted,
            self.runs.iter().filter(|run| **run == 0).count() as u32,
        )
    }

    #[cfg(test)]
    pub fn runs(&self) -> &[u16] {
        &self.runs
    }
}

/// Whether a run from `dma` would cross the device's segment boundary.
fn crosses(dma: u64, need: &Need) -> bool {
    let within = (dma / SLOT_BYTES) & (need.boundary_slots - 1);
    within + u64::from(need.slots) > need.boundary_slots
}
