//! The little that must be known besides the demand, read off the recorded addresses.
//!
//! Three things are no mapping's address: the low bits that a device's driver asked to keep, the
//! address of the pool, and where the searches stood when the recording began.

use crate::demand::{Demand, Mapping, RecordedAddresses};
use crate::swiotlb::{SLOT_BYTES, SwiotlbConfig};

/// The widest mask that a driver is known to ask for.
const MASK_BITS_MAX: u32 = 12;

/// What drivers are known to ask for, from their sources' documentation: NVMe's pages of 4 KiB,
/// Hyper-V's storage and network likewise.
pub fn driver_min_align_mask(driver: &str) -> Option<u64> {
    match driver {
        "nvme" | "storvsc" | "hv_storvsc" | "hv_netvsc" | "netvsc" => Some(4095),
        _ => None,
    }
}

/// Sets each device's minimum-alignment mask from its bounced addresses. Returns, per device, how
/// many mappings the answer rests on.
///
/// A slot begins at a multiple of 2 KiB, so without a mask the low eleven bits of every bounce
/// address are zero: one original with a bit set among them decides whether a mask is in force.
/// A mask is then taken to reach up to the first bit in which an address differs from its
/// original, at most a page of 4 KiB, the widest that drivers ask for.
///
/// This uses recorded addresses, so prefer [`driver_min_align_mask`] where the driver is known.
pub fn learn_min_align_masks(demand: &mut Demand, recorded: &RecordedAddresses) -> Vec<u64> {
    let mut kept = vec![0_u64; demand.devices.len()];
    let mut lost = vec![0_u64; demand.devices.len()];
    for (mapping, dma) in bounced(demand, recorded) {
        let device = mapping.device as usize;
        lost[device] |= mapping.original ^ dma;
        kept[device] += u64::from(mapping.original & dma & (SLOT_BYTES - 1) != 0);
    }
    for (index, device) in demand.devices.iter_mut().enumerate() {
        let bits = lost[index].trailing_zeros().min(MASK_BITS_MAX);
        let is_masked = kept[index] > 0 && bits >= SLOT_BYTES.trailing_zeros();
        device.limits.min_align_mask = if is_masked { (1 << bits) - 1 } else { 0 };
    }
    kept
}

/// Where the boot pool lies and where its searches stood.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Beginning {
    /// DMA address of slot 0.
    pub start: u64,
    /// Next slot of each area's search.
    pub cursors: Vec<u32>,
    /// The mappings that told the cursors: no evidence of agreement.
    pub used: Vec<u32>,
}

/// Reads the boot pool's place and cursors off the first recorded address of each area and the
/// lowest of all; `start`, where the kernel's log tells it, is better than the lowest. `None`
/// without any bounced mapping.
pub fn learn_beginning(
    demand: &Demand,
    recorded: &RecordedAddresses,
    config: &SwiotlbConfig,
    start: Option<u64>,
) -> Option<Beginning> {
    let pool_bytes = u64::from(config.slots) * SLOT_BYTES;
    let area_bytes = pool_bytes / u64::from(config.areas);
    let first = bounced(demand, recorded).next().map(|(_, dma)| dma)?;
    let start = start.unwrap_or_else(|| {
        // Pools that came later lie elsewhere; the boot pool's addresses are near the first one.
        let near = bounced(demand, recorded)
            .map(|(_, dma)| dma)
            .filter(|dma| dma.abs_diff(first) < pool_bytes);
        let low = near.min().unwrap_or(first);
        let low = low - low % config.page_bytes;
        low.saturating_sub(area_bytes * areas_below(demand, recorded, config, low))
    });
    let area_slots = area_bytes / SLOT_BYTES;
    let mut cursors = vec![0; config.areas as usize];
    let mut is_told = vec![false; config.areas as usize];
    let mut used = Vec::new();
    for (index, (mapping, dma)) in demand.mappings.iter().zip(&recorded.dma).enumerate() {
        let Some(dma) = dma.filter(|_| mapping.was_bounced) else {
            continue;
        };
        let Some(slot) = dma.checked_sub(start).map(|offset| offset / SLOT_BYTES) else {
            continue;
        };
        let area = (slot / area_slots) as usize;
        if is_told.get(area) == Some(&false) {
            is_told[area] = true;
            cursors[area] = (slot % area_slots) as u32;
            used.push(index as u32);
        }
    }
    Some(Beginning {
        start,
        cursors,
        used,
    })
}

/// How many areas lie below the lowest recorded address: those of CPUs that mapped nothing. A CPU
/// maps in its own area first, so the count is the one with which most mappings lie there; the
/// lowest such count.
fn areas_below(
    demand: &Demand,
    recorded: &RecordedAddresses,
    config: &SwiotlbConfig,
    low: u64,
) -> u64 {
    let areas = u64::from(config.areas);
    let area_bytes = u64::from(config.slots) * SLOT_BYTES / areas;
    let mut own = vec![0_u64; config.areas as usize];
    for (mapping, dma) in bounced(demand, recorded) {
        let Some(above) = dma.checked_sub(low).map(|offset| offset / area_bytes) else {
            continue;
        };
        let wanted = u64::from(mapping.cpu) % areas;
        if let Some(below) = wanted.checked_sub(above) {
            own[below as usize] += 1;
        }
    }
    let most = own.iter().max().copied().unwrap_or(0);
    own.iter().position(|count| *count == most).unwrap_or(0) as u64
}

/// Where pools that were added lie, in order of first use.
///
/// A block of the page allocator is aligned to its size. A pool's slots are used over and over;
/// pools for one mapping take other pages each time. So a block counts as a pool if more slots
/// were mapped in it than it has.
pub(super) fn grown_pool_starts(
    demand: &Demand,
    recorded: &RecordedAddresses,
    config: &SwiotlbConfig,
    boot_start: u64,
) -> Vec<u64> {
    let bytes = u64::from(config.grown_slots()) * SLOT_BYTES;
    let boot_bytes = u64::from(config.slots) * SLOT_BYTES;
    let mut blocks: Vec<(u64, u64)> = Vec::new();
    for (mapping, dma) in bounced(demand, recorded) {
        if !config.engine.grows() || dma.wrapping_sub(boot_start) < boot_bytes {
            continue;
        }
        let start = dma - dma % bytes;
        let slots = mapping.bytes.div_ceil(SLOT_BYTES);
        match blocks.iter_mut().find(|(known, _)| *known == start) {
            Some((_, mapped)) => *mapped += slots,
            None => blocks.push((start, slots)),
        }
    }
    let is_pool = |block: &&(u64, u64)| block.1 > u64::from(config.grown_slots());
    blocks
        .iter()
        .filter(is_pool)
        .map(|(start, _)| *start)
        .collect()
}

fn bounced<'a>(
    demand: &'a Demand,
    recorded: &'a RecordedAddresses,
) -> impl Iterator<Item = (&'a Mapping, u64)> {
    let pairs = demand.mappings.iter().zip(&recorded.dma);
    pairs
        .filter(|(mapping, _)| mapping.was_bounced)
        .filter_map(|(m, dma)| Some((m, (*dma)?)))
}
