//! What the image needs to know of the machine, whoever describes it.

use alloc::string::String;
use alloc::vec::Vec;

use dmakit_addr::{NodeId, PhysRange};

use crate::arch::Chips;

/// A run of RAM and the node it is on.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    pub range: PhysRange,
    pub node: NodeId,
}

/// A machine, as its firmware describes it.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Kernel parameters.
    pub parameters: String,
    pub memory: Vec<Memory>,
    /// What of it somebody holds, besides this image.
    pub held: Vec<PhysRange>,
    /// PCI configuration space.
    pub configuration: Option<PhysRange>,
    /// Where 32-bit BARs go.
    pub window: Option<PhysRange>,
    /// What only such machines have.
    #[cfg_attr(
        target_arch = "x86_64",
        allow(dead_code, reason = "all of a kind there")
    )]
    pub chips: Chips,
}
