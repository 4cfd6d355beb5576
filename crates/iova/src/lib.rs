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
mod tree;
mod word;

pub use cache::CpuCache;
pub use error::{AllocCause, AllocError, ReserveError, SpaceError};
pub use request::{Request, Reservation};
pub use space::{Space, Statistics};
pub use tree::Policy;
