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
//! ```
//! use dmakit_addr::{Granule, Iova, IovaRange, PhysAddr, PhysRange};
//! use dmakit_io_pgtable::lpae::{ContiguousHint, Lpae, Stage};
//! use dmakit_io_pgtable::{Gather, PageTable, Permissions, WalkCoherence};
//! use dmakit_platform::host::{HostPlatform, HostRam};
//! use dmakit_platform::{NoMemory, Segment, SegmentRequest, TableMemory};
//! use std::sync::Mutex;
//!
//! /// Frames of a stretch of RAM, one after another.
//! struct Frames(Mutex<Vec<Segment>>);
//!
//! impl TableMemory for Frames {
//!     fn allocate_table(&self, request: &SegmentRequest) -> Result<Segment, NoMemory> {
//!         let refused = NoMemory { request: *request, largest_free: None };
//!         self.0.lock().unwrap().pop().ok_or(refused)
//!     }
//!     fn free_table(&self, segment: Segment) {
//!         self.0.lock().unwrap().push(segment);
//!     }
//! }
//!
//! let ram = PhysRange::new(PhysAddr::new(1 << 32), 8 * 4096)?;
//! let (_ram, mut segments) = HostRam::new(&[ram])?;
//! let mut frames = Vec::new();
//! let mut rest = segments.remove(0);
//! while let Ok((frame, more)) = rest.split_at(4096) {
//!     frames.push(frame);
//!     if more.is_empty() {
//!         break;
//!     }
//!     rest = more;
//! }
//!
//! let format = Lpae::new(Stage::One, Granule::K4, 48, 48, ContiguousHint::Never)?;
//! let memory = Frames(Mutex::new(frames));
//! let platform = HostPlatform::new(1);
//! let table = PageTable::new(format, platform, memory, None, WalkCoherence::Coherent)?;
//!
//! // 2 MiB and a page: a block and a small leaf.
//! let range = IovaRange::new(Iova::new(0x20_0000), 0x20_1000)?;
//! table.map(range, PhysAddr::new(0x4000_0000), Permissions::READ_WRITE)?;
//! assert_eq!(table.leaves(range).count(), 2);
//! assert_eq!(table.iova_to_phys(Iova::new(0x20_0123)), Some(PhysAddr::new(0x4000_0123)));
//!
//! let mut gather = Gather::new();
//! table.unmap(range, &mut gather)?;
//! assert_eq!(gather.range(), Some(range));
//! // ... the hardware's caches invalidated, and that complete: then
//! table.recycle(gather);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Tables and their memory
//!
//! A table is made when something is first mapped below it. It falls out when one unmap covers all
//! that it maps, or in [`PageTable::prune`], and after the caches were invalidated lies in a stock
//! until another is needed: as much as was ever in use at once, given back when the page table
//! is dropped. A failed map leaves no entry, but the tables that it made.
//!
//! Layer L1. It knows no device, no domain and no invalidation command.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod cursor;
mod descend;
mod error;
mod format;
mod gather;
mod geometry;
mod hint;
pub mod lpae;
mod map;
mod page_table;
mod sync;
mod table;
mod unmap;
mod walk;
mod withhold;

pub use cursor::Cursor;
pub use error::{MapError, MapFailure, TableError, UnmapError};
pub use format::{Access, Entry, Format, Memory, Permissions};
pub use gather::{FallenTables, Gather};
pub use geometry::{Geometry, GeometryError};
pub use page_table::{PageTable, Statistics, WalkCoherence};
pub use walk::{Leaf, Leaves};
pub use withhold::WithholdError;
