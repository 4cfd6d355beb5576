//! What happened, counted always and listed on request.

use std::fmt;

use dmakit_addr::{DmaAddr, PhysAddr, PhysRange};
use dmakit_platform::Instant;

use crate::{DeviceId, DmaFault};

/// One thing that happened on the machine's memory bus.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// A part of a device's read reached memory.
    DeviceRead(DeviceAccess),
    /// A part of a device's write reached memory.
    DeviceWrite(DeviceAccess),
    /// A part of a transfer went nowhere.
    Fault(DeviceId, DmaFault),
    /// The CPU asked for dirty lines to be written back.
    Clean(PhysRange),
    /// The CPU dropped lines.
    Invalidate(PhysRange),
    /// The CPU asked for dirty lines to be written back and dropped lines.
    CleanInvalidate(PhysRange),
    /// A dirty line went to memory though nobody asked.
    Evicted(PhysAddr),
    /// A clean line was fetched again though nobody asked.
    Refilled(PhysAddr),
    /// Frames were shared with the host; whether that succeeded.
    Share(PhysRange, bool),
    /// Frames were taken back from the host; whether that succeeded.
    Unshare(PhysRange, bool),
}

/// A part of a device's transfer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeviceAccess {
    /// Whose.
    pub device: DeviceId,
    /// The address on the device's bus.
    pub addr: DmaAddr,
    /// The memory behind it.
    pub memory: PhysRange,
    /// FNV-1a hash of the bytes.
    pub hash: u64,
}

impl fmt::Display for Event {
    /// One line: the kind, then its operands in the order of the fields.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DeviceRead(access) => write!(f, "read {access}"),
            Self::DeviceWrite(access) => write!(f, "write {access}"),
            Self::Fault(device, fault) => write!(f, "fault {device} {fault}"),
            Self::Clean(range) => write!(f, "clean {range}"),
            Self::Invalidate(range) => write!(f, "invalidate {range}"),
            Self::CleanInvalidate(range) => write!(f, "clean-invalidate {range}"),
            Self::Evicted(line) => write!(f, "evicted {line}"),
            Self::Refilled(line) => write!(f, "refilled {line}"),
            Self::Share(range, done) => write!(f, "share {range} {}", outcome(*done)),
            Self::Unshare(range, done) => write!(f, "unshare {range} {}", outcome(*done)),
        }
    }
}

impl fmt::Display for DeviceAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            device,
            addr,
            memory,
            hash,
        } = self;
        write!(f, "{device} {addr} {memory} {hash:016x}")
    }
}

fn outcome(done: bool) -> &'static str {
    if done { "done" } else { "failed" }
}

/// How often things happened since the machine was built.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Bytes that devices read from memory.
    pub device_read_bytes: u64,
    /// Bytes that devices wrote to memory.
    pub device_written_bytes: u64,
    /// Parts of transfers that went nowhere.
    pub faults: u64,
    /// Calls that clean.
    pub cleans: u64,
    /// Calls that invalidate.
    pub invalidates: u64,
    /// Calls that clean and invalidate.
    pub clean_invalidates: u64,
    /// Lines named by cache maintenance.
    pub lines_maintained: u64,
    /// Dirty lines that cache maintenance wrote back.
    pub lines_written_back: u64,
    /// Dirty lines written back though nobody asked.
    pub lines_evicted: u64,
    /// Lines fetched again though nobody asked.
    pub lines_refilled: u64,
    /// Frames shared with the host.
    pub frames_shared: u64,
    /// Frames taken back from it.
    pub frames_unshared: u64,
    /// Conversions that failed.
    pub failed_conversions: u64,
    /// Barriers.
    pub barriers: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) counts: Counts,
    events: Option<Vec<(Instant, Event)>>,
    pub(crate) now: Instant,
}

impl Log {
    pub(crate) fn new(record: bool) -> Self {
        Self {
            events: record.then(Vec::new),
            ..Self::default()
        }
    }

    pub(crate) fn event(&mut self, event: Event) {
        if let Some(events) = &mut self.events {
            events.push((self.now, event));
        }
    }

    pub(crate) fn is_recording(&self) -> bool {
        self.events.is_some()
    }

    pub(crate) fn events(&self) -> Vec<(Instant, Event)> {
        self.events.clone().unwrap_or_default()
    }
}

pub(crate) fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
