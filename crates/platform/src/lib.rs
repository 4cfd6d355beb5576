//! What the DMA stack asks of a machine.
//!
//! A kernel, firmware, hypervisor or process gives the stack four things here, describes its devices
//! to the mapping API above, and that is all (`docs/porting.md`, with a whole embedder):
//!
//! * a [`Platform`]: time, barriers, cache maintenance, sharing with an untrusted host, two kinds
//!   of lock and the number of the CPU one runs on;
//! * RAM, once, through [`Ram::new`]: from then on bytes are reached only through a [`Window`] that
//!   borrows the [`Segment`] owning them;
//! * buffers, as [`CpuBuffer`]: owned or `'static` memory with the physical runs behind it;
//! * allocators under the names of what they are for: [`TableMemory`], [`PoolMemory`].
//!
//! Hardware drivers also take an [`Mmio`] region; allocators never see one.
//!
//! Lock order, outermost first: sleeping locks ([`SleepMutex`]) in the order pool set, area set,
//! domain, with the pin table's inside any of them; then interrupt-safe locks ([`IrqMutex`]) in the
//! order area (ascending index), queue, stock of frames, page allocator. A sleeping lock is never
//! taken inside an interrupt-safe one.
//!
//! Layer L0. This is the one library crate where `unsafe` is allowed; each block names the
//! conditions it relies on. With the feature `host` there is RAM and a platform for processes.
#![cfg_attr(not(feature = "host"), no_std)]
#![allow(unsafe_code)]

#[cfg(feature = "alloc")]
extern crate alloc;

#[cfg(feature = "alloc")]
mod arena;
mod buffer;
mod carved;
#[cfg(feature = "host")]
pub mod host;
mod instant;
mod lock;
mod memory;
mod mmio;
mod per_cpu;
mod platform;
mod ram;
mod segment;
mod window;
mod words;

#[cfg(feature = "alloc")]
pub use arena::Arena;
pub use buffer::{CopySource, CopyTarget, CpuBuffer, Runs};
pub use carved::{Carved, Held};
pub use instant::Instant;
/// The traits that an embedder's locks implement.
pub use lock_api;

pub use lock::{IrqMutex, RawSpinLock, SleepMutex};
pub use memory::{NoMemory, NoTables, PoolMemory, SegmentRequest, TableMemory};
pub use mmio::Mmio;
pub use per_cpu::{CpuSlot, PerCpu};
pub use platform::{Barrier, ConversionError, CpuGuard, CpuId, Platform};
pub use ram::{Ram, RamRange};
pub use segment::{MergeError, Segment};
pub use window::Window;
pub use words::Words;
