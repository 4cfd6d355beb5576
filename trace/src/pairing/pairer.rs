//! The state that turns events into operations.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::attempts::{Attempts, KnownLists, Pending};
use super::buffer::{Buffer, Place, Side, Stream};
use super::clock::{self, Clock, stream};
use super::live::Live;
use super::unmaps::{Early, Ended};
use super::{Attempt, AttemptId, Fail, Failure, Fate, MappingId, Op, OpKind, Order, Span};
use crate::{Body, Bounced, Event, Fidelity, IommuEvent, Marker};

/// How to pair.
#[derive(Clone, Copy, Debug)]
pub struct PairOptions {
    /// For how many events an operation may wait for what decides about it or moves before it. A
    /// scatterlist that failed waits for half as many, in case it succeeds when tried again.
    pub window_events: u64,
    /// How long before its event an unmap or an unbounced map of a page may have happened, beside
    /// what the events of its stream say. An assumption, used only for [`Op::span`] and
    /// [`Op::order`].
    pub lag_ns_max: u64,
    /// How far two CPUs' records may be in the wrong order.
    pub skew_ns: u64,
}

impl Default for PairOptions {
    fn default() -> Self {
        Self {
            window_events: 1 << 17,
            lag_ns_max: 100_000,
            skew_ns: 1_000,
        }
    }
}

/// What an operation may still wait for: the key of [`Pairer::blockers`] after the event.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Blocker {
    /// The map event of an attempt of this stream.
    Attempt(Stream),
    /// The next event of a stream.
    Span,
    /// The unmap event of a mapping whose address has a new user.
    Reuse(MappingId),
    /// The map event of an unmap that came first.
    Early,
}

/// Turns events into operations, by the rules of this module.
///
/// Push every event in order, take what [`Pairer::pop`] gives, and [`Pairer::finish`] at the end.
pub struct Pairer {
    pub(super) options: PairOptions,
    pub(super) counts: Fidelity,
    pub(super) clock: Clock,
    pub(super) attempts: Attempts,
    orphans: VecDeque<(u64, Vec<Pending>)>,
    pub(super) lists: KnownLists,
    pub(super) live: Live,
    pub(super) buffer: Buffer,
    blockers: BTreeMap<(u64, Blocker), ()>,
    /// Mappings whose address was taken again: before which event they ended, and by whose.
    pub(super) reused: HashMap<MappingId, (u64, Event)>,
    pub(super) early: VecDeque<Early>,
    pub(super) ended: VecDeque<Ended>,
    pub(super) next_mapping: u64,
    pub(super) now: u64,
    finished: bool,
    pub(super) has_maps: bool,
    pub(super) has_iommu: bool,
}

impl Default for Pairer {
    fn default() -> Self {
        Self::new(PairOptions::default())
    }
}

impl Pairer {
    /// Nothing seen yet.
    pub fn new(options: PairOptions) -> Self {
        Self {
            options,
            counts: Fidelity::default(),
            clock: Clock::default(),
            attempts: Attempts::default(),
            orphans: VecDeque::new(),
            lists: KnownLists::default(),
            live: Live::default(),
            buffer: Buffer::default(),
            blockers: BTreeMap::new(),
            reused: HashMap::new(),
            early: VecDeque::new(),
            ended: VecDeque::new(),
            next_mapping: 0,
            now: 0,
            finished: false,
            has_maps: false,
            has_iommu: false,
        }
    }

    /// The pairing part of the counts; final after [`Pairer::finish`].
    pub fn counts(&self) -> Fidelity {
        self.counts
    }

