//! The buddy system: what stands under the allocator's lock.

use alloc::vec::Vec;

use dmakit_addr::{DmaMask, PAGE_SHIFT};

use crate::error::{FreeReason, NoFrames, TableError};
use crate::frame::{Frame, MigrateType, NO_FRAME, State};
use crate::memory_map::{MemoryKind, MemoryMap};
use crate::page_allocator::{FrameRequest, MAX_ORDER, PAGEBLOCK_ORDER};
use crate::sections::Sections;
use crate::zone::{NO_ZONE, Zone};

mod search;

const PAGEBLOCK_FRAMES: u64 = 1 << PAGEBLOCK_ORDER;

/// The frame table and the lists through it.
///
/// A free block is as large as it can be: aligned to its size, of one zone and one migrate type,
/// its buddy not free in one piece.
pub(crate) struct Buddy<S> {
    table: S,
    sections: Sections,
    /// Node by node, low zones first.
    zones: Vec<Zone>,
    zones_per_node: usize,
    /// For each node, all nodes by distance; the last row serves requests without a node.
    order: Vec<Vec<u16>>,
    /// The number of the next allocation.
    number: u32,
}

/// A listed block.
#[derive(Clone, Copy)]
struct Found {
    frame: u64,
    order: u32,
    migrate_type: MigrateType,
}

impl<S: AsRef<[Frame]> + AsMut<[Frame]>> Buddy<S> {
    pub(crate) fn new(map: &MemoryMap, limits: &[DmaMask], table: S) -> Result<Self, TableError> {
        let sections = Sections::new(map);
        let (needed, given) = (sections.entries(), table.as_ref().len());
        if needed > given as u64 {
            return Err(TableError::TooSmall { needed, given });
        }
        if needed >= u64::from(NO_FRAME) {
            return Err(TableError::TooLarge { needed });
        }
        let ends = zone_ends(limits)?;
        let count = map.nodes() * ends.len();
        if count >= usize::from(NO_ZONE) {
            return Err(TableError::Zones { zones: count });
        }
        let mut zones = alloc::vec![Zone::new(); count];
        for (zone, end) in zones.iter_mut().zip(ends.iter().cycle()) {
            zone.end = *end;
        }
        let order = (0..map.nodes()).map(|node| map.by_distance(node));
        let numbered = (0..map.nodes() as u16).collect();
        let mut buddy = Self {
            table,
            sections,
            zones,
            zones_per_node: ends.len(),
            order: order.chain([numbered]).collect(),
            number: 0,
        };
        buddy.fill(map, &ends);
        Ok(buddy)
    }

    fn fill(&mut self, map: &MemoryMap, ends: &[u64]) {
        let entries = self.sections.entries() as usize;
        let empty = Frame {
            zone: NO_ZONE,
            ..Frame::default()
        };
        self.table.as_mut()[..entries].fill(empty);
        let managed = map.regions().iter().filter(|r| r.kind.is_allocatable());
        for region in managed {
            let (mut start, end) = (region.range.start().raw(), region.range.end().raw());
            if region.kind == MemoryKind::Contiguous {
                // Whole page blocks, by the map. Nobody gets them before their area is active.
                for block in (start..end).step_by(PAGEBLOCK_FRAMES as usize) {
                    if let Some(entry) = self.entry_mut(block) {
                        entry.block_type = MigrateType::Isolated;
                    }
                }
            }
            for (index, zone_end) in ends.iter().enumerate() {
                let zone = region.node.index() * self.zones_per_node + index;
                let stop = end.min(*zone_end);
                for frame in start..stop.max(start) {
                    if let Some(entry) = self.entry_mut(frame) {
                        entry.zone = zone as u16;
                    }
                }
                if start < stop {
                    self.zones[zone].top = self.zones[zone].top.max(stop);
                    self.free_run(start, stop);
                    start = stop;
                }
            }
        }
    }

    /// Allocates: the first frame and the number of the allocation.
    pub(crate) fn allocate(&mut self, request: &FrameRequest) -> Result<(u64, u32), NoFrames> {
        let order = request.order();
        let found = self.search(request, order);
        let Some(found) = found.filter(|_| request.frames > 0) else {
            return Err(self.no_frames(request, order));
        };
        let frame = self.carve(found, order, request);
        self.free_run(frame + request.frames, frame + (1 << order));
        self.number = self.number.wrapping_add(1);
        let number = self.number;
        if let Some(entry) = self.entry_mut(frame) {
            entry.state = State::Taken;
            // An allocation has at most 2^18 frames.
            entry.next = request.frames as u32;
            entry.previous = number;
        }
        Ok((frame, number))
    }

    /// Frees an allocation.
    pub(crate) fn free(&mut self, start: u64, frames: u64, number: u32) -> Result<(), FreeReason> {
        let entry = self.entry_mut(start).filter(|entry| entry.zone != NO_ZONE);
        let entry = entry.ok_or(FreeReason::NotHere)?;
        if entry.state != State::Taken {
            return Err(FreeReason::NotTaken);
        }
        if (u64::from(entry.next), entry.previous) != (frames, number) {
            return Err(FreeReason::NotTheOwner);
        }
        entry.state = State::Inside;
        self.free_run(start, start + frames);
        Ok(())
    }

