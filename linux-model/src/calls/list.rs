//! What scatterlist events show beyond what pairing keeps of them.

use std::collections::HashMap;

use dmakit_trace::{Body, Event, MapSg};

use crate::calls::load::Piece;

/// Entries after which the kernel cuts the list of a mapping.
const SHOWN_MAX: usize = 128;
/// No IOMMU has larger ones.
const GRANULE_MAX: u64 = 64 << 10;

/// Scatterlist events that await their operation, by the index of the event.
#[derive(Debug, Default)]
pub(super) struct ListEvents {
    maps: HashMap<u64, ShownList>,
    /// The buffer that the last map event became.
    buffer: Option<(u64, u32)>,
    /// The event and buffer of the unmap that was taken last.
    ended: Option<(u64, u32)>,
    /// Lists of unmap events that are longer than map events show.
    whole: HashMap<u64, Vec<u64>>,
}

/// A mapped list as its event shows it.
#[derive(Debug)]
pub(super) struct ShownList {
    pub pieces: Vec<Piece>,
    pub segments: Vec<u64>,
    /// Segments of pieces whose own lengths are hidden, as [`Buffer::merged`](super::Buffer::merged).
    pub merged: Vec<(u64, u64)>,
    pub is_cut: bool,
}

impl ShownList {
    fn new(event: &MapSg) -> Self {
        let is_direct = event.dma.len() == event.phys.len();
        let piece = |(index, phys): (usize, &dmakit_addr::PhysAddr)| Piece {
            phys: Some(phys.raw()),
            bytes: event.sizes.get(index).copied().filter(|_| is_direct),
        };
        let mut pieces: Vec<Piece> = event.phys.iter().enumerate().map(piece).collect();
        if pieces.len() == 1 {
            pieces[0].bytes = Some(event.sizes.iter().sum());
        }
        // Within a granule, a device address is that of the memory.
        let starts = event.dma.iter().map(|dma| dma.raw() % GRANULE_MAX);
        let merged = starts.zip(event.sizes.iter().copied());
        let are_hidden = pieces.iter().any(|piece| piece.bytes.is_none());
        Self {
            merged: merged.filter(|_| are_hidden).collect(),
            pieces,
            segments: event.sizes.clone(),
            is_cut: event
                .segments
                .is_some_and(|segments| segments.total > segments.shown),
        }
    }

    pub fn bytes(&self) -> u64 {
        self.segments.iter().sum()
    }
}

impl ListEvents {
    pub fn note(&mut self, event: &Event) {
        match &event.body {
            Body::MapSg(map) => {
                self.maps.insert(event.index, ShownList::new(map));
            }
            Body::UnmapSg(unmap) if unmap.phys.len() > SHOWN_MAX => {
                let all = unmap.phys.iter().map(|phys| phys.raw()).collect();
                self.whole.insert(event.index, all);
            }
            _ => {}
        }
    }

    pub fn take_map(&mut self, event: u64) -> Option<ShownList> {
        self.maps.remove(&event)
    }

    pub fn is_buffer(&mut self, event: u64, buffer: u32) {
        self.buffer = Some((event, buffer));
    }

    pub fn buffer_of(&self, event: u64) -> Option<u32> {
        self.buffer
            .filter(|(of, _)| *of == event)
            .map(|(_, buffer)| buffer)
    }

    /// Whether another segment has ended the list already; the first one does.
    pub fn has_ended(&mut self, event: u64, buffer: u32) -> bool {
        self.ended.replace((event, buffer)) == Some((event, buffer))
    }

    pub fn whole(&mut self, event: u64) -> Option<Vec<u64>> {
        self.whole.remove(&event)
    }
}
