//! Use over time.

use crate::demand::Demand;
use crate::replay::report::Sample;

/// Keeps the highest use of equal parts of the recording's time.
pub(super) struct Sampler {
    begin_ns: u64,
    part_ns: u64,
    max: usize,
    samples: Vec<Sample>,
}

impl Sampler {
    pub fn new(demand: &Demand, max: usize) -> Self {
        let begin_ns = demand.ops.first().map_or(0, |op| op.likely_ns);
        let end_ns = demand.ops.last().map_or(0, |op| op.likely_ns);
        let part_ns = ((end_ns - begin_ns) / (max.max(1) as u64) + 1).max(1);
        Self {
            begin_ns,
            part_ns,
            max,
            samples: Vec::new(),
        }
    }

    pub fn note(&mut self, at_ns: u64, used_slots: u32, pool_slots: u32) {
        if self.max == 0 {
            return;
        }
        let part = at_ns.saturating_sub(self.begin_ns) / self.part_ns;
        let sample = Sample {
            at_ns: self.begin_ns + part * self.part_ns,
            used_slots,
            used_at_end: used_slots,
            pool_slots,
        };
        match self.samples.last_mut() {
            Some(last) if last.at_ns == sample.at_ns => {
                last.used_slots = last.used_slots.max(used_slots);
                last.used_at_end = used_slots;
                last.pool_slots = last.pool_slots.max(pool_slots);
            }
            _ => self.samples.push(sample),
        }
    }

    pub fn finish(self) -> Vec<Sample> {
        self.samples
    }
}
