//! Mappings that bouncing would not have let through in one piece.

use dmakit_linux_model::{Demand, MAPPING_BYTES_MAX, OpKind, RecordedAddresses, SLOT_BYTES};

/// Longer mappings than this are no transfer that a driver would split.
const SPLIT_BYTES_MAX: u64 = 64 << 20;

/// Splits what was not bounced and is longer than a bounce pool of Linux serves. Drivers that
/// transfer in such lengths ask for the limit (`dma_max_mapping_size`), which is shorter where
/// everything is bounced. Returns how many mappings were split.
///
/// O(operations).
pub(super) fn split_unbounced(demand: &mut Demand, recorded: &mut RecordedAddresses) -> u64 {
    let mut pieces: Vec<Vec<u32>> = vec![Vec::new(); demand.mappings.len()];
    let mut split = 0;
    for (index, pieces) in pieces.iter_mut().enumerate() {
        let whole = demand.mappings[index];
        let limits = demand.devices[whole.device as usize].limits;
        let most = MAPPING_BYTES_MAX - limits.min_align_mask.next_multiple_of(SLOT_BYTES);
        let is_split = (most + 1..=SPLIT_BYTES_MAX).contains(&whole.bytes);
        if whole.was_bounced || most == 0 || !is_split {
            continue;
        }
        split += 1;
        demand.mappings[index].bytes = most;
        let mut done = most;
        while done < whole.bytes {
            let mut piece = whole;
            piece.original = whole.original.wrapping_add(done);
            piece.bytes = most.min(whole.bytes - done);
            pieces.push(demand.mappings.len() as u32);
            demand.mappings.push(piece);
            recorded.dma.push(None);
            done += most;
        }
    }
    if split > 0 {
        let ops = std::mem::take(&mut demand.ops);
        demand
            .ops
            .reserve(ops.len() + pieces.iter().map(Vec::len).sum::<usize>() * 2);
        for op in ops {
            demand.ops.push(op);
            let (index, again): (u32, fn(u32) -> OpKind) = match op.kind {
                OpKind::Map(index) => (index, OpKind::Map),
                OpKind::Unmap(index) => (index, OpKind::Unmap),
                _ => continue,
            };
            for piece in &pieces[index as usize] {
                let mut other = op;
                other.kind = again(*piece);
                demand.ops.push(other);
            }
        }
    }
    split
}
