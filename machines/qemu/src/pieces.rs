//! Buffers of pages from everywhere.

use dmakit_addr::{DmaMask, NodeId, PAGE_BYTES};
use dmakit_dma::ScatterList;
use dmakit_platform::host::SegmentStore;
use dmakit_platform::{CpuBuffer, NoMemory, Segment, SegmentRequest};

/// A buffer in pieces, each of contiguous memory.
///
/// Dropping one leaks its memory: [`free`] it.
pub type Pieces = ScatterList<Vec<CpuBuffer>>;

/// `len` bytes in single pages, the first from node 0, the next from node 1, and so on over `nodes`,
/// then shuffled: `below(n)` gives a number below `n`. Every byte of the pages is `fill`, also of the
/// last one's rest.
///
/// # Errors
/// [`NoMemory`]; nothing is taken then.
pub fn scattered(
    store: &SegmentStore,
    nodes: u16,
    len: u64,
    fill: u8,
    mut below: impl FnMut(u64) -> u64,
) -> Result<Pieces, NoMemory> {
    let mut pages = Vec::new();
    for (_, node) in (0..len.div_ceil(PAGE_BYTES)).zip((0..nodes).cycle()) {
        let request = SegmentRequest {
            len: PAGE_BYTES,
            align: PAGE_BYTES,
            node: Some(NodeId::new(node)),
            limit: DmaMask::ALL,
        };
        match store.allocate(&request) {
            Ok(page) => {
                page.window().fill(fill);
                pages.push(page);
            }
            Err(error) => {
                give_back(store, pages);
                return Err(error);
            }
        }
    }
    for left in (2..=pages.len()).rev() {
        pages.swap(left - 1, below(left as u64) as usize);
    }
    let mut left = len;
    let buffers = pages.into_iter().map(|page| {
        let here = left.min(PAGE_BYTES);
        left -= here;
        CpuBuffer::from_segment(page, here)
    });
    // No part is longer than its page, and their lengths add up to `len`.
    let pieces = ScatterList::new(buffers.flatten().collect());
    pieces.map_err(|_| unreachable!("{len} bytes"))
}

/// Gives the memory of a buffer back. The CPU has it, so no device does.
pub fn free(store: &SegmentStore, pieces: Pieces) {
    let buffers = pieces.into_buffers();
    give_back(store, buffers.into_iter().flat_map(CpuBuffer::into_segment));
}

fn give_back(store: &SegmentStore, segments: impl IntoIterator<Item = Segment>) {
    for segment in segments {
        // It came from there, or its loss shows among what is outstanding.
        drop(store.free(segment));
    }
}
