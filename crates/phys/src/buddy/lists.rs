//! The lists of free blocks: splitting, merging.

use super::{Buddy, Found, PAGEBLOCK_FRAMES};
use crate::block::Block;
use crate::frame::{Frame, MigrateType, NO_FRAME, State};
use crate::page_allocator::{MAX_ORDER, PAGEBLOCK_ORDER};
use crate::zone::NO_ZONE;

/// Where the entry of a frame stands, and in whose lists the frame is when it is free.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) index: usize,
    pub(super) zone: u16,
    of: MigrateType,
    /// Its page block is of several zones, or not wholly there.
    mixed: bool,
}

impl Place {
    /// The place of the frame so many frames further on in the page block, if it is known.
    pub(super) fn further(self, frames: usize) -> Option<Self> {
        (!self.mixed).then(|| self.at(self.index + frames))
    }

    /// The place of another frame of the same page block and zone.
    fn at(self, index: usize) -> Self {
        Self { index, ..self }
    }
}

impl<S: AsRef<[Frame]> + AsMut<[Frame]>> Buddy<S> {
    #[inline]
    pub(super) fn place(&self, frame: u64) -> Option<Place> {
        let index = self.sections.index(frame)?;
        let record = self.table.as_ref().get(self.record_at(index)..)?;
        let block = Block::load(record.first_chunk()?);
        let mixed = block.zone == NO_ZONE;
        let zone = if mixed {
            self.runs.find(frame)?.2
        } else {
            block.zone
        };
        Some(Place {
            index,
            zone,
            of: block.migrate_type,
            mixed,
        })
    }

    /// Takes a block of `order` out of a listed one; the rest is listed again. Where another type
    /// lends, and has whole page blocks, those that the request needs change their type: what is
    /// unmovable stays together.
    pub(super) fn carve(
        &mut self,
        found: Found,
        order: u32,
        frames: u64,
        wanted: MigrateType,
    ) -> u64 {
        let Found {
            frame,
            order: mut size,
            migrate_type,
        } = found;
        let Some(place) = self.place(frame) else {
            return frame;
        };
        self.unlist_at(place, size);
        let lent = migrate_type.is_kept_clear();
        let converts = migrate_type != wanted && !lent && size >= PAGEBLOCK_ORDER;
        while size > order.max(PAGEBLOCK_ORDER) {
            size -= 1;
            self.list_block(frame + (1 << size), size);
        }
        let mut of = place.of;
        if converts {
            for block in (frame..frame + frames).step_by(PAGEBLOCK_FRAMES as usize) {
                self.change_block(block, |block| block.migrate_type = wanted);
            }
            of = wanted;
        }
        while size > order {
            size -= 1;
            let index = place.index + (1 << size);
            self.list_at(Place { index, of, ..place }, size);
        }
        frame
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
        self.change_block(block, |block| block.migrate_type = migrate_type);
        for (frame, kept) in (block..).zip(&orders) {
            if let Some(order) = *kept {
                self.free_block(frame, order);
            }
        }
    }

    /// Splits the free block that is larger than a page block and holds it, if there is one.
    pub(super) fn isolate_free_block(&mut self, block: u64) {
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
    pub(super) fn free_run(&mut self, start: u64, end: u64) {
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
        let Some(mut place) = self.place(frame) else {
            return;
        };
        let (mut frame, mut order) = (frame, order);
        // Entries of a page block stand beside each other, and its frames are of one type.
        while order < PAGEBLOCK_ORDER {
            let buddy = place.at(place.index ^ (1 << order));
            let entry = &self.table.as_ref()[buddy.index];
            let joins = entry.state == State::Free
                && u32::from(entry.order) == order
                && (!place.mixed || self.zone_of(frame ^ (1 << order)) == Some(place.zone));
            if !joins {
                return self.list_at(place, order);
            }
            self.unlist_at(buddy, order);
            place.index &= !(1 << order);
            frame &= !(1 << order);
            order += 1;
        }
        self.free_page_blocks(frame, order, place.zone);
    }

    /// The same for whole page blocks.
    fn free_page_blocks(&mut self, frame: u64, order: u32, zone: u16) {
        let (mut frame, mut order) = (frame, order);
        self.forget_unmovable(frame, order);
        while order < MAX_ORDER {
            let buddy = frame ^ (1 << order);
            let joins = self.free_order(buddy) == Some(order)
                && self.zone_of(buddy) == Some(zone)
                && self.block_type(buddy) == self.block_type(frame);
            if !joins {
                break;
            }
            self.unlist(buddy, order);
            frame &= !(1 << order);
            order += 1;
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
        if let Some(place) = self.place(frame) {
            self.list_at(place, order);
        }
    }

    pub(super) fn unlist(&mut self, frame: u64, order: u32) {
        if let Some(place) = self.place(frame) {
            self.unlist_at(place, order);
        }
    }

    fn list_at(&mut self, place: Place, order: u32) {
        let table = self.table.as_mut();
        let zone = &mut self.zones[usize::from(place.zone)];
        let head = &mut zone.heads[place.of as usize][order as usize];
        let next = core::mem::replace(head, place.index as u32);
        zone.stocked[place.of as usize] |= 1 << order;
        zone.free += 1 << order;
        let entry = &mut table[place.index];
        (entry.state, entry.order) = (State::Free, order as u8);
        (entry.next, entry.previous) = (next, NO_FRAME);
        if let Some(after) = table.get_mut(next as usize) {
            after.previous = place.index as u32;
        }
    }

    /// Makes the free block that starts at a place one that is kept, if there is one of at most
    /// `longest` frames, and says how many it has.
    #[inline]
    pub(super) fn keep_listed(&mut self, place: Place, longest: usize) -> Option<usize> {
        let entry = self.table.as_ref()[place.index];
        let frames = 1_usize << entry.order;
        if entry.state != State::Free || frames > longest {
            return None;
        }
        self.unlist_at(place, u32::from(entry.order));
        self.table.as_mut()[place.index].state = State::Kept;
        Some(frames)
    }

    #[inline]
    fn unlist_at(&mut self, place: Place, order: u32) {
        let table = self.table.as_mut();
        let entry = &mut table[place.index];
        entry.state = State::Inside;
        let (next, previous) = (entry.next, entry.previous);
        let zone = &mut self.zones[usize::from(place.zone)];
        zone.free -= 1 << order;
        if let Some(after) = table.get_mut(next as usize) {
            after.previous = previous;
        }
        if let Some(before) = table.get_mut(previous as usize) {
            before.next = next;
            return;
        }
        zone.heads[place.of as usize][order as usize] = next;
        if next == NO_FRAME {
            zone.stocked[place.of as usize] &= !(1 << order);
        }
    }
}