    /// Takes the next event of the trace.
    pub fn push(&mut self, event: &Event) {
        let stream = stream(event);
        self.now = event.index;
        self.end_spans(event, stream);
        self.expire_early(event.time_ns);
        match &event.body {
            Body::Bounced(bounced) => self.bounced(event, stream, bounced),
            Body::Map(map) => {
                self.has_maps = true;
                self.map_page(event, stream, map);
            }
            Body::MapSg(map) => {
                self.has_maps = true;
                self.map_sg(event, stream, map);
            }
            Body::MapSgError(error) => {
                self.has_maps = true;
                self.map_sg_error(event, stream, error);
            }
            Body::Unmap(unmap) => self.unmap_page(event, stream, unmap),
            Body::UnmapSg(unmap) => self.unmap_sg(event, stream, unmap),
            Body::Iommu(IommuEvent::Map { .. } | IommuEvent::Unmap { .. }) => {
                self.has_iommu = true;
            }
            Body::Marker(Marker::PhaseBegin(name)) => {
                self.insert(event, stream, Side::At, OpKind::PhaseBegin(name.clone()));
            }
            Body::Marker(Marker::PhaseEnd(name)) => {
                self.insert(event, stream, Side::At, OpKind::PhaseEnd(name.clone()));
            }
            _ => {}
        }
        self.clock.record(event, stream);
        if let Some(until) = event.index.checked_sub(self.options.window_events / 2) {
            self.decide_orphans(until);
        }
        self.expire_blockers();
    }

    /// Says that no event follows.
    pub fn finish(&mut self) {
        self.expire_early(u64::MAX);
        for stream in self.attempts.streams() {
            let waiting = self.attempts.take(stream);
            self.orphan(waiting);
        }
        self.decide_orphans(u64::MAX);
        let mut reused: Vec<_> = self.reused.keys().copied().collect();
        reused.sort_unstable();
        for id in reused {
            self.end_by_reuse(id);
        }
        self.counts.left_mapped = self.live.len() as u64;
        self.finished = true;
    }

    /// The next operation whose place is final.
    pub fn pop(&mut self) -> Option<Op> {
        let limit = if self.finished {
            u64::MAX
        } else {
            let blocked = self.blockers.first_key_value();
            blocked.map_or(self.now, |((event, _), ())| self.now.min(*event))
        };
        self.buffer.pop(limit)
    }

    pub(super) fn block(&mut self, event: u64, blocker: Blocker) {
        self.blockers.insert((event, blocker), ());
    }

    pub(super) fn unblock(&mut self, event: u64, blocker: Blocker) {
        self.blockers.remove(&(event, blocker));
    }

    /// An operation that is its event.
    pub(super) fn insert(&mut self, event: &Event, stream: Stream, side: Side, kind: OpKind) {
        let span = Span {
            after: event.index,
            before: event.index,
        };
        let op = op(event, span, kind);
        self.buffer.insert(side, event.index, stream, false, op);
    }

    /// An operation that lies between its event and the next one of its stream.
    pub(super) fn insert_open(
        &mut self,
        event: &Event,
        stream: Stream,
        side: Side,
        kind: OpKind,
    ) -> Place {
        let span = Span {
            after: event.index,
            before: event.index,
        };
        let op = op(event, span, kind);
        let place = self.buffer.insert(side, event.index, stream, true, op);
        self.buffer.open(place, stream);
        self.block(event.index, Blocker::Span);
        place
    }

    /// The span of an operation that lies a little before its event.
    pub(super) fn lagging(&self, event: &Event, stream: Stream) -> Span {
        Span {
            after: self.clock.earliest(event, stream, self.options.lag_ns_max),
            before: event.index,
        }
    }

    fn end_spans(&mut self, event: &Event, now: Stream) {
        if !self.buffer.has_open() {
            return;
        }
        let blockers = &mut self.blockers;
        self.buffer.close(
            event.index,
            |_, stream| clock::ends(stream, now, event.cpu),
            |of| {
                blockers.remove(&(of, Blocker::Span));
            },
        );
    }

    fn bounced(&mut self, event: &Event, stream: Stream, bounced: &Bounced) {
        self.counts.attempts += 1;
        let id = AttemptId(event.index);
        let kind = OpKind::Attempt(Attempt {
            id,
            device: bounced.device.clone(),
            dma_mask: bounced.dma_mask,
            original: bounced.original,
            size: bounced.size,
            forced: bounced.forced,
            fate: Fate::Unknown,
        });
        let place = self.insert_open(event, stream, Side::At, kind);
        self.block(event.index, Blocker::Attempt(stream));
        let device = self.live.device(&bounced.device);
        self.attempts.push(
            stream,
            Pending {
                id,
                place,
                stream,
                device,
                device_name: bounced.device.clone(),
                original: bounced.original,
                size: bounced.size,
            },
        );
    }

