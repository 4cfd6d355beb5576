//! An interrupt translation service that does what the architecture allows, when it hurts most.
//!
//! Its register file keeps what it keeps and nothing else: page sizes, levels, sizes and memory
//! attributes that it does not have read back as what it does instead. It reads commands no further
//! than it was told to, past the CPU's caches unless its registers say otherwise, and lets each take
//! effect at some moment before the sync after it. What its tables hold is in RAM, in entries of its
//! own that only it can read: one that was moved, freed or overwritten is lost. Redistributors
//! remember the configuration of interrupts until they are told to forget it.
//!
//! The encoding is its own and shares nothing with a driver; tests pin both to the bytes of real
//! ones. It has no virtual interrupts, and its redistributors serve one ITS.

mod adversary;
mod bus;
mod commands;
mod config;
mod effects;
mod entries;
mod handle;
mod redistributor;
mod registers;
mod state;
mod tables;
mod view;

pub use config::{ItsConfig, OnCommandError, PageSizes, Shareable};
pub use handle::{SimIts, SimRedistributor};
pub(crate) use state::ItsState;
