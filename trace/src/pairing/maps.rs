//! Map events: which attempts they decide and what they make live.

use dmakit_addr::{DmaAddr, PhysAddr};

use super::attempts::{self, Entry, Pending};
use super::buffer::{Side, Stream};
use super::live::{DeviceId, Held, Space};
use super::pairer::{Pairer, op};
use super::{Fail, Failure, Fate, Map, MappingId, OpKind, Part, SgId, Span};
use crate::{Event, MapPage, MapSg, MapSgError, Name};

impl Pairer {
    pub(super) fn map_page(&mut self, event: &Event, stream: Stream, map: &MapPage) {
        let device = self.live.device(&map.device);
        let attempt = self.take_attempt(event, stream, device, map);
        let Some(dma) = map.dma else {
            if let Some(attempt) = &attempt {
                self.decide(attempt, stream, Fate::Failed);
            }
            self.fail(event, stream, &map.device, attempt.as_ref(), map.size);
            return;
        };
        let key = (device, dma, map.size, map.direction);
        let map = Map {
            id: self.next_id(),
            attempt: attempt.as_ref().map(|attempt| attempt.id),
            device: map.device.clone(),
            direction: map.direction,
            dma: Some(dma),
            phys: Some(map.phys),
            size: map.size,
            attributes: map.attributes,
            part: Part::Page,
        };
        let id = map.id;
        let held = self.held(device, &map);
        if let Some(held) = &held {
            let attempted = map.attempt.map_or(event.index, |attempt| attempt.0);
            self.evict(event, held, attempted);
        }
        self.live.add_page(key, id);
        self.mapped(event, stream, held, attempt.as_ref(), map);
        if let Some((unmap, of)) = self.take_early(event, &key) {
            self.end_early(event, &unmap, of, id);
        }
    }

    /// The attempt that a single mapping came from; older ones of its stream came to nothing.
    fn take_attempt(
        &mut self,
        event: &Event,
        stream: Stream,
        device: DeviceId,
        map: &MapPage,
    ) -> Option<Pending> {
        let mut waiting = self.attempts.take(stream);
        let Some(at) = attempts::of_page(&waiting, device, map.phys, map.size) else {
            self.overtaken(event, stream, waiting);
            return None;
        };
        let later = waiting.split_off(at + 1);
        let attempt = waiting.pop_back();
        self.overtaken(event, stream, waiting);
        let mut kept = self.attempts.take(stream);
        kept.extend(later);
        self.attempts.put_back(stream, kept);
        attempt
    }

    /// Attempts that a later map event of their stream overtook. Without context flags a stream may
    /// be an interrupt inside another mapping, so there they go on waiting.
    fn overtaken(
        &mut self,
        event: &Event,
        stream: Stream,
        waiting: std::collections::VecDeque<Pending>,
    ) {
        if event.context.is_some() {
            self.orphan(waiting);
        } else {
            self.attempts.put_back(stream, waiting);
        }
    }

    pub(super) fn map_sg(&mut self, event: &Event, stream: Stream, map: &MapSg) {
        let device = self.live.device(&map.device);
        let hidden = map.hidden_entries() as usize;
        let one_to_one = map.dma.len() == map.phys.len();
        let entries: Vec<Entry> = map
            .phys
            .iter()
            .enumerate()
            .map(|(at, &phys)| Entry {
                phys,
                size: map.sizes.get(at).copied().filter(|_| one_to_one),
            })
            .collect();
        let mut waiting = self.attempts.take(stream);
        let (mut found, unseen) = attempts::of_list(&mut waiting, device, &entries, hidden);
        self.overtaken(event, stream, waiting);
        // What a try of this list would look like: its bounced entries.
        let tried: Vec<_> = found.iter().flatten().chain(&unseen).collect();
        self.lists.learn(&tried);

        let list = List {
            event,
            stream,
            map,
            segments: map.dma.len() + unseen.len(),
            first_attempt: found.iter().flatten().next().map(|attempt| attempt.id.0),
        };
        let mut ids = Vec::with_capacity(list.segments);
        for (at, (&dma, &size)) in map.dma.iter().zip(&map.sizes).enumerate() {
            let phys = (one_to_one || at == 0).then(|| map.phys.get(at).copied());
            let attempt = found
                .get_mut(at)
                .filter(|_| one_to_one)
                .and_then(Option::take);
            let segment = Segment {
                at,
                dma: Some(dma),
                phys: phys.flatten(),
                size,
            };
            ids.push(self.segment(&list, &segment, attempt.as_ref()));
        }
        for (at, attempt) in unseen.into_iter().enumerate() {
            let segment = Segment {
                at: map.dma.len() + at,
                dma: None,
                phys: Some(attempt.original),
                size: attempt.size,
            };
            ids.push(self.segment(&list, &segment, Some(&attempt)));
        }
        // Merged entries that were bounced all belong to the segments made of them.
        for (attempt, &id) in found.iter().flatten().zip(ids.iter().cycle()) {
            self.decide(attempt, stream, Fate::Mapped(id));
        }
        self.live.add_list(device, &map.phys, ids);
    }

