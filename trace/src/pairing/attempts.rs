//! Bounce attempts waiting for the event that says what became of them.

use std::collections::{HashMap, HashSet, VecDeque};

use dmakit_addr::PhysAddr;

use super::AttemptId;
use super::buffer::{Place, Stream};
use super::live::DeviceId;
use crate::Name;

#[derive(Clone, Debug)]
pub(super) struct Pending {
    pub(super) id: AttemptId,
    pub(super) place: Place,
    pub(super) stream: Stream,
    pub(super) device: DeviceId,
    pub(super) device_name: Name,
    pub(super) original: PhysAddr,
    pub(super) size: u64,
}

/// Attempts by the stream that made them, in order. Within one stream mapping is sequential: an
/// attempt that another mapping's event overtakes came to nothing.
#[derive(Default)]
pub(super) struct Attempts {
    of: HashMap<Stream, VecDeque<Pending>>,
}

impl Attempts {
    pub(super) fn push(&mut self, stream: Stream, attempt: Pending) {
        self.of.entry(stream).or_default().push_back(attempt);
    }

    /// Every attempt of one stream, which waits no longer.
    pub(super) fn take(&mut self, stream: Stream) -> VecDeque<Pending> {
        self.of.remove(&stream).unwrap_or_default()
    }

    /// Streams that still wait, in a stable order.
    pub(super) fn streams(&self) -> Vec<Stream> {
        let mut streams: Vec<_> = self.of.keys().copied().collect();
        streams.sort_unstable();
        streams
    }

    /// Puts back what a mapping did not decide.
    pub(super) fn put_back(&mut self, stream: Stream, attempts: VecDeque<Pending>) {
        if !attempts.is_empty() {
            self.of.insert(stream, attempts);
        }
    }
}

/// The attempt among `waiting` that this single mapping came from: the latest for the same memory,
/// else (a bus offset moves the address that the attempt shows) the latest of the same size.
pub(super) fn of_page(
    waiting: &VecDeque<Pending>,
    device: DeviceId,
    phys: PhysAddr,
    size: u64,
) -> Option<usize> {
    let same = |a: &Pending| a.device == device && a.size == size;
    waiting
        .iter()
        .rposition(|a| same(a) && a.original == phys)
        .or_else(|| waiting.iter().rposition(same))
}

/// One entry of a scatterlist as its map event shows it.
pub(super) struct Entry {
    pub(super) phys: PhysAddr,
    /// Where entries and segments are one to one.
    pub(super) size: Option<u64>,
}

/// Takes from the end of `waiting` the attempts of the entries of one scatterlist. Not every entry
/// need have been bounced. `hidden` entries follow those shown; their attempts come back second.
pub(super) fn of_list(
    waiting: &mut VecDeque<Pending>,
    device: DeviceId,
    entries: &[Entry],
    hidden: usize,
) -> (Vec<Option<Pending>>, Vec<Pending>) {
    let fits = |a: &Pending, e: &Entry| {
        a.device == device && a.original == e.phys && e.size.is_none_or(|size| size == a.size)
    };
    let mut unseen = VecDeque::new();
    let last_shown = entries.last();
    while unseen.len() < hidden {
        match waiting.back() {
            Some(a) if a.device == device && !last_shown.is_some_and(|e| fits(a, e)) => {
                unseen.extend(waiting.pop_back());
            }
            _ => break,
        }
    }
    let mut found = vec![None; entries.len()];
    for (slot, entry) in found.iter_mut().zip(entries).rev() {
        if waiting.back().is_some_and(|a| fits(a, entry)) {
            *slot = waiting.pop_back();
        }
    }
    unseen.make_contiguous().reverse();
    (found, unseen.into())
}

/// Parts attempts that came to nothing into the scatterlists that they seem to belong to: where an
/// address comes again, a new try begins.
pub(super) fn retries(orphans: VecDeque<Pending>) -> Vec<Vec<Pending>> {
    let mut tries: Vec<Vec<Pending>> = Vec::new();
    let mut seen = HashSet::new();
    for orphan in orphans {
        let fresh = seen.insert((orphan.device, orphan.original));
        match tries.last_mut() {
            Some(last) if fresh && last[0].device == orphan.device => {
                last.push(orphan);
            }
            _ => {
                seen.clear();
                seen.insert((orphan.device, orphan.original));
                tries.push(vec![orphan]);
            }
        }
    }
    tries
}