    /// Says what became of an attempt.
    pub(super) fn decide(&mut self, attempt: &Pending, stream: Stream, fate: Fate) {
        match fate {
            Fate::Mapped(_) => self.counts.attempts_mapped += 1,
            Fate::Failed => self.counts.attempts_failed += 1,
            Fate::Orphaned { .. } => self.counts.attempts_orphaned += 1,
            Fate::Unknown => self.counts.attempts_unknown += 1,
        }
        if let Some(OpKind::Attempt(known)) =
            self.buffer.op_mut(attempt.place).map(|op| &mut op.kind)
        {
            known.fate = fate;
        }
        self.unblock(attempt.id.0, Blocker::Attempt(stream));
    }

    /// Attempts that came to nothing. How they belong together is decided later, when the lists
    /// that they were tries of have been seen to succeed.
    pub(super) fn orphan(&mut self, orphans: VecDeque<Pending>) {
        if !orphans.is_empty() {
            self.orphans.push_back((self.now, orphans.into()));
        }
    }

    fn decide_orphans(&mut self, until: u64) {
        while self.orphans.front().is_some_and(|(at, _)| *at <= until) {
            if let Some((_, orphans)) = self.orphans.pop_front() {
                for attempts in self.lists.tries(&orphans) {
                    self.orphan_try(&attempts);
                }
            }
        }
    }

    fn orphan_try(&mut self, attempts: &[Pending]) {
        let (Some(first), Some(last)) = (attempts.first(), attempts.last()) else {
            return;
        };
        let fate = if self.has_maps {
            Fate::Orphaned { first: first.id }
        } else {
            Fate::Unknown
        };
        for attempt in attempts {
            self.decide(attempt, attempt.stream, fate);
        }
        let Some(template) = self.buffer.op_mut(last.place).map(|op| op.clone()) else {
            return;
        };
        if fate == Fate::Unknown {
            return;
        }
        let kind = OpKind::Fail(Fail {
            device: last.device_name.clone(),
            attempts: attempts.iter().map(|attempt| attempt.id).collect(),
            size: last.size,
            how: Failure::Silent,
        });
        let op = Op { kind, ..template };
        self.buffer
            .insert(Side::After, last.place.event, last.stream, false, op);
    }

    /// Decides about the first try of a stream that has had no map event for the whole window.
    fn give_up(&mut self, stream: Stream) {
        const TRY_MAX: usize = 256;
        let mut waiting = self.attempts.take(stream);
        let head = if self.has_maps { TRY_MAX } else { 1 };
        let head: Vec<_> = waiting.iter().take(head).cloned().collect();
        if let Some(first) = self.lists.tries(&head).first() {
            waiting.drain(..first.len());
            self.orphan_try(first);
        }
        self.attempts.put_back(stream, waiting);
    }

    /// Decides what has waited for the whole window.
    fn expire_blockers(&mut self) {
        while let Some((&(event, blocker), ())) = self.blockers.first_key_value() {
            if self.now.saturating_sub(event) <= self.options.window_events {
                return;
            }
            match blocker {
                Blocker::Attempt(stream) => self.give_up(stream),
                Blocker::Span => {
                    self.buffer
                        .close(self.now, |place, _| place.event == event, |_| {});
                }
                Blocker::Reuse(id) => self.end_by_reuse(id),
                // These go by time; a clock that stands still must not hold everything.
                Blocker::Early => self.expire_early(u64::MAX),
            }
            self.unblock(event, blocker);
        }
    }
}

pub(super) fn op(event: &Event, span: Span, kind: OpKind) -> Op {
    Op {
        event: event.index,
        time_ns: event.time_ns,
        cpu: event.cpu,
        task: event.task.clone(),
        context: event.context,
        span,
        order: Order::Known,
        kind,
    }
}
