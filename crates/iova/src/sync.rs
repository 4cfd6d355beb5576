//! Atomics of the machine, or of the model checker under `--cfg loom`, where CPUs meet. What one CPU
//! alone touches is the machine's always.

#[cfg(not(loom))]
pub(crate) use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};
