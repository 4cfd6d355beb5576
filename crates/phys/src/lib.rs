//! Physical memory: where it is, who has it, and who gets the next block.
//!
//! * [`MemoryMap`]: ranges with a node and a kind, holes, nodes without memory, distances.
//! * [`PageAllocator`]: a buddy allocator over a frame table of 16 bytes for each 4 KiB frame, in
//!   memory that the caller supplies. Blocks of up to 1 GiB, by node with fall-back in the order of
//!   distance, below an address limit, by [`MigrateType`].
//! * [`Frames`]: the owner of what was allocated. Nothing else frees it, and it is freed once.
//! * [`AttachedRam`]: the bytes behind the frames; turns `Frames` into segments and back, and is
//!   the table and pool memory of the crates above.
//!
//! Layer L1. No globals, no `unsafe`. Allocation and free take one interrupt-safe lock, never sleep
//! and never allocate; building the tables does.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod attached_ram;
mod buddy;
mod error;
mod frame;
mod memory_map;
mod page_allocator;
mod sections;
mod zone;

pub use attached_ram::{AttachedRam, DetachError};
pub use error::{FreeError, FreeReason, NoFrames, TableError};
pub use frame::{Frame, MigrateType};
pub use memory_map::{MapError, MemoryKind, MemoryMap, Region};
pub use page_allocator::{FrameRequest, Frames, MAX_ORDER, PAGEBLOCK_ORDER, PageAllocator};
