//! Device address space, handed out in bounded time.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod node;
mod tree;
mod word;
pub use tree::Policy;
