//! Buffers of pages from everywhere.

use dmakit_addr::{DmaMask, NodeId, PAGE_BYTES, PhysRange};
use dmakit_platform::host::SegmentStore;
use dmakit_platform::{NoMemory, Segment, SegmentRequest};

/// A buffer of single pages, from several nodes in turn, in no order.
///
/// Dropping one leaks its pages.
#[derive(Debug)]
pub struct Scattered {
    pages: Vec<Segment>,
}

impl Scattered {
    /// A buffer of `pages` pages, the first from node 0, the next from node 1, and so on over
    /// `nodes`, then shuffled: `below(n)` gives a number below `n`.
    ///
    /// # Errors
    /// [`NoMemory`]; nothing is taken then.
    pub fn allocate(
        store: &SegmentStore,
        nodes: u16,
        pages: usize,
        mut below: impl FnMut(u64) -> u64,
    ) -> Result<Self, NoMemory> {
        let mut this = Self {
            pages: Vec::with_capacity(pages),
        };
        for (_, node) in (0..pages).zip((0..nodes).cycle()) {
            let request = SegmentRequest {
                len: PAGE_BYTES,
                align: PAGE_BYTES,
                node: Some(NodeId::new(node)),
                limit: DmaMask::ALL,
            };
            match store.allocate(&request) {
                Ok(page) => this.pages.push(page),
                Err(error) => {
                    this.free(store);
                    return Err(error);
                }
            }
        }
        for left in (2..=this.pages.len()).rev() {
            this.pages.swap(left - 1, below(left as u64) as usize);
        }
        Ok(this)
    }

    /// Bytes.
    pub fn len(&self) -> u64 {
        self.pages.len() as u64 * PAGE_BYTES
    }

    /// Whether it has no pages.
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// Its pages, in its order.
    pub fn runs(&self) -> impl Iterator<Item = PhysRange> + Clone + '_ {
        self.pages.iter().map(Segment::range)
    }

    /// Sets every byte.
    pub fn fill(&self, byte: u8) {
        for page in &self.pages {
            page.window().fill(byte);
        }
    }

    /// Copies `bytes` to its start.
    pub fn write(&self, bytes: &[u8]) {
        for (page, part) in self.pages.iter().zip(bytes.chunks(PAGE_BYTES as usize)) {
            page.window().write(part);
        }
    }

    /// Its first `len` bytes.
    pub fn read(&self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len.min(self.len() as usize)];
        for (page, part) in self.pages.iter().zip(bytes.chunks_mut(PAGE_BYTES as usize)) {
            page.window().read(part);
        }
        bytes
    }

    /// Gives the pages back.
    pub fn free(self, store: &SegmentStore) {
        for page in self.pages {
            // They came from there, or their loss shows among what is outstanding.
            drop(store.free(page));
        }
    }
}
