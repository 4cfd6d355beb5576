//! From events to calls.

use std::collections::{BTreeMap, HashMap};

use dmakit_addr::{Attributes, Direction};
use dmakit_trace::pairing::{self, MappingId, Part};
use dmakit_trace::{
    AllocCall, Allocation, Body, Event, FlushEvent, IommuEvent, Level, Name, OpKind, Pairer,
    SyncFor,
};

use crate::calls::list::ListEvents;
use crate::calls::load::{
    Buffer, BufferKind, Call, CallKind, CallSource, Calls, DeviceCalls, Flow, Piece, RecordedOp,
    RecordedOpKind, RecordedTranslation,
};
use crate::calls::translations;

/// Reads events in recorded order.
#[derive(Default)]
pub struct CallsIngest {
    pairer: Pairer,
    lists: ListEvents,
    devices: Vec<DeviceCalls>,
    numbers: HashMap<Name, u32>,
    buffers: Vec<Buffer>,
    recorded: RecordedTranslation,
    /// Buffers by their mappings; a list has one for each segment.
    open: HashMap<MappingId, u32>,
    /// Calls that the pairer orders, and those that it leaves alone, by event.
    paired: Vec<Call>,
    aside: Vec<Call>,
    /// Live coherent memory, by device and address.
    coherent: HashMap<(u32, u64), u32>,
    /// Devices and addresses of syncs, whose buffers are found at the end.
    synced: Vec<(u32, u64)>,
    has_calls: bool,
    /// Whether the kernel names flushes of domains by an event of their own.
    has_flushes: bool,
    unmaps_unseen: u64,
    cut_lists: u64,
}

impl CallsIngest {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next event.
    pub fn push(&mut self, event: &Event) {
        let at = |kind| Call {
            at_ns: event.time_ns,
            cpu: event.cpu,
            flow: flow(event),
            event: event.index,
            kind,
        };
        match &event.body {
            Body::MapSg(_) | Body::UnmapSg(_) => self.lists.note(event),
            Body::Alloc(alloc) => self.allocated(alloc, at),
            Body::Free(free) => self.freed(free, at),
            Body::Sync(sync) => {
                let device = self.device(&sync.device);
                let copies = match sync.whose {
                    SyncFor::Cpu => sync.direction.device_writes(),
                    SyncFor::Device => sync.direction.device_reads(),
                };
                if copies {
                    let buffer = self.synced.len() as u32;
                    self.synced.push((device, sync.dma.raw()));
                    let bytes = sync.size;
                    self.aside.push(at(CallKind::Sync { buffer, bytes }));
                }
            }
            Body::Flush(FlushEvent::All { domain, .. }) => {
                self.has_flushes = true;
                self.aside.push(at(CallKind::Flush { domain: *domain }));
            }
            Body::Flush(FlushEvent::Submit {
                what, descriptor, ..
            }) if !self.has_flushes && *what == "iotlb_inv" => {
                if let Some(domain) = whole_domain(descriptor[0]) {
                    self.aside.push(at(CallKind::Flush { domain }));
                }
            }
            Body::Iommu(change) => self.translated(event, change),
            _ => {}
        }
        self.has_calls |= matches!(event.body, Body::Map(_) | Body::MapSg(_));
        self.pairer.push(event);
        self.take_paired();
    }

    /// Ends the trace. O(n log n) in the number of calls.
    pub fn finish(mut self) -> (Calls, RecordedTranslation) {
        self.pairer.finish();
        self.take_paired();
        let recorded = self.recorded;
        if !self.has_calls && !recorded.ops.is_empty() {
            let flushes = self.aside.into_iter();
            let flushes = flushes.filter(|call| matches!(call.kind, CallKind::Flush { .. }));
            return translations::calls(recorded, flushes.collect());
        }
        let order = merged(self.paired, self.aside);
        let order = with_syncs(order, &self.synced, &self.buffers, &recorded.dma);
        let calls = Calls {
            source: CallSource::Calls,
            devices: self.devices,
            buffers: self.buffers,
            order,
            unmaps_unseen: self.unmaps_unseen,
            cut_lists: self.cut_lists,
            mixed_domains: 0,
        };
        (calls, recorded)
    }

    fn device(&mut self, name: &Name) -> u32 {
        let next = self.devices.len() as u32;
        let number = *self.numbers.entry(name.clone()).or_insert(next);
        if number == next {
            self.devices.push(DeviceCalls {
                name: name.as_str().to_owned(),
                is_translated: false,
            });
        }
        number
    }

