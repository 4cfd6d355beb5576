//! What the stack of this project does and Linux has no events for: mappings in steps, memory that
//! moves under them, other devices' memory.

use dmakit_addr::{Direction, DmaAddr, PhysAddr};

use crate::Name;

/// A step of a mapping, or a mapping of another device's memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stage {
    /// The device.
    pub device: Name,
    /// Who writes.
    pub direction: Direction,
    /// The first DMA address that it is about.
    pub dma: DmaAddr,
    /// Bytes.
    pub size: u64,
    /// What was done.
    pub step: Step,
}

/// What was done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// `dma_iova_reserve`: addresses were taken.
    Reserve,
    /// `dma_iova_link`: memory was linked to some of them.
    Link {
        /// The memory.
        phys: PhysAddr,
        /// The number of its provider, where it is another device's.
        peer: Option<u64>,
    },
    /// `dma_iova_unlink`: it is so no more, or part of it.
    Unlink,
    /// `dma_iova_withhold`: the device is kept from it, so that it can move.
    Withhold,
    /// `dma_iova_readmit`: the device is let in again.
    Readmit {
        /// Where the memory is now.
        phys: PhysAddr,
    },
    /// `dma_iova_destroy`: the addresses went back, and all that was linked with them.
    Destroy,
    /// `dma_map_peer`: another device's memory was mapped in one step.
    MapPeer {
        /// Where processors find it.
        phys: PhysAddr,
        /// The number of its provider.
        peer: u64,
    },
    /// `dma_unmap_peer`: that has ended.
    UnmapPeer {
        /// The number of the provider.
        peer: u64,
    },
}
