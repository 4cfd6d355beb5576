//! The allocator: pools of 2 KiB slots, searched as each kernel version does.

mod memory;
mod pool;
mod rules;
#[cfg(test)]
mod tests;

pub use memory::{Counters, MapFailure, PoolId, Slots, Swiotlb, SwiotlbConfig};
pub(crate) use memory::{areas_for, halved};
pub use rules::{DeviceLimits, Request};

/// Bytes of one slot.
pub const SLOT_BYTES: u64 = 2048;
/// Slots of one segment; no mapping is longer than that.
pub const SEGMENT_SLOTS: u32 = 128;
/// The longest mapping, in bytes.
pub const MAPPING_BYTES_MAX: u64 = SLOT_BYTES * SEGMENT_SLOTS as u64;
/// The pool without any parameter: 64 MiB.
pub const DEFAULT_SLOTS: u32 = 32768;
/// Where halving an unobtainable pool stops: 1 MiB.
pub const HALVING_STOPS_AT_SLOTS: u32 = 512;
