//! A driver for Arm's SMMUv3.
//!
//! An [`Smmu`] is brought up from its registers and a provider of table memory. Streams are then
//! attached to a [`Context`]: one page table under a tag of its own. Invalidation is two
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

mod atomic;
mod bring_up;
mod config;
mod context;
mod entry;
mod error;
mod events;
mod features;
mod hardware;
mod in_use;
mod invalidate;
mod progress;
mod queue;
mod refusal;
mod smmu;
pub mod spec;
mod stream_table;
mod substreams;
mod tags;

pub use bring_up::Inherited;
pub use config::Config;
pub use context::Context;
pub use error::{AttachError, ReleaseFailure, StartError};
pub use features::{Features, ProbeError};
pub use hardware::Translation;
pub use in_use::{InUse, InUseError};
pub use invalidate::Tag;
pub use queue::{COMMAND_TIME_MAX, CommandCounts};
pub use refusal::{RefusedCommand, SyncFailure};
pub use smmu::{EventCount, Smmu};
pub use substreams::Substreams;
