//! What a frame lies in.

use super::{Buddy, is_taken};
use crate::frame::{Frame, State};
use crate::page_allocator::MAX_ORDER;
use crate::zone::NO_ZONE;

/// What is done with a run of frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Status {
    /// Not the allocator's.
    Missing,
    /// On its way between two states: a claim is taking it.
    Passing,
    /// Free, and kept for the claim that is clearing it.
    Kept,
    Free,
    Unmovable,
    Movable,
    Leased,
    Pinned,
    Moving,
}

/// A free block, an allocation, or a frame that is neither.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Span {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) status: Status,
}

impl<S: AsRef<[Frame]> + AsMut<[Frame]>> Buddy<S> {
    /// What `frame` lies in. Blocks start at multiples of their power of two, so there are few
    /// places to look at.
    pub(crate) fn span_at(&self, frame: u64) -> Span {
        let alone = |status| Span {
            start: frame,
            end: frame + 1,
            status,
        };
        let here = self.entry(frame).and_then(|entry| head_span(frame, entry));
        if let Some(span) = here {
            return span;
        }
        if !self.manages(frame) {
            return alone(Status::Missing);
        }
        for order in 0..=MAX_ORDER {
            let start = frame >> order << order;
            let Some(entry) = self.entry(start) else {
                break;
            };
            let span = match entry.state {
                State::Inside => continue,
                State::Joined => {
                    let start = self.sections.frame(entry.next);
                    self.entry(start).map(|head| allocation(start, head))
                }
                _ => head_span(start, entry),
            };
            let Some(span) = span else {
                break;
            };
            if frame < span.end {
                return span;
            }
            break;
        }
        alone(Status::Passing)
    }

    /// The allocation that `frame` lies in: its first frame and length.
    pub(crate) fn owner(&self, frame: u64) -> Option<(u64, u64)> {
        let span = self.span_at(frame);
        let head = self.entry(span.start).filter(|entry| is_taken(entry))?;
        Some((span.start, u64::from(head.next)))
    }

    /// The zone that a frame lies in, if it is the allocator's.
    #[inline]
    pub(crate) fn zone_of(&self, frame: u64) -> Option<u16> {
        let block = self.block(frame)?;
        if block.zone != NO_ZONE {
            return Some(block.zone);
        }
        self.runs.find(frame).map(|(.., zone)| zone)
    }
}

/// What starts at a frame, where something does.
#[inline]
pub(super) fn head_span(start: u64, entry: &Frame) -> Option<Span> {
    match entry.state {
        State::Inside | State::Joined => None,
        State::Free => Some(Span {
            start,
            end: start + (1 << entry.order),
            status: Status::Free,
        }),
        State::Kept => Some(Span {
            start,
            end: start + (1 << entry.order),
            status: Status::Kept,
        }),
        _ => Some(allocation(start, entry)),
    }
}

fn allocation(start: u64, head: &Frame) -> Span {
    let status = match head.state {
        State::Moving | State::Doomed => Status::Moving,
        State::Movable if head.pins > 0 => Status::Pinned,
        State::Movable if head.order > 0 => Status::Leased,
        State::Movable => Status::Movable,
        _ => Status::Unmovable,
    };
    Span {
        start,
        end: start + u64::from(head.next),
        status,
    }
}
