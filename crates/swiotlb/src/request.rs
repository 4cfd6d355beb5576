//! What a caller asks of a mapping.

use dmakit_addr::{AlignMask, PhysAddr};

/// How long a mapping will live.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lifetime {
    /// One transfer. While there are grown pools, these are left out of the first one's last part.
    Brief,
    /// Long: it goes to the first pool, because a grown one could not be given back meanwhile.
    Long,
    /// As long as the device: it goes to the first pool or fails.
    Permanent,
}

/// The part of a source that is to be bounced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MapRequest {
    /// Where the first byte of the part lies in physical memory; 0 is an address like others. Only
    /// its low bits matter.
    pub original: PhysAddr,
    /// Where the part begins in the source, in bytes.
    pub offset: u64,
    /// How many bytes.
    pub len: u64,
    /// The slots as a whole start and end at a multiple of this, in device addresses: the granule
    /// of an IOMMU, so that nobody else's bytes share it. At most 64 KiB.
    pub align: AlignMask,
    /// How long it will live.
    pub lifetime: Lifetime,
}

impl MapRequest {
    /// All of a source of `len` bytes at `original`, for one transfer, aligned anyhow.
    pub const fn whole(original: PhysAddr, len: u64) -> Self {
        Self {
            original,
            offset: 0,
            len,
            align: AlignMask::NONE,
            lifetime: Lifetime::Brief,
        }
    }
}
