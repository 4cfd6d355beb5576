//! Memory of many runs, and the segments that a device is told of.

use core::panic::Location;

use dmakit_addr::{Attributes, DirectionType, DmaAddr, DmaRange, Granule, IovaRange};
use dmakit_platform::Platform;

use crate::check::Checker;
use crate::fragments::pieces;
use crate::mapping::Record;
use crate::segments::{Apart, SegmentWriter, write_all};
use crate::{
    Device, DmaMemory, DmaSegment, MapError, MapFailure, Mapping, MaskKind, StrictDomain, Translate,
};

/// How a device is told of memory.
pub(crate) enum Told<'s> {
    /// Runs that follow one another for it are one segment.
    Joined(&'s mut [DmaSegment]),
    /// Each run has segments of its own.
    Apart(&'s mut [DmaSegment]),
    /// As joined, one after the other, when it asks.
    Later,
}

impl<'m, P: Platform, M, C: Checker<'m>, T: Translate> Device<'m, P, M, C, T> {
    /// Lends memory made of many runs to the device, as the segments that it writes to the front of
    /// `segments`; [`Mapping::segment_count`] says how many.
    ///
    /// Runs that follow one another for the device are joined, and cut where its limits ask. Where
    /// one run has to bounce, the whole list does, as one stretch of slots: so a mapping is one
    /// token of constant size and no list of copies has to be kept anywhere. Otherwise as
    /// [`map`](Self::map).
    ///
    /// # Errors
    /// As [`map`](Self::map); where there was too little room,
    /// [`TooManySegments`](MapError::TooManySegments) says how much would do. The slice's contents
    /// mean nothing then.
    #[track_caller]
    pub fn map_scatter<D: DirectionType, B: DmaMemory>(
        &self,
        memory: B,
        attributes: Attributes,
        segments: &mut [DmaSegment],
    ) -> Result<Mapping<D, B>, MapFailure<B>> {
        self.map_told(memory, attributes, Told::Joined(segments))
    }

    /// As [`map_scatter`](Self::map_scatter), without the joining: each run of the memory has segments
    /// of its own, one unless the device's limits cut it. For a device whose descriptors stand for the
    /// driver's own pieces.
    ///
    /// # Errors
    /// As [`map_scatter`](Self::map_scatter).
    #[track_caller]
    pub fn map_scatter_apart<D: DirectionType, B: DmaMemory>(
        &self,
        memory: B,
        attributes: Attributes,
        segments: &mut [DmaSegment],
    ) -> Result<Mapping<D, B>, MapFailure<B>> {
        self.map_told(memory, attributes, Told::Apart(segments))
    }

    #[inline(always)]
    #[track_caller]
    fn map_told<D: DirectionType, B: DmaMemory>(
        &self,
        memory: B,
        attributes: Attributes,
        told: Told<'_>,
    ) -> Result<Mapping<D, B>, MapFailure<B>> {
        let caller = Location::caller();
        match self.try_map_scatter(&memory, attributes, told) {
            Ok(record) => {
                self.begin(&record, memory.runs(), caller);
                Ok(Mapping { memory, record })
            }
            Err(error) => Err(self.refuse(error, memory, attributes)),
        }
    }

    pub(crate) fn try_map_scatter<D: DirectionType, B: DmaMemory>(
        &self,
        memory: &B,
        attributes: Attributes,
        told: Told<'_>,
    ) -> Result<Record<D>, MapError> {
        self.check_request(memory.len_bytes(), attributes)?;
        let (limits, min_align) = (self.info.limits, self.info.min_align);
        let (mut writer, apart) = match told {
            Told::Joined(segments) => (SegmentWriter::new(segments, limits, min_align), None),
            Told::Apart(segments) => (SegmentWriter::counting(limits, min_align), Some(segments)),
            Told::Later => (SegmentWriter::counting(limits, min_align), None),
        };
        let mut first: Option<DmaAddr> = None;
        let place = |dma: DmaRange| {
            first = first.or(Some(dma.start()));
            writer.push(dma);
        };
        if let Some(domain) = self.translation() {
            let runs = memory.runs();
            let translated = self.translate::<D, B>(domain, runs, memory, attributes, place)?;
            let counted = match apart {
                Some(segments) => {
                    let stretches = stretches(memory, translated.range, domain.granule());
                    self.write_apart(memory, stretches, segments)
                }
                None => writer.finish(),
            };
            return match (counted, first) {
                (Ok(count), Some(first)) => {
                    Ok(self.lend_translated(memory, translated, first, count, attributes))
                }
                (counted, _) => {
                    let len = translated.range.len();
                    self.undo::<D>(domain, translated, memory.runs(), len);
                    Err(counted.err().unwrap_or(MapError::Empty))
                }
            };
        }
        let cause = self.find_cause(memory.runs(), D::DIRECTION, place);
        if let Some(cause) = cause {
            writer.restart();
            let cut = |slots: DmaRange| match apart {
                Some(segments) => self.write_apart(memory, core::iter::once(slots), segments),
                None => {
                    writer.push(slots);
                    writer.finish()
                }
            };
            return self.bounce_memory(memory, attributes, cause, false, cut);
        }
        let count = match apart {
            Some(segments) => {
                let runs = memory.runs();
                let direct = runs.filter_map(|run| self.info.direct(run, MaskKind::Streaming));
                self.write_apart(memory, direct, segments)?
            }
            None => writer.finish()?,
        };
        let first = first.ok_or(MapError::Empty)?;
        Ok(self.lend(memory, first, count, attributes))
    }

    /// Writes what the device is told of stretches, each run of the memory by itself.
    fn write_apart<B: DmaMemory>(
        &self,
        memory: &B,
        stretches: impl Iterator<Item = DmaRange>,
        segments: &mut [DmaSegment],
    ) -> Result<u32, MapError> {
        let (limits, lens) = (self.info.limits, memory.runs().map(|run| run.len()));
        let apart = Apart::new(stretches, lens, limits, self.info.min_align);
        write_all(apart, limits, segments)
    }
}

/// Where a device sees the bytes of memory that is mapped to `range`, in order.
pub(crate) fn stretches<B: DmaMemory>(
    memory: &B,
    range: IovaRange,
    granule: Granule,
) -> impl Iterator<Item = DmaRange> {
    let places = pieces(memory.runs(), granule);
    places.filter_map(move |piece| piece.dma(range, granule))
}
