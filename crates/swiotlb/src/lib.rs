//! Bounce pools: a software IO TLB.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod area;
mod bits;
mod entry;
mod fit;
mod hint;
mod level;
mod lists;
mod slot_pool;
mod span;
mod sync;
mod tree;

pub use area::{Area, NoRun};
pub use entry::Record;
pub use fit::Fit;
pub use slot_pool::{AREA_SLOTS_MAX, AREA_SLOTS_MIN, AREAS_MAX, SlotPool, SlotPoolConfig};
