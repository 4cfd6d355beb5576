//! Where a device writes to interrupt, as the device sees it.

use dmakit_addr::{Attributes, Direction, PhysAddr, PhysRange};
use dmakit_dma::{DmaSegment, Translate};

use crate::path::Untyped;

/// The ITS's doorbell, open for one device.
pub struct Doorbell {
    addr: u64,
    mapped: Option<DmaSegment>,
}

impl Doorbell {
    /// Maps the doorbell for a device; or does not, so that its interrupts must fail.
    pub fn open<T: Translate + 'static>(
        device: &Untyped<T>,
        at: PhysAddr,
        unmapped: bool,
    ) -> Result<Self, &'static str> {
        if unmapped {
            return Ok(Self {
                addr: at.raw(),
                mapped: None,
            });
        }
        let at = PhysRange::new(at, 4).map_err(|_| "no doorbell")?;
        let device = device.device();
        let mapped = device.map_resource(at, Direction::FromDevice, Attributes::NONE);
        let mapped = mapped.map_err(|_| "the doorbell is not mapped")?;
        Ok(Self {
            addr: mapped.addr.raw(),
            mapped: Some(mapped),
        })
    }

    /// The address that the device writes to.
    pub fn addr(&self) -> u64 {
        self.addr
    }

    /// Takes it away again.
    pub fn close<T: Translate + 'static>(self, device: &Untyped<T>) -> Result<(), &'static str> {
        let unmapped = self.mapped.map(|mapped| {
            device
                .device()
                .unmap_resource(mapped, Direction::FromDevice)
        });
        let unmapped = unmapped.transpose().map(drop);
        unmapped.map_err(|_| "the doorbell is not unmapped")
    }
}
