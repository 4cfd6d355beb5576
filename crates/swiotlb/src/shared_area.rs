//! An area, its lock, and what is counted under it.

use alloc::boxed::Box;

use dmakit_platform::{IrqMutex, Platform};

use crate::{Area, Record};

/// One area on cache lines of its own.
#[repr(align(128))]
pub(crate) struct SharedArea<P: Platform>(pub(crate) IrqMutex<P, AreaState>);

/// What the lock of an area guards.
pub(crate) struct AreaState {
    pub(crate) area: Area,
    /// A draining pool's areas take no new mapping.
    pub(crate) closed: bool,
    pub(crate) credit: u32,
    /// One row for each device; the last also serves numbers that there is no row for.
    pub(crate) devices: Box<[DeviceUse]>,
}

/// What is written down when a mapping begins.
#[derive(Clone, Copy)]
pub(crate) struct Begin {
    pub(crate) record: Record,
    /// Bytes that are copied in.
    pub(crate) copied: u64,
}

/// What a device has in an area, and had.
#[derive(Clone, Copy, Default)]
pub(crate) struct DeviceUse {
    /// Slots taken less slots given back in this area.
    pub(crate) slots: u32,
    pub(crate) mapped: u64,
    pub(crate) unmapped: u64,
    pub(crate) copied: u64,
}

impl AreaState {
    /// Counts a mapping that begins.
    #[inline]
    pub(crate) fn begin(&mut self, begin: &Begin) {
        let device = self.device(&begin.record);
        device.slots += begin.record.slots;
        device.mapped += 1;
        device.copied += begin.copied;
    }

    #[inline]
    pub(crate) fn end(&mut self, record: &Record, copied: u64) {
        let device = self.device(record);
        device.slots -= record.slots;
        device.unmapped += 1;
        device.copied += copied;
    }

    #[inline]
    pub(crate) fn device(&mut self, record: &Record) -> &mut DeviceUse {
        let row = usize::from(record.device).min(self.devices.len() - 1);
        &mut self.devices[row]
    }
}
