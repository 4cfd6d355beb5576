//! What the embedder decides.

use core::time::Duration;

use dmakit_addr::NodeId;
use dmakit_iommu::InvalidationCosts;

/// How an SMMU is to be run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// The node that tables and queues should lie on.
    pub node: Option<NodeId>,
    /// log2 of the commands in the queue; less where the SMMU or memory has less.
    pub command_shift: u32,
    /// log2 of the records in the event queue; likewise.
    pub event_shift: u32,
    /// Whether the stream table has two levels, where the SMMU can do that and has more than 8 bits
    /// of stream IDs. One level takes 64 bytes for each stream there could be.
    pub two_levels: bool,
    /// What commands cost, which decides when a range is forgotten with its whole tag instead.
    pub costs: InvalidationCosts,
    /// Whether syncs say by a write to memory that they are complete, where the SMMU can do that.
    pub messages: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            node: None,
            command_shift: 12,
            event_shift: 10,
            two_levels: true,
            costs: InvalidationCosts {
                command: Duration::from_nanos(50),
                refill: Duration::from_nanos(400),
                entries: 128,
            },
            messages: true,
        }
    }
}
