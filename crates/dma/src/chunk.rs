//! Coherent memory of which a pool hands out parts.

use dmakit_platform::{Carved, Platform, Segment};

use crate::check::Checker;
use crate::coherent::{Home, Origin};
use crate::{Coherent, CoherentError, CoherentSource, Device, DeviceId, NotHere, Translate};

/// One block of a device's coherent memory, in units that are handed out; `WORDS` words have a bit
/// for each.
pub(crate) struct ChunkMemory<const WORDS: usize> {
    pub(crate) carved: Carved<[u64; WORDS]>,
    origin: Origin,
}

impl<const WORDS: usize> ChunkMemory<WORDS> {
    /// `memory` in units of `unit_bytes`; the memory where it cannot be divided so.
    pub(crate) fn new(memory: Coherent<u8>, unit_bytes: u64) -> Result<Self, Coherent<u8>> {
        let (segment, rest) = memory.into_parts()?;
        let origin = rest.origin(&segment);
        match Carved::new(segment, unit_bytes) {
            Ok(carved) => Ok(Self { carved, origin }),
            Err(segment) => Err(rest.with(segment)),
        }
    }

    /// Units from `first` on, and where they come from.
    pub(crate) fn take(&mut self, first: usize, units: usize) -> Option<(Segment, Origin)> {
        let segment = self.carved.take(first, units)?;
        Some((segment, self.origin))
    }

    /// The block as it was, where nothing of it is out; what is out would keep the rest.
    pub(crate) fn into_whole(self) -> Option<Coherent<u8>> {
        let segment = self.carved.into_segment().ok()?;
        Some(self.origin.whole(segment))
    }

    /// Gives the block back to the device that it was made by, where nothing of it is out.
    pub(crate) fn go_home<'m, P: Platform, M, C: Checker<'m>, T: Translate>(
        self,
        device: &Device<'m, P, M, C, T>,
    ) {
        if let Some(memory) = self.into_whole() {
            give_home(device, memory);
        }
    }
}

/// Whether `device` is `owner` and its coherent memory can be divided.
pub(crate) fn check_source<'m, P: Platform, M, C: Checker<'m>, T: Translate>(
    device: &Device<'m, P, M, C, T>,
    owner: DeviceId,
) -> Result<(), CoherentError> {
    let asked = device.info().id;
    if asked != owner {
        return Err(CoherentError::Foreign {
            owner,
            device: asked,
        });
    }
    match device.coherent {
        CoherentSource::Pool => Err(CoherentError::Indivisible),
        _ => Ok(()),
    }
}

/// Gives a block's memory to `put`, which knows its home; the block where it does not take it.
pub(crate) fn put_back<T>(
    block: Coherent<T>,
    put: impl FnOnce(Home, Segment) -> Result<(), Segment>,
) -> Result<(), NotHere<T>> {
    let (owner, home) = (block.device, block.home);
    let (segment, rest) = block
        .into_parts()
        .map_err(|block| NotHere { owner, block })?;
    put(home, segment).map_err(|segment| NotHere {
        owner,
        block: rest.with(segment),
    })
}

pub(crate) fn give_home<'m, P: Platform, M, C: Checker<'m>, T: Translate>(
    device: &Device<'m, P, M, C, T>,
    memory: Coherent<u8>,
) {
    // It was made by this device, with this home, so it is taken.
    let taken = device.free_coherent(memory);
    debug_assert!(taken.is_ok());
}
