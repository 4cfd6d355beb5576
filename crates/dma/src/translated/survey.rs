//! What has to be known of memory before the first of it is linked.

use core::convert::Infallible;

use dmakit_addr::{Direction, DmaAddr, DmaRange, Granule, IovaRange, PhysRange};
use dmakit_platform::Platform;

use crate::check::Checker;
use crate::fragments::{Piece, each_piece};
use crate::{BounceCause, Device, Translate, Trust, cache};

/// What must not be shown to a device.
#[derive(Clone, Copy)]
pub(super) struct Guard {
    /// Granules that hold anything else.
    granules: bool,
    /// Lines of so many bytes that hold anything else.
    lines: Option<u64>,
}

impl Guard {
    pub(super) fn is_needed(self) -> bool {
        self.granules || self.lines.is_some()
    }

    /// Why a part of a piece bounces, where one does.
    #[inline(never)]
    fn cause_in(self, piece: Piece, granule: Granule) -> Option<BounceCause> {
        let mut parts = piece.fragments(granule);
        parts.find_map(|part| self.cause(&part, granule))
    }

    /// Why a part that does not have its granules to itself bounces.
    pub(super) fn cause(self, part: &Piece, granule: Granule) -> Option<BounceCause> {
        let run = part.run;
        if !part.is_ragged(granule) {
            return None;
        }
        if self.granules {
            return Some(BounceCause::SharedPage { run });
        }
        let line_bytes = self.lines.filter(|&line| !cache::has_whole(run, line))?;
        Some(BounceCause::SharedLine { run, line_bytes })
    }
}

/// Memory that is to be mapped, looked at once.
#[derive(Default)]
pub(super) struct Survey {
    /// Bytes of all granules that it touches.
    pub(super) span: u64,
    /// Its own bytes.
    bytes: u64,
    /// Where it begins.
    first: u64,
    /// All addresses at which one run ends and another begins.
    seams: u64,
    /// Why some of it must not be shown to the device.
    pub(super) cause: Option<BounceCause>,
}

impl Survey {
    /// Where the device sees it, as one stretch; `None` where there are gaps.
    #[inline]
    pub(super) fn seamless(&self, range: IovaRange, granule: Granule) -> Option<DmaRange> {
        let start = range.start().raw() + (self.first & granule.mask());
        let whole = DmaRange::new(DmaAddr::new(start), self.bytes).ok();
        whole.filter(|_| self.seams & granule.mask() == 0)
    }
}

impl<'m, P: Platform, M, C: Checker<'m>, T: Translate> Device<'m, P, M, C, T> {
    pub(crate) fn guards(&self, direction: Direction) -> bool {
        self.guard(direction).is_needed()
    }

    pub(super) fn guard(&self, direction: Direction) -> Guard {
        let minds_lines = !self.info.is_coherent() && direction.device_writes();
        Guard {
            granules: self.info.trust == Trust::Untrusted,
            lines: minds_lines.then(|| self.platform.cache_line_bytes()),
        }
    }

    /// What has to be known of runs before the first of them is linked.
    #[inline]
    pub(super) fn survey(
        &self,
        runs: impl Iterator<Item = PhysRange> + Clone,
        granule: Granule,
        direction: Direction,
    ) -> Survey {
        let guard = self.guard(direction);
        let is_needed = guard.is_needed();
        let (mut survey, mut end) = (Survey::default(), 0);
        let surveyed = each_piece(runs, granule, |piece| {
            let start = piece.run.start().raw();
            match piece.base {
                0 => survey.first = start,
                _ => survey.seams |= end | start,
            }
            end = piece.run.end().raw();
            survey.span = piece.base + piece.span(granule);
            survey.bytes = piece.at + piece.run.len();
            if is_needed && survey.cause.is_none() {
                survey.cause = guard.cause_in(piece, granule);
            }
            Ok::<_, Infallible>(())
        });
        let Ok(()) = surveyed;
        survey
    }
}
