//! Memory, and which provider it came from.

use dmakit_addr::{DmaMask, NodeId};
use dmakit_platform::{NoMemory, Segment, SegmentRequest, TableMemory};

/// Memory of an ITS, with the number of the provider that gave it: 0 for the first.
#[derive(Debug)]
pub(crate) struct Given {
    pub(crate) segment: Segment,
    provider: u32,
}

/// The present provider, and what came from earlier ones.
pub(crate) struct Provider<M> {
    memory: M,
    number: u32,
    node: Option<NodeId>,
    limit: DmaMask,
}

impl<M: TableMemory> Provider<M> {
    pub(crate) fn new(memory: M, node: Option<NodeId>, limit: DmaMask) -> Self {
        Self {
            memory,
            number: 0,
            node,
            limit,
        }
    }

    /// From now on memory comes from `memory`.
    pub(crate) fn replace<N>(self, memory: N) -> Provider<N> {
        Provider {
            memory,
            number: self.number.saturating_add(1),
            node: self.node,
            limit: self.limit,
        }
    }

    /// Zeroed memory that starts at a multiple of `align`, at an address of `bits` bits.
    pub(crate) fn allocate(&self, len: u64, align: u64, bits: u32) -> Result<Given, NoMemory> {
        let limit = DmaMask::bits(bits).unwrap_or(DmaMask::ALL);
        let segment = self.memory.allocate_table(&SegmentRequest {
            len,
            align,
            node: self.node,
            limit: limit.intersect(self.limit),
        })?;
        Ok(Given {
            segment,
            provider: self.number,
        })
    }

    /// Gives memory home; that of an earlier provider comes back, for its owner to do so.
    pub(crate) fn free(&self, given: Given) -> Option<Segment> {
        if given.provider == self.number {
            self.memory.free_table(given.segment);
            return None;
        }
        Some(given.segment)
    }
}
