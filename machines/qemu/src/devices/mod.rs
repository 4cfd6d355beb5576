//! Drivers of two devices, as clients of the stack: nothing in the stack knows them.
//!
//! They see a device's registers, memory that both sides see ([`Block`]) and device addresses. Who
//! maps, and through what, is their caller's business.

mod block;
mod edu;
pub mod nvme;

pub use block::Block;
pub use edu::{Edu, EduError};
