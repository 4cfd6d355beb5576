//! Entries that a page table of Linux writes.

use std::collections::{HashMap, HashSet};

/// Leaves of several levels above the granule, as a granule of 4, 16 or 64 KiB has them.
#[derive(Clone, Debug)]
pub(super) struct Tables {
    granule: u64,
    /// log2 of what a table of each height maps, lowest first.
    spans: Vec<u32>,
    /// Whether a whole table can be one leaf, by height.
    has_blocks: Vec<bool>,
    /// Tables by height and number; of the lowest, how many leaves each has.
    tables: Vec<HashMap<u64, u64>>,
    /// Leaves as large as a table of that height.
    blocks: Vec<HashSet<u64>>,
}

impl Tables {
    pub fn new(granule: u64) -> Self {
        let shift = granule.trailing_zeros();
        let bits = shift - 3;
        let heights = (48_u32.saturating_sub(shift) - 1) / bits;
        let spans: Vec<u32> = (1..=heights).map(|height| shift + bits * height).collect();
        let has_blocks = (0..spans.len())
            .map(|height| match shift {
                12 => height < 2,
                _ => height < 1,
            })
            .collect();
        Self {
            granule,
            has_blocks,
            tables: vec![HashMap::new(); spans.len()],
            blocks: vec![HashSet::new(); spans.len()],
            spans,
        }
    }

    /// Maps a run with the largest leaves that fit. Returns entries written and tables made.
    pub fn map(&mut self, iova: u64, phys: u64, bytes: u64) -> (u64, u64) {
        let (mut stores, mut made) = (0, 0);
        let mut at = 0;
        while at < bytes {
            let block = (0..self.spans.len()).rev().find(|height| {
                let span = 1 << self.spans[*height];
                self.has_blocks[*height]
                    && (iova + at) % span == 0
                    && (phys + at) % span == 0
                    && bytes - at >= span
            });
            // A block replaces the table below it, if there is one.
            let below = block.map_or(0, |height| height + 1);
            for height in (below..self.spans.len()).rev() {
                let number = (iova + at) >> self.spans[height];
                let table = self.tables[height].entry(number).or_insert_with(|| {
                    made += 1;
                    stores += 1;
                    0
                });
                *table += u64::from(height == below);
            }
            at += match block {
                Some(height) => {
                    let number = (iova + at) >> self.spans[height];
                    self.blocks[height].insert(number);
                    self.tables[height].remove(&number);
                    1 << self.spans[height]
                }
                None => self.granule,
            };
            stores += 1;
        }
        (stores, made)
    }

    /// Unmaps a range as it was mapped: whole tables go with one entry.
    pub fn unmap(&mut self, iova: u64, bytes: u64) -> u64 {
        let mut stores = 0;
        let mut at = 0;
        while at < bytes {
            let whole = (0..self.spans.len()).rev().find(|height| {
                let span = 1 << self.spans[*height];
                let number = (iova + at) >> self.spans[*height];
                let is_there = self.blocks[*height].contains(&number)
                    || self.tables[*height].contains_key(&number);
                (iova + at) % span == 0 && bytes - at >= span && is_there
            });
            at += match whole {
                Some(height) => {
                    self.drop_below(height, (iova + at) >> self.spans[height]);
                    1 << self.spans[height]
                }
                None => self.granule,
            };
            stores += 1;
        }
        stores
    }

    fn drop_below(&mut self, height: usize, number: u64) {
        for lower in 0..=height {
            let shift = self.spans[height] - self.spans[lower];
            let first = number << shift;
            let inside = |number: &u64| (first..first + (1 << shift)).contains(number);
            self.blocks[lower].retain(|number| !inside(number));
            self.tables[lower].retain(|number, _| !inside(number));
        }
    }
}