    fn segment(
        &mut self,
        list: &List<'_>,
        segment: &Segment,
        attempt: Option<&Pending>,
    ) -> MappingId {
        let List {
            event, stream, map, ..
        } = *list;
        let device = self.live.device(&map.device);
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let map = Map {
            id: self.next_id(),
            attempt: attempt.map(|attempt| attempt.id),
            device: map.device.clone(),
            direction: map.direction,
            dma: segment.dma,
            phys: segment.phys,
            size: segment.size,
            attributes: map.attributes,
            part: Part::Sg {
                sg: SgId(event.index),
                entry: count(segment.at),
                entries: count(list.segments),
            },
        };
        let id = map.id;
        let held = self.held(device, &map);
        if let Some(held) = &held {
            let attempted = map.attempt.map(|attempt| attempt.0).or(list.first_attempt);
            self.evict(event, held, attempted.unwrap_or(event.index));
        }
        self.mapped(event, stream, held, attempt, map);
        id
    }

    pub(super) fn map_sg_error(&mut self, event: &Event, stream: Stream, error: &MapSgError) {
        let device = self.live.device(&error.device);
        let mut waiting = self.attempts.take(stream);
        // It stopped at the entry that failed: the last attempts are those of a prefix of the list.
        let mut of_list = Vec::new();
        for shown in (1..=error.phys.len().min(waiting.len())).rev() {
            let from = waiting.len() - shown;
            let fits = waiting
                .iter()
                .skip(from)
                .zip(&error.phys)
                .all(|(attempt, &phys)| attempt.device == device && attempt.original == phys);
            if fits {
                of_list = waiting.split_off(from).into();
                break;
            }
        }
        self.overtaken(event, stream, waiting);
        for attempt in &of_list {
            self.decide(attempt, stream, Fate::Failed);
        }
        let kind = OpKind::Fail(Fail {
            device: error.device.clone(),
            attempts: of_list.iter().map(|attempt| attempt.id).collect(),
            size: of_list.last().map_or(0, |attempt| attempt.size),
            how: Failure::Visible,
        });
        self.insert(event, stream, Side::At, kind);
    }

    fn fail(
        &mut self,
        event: &Event,
        stream: Stream,
        device: &Name,
        attempt: Option<&Pending>,
        size: u64,
    ) {
        let kind = OpKind::Fail(Fail {
            device: device.clone(),
            attempts: attempt.map(|attempt| attempt.id).into_iter().collect(),
            size,
            how: Failure::Visible,
        });
        self.insert(event, stream, Side::At, kind);
    }

    fn next_id(&mut self) -> MappingId {
        let id = MappingId(self.next_mapping);
        self.next_mapping += 1;
        id
    }

    /// The addresses that no other mapping can have at the same time: bounce slots, and what an
    /// IOMMU translates. A direct mapping's address may be mapped twice.
    fn held(&self, device: DeviceId, map: &Map) -> Option<Held> {
        let dma = map.dma?;
        let bounced = map.attempt.is_some();
        let direct = map.phys.map(PhysAddr::raw) == Some(DmaAddr::raw(dma));
        let space = if self.has_iommu && !direct {
            Space::Device(device)
        } else if bounced {
            Space::Bounce
        } else {
            return None;
        };
        Some(Held::new(space, dma, map.size))
    }

    fn mapped(
        &mut self,
        event: &Event,
        stream: Stream,
        held: Option<Held>,
        attempt: Option<&Pending>,
        map: Map,
    ) {
        self.counts.maps += 1;
        let id = map.id;
        self.live.hold(id, held);
        let span = match attempt {
            // The address was taken at the attempt.
            Some(attempt) => {
                self.decide(attempt, stream, Fate::Mapped(id));
                Span {
                    after: event.index,
                    before: event.index,
                }
            }
            None => self.lagging(event, stream),
        };
        let allocates = attempt.is_none();
        let op = op(event, span, OpKind::Map(map));
        self.buffer
            .insert(Side::At, event.index, stream, allocates, op);
    }
}

/// A scatterlist being mapped.
struct List<'a> {
    event: &'a Event,
    stream: Stream,
    map: &'a MapSg,
    segments: usize,
    first_attempt: Option<u64>,
}

/// One segment of a scatterlist, shown or hidden.
struct Segment {
    at: usize,
    dma: Option<DmaAddr>,
    phys: Option<PhysAddr>,
    size: u64,
}
