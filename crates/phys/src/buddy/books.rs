//! What is kept beside the frames, made anew from them.

use super::nested::Layout;
use super::{Buddy, PAGEBLOCK_FRAMES, Status};
use crate::block::{self, Block, Kind, RECORD};
use crate::frame::Frame;
use crate::page_allocator::PAGEBLOCK_ORDER;

impl<S: AsRef<[Frame]> + AsMut<[Frame]>> Buddy<S> {
    /// The first page block of which something else is kept than its frames say: its counts, the
    /// counts of its groups, the bits of its frames, or what its cheapest window costs at least. Takes a step for each frame.
    pub(crate) fn first_miscounted(&self) -> Option<u64> {
        let firsts = (0..self.sections.entries()).step_by(PAGEBLOCK_FRAMES as usize);
        let mut blocks = firsts.map(|index| self.sections.frame(index as u32));
        blocks.find(|first| {
            let Some(kept) = self.record(*first) else {
                return true;
            };
            let anew = self.record_anew(*first, kept);
            let words = |record: &[Frame; RECORD]| record.map(|entry| entry.word());
            let mut orders = 0..=PAGEBLOCK_ORDER;
            let misjudged = orders.any(|order| {
                let noted = block::least(kept, order);
                noted.is_some_and(|noted| {
                    Layout::full(order).is_none_or(|of| of.least(&anew) != noted)
                })
            });
            misjudged || words(kept) != words(&anew)
        })
    }

    /// The record of a page block, counted frame by frame.
    fn record_anew(&self, first: u64, kept: &[Frame; RECORD]) -> [Frame; RECORD] {
        let mut anew = *kept;
        block::clear(&mut anew, Block::load(kept).zone);
        let end = first + PAGEBLOCK_FRAMES;
        let mut at = first;
        while at < end {
            let span = self.span_at(at);
            let stop = span.end.min(end);
            let kind = match span.status {
                Status::Free => Kind::Free,
                Status::Movable | Status::Moving => Kind::Movable,
                Status::Leased => Kind::Leased,
                _ => Kind::Blocked,
            };
            let part = ((at - first) as usize, (stop - first) as usize);
            block::recount(&mut anew, part, Kind::Blocked, kind);
            at = stop;
        }
        anew
    }
}
