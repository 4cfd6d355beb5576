//! The naive model of a page allocator: every frame is looked at.

use dmakit_addr::{NodeId, Pfn, PfnRange};
use dmakit_phys::{FrameRequest, MAX_ORDER, MemoryKind, MemoryMap, MigrateType, PAGEBLOCK_ORDER};

#[derive(Clone, Copy)]
pub struct Cell {
    pub node: usize,
    pub zone: usize,
    pub free: bool,
}

pub struct Model {
    map: MemoryMap,
    first: u64,
    cells: Vec<Option<Cell>>,
    types: Vec<MigrateType>,
    zones: usize,
}

/// Where a request is to be served from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Source {
    pub node: usize,
    pub zone: usize,
    pub migrate_type: MigrateType,
}

pub fn served_by(migrate_type: MigrateType) -> &'static [MigrateType] {
    use MigrateType::{Contiguous, Movable, MovableOnly, Unmovable};
    match migrate_type {
        Unmovable => &[Unmovable, Movable],
        Movable => &[MovableOnly, Movable, Contiguous, Unmovable],
        _ => &[],
    }
}

pub fn wanted_type(request: &FrameRequest) -> MigrateType {
    match request.mover {
        Some(_) => MigrateType::Movable,
        None => MigrateType::Unmovable,
    }
}

impl Model {
    /// `ends` are the first frames above each zone but the last.
    pub fn new(map: &MemoryMap, ends: &[u64]) -> Self {
        let regions = map.regions();
        let first = regions[0].range.start().raw() >> PAGEBLOCK_ORDER << PAGEBLOCK_ORDER;
        let end = regions[regions.len() - 1].range.end().raw();
        let mut cells = vec![None; (end - first) as usize];
        for region in regions.iter().filter(|r| r.kind == MemoryKind::Usable) {
            for frame in region.range.start().raw()..region.range.end().raw() {
                cells[(frame - first) as usize] = Some(Cell {
                    node: region.node.index(),
                    zone: ends.iter().filter(|end| **end <= frame).count(),
                    free: true,
                });
            }
        }
        let blocks = (end - first).div_ceil(1 << PAGEBLOCK_ORDER);
        Self {
            map: map.clone(),
            first,
            cells,
            types: vec![MigrateType::Movable; blocks as usize],
            zones: ends.len() + 1,
        }
    }

    pub fn first(&self) -> u64 {
        self.first
    }

    pub fn end(&self) -> u64 {
        self.first + self.cells.len() as u64
    }

    pub fn cell(&self, frame: u64) -> Option<Cell> {
        *self
            .cells
            .get(usize::try_from(frame.checked_sub(self.first)?).ok()?)?
    }

    pub fn block_type(&self, frame: u64) -> MigrateType {
        self.types[((frame - self.first) >> PAGEBLOCK_ORDER) as usize]
    }

    pub fn set_block_type(&mut self, frame: u64, migrate_type: MigrateType) {
        self.types[((frame - self.first) >> PAGEBLOCK_ORDER) as usize] = migrate_type;
    }

    pub fn all_free(&self, frames: PfnRange) -> bool {
        (frames.start().raw()..frames.end().raw())
            .all(|frame| self.cell(frame).is_some_and(|cell| cell.free))
    }

    pub fn set(&mut self, frames: PfnRange, free: bool) {
        let start = (frames.start().raw() - self.first) as usize;
        for cell in &mut self.cells[start..start + frames.len() as usize] {
            let cell = cell.as_mut().expect("only usable frames are handed out");
            assert_ne!(cell.free, free, "of {frames} some were so already");
            cell.free = free;
        }
    }

    /// A page block in one zone that is wholly free is not unmovable.
    pub fn forget_unmovable(&mut self) {
        for index in 0..self.types.len() {
            let start = index << PAGEBLOCK_ORDER;
            let Some(cells) = self.cells.get(start..start + (1 << PAGEBLOCK_ORDER)) else {
                continue;
            };
            let Some(head) = cells[0] else { continue };
            let place = (head.node, head.zone, true);
            let free = cells
                .iter()
                .all(|cell| cell.is_some_and(|cell| (cell.node, cell.zone, cell.free) == place));
            if free && self.types[index] == MigrateType::Unmovable {
                self.types[index] = MigrateType::Movable;
            }
        }
    }

    pub fn free_on(&self, node: usize) -> u64 {
        let on = self.cells.iter().flatten().filter(|cell| cell.node == node);
        on.filter(|cell| cell.free).count() as u64
    }

    /// The blocks of a type whose frames are all free, in frames.
    pub fn free_of(&self, migrate_type: MigrateType) -> u64 {
        let frames =
            (self.first..self.end()).filter(|frame| self.block_type(*frame) == migrate_type);
        frames
            .filter(|frame| self.cell(*frame).is_some_and(|cell| cell.free))
            .count() as u64
    }

    /// The order that a request takes.
    pub fn order(request: &FrameRequest) -> u32 {
        let mut order = request.align_order;
        while order < 64 && 1_u64.checked_shl(order).unwrap_or(u64::MAX) < request.frames {
            order += 1;
        }
        order
    }

    /// Where a request has to be served from, or `None` where it has to fail.
    pub fn source(&self, request: &FrameRequest) -> Option<Source> {
        let order = Self::order(request);
        if order > MAX_ORDER || request.frames == 0 {
            return None;
        }
        let mut sources = Vec::new();
        let len = 1 << order;
        let mut start = self.first >> order << order;
        while start + len <= self.end() {
            sources.extend(self.block(start, len, request));
            start += len;
        }
        let rank = |source: &Source| {
            let place = |of: MigrateType| {
                let types = served_by(wanted_type(request));
                types.iter().position(|listed| *listed == of)
            };
            (
                self.nearness(request.node, source.node),
                self.zones - source.zone,
                place(source.migrate_type),
            )
        };
        sources.into_iter().min_by_key(rank)
    }

    fn nearness(&self, from: Option<NodeId>, to: usize) -> (u8, usize) {
        let distance = from.and_then(|from| self.map.distance(from, NodeId::new(to as u16)));
        (distance.unwrap_or(0), to)
    }

    fn block(&self, start: u64, len: u64, request: &FrameRequest) -> Option<Source> {
        let head = self.cell(start)?;
        let migrate_type = self.block_type(start);
        let served = served_by(wanted_type(request)).contains(&migrate_type);
        let near = !request.only_node || request.node.is_none_or(|node| node.index() == head.node);
        let low = ((start + len) << 12) - 1 <= request.limit.last();
        let alike = || {
            (start..start + len).all(|frame| {
                self.cell(frame).is_some_and(|cell| {
                    cell.free && (cell.node, cell.zone) == (head.node, head.zone)
                }) && self.block_type(frame) == migrate_type
            })
        };
        (served && near && low && alike()).then_some(Source {
            node: head.node,
            zone: head.zone,
            migrate_type,
        })
    }

    pub fn range(start: u64, len: u64) -> PfnRange {
        PfnRange::new(Pfn::new(start), len).unwrap()
    }
}
