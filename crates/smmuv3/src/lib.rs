//! A driver for Arm's SMMUv3.
//!
//! An [`Smmu`] is brought up from its registers and a provider of table memory. Streams are then
//! attached to a [`Context`]: one stage 1 page table under an ASID of its own. Invalidation is two
//! steps: [`Smmu::invalidate`] queues commands, [`Smmu::sync`] waits until everything queued before
//! it has taken effect. Every wait has a bound; one that is exceeded redeems nothing.
//!
//! It knows registers, tables and queues (in [`spec`], by the manual's names); it does not know who
//! maps what, when to invalidate, or any driver of a device.
//!
//! Layer L2. `no_std`; tables and queues come from `TableMemory`, on the SMMU's own node.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod entry;
mod events;
mod features;
mod hardware;
mod invalidate;
mod queue;
mod smmu;
pub mod spec;
mod stream_table;
mod tags;

pub use features::{Features, ProbeError};
pub use hardware::Translation;
pub use invalidate::Tag;
pub use queue::{COMMAND_TIME_MAX, RefusedCommand, SyncTimeout};
pub use smmu::{AttachError, Config, Context, EventCount, Smmu, StartError};
