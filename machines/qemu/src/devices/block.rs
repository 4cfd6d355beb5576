//! Memory that a device and its driver both see.

use dmakit_addr::{Iova, IovaRange};
use dmakit_iommu::Mapped;
use dmakit_platform::{Segment, Window};

/// A segment that is mapped for a device as long as the block lives: queues, lists, mailboxes.
///
/// Dropping one leaks both; whoever made it takes it apart.
#[derive(Debug)]
pub struct Block {
    segment: Segment,
    mapped: Mapped,
}

impl Block {
    /// The block of a segment and the mapping of it, first byte to first byte.
    pub fn new(segment: Segment, mapped: Mapped) -> Self {
        Self { segment, mapped }
    }

    /// Its bytes.
    pub fn window(&self) -> Window<'_> {
        self.segment.window()
    }

    /// Where the device sees its byte `offset`, which must lie inside.
    pub fn iova(&self, offset: u64) -> Iova {
        debug_assert!(offset < self.segment.len());
        Iova::new(self.mapped.range().start().raw() + offset)
    }

    /// Where the device sees it.
    pub fn range(&self) -> IovaRange {
        self.mapped.range()
    }

    /// The parts, to be unmapped and freed in this order.
    pub fn into_parts(self) -> (Mapped, Segment) {
        (self.mapped, self.segment)
    }
}
