//! Drivers of two devices, as clients of the stack: nothing in the stack knows them.
//!
//! A driver has registers and a [`Device`], and takes all memory that it shares
//! with the hardware from that: coherent blocks for queues and lists, streaming mappings for buffers,
//! made in [one step or in two](Lent). What stands between the device and memory it is not told: the
//! same code runs strict, batched and lazy behind an IOMMU, directly, and by way of a bounce pool.

pub mod edu;
mod lent;
pub mod nvme;

use dmakit_dma::{Device, Unchecked};
use dmakit_swiotlb::NoGrowth;

pub use edu::Edu;
pub use lent::{Lent, NotTaken, Steps};

/// A device as its driver here is given it: unwatched, with a pool that does not grow, if any.
pub type DmaDevice<'a, P, T> = Device<'a, P, NoGrowth, Unchecked, T>;
