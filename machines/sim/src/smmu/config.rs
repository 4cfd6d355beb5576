//! What an SMMU can do.

use dmakit_addr::NodeId;

/// The description of an SMMU: by default all that the model has, with 16 bits of stream IDs and
/// 44 bits of output addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SmmuConfig {
    /// Walks and queues look into the CPU's caches.
    pub coherent: bool,
    /// Two-level stream tables.
    pub two_levels: bool,
    /// Invalidation by range.
    pub ranges: bool,
    /// Syncs write messages.
    pub messages: bool,
    /// Stage 2.
    pub stage_2: bool,
    /// ASIDs and VMIDs of 16 bits, else of 8.
    pub wide_tags: bool,
    /// Bits of a stream ID.
    pub stream_bits: u32,
    /// Bits of an output address: 44, 48 or 52. With 52, input addresses of 64 KiB granules have as
    /// many.
    pub output_bits: u32,
    /// The node that it is on: a sync then takes as long as its queue is far. Without one, syncs
    /// take no time.
    pub node: Option<NodeId>,
    /// Bits of a substream ID; 0 for an SMMU without substreams.
    pub substream_bits: u32,
    /// Two-level tables of context descriptors.
    pub two_level_contexts: bool,
}

impl Default for SmmuConfig {
    fn default() -> Self {
        Self {
            coherent: true,
            two_levels: true,
            ranges: true,
            messages: true,
            stage_2: true,
            wide_tags: true,
            stream_bits: 16,
            output_bits: 44,
            node: None,
            substream_bits: 16,
            two_level_contexts: true,
        }
    }
}

impl SmmuConfig {
    /// Bits of an input address for tables of a granule, given by its log2.
    pub(super) fn input_bits_max(&self, shift: u32) -> u32 {
        if shift == 16 {
            self.output_bits.max(48)
        } else {
            48
        }
    }

    /// How IDR5, and what is read from memory, write the bits of an output address.
    fn output_size(&self) -> u32 {
        match self.output_bits {
            ..48 => 4,
            48..52 => 5,
            52.. => 6,
        }
    }

    /// IDR0, IDR1, IDR3 and IDR5.
    pub(crate) fn identity(&self) -> [u32; 4] {
        let flag = |is_set: bool, bit: u32| u32::from(is_set) << bit;
        let idr0 = flag(self.stage_2, 0)
            | 1 << 1
            | 2 << 2
            | flag(self.coherent, 4)
            | flag(self.wide_tags, 12)
            | flag(self.messages, 13)
            | flag(self.wide_tags, 18)
            | flag(self.two_level_contexts, 19)
            // Faults abort, and nothing else.
            | 1 << 24
            | flag(self.two_levels, 27);
        let idr1 = 19 << 21 | 19 << 16 | self.substream_bits << 6 | self.stream_bits;
        // 4, 16 and 64 KiB granules.
        let idr5 = 0x70 | self.output_size() | flag(self.output_bits == 52, 10);
        [idr0, idr1, flag(self.ranges, 10), idr5]
    }
}
