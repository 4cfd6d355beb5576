//! What a device has begun and not finished.

use std::collections::{BTreeMap, VecDeque};

use crate::rng::Rng;
use crate::{DeviceId, DmaFault};

/// Reading from memory or writing to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// From memory.
    Read,
    /// To memory.
    Write,
}

impl std::fmt::Display for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "wrote",
        })
    }
}

/// A transfer that a device has begun. Finish it with
/// [`SimDevice::complete`](crate::SimDevice::complete); a forgotten one lands as the machine is
/// disturbed.
#[derive(PartialEq, Eq, Debug)]
pub struct Transfer {
    pub(crate) device: DeviceId,
    pub(crate) number: u64,
}

/// A part of a transfer that reaches memory in one step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    pub(crate) transfer: u64,
    pub(crate) offset: usize,
    pub(crate) len: usize,
    /// Where an SMMU sent it, some time ago.
    pub(crate) translated: Option<u64>,
}

#[derive(Debug)]
pub(crate) struct Begun {
    pub(crate) access: Access,
    start: u64,
    /// Low bits over which the address counter does not carry.
    wrap: u64,
    pub(crate) bytes: Vec<u8>,
    pub(crate) fault: Option<DmaFault>,
    left: usize,
}

/// The parts in flight, in groups: within a group they land in any order, and a group lands wholly
/// before the next.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    begun: BTreeMap<u64, Begun>,
    groups: VecDeque<Vec<Part>>,
    next: u64,
    /// The next transfer opens a group of its own.
    fenced: bool,
}

impl InFlight {
    /// Puts the first `done` of `bytes` in flight, cut at multiples of `part_bytes`.
    pub(crate) fn begin(&mut self, begun: Begun, done: usize, part_bytes: u64) -> u64 {
        let transfer = self.next;
        self.next += 1;
        // A read pushes all earlier writes before it, as on PCI.
        if self.fenced || begun.access == Access::Read || self.groups.is_empty() {
            self.groups.push_back(Vec::new());
        }
        self.fenced = false;
        let mut begun = begun;
        let mut offset = 0;
        while offset < done {
            let at = begun.address(offset);
            // Parts end where the counter wraps, too.
            let stop = (at | (part_bytes - 1)).min(at | begun.wrap);
            let room = usize::try_from(stop - at).map_or(usize::MAX, |room| room.saturating_add(1));
            let len = room.min(done - offset);
            if let Some(group) = self.groups.back_mut() {
                group.push(Part {
                    transfer,
                    offset,
                    len,
                    translated: None,
                });
            }
            begun.left += 1;
            offset += len;
        }
        self.begun.insert(transfer, begun);
        transfer
    }

    /// Forgets everything; numbers go on, so that an old transfer is never taken for a new one.
    pub(crate) fn abort(&mut self) {
        self.begun.clear();
        self.groups.clear();
    }

    pub(crate) fn fence(&mut self) {
        self.fenced = true;
    }

    /// Takes a random part of the oldest group.
    pub(crate) fn take_part(&mut self, rng: &mut Rng) -> Option<Part> {
        while self.groups.front().is_some_and(Vec::is_empty) {
            self.groups.pop_front();
        }
        let group = self.groups.front_mut()?;
        let index = rng.below(group.len() as u64) as usize;
        Some(group.swap_remove(index))
    }

    /// A random part that could land next.
    pub(crate) fn any_part(&mut self, rng: &mut Rng) -> Option<&mut Part> {
        let group = self.groups.front_mut().filter(|group| !group.is_empty())?;
        let index = rng.below(group.len() as u64) as usize;
        group.get_mut(index)
    }

    /// Notes where a part was sent.
    pub(crate) fn note_translated(&mut self, part: Part, output: u64) {
        let same =
            |other: &&mut Part| (other.transfer, other.offset) == (part.transfer, part.offset);
        let mut parts = self.groups.iter_mut().flatten();
        if let Some(part) = parts.find(same) {
            part.translated = Some(output);
        }
    }

    /// Takes a part that was translated and has not landed.
    pub(crate) fn take_translated(&mut self) -> Option<Part> {
        let group = self.groups.front_mut()?;
        let index = group.iter().position(|part| part.translated.is_some())?;
        Some(group.swap_remove(index))
    }

    pub(crate) fn begun(&mut self, transfer: u64) -> Option<&mut Begun> {
        self.begun.get_mut(&transfer)
    }

    /// Counts a part as landed.
    pub(crate) fn landed(&mut self, part: Part, fault: Option<DmaFault>) {
        if let Some(begun) = self.begun.get_mut(&part.transfer) {
            begun.left -= 1;
            begun.fault = begun.fault.or(fault);
        }
    }

    pub(crate) fn is_complete(&self, transfer: u64) -> bool {
        self.begun
            .get(&transfer)
            .is_none_or(|begun| begun.left == 0)
    }

    pub(crate) fn finish(&mut self, transfer: u64) -> Option<Begun> {
        self.begun.remove(&transfer)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.groups.iter().all(Vec::is_empty)
    }

    /// How many parts have not landed.
    pub(crate) fn parts(&self) -> usize {
        self.groups.iter().map(Vec::len).sum()
    }
}

impl Begun {
    pub(crate) fn new(access: Access, start: u64, wrap: u64, bytes: Vec<u8>) -> Self {
        Self {
            access,
            start,
            wrap,
            bytes,
            fault: None,
            left: 0,
        }
    }

    /// The address of the byte at `offset`: the counter carries no further than `wrap`.
    pub(crate) fn address(&self, offset: usize) -> u64 {
        let carried = self.start.wrapping_add(offset as u64);
        (self.start & !self.wrap) | (carried & self.wrap)
    }
}
