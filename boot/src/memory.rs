//! From the memory that a machine has to the page allocator, in the one order there is:
//!
//! 1. [`Found`]: the memory map, and all RAM. Contiguous areas are reserved in the map.
//! 2. [`Early`]: areas serve tables that are needed before there is any allocator.
//! 3. [`Memory`]: the page allocator has everything else, and the idle part of the areas.
//!
//! Each stage is made of the one before it, so nothing can be taken from a stage that is over.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::ptr::{NonNull, with_exposed_provenance_mut};
use core::time::Duration;

use dmakit_addr::{DmaMask, PhysRange};
use dmakit_cma::{AreaParams, CoherentMemory, DeviceArea, EarlyAreas, Outcome, Waiting, reserve};
use dmakit_phys::{
    AttachedRam, Frame, MemoryKind, MemoryMap, MovableMemory, NoMovers, PageAllocator, Region,
};
use dmakit_platform::{Ram, RamRange, Segment};

use crate::board::Board;
use crate::machine::Machine;

type Table = &'static mut [Frame];
pub type Pages = PageAllocator<Board, Table>;
pub type Movable = MovableMemory<Board, Table, NoMovers>;
pub type PageRam = AttachedRam<'static, Board, Table>;
/// Areas before there is a page allocator.
pub type EarlyMemory = EarlyAreas<'static, Board>;
pub type Coherent = CoherentMemory<'static, Board, Table, NoMovers>;

/// Below it devices with 32 address lines reach.
const NARROW: DmaMask = DmaMask::up_to(u32::MAX as u64);

/// All memory, of which nothing has been made yet.
pub struct Found {
    map: MemoryMap,
    segments: Vec<Segment>,
}

/// Areas that serve tables before there is a page allocator.
pub struct Early {
    map: MemoryMap,
    segments: Vec<Segment>,
    pub areas: EarlyMemory,
}

/// Memory as it stays.
pub struct Memory {
    pub movable: &'static Movable,
    /// For coherent memory: waits for what is lent.
    pub coherent: &'static Coherent,
    /// For page tables, which are made where nobody may sleep: never waits.
    pub tables: &'static Coherent,
}

impl Found {
    /// Takes the machine's memory, but for this image (`image`) and what others hold.
    ///
    /// # Safety
    /// The description tells the truth, memory is mapped to the same numbers, and besides `image` and
    /// what others hold nothing lies in it.
    pub unsafe fn take(machine: &Machine, image: PhysRange) -> Result<Self, &'static str> {
        let nodes = machine.memory.iter().map(|memory| memory.node.index() + 1);
        let mut map = MemoryMap::new(nodes.max().unwrap_or(1) as u16);
        for memory in &machine.memory {
            let region = Region {
                range: memory.range.whole_frames(),
                node: memory.node,
                kind: MemoryKind::Usable,
            };
            if !region.range.is_empty() {
                map.add(region)
                    .map_err(|_| "the machine's memory overlaps")?;
            }
        }
        for held in machine.held.iter().chain([&image]) {
            let excluded = map.exclude(held.frames());
            excluded.map_err(|_| "an area before there are areas")?;
        }
        let usable = |region: &&Region| region.kind == MemoryKind::Usable;
        let places = map.regions().iter().filter(usable).filter_map(|region| {
            let range = region.range.bytes()?;
            let start = with_exposed_provenance_mut(range.start().raw() as usize);
            NonNull::new(start).map(|start| RamRange { range, start })
        });
        // SAFETY: 1. and 4. memory is mapped to the same numbers for ever, the caller's promise; 2.
        // the image and what others hold were excluded, and nothing else lies there; 3. the map
        // refused overlaps.
        let segments = unsafe { Ram::new(places) }.collect();
        Ok(Self { map, segments })
    }

    /// Reserves contiguous areas, and says what became of each.
    pub fn reserve(mut self, params: &AreaParams) -> Result<Early, &'static str> {
        let requests = params.requests(&self.map, NARROW);
        let mut reserved = Vec::new();
        for reservation in reserve(&mut self.map, &[NARROW], requests) {
            println!("cma: {reservation}");
            if let Outcome::Reserved(area) = reservation.outcome {
                reserved.push(area);
            }
        }
        let words = EarlyAreas::<Board>::bitmap_words(&reserved);
        let bitmap = vec![0; words].leak();
        let areas = EarlyAreas::new(Board, reserved, &mut self.segments, bitmap);
        Ok(Early {
            map: self.map,
            segments: self.segments,
            areas: areas.map_err(|_| "an area without RAM")?,
        })
    }
}

impl Early {
    /// Brings up the page allocator, and lends it the idle part of the areas.
    pub fn activate(self) -> Result<Memory, &'static str> {
        let entries = Pages::table_entries(&self.map) as usize;
        let table = vec![Frame::default(); entries].leak();
        let pages = Pages::new(&self.map, &[NARROW], table).map_err(|_| "no frame table")?;
        let movable: &Movable = leak(Movable::new(Board, pages, NoMovers));
        let mut segments = self.segments;
        let areas = self.areas.close(&mut segments);
        let out = areas.claims();
        let (areas, failed) = areas.activate(movable);
        for failed in failed {
            println!("cma: {failed}");
        }
        let areas = leak(areas);
        let ram: &PageRam =
            leak(PageRam::new(Board, movable.allocator(), segments, 256).with_out(out));
        let patient = Waiting::UpTo {
            patience: Duration::from_millis(100),
            tries: 3,
        };
        let coherent = |waiting| leak(Coherent::new(Board, areas, ram, DeviceArea::None, waiting));
        Ok(Memory {
            movable,
            coherent: coherent(patient),
            tables: coherent(Waiting::Never),
        })
    }
}

/// A value that is there for ever.
pub fn leak<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}
