//! Device address space, handed out in bounded time.
//!
//! A [`Space`] holds the addresses of one IOMMU domain that are free to map: an aperture, minus
//! what is reserved. Whatever the fill, the size, the alignment and the limit of a request, it is
//! answered in a bounded number of steps, and a failure is known at the root of a tree rather than
//! found by a search. Freed blocks of common sizes stay with the CPU that freed them.
//!
//! It hands out addresses and takes them back; it does not know page tables, devices or
//! invalidation. Whoever holds a [`Reservation`] gives it back only when no translation cache can
//! still know it.
//!
//! ```
//! use dmakit_addr::{DmaMask, Granule, Iova, IovaRange};
//! use dmakit_iova::{CpuCache, Policy, Request, Space};
//! use dmakit_platform::host::HostPlatform;
//! use dmakit_platform::{CpuSlot, Platform};
//!
//! let platform = HostPlatform::new(2);
//! // One cache for each CPU, in storage of ours.
//! let caches: [CpuSlot<CpuCache>; 2] = Default::default();
//! let aperture = IovaRange::new(Iova::new(0x1000), 1 << 40)?;
//! let space = Space::<HostPlatform, _>::new(Granule::K4, aperture, Policy::TopDown, caches)?;
//! // The doorbell that interrupts are written to is nobody's to map.
//! space.reserve(IovaRange::new(Iova::new(0x0800_0000), 0x10_0000)?)?;
//!
//! let cpu = platform.enter_cpu();
//! let request = Request {
//!     len: 24 << 10,
//!     align: 1,
//!     limit: DmaMask::bits(32).unwrap(),
//! };
//! let reservation = space.alloc(&cpu, &request)?;
//! assert_eq!(reservation.range().start().raw() % (32 << 10), 0, "aligned by nature");
//! // ... mapped, used, unmapped, and every translation cache told: then
//! space.free(&cpu, reservation);
//! assert_eq!(space.statistics().cached, 32 << 10);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What it costs in memory
//!
//! A node of 576 bytes stands for 4096 granules, part of which are in use; one above it for 64 of
//! those. A million live blocks of 1 to 256 pages, put and taken at random, cost 9 bytes each. The
//! worst is one granule left in each 4096: 585 bytes for each live block, and up to 3456 where the
//! blocks are so far apart that each has a branch of the tree of its own. Nodes are used again, and
//! go back to the program's allocator when the space is dropped. Each CPU's cache has 11.1 KiB, and
//! each space 22 KiB for blocks on their way between CPUs.
//!
//! # What it does not do
//!
//! A request is served by an aligned block of its size, rounded up to a power of two, that is free as
//! a whole (the tail goes back at once). So a request of 5 granules may fail where 5 in a row are
//! free but not the 8 around them.
//!
//! Layer L1.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod cache;
mod depot;
mod error;
mod node;
mod pool;
mod request;
mod reserve;
mod space;
mod sync;
mod tree;
mod word;

pub use cache::CpuCache;
pub use error::{AllocCause, AllocError, ReserveCause, ReserveError, SpaceError};
pub use request::{Request, Reservation};
pub use reserve::Claim;
pub use space::{Space, Statistics};
pub use tree::Policy;
