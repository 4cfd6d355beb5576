//! From the device tree's memory to the page allocator.

use alloc::vec::Vec;
use core::ptr::{NonNull, with_exposed_provenance_mut};

use dmakit_addr::{DmaMask, PAGE_BYTES, PhysAddr, PhysRange};
use dmakit_phys::{AttachedRam, Frame, MemoryKind, MemoryMap, PageAllocator, Region};
use dmakit_platform::{Ram, RamRange, Segment};

use crate::board::Board;
use crate::tree::Machine;

/// The page allocator of this machine, for ever.
pub type Pages = PageAllocator<Board, &'static mut [Frame]>;

/// Its frames as bytes.
pub type PageRam = AttachedRam<'static, Board, &'static mut [Frame]>;

/// What nothing has been made of yet.
pub struct Early {
    pub map: MemoryMap,
    /// One for each usable region, in order.
    pub segments: Vec<Segment>,
}

/// Takes the machine's memory, but for this image (`image`) and its device tree.
///
/// # Safety
/// The tree tells the truth, memory is mapped to the same numbers, and besides `image` and the
/// tree nothing lies in it.
pub unsafe fn take(machine: &Machine, image: PhysRange) -> Result<Early, &'static str> {
    let nodes = machine
        .memory
        .iter()
        .map(|memory| memory.node.index() + 1)
        .max();
    let mut map = MemoryMap::new(nodes.unwrap_or(1) as u16);
    let mut ranges = Vec::new();
    let whole_pages = |range: PhysRange| range.frames();
    for memory in &machine.memory {
        let mut rest = memory.range;
        let mut held: Vec<PhysRange> = [image, machine.tree].into();
        held.sort_by_key(PhysRange::start);
        for held in held {
            let held = whole_pages(held)
                .bytes()
                .unwrap_or(held)
                .intersection(&rest);
            if held.is_empty() {
                continue;
            }
            add(&mut map, held, memory.node, MemoryKind::Reserved)?;
            let before = PhysRange::between(rest.start(), held.start());
            if let Some(before) = before.filter(|before| !before.is_empty()) {
                add(&mut map, before, memory.node, MemoryKind::Usable)?;
                ranges.push(before);
            }
            rest = PhysRange::between(held.end(), rest.end()).ok_or("memory ends in itself")?;
        }
        if !rest.is_empty() {
            add(&mut map, rest, memory.node, MemoryKind::Usable)?;
            ranges.push(rest);
        }
    }
    let places = ranges.into_iter().filter_map(|range| {
        let start = with_exposed_provenance_mut(range.start().raw() as usize);
        NonNull::new(start).map(|start| RamRange { range, start })
    });
    // SAFETY: 1. and 4. memory is mapped to the same numbers for ever, the caller's promise; 2. the
    // image and the tree were taken out, and nothing else lies there; 3. the map refused overlaps.
    let segments = unsafe { Ram::new(places) }.collect();
    Ok(Early { map, segments })
}

fn add(
    map: &mut MemoryMap,
    range: PhysRange,
    node: dmakit_addr::NodeId,
    kind: MemoryKind,
) -> Result<(), &'static str> {
    let range = range.frames();
    map.add(Region { range, node, kind })
        .map_err(|_| "the device tree's memory overlaps")
}

/// Where this image lies, its heap and stack included.
pub fn image() -> Option<PhysRange> {
    unsafe extern "C" {
        static text_begin: u8;
        static dma_region: u8;
    }
    let [start, end] =
        [&raw const text_begin, &raw const dma_region].map(|place| place.addr() as u64);
    PhysRange::between(PhysAddr::new(start & !(PAGE_BYTES - 1)), PhysAddr::new(end))
}

impl Early {
    /// The page allocator, over everything that is left; its frame table comes out of it.
    pub fn into_pages(self) -> Result<(&'static Pages, &'static PageRam), &'static str> {
        let limit = DmaMask::bits(32).ok_or("no such mask")?;
        let entries = Pages::table_entries(&self.map) as usize;
        let table = alloc::vec![Frame::default(); entries].leak();
        let pages = Pages::new(&self.map, &[limit], table).map_err(|_| "no frame table")?;
        let pages = &*alloc::boxed::Box::leak(alloc::boxed::Box::new(pages));
        let ram = PageRam::new(Board, pages, self.segments, 256);
        Ok((pages, alloc::boxed::Box::leak(alloc::boxed::Box::new(ram))))
    }
}
