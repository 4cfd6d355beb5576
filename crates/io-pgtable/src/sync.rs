//! Atomics of the machine, or of the model checker under `--cfg loom`. Entries of tables lie in RAM
//! and are the machine's always.

/// An entry of a table.
pub(crate) use core::sync::atomic::AtomicU64 as Word;
#[cfg(not(loom))]
pub(crate) use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize};
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize};
