//! Compares the slots that the model chose with the kernel's.

use std::collections::BTreeMap;

use crate::demand::RecordedAddresses;
use crate::replay::Placed;
use crate::swiotlb::PoolId;

/// How many addresses agree.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Agreement {
    /// Mappings with a recorded address.
    pub compared: u64,
    /// Those at the same place of the pool.
    pub equal: u64,
    /// Those in a pool made for them alone, where only the offset within a page means anything.
    pub transient: u64,
    /// Recorded ones that the model refused.
    pub refused: u64,
}

/// The recording does not say where a pool begins, so the start under which most addresses agree
/// is taken: one number per pool, not one per mapping.
pub fn compare(placed: &[Placed], recorded: &RecordedAddresses) -> (Agreement, BTreeMap<PoolId, u64>) {
    let mut agreement = Agreement::default();
    let mut starts: BTreeMap<PoolId, BTreeMap<u64, u64>> = BTreeMap::new();
    for (placed, dma) in placed.iter().zip(&recorded.dma) {
        let Some(dma) = dma else { continue };
        agreement.compared += 1;
        match placed {
            Placed::At(slots) if slots.is_transient => agreement.transient += 1,
            Placed::At(slots) => {
                let start = dma.wrapping_sub(slots.offset_bytes);
                *starts.entry(slots.pool).or_default().entry(start).or_default() += 1;
            }
            _ => agreement.refused += 1,
        }
    }
    let mut chosen = BTreeMap::new();
    for (pool, starts) in starts {
        if let Some((start, count)) = starts.into_iter().max_by_key(|(_, count)| *count) {
            agreement.equal += count;
            chosen.insert(pool, start);
        }
    }
    (agreement, chosen)
}
