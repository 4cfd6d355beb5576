//! I/O page tables: what an IOMMU walks.
//!
//! A [`PageTable`] maps ranges of device addresses to physical memory in the format of its
//! hardware, with the largest leaves that address, length and alignment allow. Any number of CPUs
//! map and unmap at once, as long as their ranges are apart, and none of them takes a lock.
//!
//! Unmapping only clears entries. What translation caches may still know is written into a
//! [`Gather`], which also owns the table pages that fell out of the tree: they come back through
//! [`PageTable::recycle`], after the caches were invalidated and never before.
//!
//! The walker is written once. A [`Format`] says how entries look; [`lpae`] has Arm's.
//!
//! Layer L1. It knows no device, no domain and no invalidation command.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod descend;
mod error;
mod format;
mod gather;
mod geometry;
mod hint;
pub mod lpae;
mod map;
mod page_table;
mod table;
mod unmap;
mod walk;

pub use error::{MapError, MapFailure, TableError, UnmapError};
pub use format::{Access, Entry, Format, Memory, Permissions};
pub use gather::Gather;
pub use geometry::{Geometry, GeometryError};
pub use page_table::{PageTable, Statistics, WalkCoherence};
pub use walk::{Leaf, Leaves};
