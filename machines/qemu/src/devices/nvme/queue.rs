//! A submission queue and the completion queue that answers it.

use dmakit_addr::Attributes;
use dmakit_dma::{Coherent, CoherentError, Translate, field};
use dmakit_platform::{Barrier, Platform};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::command::Command;
use crate::devices::DmaDevice;

/// Where a pair stands.
#[derive(Debug)]
pub(super) struct QueuePair {
    submissions: Coherent<Command>,
    completions: Coherent<Completion>,
    entries: u16,
    tail: u16,
    head: u16,
    /// The phase bit of entries that are new.
    phase: bool,
}

/// A completion queue entry (4.6), little-endian.
#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Completion {
    result: [u32; 2],
    head: u16,
    queue: u16,
    command: u16,
    /// And the phase bit.
    status: u16,
}

/// What one says, copied out once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) slot: u16,
    pub(super) status: u16,
}

impl QueuePair {
    /// A pair of empty queues of `entries`.
    pub(super) fn allocate<P: Platform, T: Translate>(
        device: &DmaDevice<'_, P, T>,
        entries: u16,
    ) -> Result<Self, CoherentError> {
        let submissions = device.alloc_coherent(entries.into(), Attributes::NONE)?;
        let completions = match device.alloc_coherent(entries.into(), Attributes::NONE) {
            Ok(completions) => completions,
            Err(error) => {
                // It has just come from there.
                let _ = device.free_coherent(submissions);
                return Err(error);
            }
        };
        Ok(Self {
            submissions,
            completions,
            entries,
            tail: 0,
            head: 0,
            phase: true,
        })
    }

    /// Gives the memory back, which the device no longer uses.
    pub(super) fn free<P: Platform, T: Translate>(self, device: &DmaDevice<'_, P, T>) {
        // Both came from there.
        let _ = device.free_coherent(self.submissions);
        let _ = device.free_coherent(self.completions);
    }

    /// How many commands and completions there is room for: a full queue has one entry less.
    pub(super) fn entries(&self) -> u16 {
        self.entries
    }

    /// Where the device sees submissions and completions.
    pub(super) fn bases(&self) -> [u64; 2] {
        [
            self.submissions.dma_addr().raw(),
            self.completions.dma_addr().raw(),
        ]
    }

    /// Writes a command; gives the tail for the doorbell. The caller has kept below the queue's
    /// length.
    pub(super) fn push<P: Platform, T: Translate>(
        &mut self,
        device: &DmaDevice<'_, P, T>,
        command: &Command,
    ) -> Option<u32> {
        let view = device.view(&self.submissions)?;
        view.at(self.tail.into())?.write(&command.map(u64::to_le));
        device.barrier(Barrier::BeforeDevice);
        self.tail = (self.tail + 1) % self.entries;
        Some(self.tail.into())
    }

    /// Takes the next completion, if there is one; gives the head for the doorbell with it.
    pub(super) fn pop<P: Platform, T: Translate>(
        &mut self,
        device: &DmaDevice<'_, P, T>,
    ) -> Option<(Entry, u32)> {
        let view = device.view(&self.completions)?;
        let entry = view.at(self.head.into())?;
        // The phase says whether the rest is new, and stands beside the status: one read of both.
        let status = u16::from_le(entry.load(field!(Completion, status)));
        if (status & 1 != 0) != self.phase {
            return None;
        }
        device.barrier(Barrier::AfterDevice);
        let slot = u16::from_le(entry.load(field!(Completion, command)));
        self.head += 1;
        if self.head == self.entries {
            self.head = 0;
            self.phase = !self.phase;
        }
        let entry = Entry {
            slot,
            // Without the phase, and without the bits that say "more" and "do not retry".
            status: status >> 1 & 0x7ff,
        };
        Some((entry, self.head.into()))
    }
}
