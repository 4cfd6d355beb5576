//! Bounce pools: a software IO TLB that grows and shrinks.
//!
//! A device that cannot reach a buffer, or must not, is given a copy of it in slots of a pool: see
//! [`BouncePool`]. Below it, [`SlotPool`] is the slots of one pool shared by all CPUs, and [`Area`]
//! the bookkeeping under one lock, which finds a fitting run of slots, or knows that there is none,
//! in a bounded number of steps at any fill.
//!
//! It refuses to be an allocator for anything else, has no thread, clock or global of its own, and
//! does no cache maintenance: that is the caller's, who knows whether the device is coherent.
//!
//! Lock order: upkeep (may sleep), then a grown pool's place, then areas in ascending order.
//!
//! Layer L1. Needs `alloc` for bookkeeping, when pools are made and in `maintain`; mapping,
//! unmapping and syncing allocate nothing.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod area;
mod bits;
mod bounce_pool;
mod buffer;
mod by_address;
mod coherent;
mod config;
mod device;
mod dismantle;
mod entry;
mod error;
mod fit;
mod growth;
mod hint;
mod index;
mod layout;
mod level;
mod lists;
mod maintain;
mod mapping;
mod param;
mod pool;
mod request;
mod runs;
mod search;
mod shared_area;
mod slot_pool;
mod span;
mod statistics;
mod sync;
mod throttle;
mod tree;

pub use area::{Area, NoRun};
pub use bounce_pool::{BouncePool, ForeignBuffer};
pub use buffer::BounceBuffer;
pub use by_address::Found;
pub use coherent::CoherentSlots;
pub use config::{BounceConfig, ConfigError, GrowthConfig, Sharing};
pub use device::{AttachError, DeviceId, DeviceLimits, QuotaExceeded, Trust};
pub use dismantle::Busy;
pub use entry::Record;
pub use error::{Full, MapError, NotMapped, OutOfMapping};
pub use fit::Fit;
pub use growth::NoGrowth;
pub use maintain::Maintained;
pub use param::{Bouncing, EffectivePool, ParamError, ParamErrorKind, SwiotlbParam};
pub use request::{Lifetime, MapRequest};
pub use slot_pool::{AREA_SLOTS_MAX, AREA_SLOTS_MIN, AREAS_MAX, SlotPool, SlotPoolConfig};
pub use statistics::{DeviceStatistics, Failures, Statistics};
pub use throttle::{Purpose, Reservation, ReserveError};