    /// The allocation that starts at `start`: its frames and its number.
    pub(crate) fn taken_at(&self, start: u64) -> Option<(u64, u32)> {
        let entry = self.entry(start)?;
        (entry.state == State::Taken).then_some((u64::from(entry.next), entry.previous))
    }

    /// The allocation that `frame` lies in: its first frame and length. An allocation starts at a
    /// multiple of the power of two that holds it, so there are few places to look at.
    pub(crate) fn owner(&self, frame: u64) -> Option<(u64, u64)> {
        let starts = (0..=MAX_ORDER).map(|order| frame >> order << order);
        for start in starts {
            match self.entry(start)?.state {
                State::Inside => {}
                State::Free => return None,
                State::Taken => {
                    let (frames, _) = self.taken_at(start)?;
                    return (frame - start < frames).then_some((start, frames));
                }
            }
        }
        None
    }

    /// Makes a page block one of another type, its free frames with it.
    pub(crate) fn set_block_type(&mut self, block: u64, migrate_type: MigrateType) {
        self.isolate_free_block(block);
        let mut orders = [None; PAGEBLOCK_FRAMES as usize];
        for (frame, kept) in (block..).zip(&mut orders) {
            *kept = self.free_order(frame);
            if let Some(order) = *kept {
                self.unlist(frame, order);
            }
        }
        if let Some(entry) = self.entry_mut(block) {
            entry.block_type = migrate_type;
        }
        for (frame, kept) in (block..).zip(&orders) {
            if let Some(order) = *kept {
                self.free_block(frame, order);
            }
        }
    }

    pub(crate) fn block_type(&self, frame: u64) -> Option<MigrateType> {
        let entry = self.entry(Sections::page_block(frame))?;
        Some(entry.block_type)
    }

    /// Whether the allocator was given this frame.
    pub(crate) fn manages(&self, frame: u64) -> bool {
        self.entry(frame).is_some_and(|entry| entry.zone != NO_ZONE)
    }

    /// Free frames of a node.
    pub(crate) fn free_on(&self, node: usize) -> u64 {
        let first = node * self.zones_per_node;
        let zones = self.zones.iter().skip(first).take(self.zones_per_node);
        zones.map(|zone| zone.free).sum()
    }

    pub(crate) fn free_total(&self) -> u64 {
        self.zones.iter().map(|zone| zone.free).sum()
    }

    /// Free blocks by order and type, over all zones, by walking every list.
    pub(crate) fn free_blocks(&self, order: u32, migrate_type: MigrateType) -> u64 {
        let heads = self
            .zones
            .iter()
            .map(|z| z.heads[migrate_type as usize][order as usize]);
        let lengths = heads.map(|head| self.list(head).count() as u64);
        lengths.sum()
    }

    /// Takes a block of `order` out of a listed one; the rest is listed again. Where another type
    /// lends, and has whole page blocks, those that the request needs change their type: what is
    /// unmovable stays together.
    fn carve(&mut self, found: Found, order: u32, request: &FrameRequest) -> u64 {
        let Found {
            frame,
            order: mut size,
            migrate_type,
        } = found;
        let wanted = request.migrate_type;
        self.unlist(frame, size);
        let lent = migrate_type == MigrateType::Contiguous;
        let converts = migrate_type != wanted && !lent && size >= PAGEBLOCK_ORDER;
        while size > order.max(PAGEBLOCK_ORDER) {
            size -= 1;
            self.list_block(frame + (1 << size), size);
        }
        if converts {
            for block in (frame..frame + request.frames).step_by(PAGEBLOCK_FRAMES as usize) {
                if let Some(entry) = self.entry_mut(block) {
                    entry.block_type = wanted;
                }
            }
        }
        while size > order {
            size -= 1;
            self.list_block(frame + (1 << size), size);
        }
        frame
    }

    /// Splits the free block that is larger than a page block and holds it, if there is one.
    fn isolate_free_block(&mut self, block: u64) {
        for order in PAGEBLOCK_ORDER + 1..=MAX_ORDER {
            let start = block >> order << order;
            if self.free_order(start) != Some(order) {
                continue;
            }
            self.unlist(start, order);
            let (mut start, mut size) = (start, order);
            while size > PAGEBLOCK_ORDER {
                size -= 1;
                let half = start + (1 << size);
                let (with, without) = if block < half {
                    (start, half)
                } else {
                    (half, start)
                };
                self.list_block(without, size);
                start = with;
            }
            self.list_block(start, size);
            return;
        }
    }

