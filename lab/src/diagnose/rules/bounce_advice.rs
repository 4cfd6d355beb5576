//! What helps and what does not where a bounce pool is concerned.

use crate::diagnose::cause::{Cause, Certainty};
use crate::diagnose::evidence::Seen;
use crate::diagnose::finding::Finding;

pub fn above_cap(seen: &Seen, sum: String) -> Finding {
    Finding::new(seen, Cause::RequestAboveSegmentCap, Certainty::Certain, sum)
        .fixed_by([
            "make the driver map pieces of at most 256 KiB: dma_max_mapping_size(), a smaller max segment or max sectors",
            "or avoid the bounce: a wider DMA mask or IOMMU translation if the device can, buffers in memory the device reaches",
        ])
        .not_helped_by([
            "a larger swiotlb=, more areas, CONFIG_SWIOTLB_DYNAMIC: all keep the segment of 128 slots",
            "freeing the pool or rebooting",
        ])
}

pub fn too_small(seen: &Seen, sum: String, certainty: Certainty) -> Finding {
    Finding::new(seen, Cause::PoolTooSmall, certainty, sum)
        .fixed_by([
            "a larger swiotlb=SLOTS (slots of 2 KiB); `io_tlb_used_hiwater` in debugfs tells the need",
            "fewer or smaller requests in flight",
        ])
        .not_helped_by(["a larger pool, if the slots leak: then used never falls back"])
}

pub fn leak(seen: &Seen, sum: String, certainty: Certainty) -> Finding {
    Finding::new(seen, Cause::PoolLeak, certainty, sum)
        .fixed_by([
            "decide it: read io_tlb_used in debugfs after the load ends or the driver is unloaded; if it stays, mappings leak",
            "a driver fix: every map needs its unmap (CONFIG_DMA_API_DEBUG names the owner)",
        ])
        .not_helped_by(["a larger swiotlb= only delays it"])
}

pub fn fragmented(seen: &Seen, sum: String, certainty: Certainty) -> Finding {
    Finding::new(seen, Cause::PoolFragmentedOrAreaFull, certainty, sum)
        .fixed_by([
            "a larger swiotlb=SLOTS, so that a whole run stays free",
            "smaller mappings, or fewer areas (swiotlb=SLOTS,AREAS)",
        ])
        .not_helped_by(["looking at the used count alone: it does not show runs"])
}

pub fn misaligned(seen: &Seen, sum: String) -> Finding {
    Finding::new(seen, Cause::Other, Certainty::Likely, sum)
        .fixed_by([
            "compare the device's min_align_mask and the caller's alignment with the kernel version: the slot search was reworked in 6.8 and 6.9",
        ])
        .not_helped_by(["a larger swiotlb="])
}

pub fn no_pool(seen: &Seen, count: usize) -> Vec<Finding> {
    let sum = "total 0 (slots): no bounce pool exists (that is proved); a mapping that must bounce cannot be served. \
               Why it must (address beyond the device's mask, most often) is not in the line";
    vec![
        Finding::new(
            seen,
            Cause::AddressBeyondMaskNoBounce,
            Certainty::Likely,
            sum.to_owned(),
        )
        .fixed_by([
            "make a pool: swiotlb=force or swiotlb=SLOTS, and no swiotlb=noforce or iommu=off",
            "or translate: switch the IOMMU on",
        ])
        .not_helped_by(["freeing slots or tuning areas: there are none"])
        .counted(count),
        Finding::new(seen, Cause::Noforce, Certainty::Possible, sum.to_owned())
            .fixed_by(["look for swiotlb=noforce on the kernel command line"])
            .counted(count),
    ]
}
