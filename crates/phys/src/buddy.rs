//! The buddy system: what stands under the allocator's lock.

use alloc::vec::Vec;

use dmakit_addr::{DmaMask, PAGE_SHIFT};

use crate::block::{self, Block, Kind, RECORD};
use crate::error::{FreeReason, NoFrames, TableError};
use crate::frame::{BOOKED, Frame, MigrateType, MoverId, NO_FRAME, State};
use crate::memory_map::{MemoryKind, MemoryMap};
use crate::page_allocator::{FrameRequest, PAGEBLOCK_ORDER};
use crate::sections::Sections;
use crate::zone::{NO_ZONE, Zone, ZoneRuns};

mod bits;
mod books;
mod clear;
mod hold;
mod kept;
mod lists;
mod nested;
mod search;
mod spans;
mod window;

use clear::{CLEARING_MAX, Clearing};
pub(crate) use clear::{InWay, Move, Survey, frame_range, page_blocks, part_in};
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
    runs: ZoneRuns,
    /// For each node, all nodes by distance; the last row serves requests without a node.
    order: Vec<Vec<u16>>,
    /// The number of the latest allocation.
    number: u32,
    /// What claims are clearing.
    clearing: Vec<Clearing>,
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
            runs: ZoneRuns::default(),
            order: order.chain([numbered]).collect(),
            number: 0,
            clearing: Vec::with_capacity(CLEARING_MAX),
        };
        buddy.fill(map, &ends);
        Ok(buddy)
    }

    fn fill(&mut self, map: &MemoryMap, ends: &[u64]) {
        let entries = table_entries(&self.sections) as usize;
        self.table.as_mut()[..entries].fill(Frame::default());
        let managed = || map.regions().iter().filter(|r| r.kind.is_allocatable());
        for region in managed() {
            let (mut start, end) = (region.range.start().raw(), region.range.end().raw());
            for (index, zone_end) in ends.iter().enumerate() {
                let zone = region.node.index() * self.zones_per_node + index;
                let stop = end.min(*zone_end);
                if start < stop {
                    self.runs.push(start, stop, zone as u16);
                    let of = &mut self.zones[zone];
                    (of.first, of.top) = (of.first.min(start), of.top.max(stop));
                    start = stop;
                }
            }
        }
        self.clear_records();
        for region in managed() {
            let (start, end) = (region.range.start().raw(), region.range.end().raw());
            if region.kind == MemoryKind::Contiguous {
                // Whole page blocks, by the map. Nobody gets them before their area is active.
                for block in (start..end).step_by(PAGEBLOCK_FRAMES as usize) {
                    self.change_block(block, |block| block.migrate_type = MigrateType::Isolated);
                }
            }
            let mut at = start;
            while let Some((_, stop, _)) = self.runs.find(at).filter(|_| at < end) {
                let stop = stop.min(end);
                self.count(at, stop, Kind::Blocked, Kind::Free);
                self.free_run(at, stop);
                at = stop;
            }
        }
    }

    /// All frames are blocked at first. Notes of each page block whether its frames are all there
    /// and of one zone.
    fn clear_records(&mut self) {
        for index in (0..self.sections.entries()).step_by(PAGEBLOCK_FRAMES as usize) {
            let first = self.sections.frame(index as u32);
            let run = self.runs.find(first);
            let whole = run.filter(|(_, end, _)| first + PAGEBLOCK_FRAMES <= *end);
            if let Some(record) = self.record_mut(first) {
                block::clear(record, whole.map_or(NO_ZONE, |(.., zone)| zone));
            }
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
        if !self.manages(start) {
            return Err(FreeReason::NotHere);
        }
        let entry = self.entry_mut(start).ok_or(FreeReason::NotHere)?;
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

    /// Lists the frames of an allocation that nothing holds; those that a claim is clearing are kept
    /// for it.
    fn release(&mut self, start: u64, frames: u64) {
        let end = start + frames;
        let Some(entry) = self.entry_mut(start) else {
            return;
        };
        let kind = kind_of(entry);
        entry.state = State::Inside;
        if frames > 1 {
            self.clear_joined(start, end);
        }
        self.free_as(start, end, kind);
    }

    /// The allocation that starts at `start`: its frames and its number.
    pub(crate) fn taken_at(&self, start: u64) -> Option<(u64, u32)> {
        let entry = self.entry(start)?;
        is_taken(entry).then_some((u64::from(entry.next), entry.previous))
    }

    /// The type of the page block that a frame lies in, by which its free frames are listed.
    #[inline]
    pub(crate) fn block_type(&self, frame: u64) -> Option<MigrateType> {
        Some(self.block(frame)?.migrate_type)
    }

    /// What is known of the page block that a frame lies in.
    #[inline]
    pub(crate) fn block(&self, frame: u64) -> Option<Block> {
        self.record(frame).map(Block::load)
    }

    /// How many zones there are.
    pub(crate) fn zones(&self) -> u16 {
        // Fewer than `NO_ZONE`.
        self.zones.len() as u16
    }

    /// The first frame of a zone's memory, and the first above it.
    pub(crate) fn zone_span(&self, zone: u16) -> Option<(u64, u64)> {
        let zone = self.zones.get(usize::from(zone))?;
        Some((zone.first, zone.top))
    }

    fn change_block(&mut self, frame: u64, change: impl FnOnce(&mut Block)) {
        if let Some(record) = self.record_mut(frame) {
            let mut block = Block::load(record);
            change(&mut block);
            block.store(record);
        }
    }

    #[inline]
    fn record(&self, frame: u64) -> Option<&[Frame; RECORD]> {
        let at = self
            .sections
            .index(frame)
            .map(|index| self.record_at(index))?;
        self.table.as_ref().get(at..)?.first_chunk()
    }

    #[inline]
    fn record_mut(&mut self, frame: u64) -> Option<&mut [Frame; RECORD]> {
        let at = self
            .sections
            .index(frame)
            .map(|index| self.record_at(index))?;
        self.table.as_mut().get_mut(at..)?.first_chunk_mut()
    }

    /// The records of the page blocks from the one that starts at `first` to the one that starts at
    /// `last`, one after the other; `None` where one is missing.
    fn records_mut(&mut self, first: u64, last: u64) -> Option<&mut [Frame]> {
        let (from, to) = (self.sections.index(first)?, self.sections.index(last)?);
        // What is there stands in its order, so none is missing where as many are there.
        if (to - from) as u64 != last - first {
            return None;
        }
        let records = self.record_at(from)..self.record_at(to) + RECORD;
        self.table.as_mut().get_mut(records)
    }

    /// Where the table describes the page block of the frame whose entry stands at `index`.
    #[inline]
    fn record_at(&self, index: usize) -> usize {
        self.sections.entries() as usize + (index >> PAGEBLOCK_ORDER) * RECORD
    }

    /// Counts the frames from `start` up to `end` as another kind than before.
    #[inline]
    fn count(&mut self, start: u64, end: u64, from: Kind, to: Kind) {
        if end - start != 1 {
            return self.count_many(start, end, from, to);
        }
        if let Some(record) = self.record_mut(start) {
            let offset = start % PAGEBLOCK_FRAMES;
            block::recount_one(record, offset as usize, from, to);
        }
    }

    fn count_many(&mut self, start: u64, end: u64, from: Kind, to: Kind) {
        let mut at = start;
        while at < end {
            let block = Sections::page_block(at);
            let stop = end.min(block + PAGEBLOCK_FRAMES);
            if let Some(record) = self.record_mut(at) {
                let part = ((at - block) as usize, (stop - block) as usize);
                block::recount(record, part, from, to);
            }
            at = stop;
        }
    }

    /// Whether the allocator was given this frame.
    pub(crate) fn manages(&self, frame: u64) -> bool {
        self.zone_of(frame).is_some()
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
    frames + (frames >> PAGEBLOCK_ORDER) * RECORD as u64
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
