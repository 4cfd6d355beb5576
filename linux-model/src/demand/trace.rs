//! Recorded traces as demand.

use std::collections::HashMap;

use dmakit_addr::{Attributes, Direction};
use dmakit_trace::{Body, IommuEvent, Level, Marker, Name, Probe, SyncFor};

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
            may_sleep: event.context.is_some_and(|context| context.may_sleep()),
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
            Body::Iommu(IommuEvent::Map { .. }) => EventKind::Translated,
            Body::Probe(probe) => Self::probe(probe).unwrap_or(EventKind::Other),
            _ => EventKind::Other,
        }
    }

    /// Probes are known by the function they stand in; their names are the user's.
    fn probe(probe: &Probe) -> Option<EventKind> {
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
            "swiotlb_tbl_unmap_single" => Some(EventKind::SlotReleased {
                direction: direction(probe.number("dir")?)?,
                tlb: probe.number("tlb")?,
            }),
            _ => None,
        }
    }
}

fn entries(event: &dmakit_trace::MapSg) -> Vec<SgEntry> {
    // Behind an IOMMU segments are merged, so only originals are told apart there.
    let is_direct = event.dma.len() == event.phys.len();
    let entry = |(index, phys): (usize, &dmakit_addr::PhysAddr)| SgEntry {
        original: phys.raw(),
        dma: event
            .dma
            .get(index)
            .filter(|_| is_direct)
            .map(|dma| dma.raw()),
        bytes: event
            .sizes
            .get(index)
            .copied()
            .filter(|_| is_direct)
            .unwrap_or(0),
    };
    event.phys.iter().enumerate().map(entry).collect()
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
