//! The memory that driver and controller share all the time.

use dmakit_addr::Attributes;
use dmakit_dma::{Coherent, CoherentError, Translate};
use dmakit_platform::Platform;

use super::command::{LIST_ENTRIES, PAGE};
use super::queue::QueuePair;
use crate::devices::DmaDevice;

/// Commands that may be in flight.
pub const DEPTH_MAX: usize = 64;

/// Entries of a queue: one more, since a full queue would look like an empty one.
pub(super) const ENTRIES: u16 = DEPTH_MAX as u16 + 1;

/// What `IDENTIFY` returns.
pub(super) type IdentifyPage = [u8; PAGE as usize];

/// Queues and lists, coherent.
#[derive(Debug)]
pub(super) struct Memory {
    pub(super) admin: QueuePair,
    pub(super) io: QueuePair,
    /// The PRP lists of the commands in flight, one after the other.
    pub(super) lists: Coherent<u64>,
    /// What the controller says of itself.
    pub(super) page: Coherent<IdentifyPage>,
}

impl Memory {
    /// All of it or nothing.
    pub(super) fn allocate<P: Platform, T: Translate>(
        device: &DmaDevice<'_, P, T>,
    ) -> Result<Self, CoherentError> {
        let admin = QueuePair::allocate(device, ENTRIES)?;
        let io = match QueuePair::allocate(device, ENTRIES) {
            Ok(io) => io,
            Err(error) => {
                admin.free(device);
                return Err(error);
            }
        };
        let entries = DEPTH_MAX * LIST_ENTRIES;
        let lists = device.alloc_coherent(entries, Attributes::NONE);
        let page = device.alloc_coherent(1, Attributes::NONE);
        let error = match (lists, page) {
            (Ok(lists), Ok(page)) => {
                return Ok(Self {
                    admin,
                    io,
                    lists,
                    page,
                });
            }
            // What there is of the two came from there.
            (Ok(lists), Err(error)) => {
                let _ = device.free_coherent(lists);
                error
            }
            (Err(error), page) => {
                let _ = page.map(|page| device.free_coherent(page));
                error
            }
        };
        admin.free(device);
        io.free(device);
        Err(error)
    }

    /// Gives it back: the controller no longer uses it.
    pub(super) fn free<P: Platform, T: Translate>(self, device: &DmaDevice<'_, P, T>) {
        self.admin.free(device);
        self.io.free(device);
        // They came from there.
        let _ = device.free_coherent(self.lists);
        let _ = device.free_coherent(self.page);
    }
}
