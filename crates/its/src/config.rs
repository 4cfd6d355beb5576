//! What the embedder decides.

use dmakit_addr::{DmaMask, NodeId, PhysAddr};

/// How many levels tables have, where the ITS offers both.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Levels {
    /// Two where a flat table would take more than two pages.
    #[default]
    Cheapest,
    /// One: all memory is taken at the start, and no device can fail for lack of it.
    Flat,
    /// Two wherever it can be.
    Two,
}

/// How tables and queues are reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Sharing {
    /// Through the CPU's caches, unless the registers say otherwise when they are read back.
    #[default]
    Negotiated,
    /// Past them, whatever the registers say: for buses that do not keep what the ITS promises.
    Never,
}

/// How an ITS is to be run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// The physical address of its registers, from which that of the doorbell follows.
    pub base: PhysAddr,
    /// The node that it stands on, where its tables and queue should lie.
    pub node: Option<NodeId>,
    /// The highest physical address that it reaches, if its bus has fewer bits than it.
    pub limit: DmaMask,
    /// Bits of the device IDs that there are, where that is known to be less than it could have.
    pub device_bits: Option<u32>,
    /// Collections: one for each CPU.
    pub collections: u16,
    /// Bits of virtual CPUs' numbers, where there are any: the table of a GICv4 is set up, without
    /// it not.
    pub virtual_cpu_bits: Option<u32>,
    /// How many levels tables have.
    pub levels: Levels,
    /// How tables and queues are reached.
    pub sharing: Sharing,
}

impl Config {
    /// An ITS at `base`, for `cpus` CPUs: tables on any node, for all IDs that it can have, 16 bits
    /// of virtual CPUs.
    pub const fn new(base: PhysAddr, cpus: u16) -> Self {
        Self {
            base,
            node: None,
            limit: DmaMask::ALL,
            device_bits: None,
            collections: cpus,
            virtual_cpu_bits: Some(16),
            levels: Levels::Cheapest,
            sharing: Sharing::Negotiated,
        }
    }
}
