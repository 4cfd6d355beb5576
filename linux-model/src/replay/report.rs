//! What a replay found.

use crate::engine::Engine;
use crate::swiotlb::Slots;

/// The whole answer of one replay.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReplayReport {
    /// Whose rules.
    pub engine: Engine,
    /// Mappings asked of the pool.
    pub mappings: u64,
    /// Refusals that the caller sees: single mappings.
    pub failed: u64,
    /// Scatterlists given up, which no event shows.
    pub failed_silent: u64,
    /// Mappings longer than any pool serves; part of the two above.
    pub too_long: u64,
    /// Recorded failures that were served here. What would have come of them is not recorded:
    /// they are released at once.
    pub served_beyond_recording: u64,
    /// Highest number of slots in use.
    pub high_water_slots: u32,
    /// Highest sum of all pools, in slots.
    pub pool_slots_peak: u32,
    /// Pools added.
    pub grown_pools: u32,
    /// Pools made for one mapping.
    pub transient_pools: u64,
    /// Bytes copied into and out of slots.
    pub bytes_copied: u64,
    /// Slots looked at.
    pub slots_probed: u64,
    /// Per phase.
    pub phases: Vec<PhaseReport>,
    /// Per device, as numbered in the demand.
    pub devices: Vec<DeviceReport>,
    /// Use over time, thinned; each holds the highest use since the one before.
    pub samples: Vec<Sample>,
    /// Where each mapping went; empty unless asked for.
    pub placed: Vec<Placed>,
}

/// One phase of the recording.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PhaseReport {
    /// Its name.
    pub name: String,
    /// The kernel's counter at the phase's end, reset at its begin: the highest use that a
    /// mapping of the phase saw; 0 without one.
    pub high_water_slots: u32,
    /// Lowest and highest figure that the orders left open by the recording allow; the figure
    /// itself twice unless asked for by `replay_bounded`.
    pub high_water_interval: (u32, u32),
    /// Use at its end.
    pub used_at_end: u32,
    /// Mappings asked.
    pub mappings: u64,
    /// Visible failures.
    pub failed: u64,
    /// Scatterlists given up.
    pub failed_silent: u64,
}

/// One device.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DeviceReport {
    /// Mappings asked.
    pub mappings: u64,
    /// Visible failures.
    pub failed: u64,
    /// Scatterlists given up.
    pub failed_silent: u64,
    /// Slots in use now and at the highest.
    pub used: u32,
    /// Highest use.
    pub high_water_slots: u32,
    /// Its use when the whole pool's was highest.
    pub used_at_peak: u32,
}

/// Use at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sample {
    /// When.
    pub at_ns: u64,
    /// Slots in use, at most.
    pub used_slots: u32,
    /// Slots in use when its time ended.
    pub used_at_end: u32,
    /// Slots there are.
    pub pool_slots: u32,
}

/// Where a mapping went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Placed {
    /// It never reached the pool.
    NotBounced,
    /// Here.
    At(Slots),
    /// Refused.
    Refused,
}
