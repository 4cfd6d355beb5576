//! A driver for Arm's interrupt translation service (GICv3, the physical part of GICv4).
//!
//! Devices interrupt by writing an event ID to one register of the [`Its`]; it looks up device and
//! event in tables in RAM, and hands an interrupt of a number above 8191 (an [`Lpi`]) to the CPU of
//! a collection. The tables are the largest that a machine needs before it has any device: 16 MiB
//! each at most. They come from `TableMemory`, so from early memory, contiguous areas or ranges, and
//! never from an allocator's orders; what comes later may come from another provider
//! ([`Its::with_memory`]).
//!
//! Order: [`Lpis`], a [`Redistributor`] for each CPU, an [`Its`], its collections, then devices.
//! Every wait has a bound; what it is about is then unknown, and its memory stays where it is.
//!
//! It knows registers, tables and commands (in [`spec`], by the manual's names). It does not know
//! which device is which, who maps the [doorbell](Its::doorbell), or how a CPU takes an interrupt.
//!
//! Layer L2. `no_std`; tables and queues come from `TableMemory`, on the ITS's own node.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod bring_up;
mod config;
mod device;
mod error;
mod events;
mod features;
mod its;
mod layout;
mod lpi;
mod memory;
mod negotiate;
mod queue;
mod redistributor;
pub mod spec;
mod table;

pub use config::{Config, Levels, Sharing};
pub use device::{CreateError, DestroyError, Device};
pub use error::{CommandFailure, RefusedCommand, StartError};
pub use events::{EventError, MapError};
pub use features::{Features, ProbeError};
pub use its::{CollectionError, Its};
pub use layout::Layout;
pub use lpi::{Lpi, LpiConfig, LpiTableError, Lpis, NoLpi};
pub use negotiate::Refused;
pub use queue::{COMMAND_TIME_MAX, CommandCounts};
pub use redistributor::{FoundLpis, Redistributor, RedistributorError, Target};
pub use table::TableInfo;
