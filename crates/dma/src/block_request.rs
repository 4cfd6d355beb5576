//! Requests of many runs whose segments are asked for one by one.

use core::panic::Location;

use dmakit_addr::{Attributes, DirectionType, DmaAddr, DmaRange};
use dmakit_platform::Platform;

use crate::check::Checker;
use crate::fragments::pieces;
use crate::mapping::{Record, Route};
use crate::segments::{Apart, Cut};
use crate::{
    Device, DmaMemory, DmaSegment, MapError, MapFailure, Mapping, MaskKind, StrictDomain, Translate,
};

impl<'m, P: Platform, M, C: Checker<'m>, T: Translate> Device<'m, P, M, C, T> {
    /// As [`map_scatter`](Self::map_scatter), without a list: [`segments`](Self::segments) says what to
    /// tell the device, one after the other. So what is kept of a request of any length is its token.
    ///
    /// # Errors
    /// As [`map`](Self::map).
    #[track_caller]
    pub fn map_request<D: DirectionType, B: DmaMemory>(
        &self,
        memory: B,
        attributes: Attributes,
    ) -> Result<Mapping<D, B>, MapFailure<B>> {
        let caller = Location::caller();
        match self.try_map_request(&memory, attributes) {
            Ok(record) => {
                self.begin(&record, memory.runs(), caller);
                Ok(Mapping { memory, record })
            }
            Err(error) => Err(self.refuse(error, memory, attributes)),
        }
    }

    fn try_map_request<D: DirectionType, B: DmaMemory>(
        &self,
        memory: &B,
        attributes: Attributes,
    ) -> Result<Record<D>, MapError> {
        self.check_request(memory.len_bytes(), attributes)?;
        let (mut first, mut count) = (None, 0_u32);
        let mut visit = |dma: DmaRange| {
            first = first.or(Some(dma.start()));
            count = count.saturating_add(1);
        };
        if let Some(domain) = self.translation() {
            let runs = memory.runs();
            let translated = self.translate::<D, B>(domain, runs, memory, attributes, visit)?;
            let start = first.unwrap_or(DmaAddr::new(translated.range.start().raw()));
            return Ok(self.lend_translated(memory, translated, start, count, attributes));
        }
        let cause = self.find_cause(memory.runs(), D::DIRECTION, &mut visit);
        match cause {
            Some(cause) => self.bounce_memory(memory, attributes, cause, Some(&mut [])),
            None => Ok(self.lend(memory, first.ok_or(MapError::Empty)?, count, attributes)),
        }
    }

    /// The segments of a mapping of this device, in order: runs that follow one another for it are
    /// joined, and cut where its limits ask. Nothing is kept for them; they follow from the memory.
    pub fn segments<'a, D: DirectionType, B: DmaMemory>(
        &'a self,
        mapping: &'a Mapping<D, B>,
    ) -> impl Iterator<Item = DmaSegment> + 'a {
        let stretches = self.stretches(mapping);
        Cut::new(stretches, self.info.limits, self.info.min_align)
    }

    /// As [`segments`](Self::segments), without the joining: each run of the memory has segments of its
    /// own, one unless the device's limits cut it. For a device whose descriptors stand for the
    /// driver's own pieces. Both ways tell of the same addresses, so either may be used on any mapping,
    /// however it was made.
    pub fn segments_apart<'a, D: DirectionType, B: DmaMemory>(
        &'a self,
        mapping: &'a Mapping<D, B>,
    ) -> impl Iterator<Item = DmaSegment> + 'a {
        let lens = mapping.memory.runs().map(|run| run.len());
        let stretches = self.stretches(mapping);
        Apart::new(stretches, lens, self.info.limits, self.info.min_align)
    }

    /// Where the device sees the bytes of a mapping, in order.
    fn stretches<'a, D: DirectionType, B: DmaMemory>(
        &'a self,
        mapping: &'a Mapping<D, B>,
    ) -> impl Iterator<Item = DmaRange> + 'a {
        let record = &mapping.record;
        let translated = record.translated().zip(self.translation());
        let pieces = translated.map(|(translated, domain)| {
            let granule = domain.granule();
            pieces(mapping.memory.runs(), granule)
                .filter_map(move |piece| piece.dma(translated.range, granule))
        });
        let slots = match &record.route {
            Route::Bounced(_) => DmaRange::new(record.start, record.len).ok(),
            Route::Direct | Route::Translated { .. } => None,
        };
        let direct = matches!(record.route, Route::Direct).then(|| {
            let runs = mapping.memory.runs();
            runs.filter_map(|run| self.info.direct(run, MaskKind::Streaming))
        });
        let mapped = pieces.into_iter().flatten().chain(slots);
        mapped.chain(direct.into_iter().flatten())
    }
}
