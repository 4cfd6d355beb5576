//! Operations waiting until nothing can move before them any more.

use std::collections::{BTreeMap, VecDeque};

use super::{Op, Order, Span};

/// A place in the order: the event, then before it (0), at it (1) or after it (2), then a counter.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct Place {
    pub(super) event: u64,
    pub(super) side: Side,
    pub(super) turn: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) enum Side {
    Before,
    At,
    After,
}

/// One stream of execution: a task, or one interrupt level of one CPU.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct Stream {
    pub(super) level: crate::Level,
    pub(super) id: u64,
}

struct Waiting {
    op: Op,
    stream: Stream,
    /// Whether it takes or gives back an address.
    allocates: bool,
}

/// Reorder buffer with the overlap test.
#[derive(Default)]
pub(super) struct Buffer {
    ops: BTreeMap<Place, Waiting>,
    turn: u64,
    /// Allocating operations whose span has no end yet.
    open: Vec<(Place, Stream)>,
    /// Those that ended last.
    closed: VecDeque<(Place, Stream, u64)>,
}

const CLOSED_KEPT: usize = 32;

impl Buffer {
    pub(super) fn insert(
        &mut self,
        side: Side,
        event: u64,
        stream: Stream,
        allocates: bool,
        op: Op,
    ) -> Place {
        let place = Place {
            event,
            side,
            turn: self.turn,
        };
        self.turn += 1;
        let span = op.span;
        self.ops.insert(
            place,
            Waiting {
                op,
                stream,
                allocates,
            },
        );
        if allocates {
            self.note_overlaps(place, stream, span);
        }
        place
    }

    /// Marks this operation, and each of another stream whose span overlaps its own.
    fn note_overlaps(&mut self, place: Place, stream: Stream, span: Span) {
        let mut hit = Vec::new();
        for (&other, waiting) in self.ops.range(..place).rev() {
            if other.event <= span.after {
                break;
            }
            if waiting.allocates && waiting.stream != stream {
                hit.push(other);
            }
        }
        for &(other, of) in &self.open {
            if of != stream {
                hit.push(other);
            }
        }
        for &(other, of, before) in &self.closed {
            if of != stream && before > span.after {
                hit.push(other);
            }
        }
        if hit.is_empty() {
            return;
        }
        hit.push(place);
        for place in hit {
            if let Some(waiting) = self.ops.get_mut(&place) {
                waiting.op.order = Order::Concurrent;
            }
        }
    }

    /// Leaves the end of the span open until [`Buffer::close`].
    pub(super) fn open(&mut self, place: Place, stream: Stream) {
        self.open.push((place, stream));
    }

    /// Ends the open spans that `ended` picks at the event `before`; gives their events.
    pub(super) fn close(
        &mut self,
        before: u64,
        mut ended: impl FnMut(Place, Stream) -> bool,
        mut released: impl FnMut(u64),
    ) {
        let Self {
            ops, open, closed, ..
        } = self;
        open.retain(|&(place, stream)| {
            if place.event == before || !ended(place, stream) {
                return true;
            }
            if let Some(waiting) = ops.get_mut(&place) {
                waiting.op.span.before = before;
            }
            if closed.len() == CLOSED_KEPT {
                closed.pop_front();
            }
            closed.push_back((place, stream, before));
            released(place.event);
            false
        });
    }

    pub(super) fn has_open(&self) -> bool {
        !self.open.is_empty()
    }

    pub(super) fn op_mut(&mut self, place: Place) -> Option<&mut Op> {
        self.ops.get_mut(&place).map(|waiting| &mut waiting.op)
    }

    /// Moves an operation; gives its new place, or `None` where it has been given out already.
    pub(super) fn move_before(&mut self, from: Place, event: u64) -> Option<Place> {
        let waiting = self.ops.remove(&from)?;
        let to = Place {
            event,
            side: Side::Before,
            turn: self.turn,
        };
        self.turn += 1;
        self.ops.insert(to, waiting);
        for (place, _) in &mut self.open {
            if *place == from {
                *place = to;
            }
        }
        Some(to)
    }

    /// The next operation, if its event comes before `limit`.
    pub(super) fn pop(&mut self, limit: u64) -> Option<Op> {
        let first = self.ops.first_entry()?;
        if first.key().event >= limit {
            return None;
        }
        Some(first.remove().op)
    }
}