    fn add(&mut self, buffer: Buffer, dma: Option<u64>, segments: Vec<u64>) -> u32 {
        self.buffers.push(buffer);
        self.recorded.dma.push(dma);
        self.recorded.segments.push(segments);
        self.buffers.len() as u32 - 1
    }

    fn take_paired(&mut self) {
        while let Some(op) = self.pairer.pop() {
            let kind = match &op.kind {
                OpKind::Map(map) => self.mapped(&op, map).map(CallKind::Map),
                OpKind::Unmap(unmap) => self.unmapped(&op, unmap.id).map(CallKind::Unmap),
                OpKind::UnmapUnseen(_) => {
                    self.unmaps_unseen += 1;
                    None
                }
                _ => None,
            };
            self.paired.extend(kind.map(|kind| Call {
                at_ns: op.time_ns,
                cpu: op.cpu,
                flow: flow_of(op.context, op.cpu, op.task.pid),
                event: op.event,
                kind,
            }));
        }
    }

    /// A mapping; of a list, the first of its segments stands for all.
    fn mapped(&mut self, op: &pairing::Op, map: &pairing::Map) -> Option<u32> {
        let device = self.device(&map.device);
        let dma = map.dma.map(|dma| dma.raw());
        if let (Some(phys), Some(dma), None) = (map.phys, dma, map.attempt) {
            self.devices[device as usize].is_translated |= phys.raw() != dma;
        }
        let is_first = match map.part {
            Part::Page => true,
            Part::Sg { entry, .. } => entry == 0,
        };
        if !is_first {
            // The list's buffer was the last that this device mapped in this event.
            let list = self.lists.buffer_of(op.event)?;
            self.open.insert(map.id, list);
            return None;
        }
        let direction = map.direction;
        let buffer = match map.part {
            Part::Page => {
                let piece = Piece {
                    phys: map.phys.map(|phys| phys.raw()),
                    bytes: Some(map.size),
                };
                let buffer = Buffer {
                    device,
                    direction,
                    kind: BufferKind::Single,
                    pieces: vec![piece],
                    merged: Vec::new(),
                    bytes: map.size,
                    skips_sync: map.attributes.contains(Attributes::SKIP_CPU_SYNC),
                };
                self.add(buffer, dma, Vec::new())
            }
            Part::Sg { .. } => {
                let shown = self.lists.take_map(op.event)?;
                self.cut_lists += u64::from(shown.is_cut);
                let buffer = Buffer {
                    device,
                    direction,
                    kind: BufferKind::List,
                    bytes: shown.bytes(),
                    pieces: shown.pieces,
                    merged: shown.merged,
                    skips_sync: map.attributes.contains(Attributes::SKIP_CPU_SYNC),
                };
                let number = self.add(buffer, dma, shown.segments);
                self.lists.is_buffer(op.event, number);
                number
            }
        };
        self.open.insert(map.id, buffer);
        Some(buffer)
    }

    fn unmapped(&mut self, op: &pairing::Op, id: MappingId) -> Option<u32> {
        let buffer = self.open.remove(&id)?;
        let first = !self.lists.has_ended(op.event, buffer);
        if let Some(all) = self.lists.whole(op.event) {
            let pieces = &mut self.buffers[buffer as usize].pieces;
            // The map event stops at 128 entries, that of the unmap does not.
            let hidden = all.iter().skip(pieces.len());
            pieces.extend(hidden.map(|phys| Piece {
                phys: Some(*phys),
                bytes: None,
            }));
        }
        first.then_some(buffer)
    }

    fn allocated(&mut self, alloc: &Allocation, at: impl Fn(CallKind) -> Call) {
        let (Some(dma), AllocCall::Coherent | AllocCall::Pages) = (alloc.dma, alloc.call) else {
            return;
        };
        let device = self.device(&alloc.device);
        let buffer = Buffer {
            device,
            direction: Direction::Bidirectional,
            kind: BufferKind::Coherent,
            pieces: vec![Piece {
                phys: None,
                bytes: Some(alloc.size),
            }],
            merged: Vec::new(),
            bytes: alloc.size,
            skips_sync: false,
        };
        let number = self.add(buffer, Some(dma.raw()), Vec::new());
        self.coherent.insert((device, dma.raw()), number);
        self.aside.push(at(CallKind::Map(number)));
    }

