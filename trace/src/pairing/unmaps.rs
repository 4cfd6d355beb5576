//! Unmap events: which mapping they end, and where that belongs in the order.

use dmakit_addr::{Direction, DmaAddr};

use super::buffer::{Place, Side, Stream};
use super::clock::stream;
use super::live::{DeviceId, Held};
use super::pairer::{Blocker, Pairer, op};
use super::{MappingId, OpKind, Span, Unmap, UnmapEvidence, UnmapUnseen};
use crate::{Body, Event, UnmapPage, UnmapSg};

pub(super) type PageKey = (DeviceId, DmaAddr, u64, Direction);

/// An unmap whose map may follow at once.
pub(super) struct Early {
    key: PageKey,
    event: Event,
    stream: Stream,
}

/// A recent unmap of an exclusive address, which a map event may prove to have been earlier.
pub(super) struct Ended {
    held: Held,
    /// Its event, which [`Ended::place`] may no longer be at.
    event: u64,
    place: Place,
}

/// Unmaps that a later map event may still move.
const ENDED_KEPT: usize = 4096;

impl Pairer {
    pub(super) fn unmap_page(&mut self, event: &Event, stream: Stream, unmap: &UnmapPage) {
        let device = self.live.device(&unmap.device);
        let key = (device, unmap.dma, unmap.size, unmap.direction);
        match self.live.take_page(&key) {
            Some(id) => {
                let span = self.lagging(event, stream);
                self.end(event, stream, id, Side::At, span);
            }
            None => {
                self.block(event.index, Blocker::Early);
                self.early.push_back(Early {
                    key,
                    event: event.clone(),
                    stream,
                });
            }
        }
    }

    pub(super) fn unmap_sg(&mut self, event: &Event, stream: Stream, unmap: &UnmapSg) {
        let device = self.live.device(&unmap.device);
        let Some(ids) = self.live.take_list(device, &unmap.phys) else {
            self.counts.unmaps_unmatched += 1;
            let kind = OpKind::UnmapUnseen(UnmapUnseen {
                device: unmap.device.clone(),
                direction: unmap.direction,
                dma: None,
                size: None,
                entries: u32::try_from(unmap.phys.len()).unwrap_or(u32::MAX),
            });
            self.insert(event, stream, Side::After, kind);
            return;
        };
        let span = Span {
            after: event.index,
            before: event.index,
        };
        for id in ids {
            self.end(event, stream, id, Side::After, span);
        }
    }

    /// Ends a mapping by its event.
    fn end(&mut self, event: &Event, stream: Stream, id: MappingId, side: Side, span: Span) {
        let Some(held) = self.live.end(id) else {
            return;
        };
        self.counts.unmaps_matched += 1;
        if let Some((before, _)) = self.reused.remove(&id) {
            self.counts.reordered += 1;
            self.unblock(before, Blocker::Reuse(id));
            let evidence = UnmapEvidence::Moved;
            let op = op(event, span, OpKind::Unmap(Unmap { id, evidence }));
            self.buffer.insert(Side::Before, before, stream, true, op);
            return;
        }
        let evidence = UnmapEvidence::Event;
        let kind = OpKind::Unmap(Unmap { id, evidence });
        let place = if side == Side::After {
            self.insert_open(event, stream, side, kind)
        } else {
            let op = op(event, span, kind);
            self.buffer.insert(side, event.index, stream, true, op)
        };
        if let Some(held) = held {
            if self.ended.len() == ENDED_KEPT {
                self.ended.pop_front();
            }
            self.ended.push_back(Ended {
                held,
                event: event.index,
                place,
            });
        }
    }

    /// A new mapping, attempted at the event `attempted`, takes `held`: whoever held any of it has
    /// ended before.
    pub(super) fn evict(&mut self, event: &Event, held: &Held, attempted: u64) {
        for id in self.live.overlapping(held) {
            self.live.unhold(id);
            self.block(attempted, Blocker::Reuse(id));
            self.reused.insert(id, (attempted, event.clone()));
        }
        for ended in self.ended.iter_mut().rev() {
            if ended.event <= attempted {
                break;
            }
            if ended.place.event <= attempted || !ended.held.overlaps(held) {
                continue;
            }
            if let Some(place) = self.buffer.move_before(ended.place, attempted) {
                ended.place = place;
                self.counts.reordered += 1;
                if let Some(op) = self.buffer.op_mut(place) {
                    if let OpKind::Unmap(unmap) = &mut op.kind {
                        unmap.evidence = UnmapEvidence::Moved;
                    }
                }
            }
        }
    }

    pub(super) fn end_by_reuse(&mut self, id: MappingId) {
        let Some((before, event)) = self.reused.remove(&id) else {
            return;
        };
        self.unblock(before, Blocker::Reuse(id));
        if self.live.end(id).is_none() {
            return;
        }
        self.counts.unmaps_inferred += 1;
        let span = Span {
            after: 0,
            before: event.index,
        };
        let evidence = UnmapEvidence::Reuse;
        let op = op(&event, span, OpKind::Unmap(Unmap { id, evidence }));
        self.buffer
            .insert(Side::Before, before, stream(&event), true, op);
    }

    /// The unmap of this key that was recorded just before its map.
    pub(super) fn take_early(&mut self, event: &Event, key: &PageKey) -> Option<(Event, Stream)> {
        let at = self
            .early
            .iter()
            .position(|early| early.key == *key && early.event.cpu != event.cpu)?;
        let early = self.early.remove(at)?;
        self.unblock(early.event.index, Blocker::Early);
        Some((early.event, early.stream))
    }

    /// Ends a mapping by an unmap event that came before its map event.
    pub(super) fn end_early(&mut self, map: &Event, unmap: &Event, stream: Stream, id: MappingId) {
        if self.live.end(id).is_none() {
            return;
        }
        self.counts.unmaps_matched += 1;
        self.counts.reordered += 1;
        let span = Span {
            after: unmap.index,
            before: map.index,
        };
        let evidence = UnmapEvidence::Moved;
        let op = op(unmap, span, OpKind::Unmap(Unmap { id, evidence }));
        self.buffer.insert(Side::After, map.index, stream, true, op);
    }

    pub(super) fn expire_early(&mut self, time_ns: u64) {
        while let Some(early) = self.early.front() {
            let age = time_ns.saturating_sub(early.event.time_ns);
            if age <= self.options.skew_ns {
                return;
            }
            let Some(Early { event, stream, .. }) = self.early.pop_front() else {
                return;
            };
            self.unblock(event.index, Blocker::Early);
            self.counts.unmaps_unmatched += 1;
            if let Body::Unmap(unmap) = &event.body {
                let kind = OpKind::UnmapUnseen(UnmapUnseen {
                    device: unmap.device.clone(),
                    direction: unmap.direction,
                    dma: Some(unmap.dma),
                    size: Some(unmap.size),
                    entries: 1,
                });
                self.insert(&event, stream, Side::At, kind);
            }
        }
    }
}
