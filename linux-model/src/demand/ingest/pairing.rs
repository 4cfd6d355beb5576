//! Finds the mapping that an unmapping ends.

use std::collections::{BTreeMap, HashMap, VecDeque};

use dmakit_addr::Direction;

/// A single mapping by what its unmapping shows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct PageKey {
    pub device: u32,
    pub dma: u64,
    pub bytes: u64,
    pub direction: Direction,
}

/// Entries after which the kernel cuts the list of a mapping; that of the unmapping is whole.
const SHOWN_MAX: usize = 128;

/// A scatterlist by what its unmapping shows.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct ListKey {
    device: u32,
    direction: Direction,
    count: usize,
    shown: Vec<u64>,
}

impl ListKey {
    pub fn new(
        device: u32,
        direction: Direction,
        count: usize,
        originals: impl Iterator<Item = u64>,
    ) -> Self {
        Self {
            device,
            direction,
            count,
            shown: originals.take(SHOWN_MAX).collect(),
        }
    }
}

/// What is mapped. The same key can be there twice for a moment: an unmapping's event is written
/// after the release, so another CPU may have reused the slot before. The oldest goes first.
#[derive(Debug, Default)]
pub(super) struct Live {
    pages: HashMap<PageKey, VecDeque<u32>>,
    lists: HashMap<ListKey, VecDeque<Vec<u32>>>,
    /// Bounced single mappings by device and first byte, for syncs: their length and number.
    bounced: BTreeMap<(u32, u64), (u64, u32)>,
}

impl Live {
    pub fn add_page(&mut self, key: PageKey, mapping: u32, is_bounced: bool) {
        if is_bounced {
            self.bounced
                .insert((key.device, key.dma), (key.bytes, mapping));
        }
        self.pages.entry(key).or_default().push_back(mapping);
    }

    pub fn take_page(&mut self, key: &PageKey) -> Option<u32> {
        let queue = self.pages.get_mut(key)?;
        let mapping = queue.pop_front();
        if queue.is_empty() {
            self.pages.remove(key);
        }
        let place = (key.device, key.dma);
        if self.bounced.get(&place).map(|(_, held)| *held) == mapping {
            self.bounced.remove(&place);
        }
        mapping
    }

    /// The bounced mapping in which an address lies.
    pub fn at(&self, device: u32, dma: u64) -> Option<u32> {
        let ((_, first), (bytes, mapping)) = self
            .bounced
            .range((device, 0)..=(device, dma))
            .next_back()?;
        (dma - first < *bytes).then_some(*mapping)
    }

    pub fn add_list(&mut self, key: ListKey, mappings: Vec<u32>) {
        self.lists.entry(key).or_default().push_back(mappings);
    }

    pub fn take_list(&mut self, key: &ListKey) -> Option<Vec<u32>> {
        let queue = self.lists.get_mut(key)?;
        let mappings = queue.pop_front();
        if queue.is_empty() {
            self.lists.remove(key);
        }
        mappings
    }

    pub fn count(&self) -> u64 {
        let pages: usize = self.pages.values().map(VecDeque::len).sum();
        let lists: usize = self.lists.values().flatten().map(Vec::len).sum();
        (pages + lists) as u64
    }
}
