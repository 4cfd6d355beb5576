//! A device for interfaces made of addresses and pointers.
//!
//! Other projects' driver traits hand over a pointer and take back an address; later they hand over
//! both. [`UntypedDevice`] stands between them and [`Device`](dmakit_dma::Device): it keeps by
//! address what the mapping API keeps in tokens, and reaches the program's bytes by pointer. What
//! types prove elsewhere is the caller's promise here, so its methods are unsafe and say what is
//! promised.
//!
//! Unmapping hands memory back at once, as those interfaces want it: where a device's accesses are
//! translated, the unmap waits for the sync.
#![no_std]
#![allow(unsafe_code)]

extern crate alloc;

mod bytes;
mod device;

pub use bytes::ProgramBytes;
pub use device::{LentError, NotAllocated, UntypedDevice};
