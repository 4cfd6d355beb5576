//! The demand itself.

use std::collections::BTreeMap;

use dmakit_addr::Direction;

use crate::demand::Context;
use crate::swiotlb::DeviceLimits;

/// How much of a mapping's life the recording shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Known {
    /// Attempts, results and lifetimes (`dma:*` events).
    Lifetimes,
    /// Attempts and slots through probes; some releases may have been missed by the probe.
    Probes,
    /// Attempts only (`swiotlb_bounced` alone): neither results nor lifetimes, so occupancy,
    /// high water and failures cannot be known.
    Attempts,
}

/// What the recording says became of a mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Recorded {
    /// It was mapped.
    Served,
    /// The caller saw an error (`dma_addr` all ones).
    Failed,
    /// It belongs to a scatterlist that was given up without an event.
    FailedSilently,
    /// Nothing was recorded after the attempt.
    Unknown,
}

/// One mapping, or one attempt at it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapping {
    /// Index into [`Demand::devices`].
    pub device: u32,
    /// CPU of the attempt.
    pub cpu: u32,
    /// Where it was asked for.
    pub context: Context,
    /// Whether the caller could have slept, as far as the recording tells.
    pub may_sleep: bool,
    /// Physical address of the original.
    pub original: u64,
    /// Bytes.
    pub bytes: u64,
    /// Direction; `None` when only the attempt was recorded.
    pub direction: Option<Direction>,
    /// Scatterlist it belongs to; entries of one list have the same number, in order.
    pub list: Option<u32>,
    /// What became of it.
    pub recorded: Recorded,
    /// Whether the recorded kernel bounced it.
    pub was_bounced: bool,
    /// Whether it was bounced only because everything was.
    pub was_forced: bool,
    /// Whether unmapping copies nothing back.
    pub skips_sync: bool,
}

impl Mapping {
    /// Bytes that unmapping copies back.
    pub fn copied_back(&self) -> u64 {
        let writes = self.direction.is_some_and(Direction::device_writes);
        if writes && !self.skips_sync {
            self.bytes
        } else {
            0
        }
    }
}

/// What happens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpKind {
    /// Map [`Demand::mappings`]`[n]`.
    Map(u32),
    /// Unmap it.
    Unmap(u32),
    /// The scatterlist of this number was given up: whatever of it is mapped is undone.
    GiveUp(u32),
    /// Bytes are copied for a mapping that stays.
    Sync {
        /// The mapping.
        mapping: u32,
        /// How many.
        bytes: u64,
    },
    /// [`Demand::phases`]`[n]` begins; the recording script resets the kernel's counter.
    PhaseBegin(u32),
    /// It ends.
    PhaseEnd(u32),
}

/// One operation with the time in which it must have happened.
///
/// Events are written before or after what they report, so the moment itself lies in a window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Op {
    /// No earlier than this.
    pub earliest_ns: u64,
    /// Hardly earlier than this, if the thread worked at a steady pace.
    pub sooner_ns: u64,
    /// Most likely.
    pub likely_ns: u64,
    /// Hardly later than this, if the thread worked at a steady pace.
    pub later_ns: u64,
    /// No later than this.
    pub latest_ns: u64,
    /// What.
    pub kind: OpKind,
}

/// A phase of the recording.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Phase {
    /// Its name.
    pub name: String,
    /// When its marker was written.
    pub begin_ns: u64,
    /// When its end was marked, or the recording's end.
    pub end_ns: u64,
}

/// A device and what is known about it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Device {
    /// Its name in the recording.
    pub name: String,
    /// What it demands of bounce addresses.
    pub limits: DeviceLimits,
}

/// A CPU turned to another task, or to none, between two events.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Switch {
    /// The last event before.
    pub from_ns: u64,
    /// The first event after.
    pub to_ns: u64,
}

/// Events that found no partner.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Unpaired {
    /// Unmappings of something whose mapping was not recorded.
    pub unmaps: u64,
    /// Mappings that were still there when the recording ended.
    pub maps_open_at_end: u64,
    /// Attempts after which the recording stops.
    pub attempts: u64,
    /// Probed releases that were lost and taken to have happened just before the slot's next use.
    pub releases_inferred: u64,
}

/// What a recording demands, without any address that the kernel chose.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Demand {
    /// The devices.
    pub devices: Vec<Device>,
    /// The mappings in order of attempt.
    pub mappings: Vec<Mapping>,
    /// The operations in the most likely order.
    pub ops: Vec<Op>,
    /// The phases in order.
    pub phases: Vec<Phase>,
    /// When CPUs turned to another task, per CPU in order: a work item queued on a CPU runs then.
    pub switches: BTreeMap<u32, Vec<Switch>>,
    /// Whether an IOMMU translated. Such a device's mappings do not go through the pool when
    /// everything is forced to, as translation reaches all memory.
    pub is_translated: bool,
    /// What the recording shows.
    pub known: Known,
    /// What did not fit together.
    pub unpaired: Unpaired,
}

/// The addresses that the kernel chose, per mapping; for comparison only.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RecordedAddresses {
    /// DMA address of [`Demand::mappings`]`[n]`, where it was bounced and served.
    pub dma: Vec<Option<u64>>,
}
