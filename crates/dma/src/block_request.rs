//! Requests of many runs whose segments are asked for one by one.

use core::panic::Location;

use dmakit_addr::{Attributes, DirectionType, DmaRange};
use dmakit_platform::Platform;

use crate::check::Checker;
use crate::mapping::Route;
use crate::scatter::{Told, stretches};
use crate::segments::{Apart, Cut, counted};
use crate::{
    Device, DmaMemory, DmaSegment, MapError, MapFailure, Mapping, MaskKind, StrictDomain, Translate,
};

impl<'m, P: Platform, M, C: Checker<'m>, T: Translate> Device<'m, P, M, C, T> {
    /// As [`map_scatter`](Self::map_scatter), without a list: [`segments`](Self::segments) says what to
    /// tell the device, one after the other. So what is kept of a request of any length is its token.
    ///
    /// # Errors
    /// As [`map`](Self::map), and [`MapError::TooManySegments`] where the segments, joined, are more
    /// than the device takes.
    #[track_caller]
    pub fn map_request<D: DirectionType, B: DmaMemory>(
        &self,
        memory: B,
        attributes: Attributes,
    ) -> Result<Mapping<D, B>, MapFailure<B>> {
        let caller = Location::caller();
        match self.try_map_scatter(&memory, attributes, Told::Later) {
            Ok(record) => {
                self.begin(&record, memory.runs(), caller);
                Ok(Mapping { memory, record })
            }
            Err(error) => Err(self.refuse(error, memory, attributes)),
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
    /// however it was made; but these may be more, and are counted first. O(runs).
    ///
    /// # Errors
    /// [`MapError::TooManySegments`] where they are more than the device takes.
    pub fn segments_apart<'a, D: DirectionType, B: DmaMemory>(
        &'a self,
        mapping: &'a Mapping<D, B>,
    ) -> Result<impl Iterator<Item = DmaSegment> + 'a, MapError> {
        let limits = self.info.limits;
        let apart = || {
            let lens = mapping.memory.runs().map(|run| run.len());
            Apart::new(self.stretches(mapping), lens, limits, self.info.min_align)
        };
        counted(apart().count(), limits.max_count)?;
        Ok(apart())
    }

    /// Where the device sees the bytes of a mapping, in order.
    fn stretches<'a, D: DirectionType, B: DmaMemory>(
        &'a self,
        mapping: &'a Mapping<D, B>,
    ) -> impl Iterator<Item = DmaRange> + 'a {
        let record = &mapping.record;
        let translated = record.translated().zip(self.translation());
        let pieces = translated.map(|(translated, domain)| {
            stretches(&mapping.memory, translated.range, domain.granule())
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
