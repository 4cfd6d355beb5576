//! The answer of `size pins`, as JSON shows it.

use std::time::Duration;

use dmakit_trace::Fidelity;
use serde::Serialize;

use super::usage::{Counts, OwnerPins, Pins};
use crate::quantity::seconds;

/// `RLIMIT_MEMLOCK` where nothing sets it, since Linux 5.16.
pub const MEMLOCK_DEFAULT_BYTES: u64 = 8 << 20;
/// Mappings that one VFIO container takes where nothing sets it.
pub const VFIO_ENTRIES_DEFAULT: u64 = 65_535;

/// The whole answer.
#[derive(Debug, Serialize)]
pub struct PinReport {
    /// A mapping that lives as long counts as a long-term pin.
    pub longer_than_s: f64,
    pub traces: Vec<TracePins>,
    /// What the traces cannot show.
    pub not_shown: Vec<String>,
}

/// One trace.
#[derive(Debug, Serialize)]
pub struct TracePins {
    pub path: String,
    pub kernel: Option<String>,
    pub events: u64,
    pub lost: u64,
    pub mappings: u64,
    /// Mappings that never end in the recording.
    pub open_at_end: u64,
    /// Mappings whose frames an IOMMU hides.
    pub hidden_frames: u64,
    /// Bounced mappings, which hold the bounce pool and none of their own frames.
    pub bounced: u64,
    /// Whether the log says where contiguous areas lie.
    pub knows_areas: bool,
    pub owners: Vec<Owner>,
    /// All owners together.
    pub whole: Owner,
}

/// One owner: a device, as traces name no other.
#[derive(Debug, Serialize)]
pub struct Owner {
    pub name: String,
    /// Every mapping.
    pub all: Held,
    /// Those that outlive the limit.
    pub long: Held,
    /// The locked-memory limit that the long ones need where each frame is charged once, and where
    /// each mapping is charged for itself, as Linux does between different handles.
    pub limit_bytes: u64,
    pub limit_each_bytes: u64,
    pub exceeds_default: bool,
    pub migrate: Migrate,
}

/// What is held.
#[derive(Debug, Serialize)]
pub struct Held {
    pub mappings: u64,
    pub mappings_at_once: u64,
    /// The most bytes at once, each frame once.
    pub peak_bytes: u64,
    /// The most bytes at once, each mapping charged for itself.
    pub peak_each_bytes: u64,
    pub longest_s: f64,
}

/// The cost of moving pages, in bytes copied.
#[derive(Debug, Serialize)]
pub struct Migrate {
    /// Long mappings with frames in a contiguous area, and those bytes: moved out before the pin,
    /// each time.
    pub out_of_areas_mappings: u64,
    pub out_of_areas_bytes: u64,
    /// Moving all that is held long, once, in place of pinning it: what a claim of the whole
    /// memory would have to copy at the worst moment.
    pub all_once_bytes: u64,
    /// The same for everything under a device at the worst moment, short mappings too.
    pub under_devices_bytes: u64,
}

impl PinReport {
    pub fn new(traces: Vec<TracePins>, longer_than: Duration) -> Self {
        let mut not_shown = vec![
            "traces have no pin events: a mapping that outlives the limit stands for a pin; pins \
             that are not mapped, and who in user space asked, are not seen"
                .to_owned(),
            "mappings made before the recording began are not seen".to_owned(),
        ];
        if traces.iter().any(|trace| !trace.knows_areas) {
            not_shown.push(
                "where contiguous areas lie: no log beside the trace says it, so nothing counts as \
                 inside one"
                    .to_owned(),
            );
        }
        if traces.iter().any(|trace| trace.hidden_frames > 0) {
            not_shown.push(
                "an IOMMU hides frames of some mappings: each counts as frames of its own"
                    .to_owned(),
            );
        }
        if traces.iter().any(|trace| trace.bounced > 0) {
            not_shown.push(
                "bounced mappings hold the bounce pool and count no frames: without bouncing they \
                 would"
                    .to_owned(),
            );
        }
        Self {
            longer_than_s: longer_than.as_secs_f64(),
            traces,
            not_shown,
        }
    }
}

impl TracePins {
    pub fn new(path: String, kernel: Option<String>, fidelity: &Fidelity, pins: Pins) -> Self {
        Self {
            path,
            kernel,
            events: fidelity.events,
            lost: fidelity.lost(),
            mappings: pins.mappings,
            open_at_end: pins.open,
            hidden_frames: pins.hidden,
            bounced: pins.bounced,
            knows_areas: pins.knows_areas,
            owners: pins.owners.iter().map(Owner::new).collect(),
            whole: Owner::new(&pins.whole),
        }
    }
}

impl Owner {
    fn new(pins: &OwnerPins) -> Self {
        Self {
            name: pins.name.clone(),
            all: Held::new(&pins.all),
            long: Held::new(&pins.long),
            limit_bytes: pins.long.once_bytes,
            limit_each_bytes: pins.long.each_bytes,
            exceeds_default: pins.long.each_bytes > MEMLOCK_DEFAULT_BYTES,
            migrate: Migrate {
                out_of_areas_mappings: pins.moved_mappings,
                out_of_areas_bytes: pins.moved_bytes,
                all_once_bytes: pins.long.once_bytes,
                under_devices_bytes: pins.all.once_bytes,
            },
        }
    }
}

impl Held {
    fn new(counts: &Counts) -> Self {
        Self {
            mappings: counts.mappings,
            mappings_at_once: counts.mappings_at_once,
            peak_bytes: counts.once_bytes,
            peak_each_bytes: counts.each_bytes,
            longest_s: seconds(counts.longest_ns),
        }
    }
}
