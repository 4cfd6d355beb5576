//! Linking memory of many runs to a request.

use core::panic::Location;

use dmakit_addr::DirectionType;
use dmakit_platform::{CopySource, Platform, Window};

use super::{LinkError, Request};
use crate::check::Checker;
use crate::fragments::Joined;
use crate::{Device, DmaMemory, DmaSegment, Translate};

/// The bytes of one run, as those of all the memory.
struct Run<'a, B> {
    of: &'a B,
    at: u64,
    len: u64,
}

impl<B: CopySource> CopySource for Run<'_, B> {
    fn len_bytes(&self) -> u64 {
        self.len
    }

    fn copy_to(&self, offset: u64, window: Window<'_>) {
        self.of.copy_to(self.at + offset, window);
    }
}

impl<'m, P: Platform, M, C: Checker<'m>, T: Translate> Device<'m, P, M, C, T> {
    /// Links all of some memory behind what is linked already, run by run, those that follow one
    /// another joined; `each` hears where the device finds them. Otherwise as [`link`](Self::link).
    ///
    /// # Errors
    /// As [`link`](Self::link): the request holds the runs before the one that could not be linked,
    /// which [`unlink_tail`](Self::unlink_tail) or [`cancel`](Self::cancel) take back.
    #[track_caller]
    pub fn link_memory<D: DirectionType, B: DmaMemory>(
        &self,
        request: &mut Request<D>,
        memory: &B,
        mut each: impl FnMut(DmaSegment),
    ) -> Result<(), LinkError> {
        let caller = Location::caller();
        let mut linker = self.linker(request)?;
        let mut at = 0;
        for run in Joined::new(memory.runs()) {
            let len = run.len();
            let bytes = Run {
                of: memory,
                at,
                len,
            };
            each(linker.link_as(run, &bytes, caller)?);
            at += len;
        }
        Ok(())
    }
}
