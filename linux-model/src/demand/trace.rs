//! Recorded traces as demand.

use std::collections::HashMap;

use dmakit_addr::{Attributes, Direction, DmaAddr, PhysAddr};
use dmakit_trace::{Body, Level, Marker, Name, Probe, SyncFor, Value};

use crate::demand::event::{Context, Event, EventKind, SgEntry};
use crate::demand::{Demand, Ingest, RecordedAddresses};

/// Feeds a trace's events to [`Ingest`], numbering the devices as they appear.
#[derive(Debug, Default)]
pub struct TraceIngest {
    ingest: Ingest,
    devices: HashMap<Name, u32>,
}

impl TraceIngest {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next event.
    pub fn push(&mut self, event: &dmakit_trace::Event) {
        let context = match event.context.map(|context| context.level) {
            None | Some(Level::Task) => Context::Task,
            Some(Level::SoftIrq) => Context::Softirq,
            Some(Level::HardIrq | Level::Nmi) => Context::Hardirq,
        };
        let kind = self.kind(&event.body);
        self.ingest.push(&Event {
            at_ns: event.time_ns,
            cpu: event.cpu,
            pid: event.task.pid,
            context,
            kind,
        });
    }

    /// Ends the trace.
    pub fn finish(self) -> (Demand, RecordedAddresses) {
        let (mut demand, recorded) = self.ingest.finish();
        for (name, number) in self.devices {
            if let Some(device) = demand.devices.get_mut(number as usize) {
                device.name = name.as_str().to_owned();
            }
        }
        (demand, recorded)
    }

    fn device(&mut self, name: &Name) -> u32 {
        let next = self.devices.len() as u32;
        *self.devices.entry(name.clone()).or_insert(next)
    }

    fn kind(&mut self, body: &Body) -> EventKind {
        match body {
            Body::Bounced(event) => EventKind::Bounced {
                device: self.device(&event.device),
                dma_mask: event.dma_mask.last(),
                original: event.original.raw(),
                bytes: event.size,
                is_forced: event.forced,
            },
            Body::Map(event) => EventKind::MapPage {
                device: self.device(&event.device),
                direction: event.direction,
                dma: event.dma.map(|dma| dma.raw()),
                bytes: event.size,
                original: event.phys.raw(),
            },
            Body::Unmap(event) => EventKind::UnmapPage {
                device: self.device(&event.device),
                direction: event.direction,
                dma: event.dma.raw(),
                bytes: event.size,
                skips_sync: event.attributes.contains(Attributes::SKIP_CPU_SYNC),
            },
            Body::MapSg(event) => EventKind::MapSg {
                device: self.device(&event.device),
                direction: event.direction,
                entries: entries(event),
                count: event.phys.len() + event.hidden_entries() as usize,
            },
            Body::UnmapSg(event) => EventKind::UnmapSg {
                device: self.device(&event.device),
                direction: event.direction,
                originals: event.phys.iter().map(|phys| phys.raw()).collect(),
                skips_sync: event.attributes.contains(Attributes::SKIP_CPU_SYNC),
            },
            Body::Sync(event) => EventKind::Sync {
                device: self.device(&event.device),
                direction: event.direction,
                dma: event.dma.raw(),
                bytes: event.size,
                is_for_cpu: event.whose == SyncFor::Cpu,
            },
            Body::Marker(Marker::PhaseBegin(name)) => EventKind::PhaseBegin {
                name: name.as_str().to_owned(),
            },
            Body::Marker(Marker::PhaseEnd(_)) => EventKind::PhaseEnd,
            Body::Probe(probe) => self.probe(probe).unwrap_or(EventKind::Other),
            _ => EventKind::Other,
        }
    }

    /// Probes are known by the function they stand in; their names are the user's.
    fn probe(&mut self, probe: &Probe) -> Option<EventKind> {
        let place = probe.location.trim_start_matches('(');
        if place.contains("<- swiotlb_tbl_map_single") {
            let tlb = probe.number("tlb")?;
            return Some(EventKind::SlotReturned {
                tlb: (tlb != u64::MAX).then_some(tlb),
            });
        }
        let function = place.split(['+', ' ']).next()?;
        match function.trim_start_matches('_') {
            "swiotlb_tbl_map_single" => Some(EventKind::SlotWanted),
            "swiotlb_tbl_unmap_single" => {
                let Value::Text(device) = probe.field("dev")? else {
                    return None;
                };
                Some(EventKind::SlotReleased {
                    device: self.device(device),
                    direction: direction(probe.number("dir")?)?,
                    tlb: probe.number("tlb")?,
                    bytes: probe.number("size")?,
                })
            }
            _ => None,
        }
    }
}

/// Behind an IOMMU entries are merged into fewer segments and their own lengths are not shown:
/// they are taken to be equal shares of the whole.
fn entries(event: &dmakit_trace::MapSg) -> Vec<SgEntry> {
    if event.dma.len() == event.phys.len() {
        let entry = |((phys, dma), bytes): ((&PhysAddr, &DmaAddr), &u64)| SgEntry {
            original: phys.raw(),
            dma: dma.raw(),
            bytes: *bytes,
        };
        return event
            .phys
            .iter()
            .zip(&event.dma)
            .zip(&event.sizes)
            .map(entry)
            .collect();
    }
    let count = event.phys.len().max(1) as u64;
    let whole: u64 = event.sizes.iter().sum();
    let start = event.dma.first().map_or(0, |dma| dma.raw());
    let share = |index: u64| whole * index / count;
    let entry = |(index, phys): (u64, &PhysAddr)| SgEntry {
        original: phys.raw(),
        dma: start.wrapping_add(share(index)),
        bytes: share(index + 1) - share(index),
    };
    (0..).zip(&event.phys).map(entry).collect()
}

/// The kernel's numbers.
fn direction(number: u64) -> Option<Direction> {
    match number {
        0 => Some(Direction::Bidirectional),
        1 => Some(Direction::ToDevice),
        2 => Some(Direction::FromDevice),
        _ => None,
    }
}
