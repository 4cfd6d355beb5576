//! Bounce pools: a software IO TLB.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod area;
mod bits;
mod entry;
mod fit;
mod lists;
mod tree;

pub use area::{Area, NoRun};
pub use entry::Record;
pub use fit::Fit;
