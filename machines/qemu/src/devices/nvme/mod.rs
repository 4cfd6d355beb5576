//! An NVMe disk: admin queue, one pair of I/O queues, PRP lists, completion by polling or
//! with an interrupt.
//!
//! Section numbers are those of the NVM Express Base Specification 1.4.

mod command;
mod controller;
mod error;
mod memory;
mod queue;
mod registers;

pub use controller::{Completion, Identity, Nvme, Operation, info};
pub use error::NvmeError;
pub use memory::DEPTH_MAX;
