//! An NVMe disk: admin queue, one pair of I/O queues, PRP lists, completion by polling.
//!
//! Section numbers are those of the NVM Express Base Specification 1.4.

mod command;
mod controller;
mod error;
mod queue;
mod registers;

pub use controller::{Completion, Identity, Nvme, Operation, StartFailure};
pub use error::NvmeError;
