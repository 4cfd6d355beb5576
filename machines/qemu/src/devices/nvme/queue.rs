//! A submission queue and the completion queue that answers it.

use std::sync::atomic::Ordering;

use dmakit_platform::{Barrier, Platform, Window};

use super::command::{Command, PAGE};

/// Entries of each queue: as many submission entries as a page holds.
pub(super) const ENTRIES: u16 = 64;

/// Bytes that a pair takes: a page for submissions, one for completions.
pub(super) const PAIR_BYTES: u64 = 2 * PAGE;

/// Where a pair stands.
#[derive(Debug)]
pub(super) struct QueuePair {
    /// Where its two pages begin in the driver's block.
    offset: u64,
    tail: u16,
    head: u16,
    /// The phase bit of entries that are new.
    phase: bool,
}

/// A completion queue entry, copied out once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) slot: u16,
    pub(super) status: u16,
}

impl QueuePair {
    /// An empty pair in zeroed memory.
    pub(super) fn new(offset: u64) -> Self {
        Self {
            offset,
            tail: 0,
            head: 0,
            phase: true,
        }
    }

    pub(super) fn submissions(&self) -> u64 {
        self.offset
    }

    pub(super) fn completions(&self) -> u64 {
        self.offset + PAGE
    }

    /// Writes a command; gives the tail for the doorbell. The caller has kept below the queue's
    /// length.
    pub(super) fn push<P: Platform>(
        &mut self,
        platform: &P,
        memory: Window<'_>,
        command: &Command,
    ) -> Option<u32> {
        let entry = memory.slice(self.offset + 64 * u64::from(self.tail), 64)?;
        for (slot, word) in entry.words64()?.iter().zip(command) {
            slot.store(word.to_le(), Ordering::Relaxed);
        }
        platform.barrier(Barrier::BeforeDevice);
        self.tail = (self.tail + 1) % ENTRIES;
        Some(self.tail.into())
    }

    /// Takes the next completion, if there is one; gives the head for the doorbell with it.
    pub(super) fn pop<P: Platform>(
        &mut self,
        platform: &P,
        memory: Window<'_>,
    ) -> Option<(Entry, u32)> {
        let entry = memory.slice(self.completions() + 16 * u64::from(self.head), 16)?;
        // The second word has number, phase and status: it is read once, and all of it is used.
        let word = u64::from_le(entry.words64()?.get(1)?.load(Ordering::Acquire));
        let status = (word >> 48) as u16;
        if (status & 1 != 0) != self.phase {
            return None;
        }
        platform.barrier(Barrier::AfterDevice);
        self.head += 1;
        if self.head == ENTRIES {
            self.head = 0;
            self.phase = !self.phase;
        }
        let entry = Entry {
            slot: (word >> 32) as u16,
            // Without the phase, and without the bits that say "more" and "do not retry".
            status: status >> 1 & 0x7ff,
        };
        Some((entry, self.head.into()))
    }
}
