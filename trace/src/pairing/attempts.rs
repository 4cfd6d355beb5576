//! Bounce attempts waiting for the event that says what became of them.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

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

impl Pending {
    fn key(&self) -> EntryKey {
        (self.device, self.original, self.size)
    }
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

/// Scatterlists that were mapped, by their first entry. A list that fails is tried again until it
/// succeeds, and buffers are used again, so most failed tries are the beginning of a known list.
#[derive(Default)]
pub(super) struct KnownLists {
    starting: HashMap<EntryKey, VecDeque<Arc<[EntryKey]>>>,
}

type EntryKey = (DeviceId, PhysAddr, u64);

/// Lists remembered with the same first entry.
const LISTS_PER_START: usize = 8;
/// First entries remembered; beyond that all are forgotten at once.
const STARTS: usize = 1 << 14;

impl KnownLists {
    /// Remembers the attempts of a list that succeeded.
    pub(super) fn learn(&mut self, list: &[&Pending]) {
        let Some(first) = list.first() else {
            return;
        };
        let list: Vec<EntryKey> = list.iter().map(|attempt| attempt.key()).collect();
        if self.starting.len() >= STARTS {
            self.starting.clear();
        }
        let lists = self.starting.entry(first.key()).or_default();
        if lists.iter().any(|known| known[..] == list[..]) {
            return;
        }
        if lists.len() == LISTS_PER_START {
            lists.pop_front();
        }
        lists.push_back(list.into());
    }

    /// How many of these attempts are the beginning of one known list; 0 where none begins so.
    fn prefix(&self, attempts: &[Pending]) -> usize {
        let Some(lists) = attempts.first().and_then(|a| self.starting.get(&a.key())) else {
            return 0;
        };
        let common = |list: &[EntryKey]| {
            let pairs = attempts.iter().zip(list);
            pairs.take_while(|(a, known)| a.key() == **known).count()
        };
        lists.iter().map(|list| common(list)).max().unwrap_or(0)
    }

    /// Parts attempts that came to nothing into tries: the longest beginnings of known lists, and
    /// between them whatever runs up to the next known beginning or to an address that comes again.
    pub(super) fn tries(&self, orphans: &[Pending]) -> Vec<Vec<Pending>> {
        let mut tries = Vec::new();
        let mut rest = orphans;
        while let Some(first) = rest.first() {
            let mut len = self.prefix(rest);
            if len == 0 {
                let mut seen = HashSet::from([first.key()]);
                let more = rest[1..].iter().take_while(|a| {
                    let fresh = a.device == first.device && seen.insert(a.key());
                    fresh && !self.starting.contains_key(&a.key())
                });
                len = 1 + more.count();
            }
            let (one, after) = rest.split_at(len);
            tries.push(one.to_vec());
            rest = after;
        }
        tries
    }
}
