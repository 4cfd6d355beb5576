//! From a frame to its entry in the table, and back, in constant time.

use alloc::vec;
use alloc::vec::Vec;

use dmakit_addr::{Address, Pfn};

use crate::memory_map::MemoryMap;
use crate::page_allocator::PAGEBLOCK_ORDER;

/// So many sections at most, whatever the span of memory: the table of sections stays small.
const SECTIONS_MAX: u64 = 1 << 16;

const NO_SECTION: u32 = u32::MAX;

/// Memory cut into sections of 2^n frames, of which only those with usable memory have entries.
pub(crate) struct Sections {
    order: u32,
    /// The number of the first section.
    base: u64,
    /// For each section, which of the present ones it is.
    present: Vec<u32>,
    /// For each present section, its number.
    numbers: Vec<u64>,
}

impl Sections {
    pub(crate) fn new(map: &MemoryMap) -> Self {
        let usable = || map.regions().iter().filter(|r| r.kind.is_allocatable());
        let first = usable()
            .next()
            .map_or(0, |region| region.range.start().raw());
        let end = usable()
            .next_back()
            .map_or(0, |region| region.range.end().raw());
        let mut order = PAGEBLOCK_ORDER;
        while (end >> order) - (first >> order) >= SECTIONS_MAX {
            order += 1;
        }
        let base = first >> order;
        let count = if end == 0 {
            0
        } else {
            ((end - 1) >> order) - base + 1
        };
        let mut present = vec![NO_SECTION; count as usize];
        let mut numbers = Vec::new();
        for region in usable() {
            let last = (region.range.end().raw() - 1) >> order;
            for number in region.range.start().raw() >> order..=last {
                let place = &mut present[(number - base) as usize];
                if *place == NO_SECTION {
                    *place = numbers.len() as u32;
                    numbers.push(number);
                }
            }
        }
        Self {
            order,
            base,
            present,
            numbers,
        }
    }

    /// How many entries the table needs.
    pub(crate) fn entries(&self) -> u64 {
        (self.numbers.len() as u64) << self.order
    }

    #[inline]
    pub(crate) fn index(&self, frame: u64) -> Option<usize> {
        let section = (frame >> self.order).checked_sub(self.base)?;
        let present = *self.present.get(usize::try_from(section).ok()?)?;
        let inside = frame & ((1 << self.order) - 1);
        (present != NO_SECTION).then(|| ((present as usize) << self.order) + inside as usize)
    }

    #[inline]
    pub(crate) fn frame(&self, index: u32) -> u64 {
        let number = self.numbers[(index >> self.order) as usize];
        (number << self.order) + u64::from(index & ((1 << self.order) - 1))
    }

    /// The first frame of the page block that `frame` lies in.
    #[inline]
    pub(crate) fn page_block(frame: u64) -> u64 {
        Pfn::new(frame).align_down(1 << PAGEBLOCK_ORDER).raw()
    }
}
