//! The buddy system: what stands under the allocator's lock.

use alloc::vec::Vec;

use dmakit_addr::{DmaMask, PAGE_SHIFT, PfnRange};

use crate::block::{Block, Kind};
use crate::error::{FreeReason, NoFrames, TableError};
use crate::frame::{BOOKED, Frame, MigrateType, MoverId, NO_FRAME, State};
use crate::memory_map::{MemoryKind, MemoryMap};
use crate::page_allocator::{FrameRequest, MAX_ORDER, PAGEBLOCK_ORDER};
use crate::sections::Sections;
use crate::zone::{NO_ZONE, Zone};

mod bits;
mod clear;
mod hold;
mod search;
mod spans;
mod window;

use clear::CLEARING_MAX;
pub(crate) use clear::{Move, frame_range, page_blocks, part_in};
pub(crate) use hold::{Hold, NotHeld};
pub(crate) use spans::{Span, Status};
pub(crate) use window::{Scan, Wanted};

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
    /// The number of the latest allocation.
    number: u32,
    /// What claims are clearing.
    clearing: Vec<PfnRange>,
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
        let (needed, given) = (table_entries(&sections), table.as_ref().len());
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
            clearing: Vec::with_capacity(CLEARING_MAX),
        };
        buddy.fill(map, &ends);
        Ok(buddy)
    }

    fn fill(&mut self, map: &MemoryMap, ends: &[u64]) {
        let entries = table_entries(&self.sections) as usize;
        let empty = Frame {
            zone: NO_ZONE,
            order: MigrateType::Movable as u8,
            ..Frame::default()
        };
        self.table.as_mut()[..entries].fill(empty);
        let managed = map.regions().iter().filter(|r| r.kind.is_allocatable());
        for region in managed {
            let (mut start, end) = (region.range.start().raw(), region.range.end().raw());
            if region.kind == MemoryKind::Contiguous {
                // Whole page blocks, by the map. Nobody gets them before their area is active.
                for block in (start..end).step_by(PAGEBLOCK_FRAMES as usize) {
                    self.change_block(block, |block| block.migrate_type = MigrateType::Isolated);
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
                    let of = &mut self.zones[zone];
                    (of.first, of.top) = (of.first.min(start), of.top.max(stop));
                    self.count(start, stop, Kind::Blocked, Kind::Free);
                    self.free_run(start, stop);
                    start = stop;
                }
            }
        }
        self.find_uniform();
    }

    /// Notes of each page block whether its frames are all there and of one zone.
    fn find_uniform(&mut self) {
        let frames = self.sections.entries() as usize;
        let (frames, blocks) = self.table.as_mut().split_at_mut(frames);
        let pairs = frames.chunks(PAGEBLOCK_FRAMES as usize).zip(blocks);
        for (frames, block) in pairs {
            let zone = frames[0].zone;
            let uniform = frames.iter().all(|frame| frame.zone == zone);
            block.zone = if uniform { zone } else { NO_ZONE };
        }
    }

    /// Allocates from blocks that serve a type: the first frame and the number of the allocation.
    pub(crate) fn allocate(
        &mut self,
        request: &FrameRequest,
        of: MigrateType,
    ) -> Result<(u64, u32), NoFrames> {
        let order = request.order();
        let found = self.search(request, of, order);
        let Some(found) = found.filter(|_| request.frames > 0) else {
            return Err(self.no_frames(request, of, order));
        };
        let frame = self.carve(found, order, request.frames, of);
        Ok((frame, self.hand_out(frame, order, request)))
    }

    /// Makes an allocation of a block that is in no list, and says its number.
    fn hand_out(&mut self, frame: u64, order: u32, request: &FrameRequest) -> u32 {
        let end = frame + request.frames;
        self.free_run(end, frame + (1 << order));
        self.number = self.number.wrapping_add(1);
        let number = self.number;
        let taken = if request.mover.is_some() {
            (State::Movable, Kind::Movable)
        } else {
            (State::Taken, Kind::Blocked)
        };
        if let Some(entry) = self.entry_mut(frame) {
            entry.state = taken.0;
            // An allocation has at most 2^18 frames.
            entry.next = request.frames as u32;
            entry.previous = number;
            entry.mover = request.mover.map_or(0, MoverId::number);
            (entry.pins, entry.order) = (0, 0);
        }
        self.count(frame, end, Kind::Free, taken.1);
        number
    }

    /// Frees an allocation; one that is being moved is free once that is over.
    pub(crate) fn free(&mut self, start: u64, frames: u64, number: u32) -> Result<(), FreeReason> {
        let entry = self.entry_mut(start).filter(|entry| entry.zone != NO_ZONE);
        let entry = entry.ok_or(FreeReason::NotHere)?;
        if !matches!(entry.state, State::Taken | State::Movable | State::Moving) {
            return Err(FreeReason::NotTaken);
        }
        if (u64::from(entry.next), entry.previous) != (frames, number) {
            return Err(FreeReason::NotTheOwner);
        }
        if entry.pins > 0 || entry.order > 0 {
            return Err(FreeReason::Pinned);
        }
        if (entry.state, entry.mover) == (State::Taken, BOOKED) {
            return Err(FreeReason::Booked);
        }
        if entry.state == State::Moving {
            entry.state = State::Doomed;
            return Ok(());
        }
        self.release(start, frames);
        Ok(())
    }

    /// Notes that somebody keeps books of an allocation that stays.
    pub(crate) fn book(&mut self, start: u64, number: u32) {
        if let Some(entry) = self.staying(start, number) {
            entry.mover = BOOKED;
        }
    }

    /// Forgets it; says whether it was noted.
    pub(crate) fn unbook(&mut self, start: u64, number: u32) -> bool {
        let entry = self.staying(start, number);
        entry.is_some_and(|entry| core::mem::take(&mut entry.mover) == BOOKED)
    }

    /// The allocation of this number, if it stays.
    fn staying(&mut self, start: u64, number: u32) -> Option<&mut Frame> {
        let entry = self.entry_mut(start)?;
        ((entry.state, entry.previous) == (State::Taken, number)).then_some(entry)
    }

    /// Lists the frames of an allocation that nothing holds.
    fn release(&mut self, start: u64, frames: u64) {
        let end = start + frames;
        let kind = self.entry(start).map_or(Kind::Blocked, kind_of);
        self.clear_joined(start, end);
        if let Some(entry) = self.entry_mut(start) {
            entry.state = State::Inside;
        }
        self.count(start, end, kind, Kind::Free);
        self.free_run(start, end);
    }

    /// The allocation that starts at `start`: its frames and its number.
    pub(crate) fn taken_at(&self, start: u64) -> Option<(u64, u32)> {
        let entry = self.entry(start)?;
        is_taken(entry).then_some((u64::from(entry.next), entry.previous))
    }

    /// Makes a page block one of another type, its free frames with it.
    pub(crate) fn set_block_type(&mut self, block: u64, migrate_type: MigrateType) {
        self.relist(block, |block| block.migrate_type = migrate_type);
    }

    /// Changes a page block, and lists its free frames by what it is then.
    fn relist(&mut self, block: u64, change: impl FnOnce(&mut Block)) {
        self.isolate_free_block(block);
        let mut orders = [None; PAGEBLOCK_FRAMES as usize];
        for (frame, kept) in (block..).zip(&mut orders) {
            *kept = self.free_order(frame);
            if let Some(order) = *kept {
                self.unlist(frame, order);
            }
        }
        self.change_block(block, change);
        for (frame, kept) in (block..).zip(&orders) {
            if let Some(order) = *kept {
                self.free_block(frame, order);
            }
        }
    }

    /// The type by which the page block that a frame lies in is listed.
    pub(crate) fn block_type(&self, frame: u64) -> Option<MigrateType> {
        Some(self.block(frame)?.listed_as())
    }

    /// What is known of the page block that a frame lies in.
    pub(crate) fn block(&self, frame: u64) -> Option<Block> {
        let index = self.block_index(frame)?;
        self.table.as_ref().get(index).map(Block::load)
    }

    /// The first frame of a zone's memory, and the first above it.
    pub(crate) fn zone_span(&self, zone: u16) -> Option<(u64, u64)> {
        let zone = self.zones.get(usize::from(zone))?;
        Some((zone.first, zone.top))
    }

    fn change_block(&mut self, frame: u64, change: impl FnOnce(&mut Block)) {
        let index = self.block_index(frame);
        let entry = index.and_then(|index| self.table.as_mut().get_mut(index));
        if let Some(entry) = entry {
            let mut block = Block::load(entry);
            change(&mut block);
            block.store(entry);
        }
    }

    #[inline]
    fn block_index(&self, frame: u64) -> Option<usize> {
        let index = self.sections.index(frame)?;
        Some(self.sections.entries() as usize + (index >> PAGEBLOCK_ORDER))
    }

    /// Counts the frames from `start` up to `end` as another kind than before.
    fn count(&mut self, start: u64, end: u64, from: Kind, to: Kind) {
        if from == to {
            return;
        }
        let mut at = start;
        while at < end {
            let stop = end.min(Sections::page_block(at) + PAGEBLOCK_FRAMES);
            let frames = (stop - at) as u16;
            self.change_block(at, |block| {
                if let Some(count) = block.count(from) {
                    debug_assert!(*count >= frames, "{from:?} frames counted twice");
                    *count = count.saturating_sub(frames);
                }
                if let Some(count) = block.count(to) {
                    *count += frames;
                }
            });
            at = stop;
        }
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
    fn carve(&mut self, found: Found, order: u32, frames: u64, wanted: MigrateType) -> u64 {
        let Found {
            frame,
            order: mut size,
            migrate_type,
        } = found;
        self.unlist(frame, size);
        let lent = migrate_type.is_kept_clear();
        let converts = migrate_type != wanted && !lent && size >= PAGEBLOCK_ORDER;
        while size > order.max(PAGEBLOCK_ORDER) {
            size -= 1;
            self.list_block(frame + (1 << size), size);
        }
        if converts {
            for block in (frame..frame + frames).step_by(PAGEBLOCK_FRAMES as usize) {
                self.change_block(block, |block| block.migrate_type = wanted);
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
            self.change_block(block, |block| {
                if block.migrate_type == MigrateType::Unmovable {
                    block.migrate_type = MigrateType::Movable;
                }
            });
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

/// Entries of a table: one for each frame, then one for each page block.
pub(crate) fn table_entries(sections: &Sections) -> u64 {
    let frames = sections.entries();
    frames + (frames >> PAGEBLOCK_ORDER)
}

fn is_taken(entry: &Frame) -> bool {
    use State::{Doomed, Movable, Moving, Taken};
    matches!(entry.state, Taken | Movable | Moving | Doomed)
}

/// What a claim would have to do about an allocation.
fn kind_of(entry: &Frame) -> Kind {
    match entry.state {
        State::Free => Kind::Free,
        State::Movable | State::Moving | State::Doomed if entry.pins == 0 => {
            if entry.order == 0 {
                Kind::Movable
            } else {
                Kind::Leased
            }
        }
        _ => Kind::Blocked,
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