    /// Frees the frames from `start` up to `end`, all of one zone.
    fn free_run(&mut self, start: u64, end: u64) {
        let mut at = start;
        while at < end {
            let fits = (end - at).ilog2();
            let mut order = at.trailing_zeros().min(fits).min(MAX_ORDER);
            if order > PAGEBLOCK_ORDER && !self.is_uniform(at, order) {
                order = PAGEBLOCK_ORDER;
            }
            self.free_block(at, order);
            at += 1 << order;
        }
    }

    /// Whether the page blocks of a block are of one type: they may have changed while it was
    /// taken.
    fn is_uniform(&self, frame: u64, order: u32) -> bool {
        let mut blocks = (frame..frame + (1 << order)).step_by(PAGEBLOCK_FRAMES as usize);
        let of = self.block_type(frame);
        blocks.all(|block| self.block_type(block) == of)
    }

    /// Lists a block, merged with its buddies as far as that goes.
    fn free_block(&mut self, frame: u64, order: u32) {
        let (mut frame, mut order) = (frame, order);
        let Some(zone) = self.entry(frame).map(|entry| entry.zone) else {
            return;
        };
        if order >= PAGEBLOCK_ORDER {
            self.forget_unmovable(frame, order);
        }
        while order < MAX_ORDER {
            let buddy = frame ^ (1 << order);
            let joins = self.free_order(buddy) == Some(order)
                && self.entry(buddy).is_some_and(|entry| entry.zone == zone)
                && self.block_type(buddy) == self.block_type(frame);
            if !joins {
                break;
            }
            self.unlist(buddy, order);
            frame &= !(1 << order);
            order += 1;
            if order == PAGEBLOCK_ORDER {
                self.forget_unmovable(frame, order);
            }
        }
        self.list_block(frame, order);
    }

    /// Page blocks that are wholly free serve anybody again: what is unmovable came and went.
    fn forget_unmovable(&mut self, frame: u64, order: u32) {
        for block in (frame..frame + (1 << order)).step_by(PAGEBLOCK_FRAMES as usize) {
            if let Some(entry) = self.entry_mut(block) {
                if entry.block_type == MigrateType::Unmovable {
                    entry.block_type = MigrateType::Movable;
                }
            }
        }
    }

    #[inline]
    fn free_order(&self, frame: u64) -> Option<u32> {
        let entry = self.entry(frame)?;
        (entry.state == State::Free).then_some(u32::from(entry.order))
    }

    fn list_block(&mut self, frame: u64, order: u32) {
        let place = self.sections.index(frame).zip(self.block_type(frame));
        let Some((index, migrate_type)) = place else {
            return;
        };
        let table = self.table.as_mut();
        let zone = &mut self.zones[usize::from(table[index].zone)];
        let head = &mut zone.heads[migrate_type as usize][order as usize];
        let next = core::mem::replace(head, index as u32);
        zone.stocked[migrate_type as usize] |= 1 << order;
        zone.free += 1 << order;
        let entry = &mut table[index];
        (entry.state, entry.order) = (State::Free, order as u8);
        (entry.next, entry.previous) = (next, NO_FRAME);
        if let Some(after) = table.get_mut(next as usize) {
            after.previous = index as u32;
        }
    }

    fn unlist(&mut self, frame: u64, order: u32) {
        let place = self.sections.index(frame).zip(self.block_type(frame));
        let Some((index, migrate_type)) = place else {
            return;
        };
        let table = self.table.as_mut();
        let entry = &mut table[index];
        entry.state = State::Inside;
        let (next, previous) = (entry.next, entry.previous);
        let zone = &mut self.zones[usize::from(entry.zone)];
        zone.free -= 1 << order;
        if let Some(after) = table.get_mut(next as usize) {
            after.previous = previous;
        }
        match table.get_mut(previous as usize) {
            Some(before) => before.next = next,
            None => zone.heads[migrate_type as usize][order as usize] = next,
        }
        if zone.heads[migrate_type as usize][order as usize] == NO_FRAME {
            zone.stocked[migrate_type as usize] &= !(1 << order);
        }
    }

    #[inline]
    fn entry(&self, frame: u64) -> Option<&Frame> {
        self.table.as_ref().get(self.sections.index(frame)?)
    }

    #[inline]
    fn entry_mut(&mut self, frame: u64) -> Option<&mut Frame> {
        self.table.as_mut().get_mut(self.sections.index(frame)?)
    }
}

/// The first frame above each zone.
fn zone_ends(limits: &[DmaMask]) -> Result<Vec<u64>, TableError> {
    let mut ends = Vec::with_capacity(limits.len() + 1);
    let mut below = 0;
    for limit in limits {
        let last = limit.last();
        let end = last
            .checked_add(1)
            .filter(|end| end % (1 << PAGE_SHIFT) == 0);
        let end = end.map(|end| end >> PAGE_SHIFT).filter(|end| *end > below);
        below = end.ok_or(TableError::Limit(*limit))?;
        ends.push(below);
    }
    ends.push(1 << (u64::BITS - PAGE_SHIFT));
    Ok(ends)
}
