//! An SMMUv3 that does what the architecture allows, when it hurts most.
//!
//! It walks the real tables in RAM, with an encoding of its own: what it reads here is pinned to the
//! bytes of unmodified drivers by the tests, and shares nothing with a driver. Each command takes
//! effect at some moment before the sync after it is consumed, in any order; transactions that were
//! translated go on with what they got until then. It remembers stream entries, descriptors, walks
//! and translations, whatever the tables say meanwhile, until it is told to forget them.
//!
//! It has no device caches, page requests, stalls or nested stages.

mod adversary;
mod caches;
mod command;
mod config;
mod handle;
mod record;
mod registers;
mod state;
mod structures;
mod walk;

pub use config::SmmuConfig;
pub use handle::{SimSmmu, SmmuId, SyncWaits};
pub(crate) use state::SmmuState;

/// Who sends a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Source {
    pub(crate) stream: u32,
    pub(crate) substream: Option<u32>,
}
