//! Memory of a confidential guest and the host that must not see all of it.

use dmakit_addr::{Address, PAGE_BYTES, PhysAddr, PhysRange};
use dmakit_platform::ConversionError;

use crate::machine::State;
use crate::rng::mix;
use crate::{Access, DeviceId, DmaFault, Event, PrivateAccess, Step, Violation};

/// Whether the host can read a frame, and whether software can know that.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct FrameState {
    pub(crate) is_shared: bool,
    /// A conversion of it failed: for ever.
    pub(crate) is_unknown: bool,
}

/// The two ways to convert.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Conversion {
    Share,
    Unshare,
}

/// What lies between a device and the bytes that it reaches.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cipher {
    Clear,
    /// The host has no key: the bytes mean something else on each side.
    Key(u64),
}

impl Cipher {
    pub(crate) fn apply(self, memory: PhysRange, bytes: &mut [u8]) {
        let Self::Key(key) = self else { return };
        for (at, byte) in (memory.start().raw()..).zip(bytes) {
            // Never a zero, so that no byte passes unchanged.
            *byte ^= (mix(key ^ at) as u8) | 1;
        }
    }
}

impl State {
    /// What a device finds at `memory`, which lies in one frame.
    pub(crate) fn private_access(
        &mut self,
        device: DeviceId,
        access: Access,
        memory: PhysRange,
    ) -> Result<Cipher, DmaFault> {
        let Some(private) = self.private else {
            return Ok(Cipher::Clear);
        };
        if self.frames.at(memory.start().raw()).is_shared {
            return Ok(Cipher::Clear);
        }
        let at = memory.start();
        self.violations
            .push(Violation::Private { device, access, at });
        match private {
            PrivateAccess::Fault => Err(DmaFault::Private(at)),
            PrivateAccess::Garbage => Ok(Cipher::Key(mix(self.seed))),
        }
    }

    pub(crate) fn convert(
        &mut self,
        range: PhysRange,
        conversion: Conversion,
    ) -> Result<(), ConversionError> {
        if self.private.is_none() {
            return Ok(());
        }
        let result = self.try_convert(range, conversion);
        let done = result.is_ok();
        let frames = range.len() / PAGE_BYTES;
        let counts = &mut self.log.counts;
        match conversion {
            _ if !done => counts.failed_conversions += 1,
            Conversion::Share => counts.frames_shared += frames,
            Conversion::Unshare => counts.frames_unshared += frames,
        }
        self.log.event(match conversion {
            Conversion::Share => Event::Share(range, done),
            Conversion::Unshare => Event::Unshare(range, done),
        });
        result
    }

    fn try_convert(
        &mut self,
        range: PhysRange,
        conversion: Conversion,
    ) -> Result<(), ConversionError> {
        let (start, end) = (range.start().raw(), range.end().raw());
        let share = conversion == Conversion::Share;
        let refused = self.conversion_refused(range, share);
        if let Some(why) = refused {
            self.violations.push(Violation::Conversion { range, why });
            return Err(ConversionError { range });
        }
        let step = if share { Step::SHARE } else { Step::UNSHARE };
        // A failure leaves some of the frames converted, and nobody can say which.
        let (converted, failed) = if self.plan.fails(step) {
            let frames = self.rng.below(range.len() / PAGE_BYTES + 1);
            (start + frames * PAGE_BYTES, true)
        } else {
            (end, false)
        };
        self.frames.update(start, converted, |state| FrameState {
            is_shared: share,
            ..state
        });
        if failed {
            self.frames.update(start, end, |state| FrameState {
                is_unknown: true,
                ..state
            });
        }
        self.cache.scramble(range);
        if failed {
            return Err(ConversionError { range });
        }
        Ok(())
    }

    fn conversion_refused(&self, range: PhysRange, share: bool) -> Option<&'static str> {
        let (start, end) = (range.start().raw(), range.end().raw());
        let whole = range.start().is_aligned(PAGE_BYTES) && range.len() % PAGE_BYTES == 0;
        if !whole {
            return Some("not whole frames");
        }
        if !self.cache.is_ram(range) {
            return Some("not RAM");
        }
        if self
            .frames
            .first_not(start, end, |state| !state.is_unknown)
            .is_some()
        {
            return Some("its state is unknown since a conversion failed");
        }
        self.frames
            .first_not(start, end, |state| state.is_shared != share)
            .map(|_| {
                if share {
                    "shared already"
                } else {
                    "not shared"
                }
            })
    }

    /// The frames of which `is` holds, in runs as long as can be.
    pub(crate) fn frames_that(&self, is: impl Fn(FrameState) -> bool) -> Vec<PhysRange> {
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for (start, end, _) in self.frames.set().filter(|&(_, _, state)| is(state)) {
            match runs.last_mut() {
                Some(run) if run.1 == start => run.1 = end,
                _ => runs.push((start, end)),
            }
        }
        let ranges = runs.into_iter().filter_map(|(start, end)| {
            PhysRange::between(PhysAddr::new(start), PhysAddr::new(end))
        });
        ranges.collect()
    }
}
