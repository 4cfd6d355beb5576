//! Physical memory: where it is, who has it, and who gets the next block.
//!
//! * [`MemoryMap`]: ranges with a node and a kind, holes, nodes without memory, distances.
//! * [`PageAllocator`]: a buddy allocator over a frame table of less than 16 bytes for each 4 KiB
//!   frame, in memory that the caller supplies. Blocks of up to 1 GiB, by node with fall-back in the
//!   order of distance, below an address limit, by [`MigrateType`].
//! * [`Frames`]: the owner of what was allocated. Nothing else frees it, and it is freed once.
//! * [`MovableMemory`]: the allocator together with those who own movable memory, who implement
//!   [`Migrate`]. Contiguous frames are claimed here, with or without a reservation: the window that
//!   is cheapest to clear is known beforehand from what is kept of each page block, what is free in it
//!   is held back, everything else is moved out, and it is taken.
//! * [`Pin`], [`LeaseTerms`], [`Account`]: who keeps frames where they are, for how long, against
//!   what limit; a lease is a pin that a claim may recall.
//! * [`migrate_mapped`]: how frames move while a device reaches them.
//! * [`FrameStocks`]: single frames that each CPU takes ahead.
//! * [`AttachedRam`]: the bytes behind the frames; turns `Frames` into segments and back, and is
//!   the table and pool memory of the crates above. [`ClaimedRam`] also has movable memory leave.
//!
//! Layer L1. No globals, no `unsafe`. Allocation and free take one interrupt-safe lock, never sleep
//! and never allocate; building the tables does. Claims and migrations may sleep and hold no lock
//! while they ask anybody.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod account;
mod attached_ram;
mod block;
mod buddy;
mod claim;
mod claim_error;
mod claimed_ram;
mod clearing;
mod coverage;
mod error;
mod frame;
mod lease;
mod mapped;
mod memory_map;
mod migration;
mod movable_memory;
mod obstacles;
mod page_allocator;
mod pin;
mod pin_table;
mod pinning;
mod sections;
mod stock;
mod sync;
mod window;
mod zone;

pub use account::{Account, OverLimit};
pub use attached_ram::{AttachedRam, DetachError};
pub use claim::ClaimLimits;
pub use claim_error::{Blocking, ClaimError, ClaimFailure, Obstacle};
pub use claimed_ram::ClaimedRam;
pub use error::{FreeError, FreeReason, NoFrames, TableError};
pub use frame::{Frame, MigrateType, MoverId};
pub use mapped::{CpuMappings, DeviceMappings, migrate_mapped};
pub use memory_map::{MapError, MemoryKind, MemoryMap, Region};
pub use migration::{Migrate, Migration, MigrationCause, NoMovers, Refusal, Refused};
pub use movable_memory::{MigrationCounts, MovableMemory, NotMoved};
pub use page_allocator::{FrameRequest, Frames, MAX_ORDER, PAGEBLOCK_ORDER, PageAllocator};
pub use pin::{
    LeaseHolder, LeaseTerms, NoPin, NotRevoked, Pin, PinError, PinId, PinInfo, PinKind, PinOwner,
    PinOwnerInfo, Revoke,
};
pub use stock::{CpuStock, FrameStocks};
pub use window::{Window, WindowIn, WindowRequest};