    fn freed(&mut self, free: &Allocation, at: impl Fn(CallKind) -> Call) {
        let device = self.device(&free.device);
        let Some(dma) = free.dma.filter(|_| free.size > 0) else {
            return;
        };
        match self.coherent.remove(&(device, dma.raw())) {
            Some(buffer) => self.aside.push(at(CallKind::Unmap(buffer))),
            None => self.unmaps_unseen += 1,
        }
    }

    fn translated(&mut self, event: &Event, change: &IommuEvent) {
        let kind = match *change {
            IommuEvent::Map { iova, phys, size } => RecordedOpKind::Map {
                iova: iova.raw(),
                phys: phys.raw(),
                bytes: size,
            },
            IommuEvent::Unmap { iova, size, .. } => RecordedOpKind::Unmap {
                iova: iova.raw(),
                bytes: size,
            },
            _ => return,
        };
        self.recorded.ops.push(RecordedOp {
            event: event.index,
            flow: flow(event),
            cpu: event.cpu,
            at_ns: event.time_ns,
            kind,
        });
    }
}

fn flow(event: &Event) -> Flow {
    flow_of(event.context, event.cpu, event.task.pid)
}

fn flow_of(context: Option<dmakit_trace::Context>, cpu: u32, pid: u32) -> Flow {
    let level = match context.map(|context| context.level) {
        None | Some(Level::Task) => 0,
        Some(Level::SoftIrq) => 1,
        Some(Level::HardIrq | Level::Nmi) => 2,
    };
    match (level, pid) {
        (0, 1..) => Flow::Task(pid),
        _ => Flow::Cpu { cpu, level },
    }
}

/// The domain of a VT-d descriptor that invalidates all of it.
///
/// Source: VT-d specification 4.1, 6.5.2.3: type 2 in bits 3:0, granularity in bits 5:4 (2 is one
/// domain), domain in bits 31:16.
fn whole_domain(descriptor: u64) -> Option<u32> {
    (descriptor & 0x3f == 0x22).then_some((descriptor >> 16 & 0xffff) as u32)
}

/// Calls outside the pairer's order come at their events: before the first call that no earlier
/// event can follow.
fn merged(paired: Vec<Call>, aside: Vec<Call>) -> Vec<Call> {
    let mut places: Vec<u64> = paired.iter().map(|call| call.event).collect();
    for index in (1..places.len()).rev() {
        // An unmap that was moved forward has the event of a later moment.
        places[index - 1] = places[index - 1].min(places[index]);
    }
    let mut order = Vec::with_capacity(paired.len() + aside.len());
    let mut aside = aside.into_iter().peekable();
    for (call, place) in paired.into_iter().zip(places) {
        while let Some(earlier) = aside.next_if(|other| other.event < place) {
            order.push(earlier);
        }
        order.push(call);
    }
    order.extend(aside);
    order
}

/// The order with each sync given the live single buffer in which its address lies; one that lies
/// in none is left out.
fn with_syncs(
    order: Vec<Call>,
    synced: &[(u32, u64)],
    buffers: &[Buffer],
    dma: &[Option<u64>],
) -> Vec<Call> {
    let mut live: BTreeMap<(u32, u64), u32> = BTreeMap::new();
    let place = |buffer: u32| {
        let of = &buffers[buffer as usize];
        let dma = dma[buffer as usize].filter(|_| of.kind == BufferKind::Single)?;
        Some((of.device, dma))
    };
    let given = |mut call: Call| {
        match &mut call.kind {
            CallKind::Map(buffer) => {
                if let Some(place) = place(*buffer) {
                    live.insert(place, *buffer);
                }
            }
            CallKind::Unmap(buffer) => {
                if let Some(place) = place(*buffer).filter(|at| live.get(at) == Some(buffer)) {
                    live.remove(&place);
                }
            }
            CallKind::Sync { buffer, .. } => {
                let (device, address) = synced[*buffer as usize];
                let below = live.range((device, 0)..=(device, address)).next_back()?;
                let ((_, start), found) = below;
                if address - start >= buffers[*found as usize].bytes {
                    return None;
                }
                *buffer = *found;
            }
            CallKind::Flush { .. } => {}
        }
        Some(call)
    };
    order.into_iter().filter_map(given).collect()
}
