//! A device's coherent memory as the table memory of its driver.

use core::fmt;
use core::marker::PhantomData;

use dmakit_addr::{Attributes, DmaAddr, DmaRange, PhysRange};
use dmakit_platform::{NoMemory, Platform, Segment, SegmentRequest, TableMemory};

use crate::check::Checker;
use crate::coherent::{Home, Memory};
use crate::{Coherent, CoherentError, Device, Translate};

/// Coherent memory of a device as [`TableMemory`], for drivers that know nothing of this crate and
/// tell their hardware physical addresses: an interrupt translation service, an IOMMU.
///
/// So it serves devices that see memory where the CPU has it: not behind an IOMMU, not shifted by
/// their bus, not in a bounce pool. What lies elsewhere for them is given back at once and refused.
/// Everything is counted with the device, within its mask, and on its node whatever is asked.
///
/// Such a driver cleans its tables itself where its hardware goes past the caches; the device is then
/// described as coherent all the same, because its memory is used through them.
pub struct DeviceTables<'d, 'm, P: Platform, M, C, T> {
    device: &'d Device<'m, P, M, C, T>,
}

impl<'d, 'm, P: Platform, M, C: Checker<'m>, T: Translate> DeviceTables<'d, 'm, P, M, C, T> {
    /// Tables of a device.
    pub fn new(device: &'d Device<'m, P, M, C, T>) -> Self {
        Self { device }
    }
}

impl<'m, P: Platform, M, C: Checker<'m>, T: Translate> TableMemory
    for DeviceTables<'_, 'm, P, M, C, T>
{
    /// Whole pages, aligned to the power of two at or above their size. May sleep, as coherent
    /// allocation may.
    fn allocate_table(&self, request: &SegmentRequest) -> Result<Segment, NoMemory> {
        let refused = |largest_free| NoMemory {
            request: *request,
            largest_free,
        };
        if request.len == 0 || !request.align.is_power_of_two() {
            return Err(refused(None));
        }
        // As much as it takes to be aligned so.
        let bytes = request.len.max(request.align) as usize;
        let block = self.device.alloc_coherent::<u8>(bytes, Attributes::NONE);
        let block = block.map_err(|error| match error {
            CoherentError::NoMemory(none) => refused(none.largest_free),
            _ => refused(None),
        })?;
        let serves = |segment: &Segment| {
            identity(segment.range()) == Some(block.dma) && request.limit.reaches(&segment.range())
        };
        match block.memory {
            Memory::Owned(segment) if serves(&segment) => Ok(segment),
            memory => {
                let freed = self.device.free_coherent(Coherent { memory, ..block });
                debug_assert!(freed.is_ok(), "it was just allocated");
                Err(refused(None))
            }
        }
    }

    /// A segment that is not from here leaks: the trait has no way to return it.
    fn free_table(&self, segment: Segment) {
        let freed = identity(segment.range()).map(|dma| {
            self.device.free_coherent(Coherent::<u8> {
                count: dma.len() as usize,
                memory: Memory::Owned(segment),
                dma,
                home: Home::Source,
                device: self.device.info().id,
                values: PhantomData,
            })
        });
        debug_assert!(matches!(freed, Some(Ok(()))), "a segment from elsewhere");
    }
}

/// What a device is told of memory that it sees where it is.
fn identity(range: PhysRange) -> Option<DmaRange> {
    DmaRange::new(DmaAddr::new(range.start().raw()), range.len()).ok()
}

impl<P: Platform, M, C, T> fmt::Debug for DeviceTables<'_, '_, P, M, C, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceTables").finish_non_exhaustive()
    }
}
