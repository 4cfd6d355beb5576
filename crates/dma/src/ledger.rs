//! Keeping book of mappings, to find what types cannot.

use core::fmt;
use core::panic::Location;

use dmakit_addr::{Address, Direction, DmaAddr, PhysAddr, PhysRange};
use dmakit_platform::{IrqMutex, Platform};

use crate::check::{Checker, Event, Kind};
use crate::finding::{Fault, FaultCounts, Finding, Party};
use crate::{DeviceId, DeviceInfo, RawError, cache};

/// Which addresses, of whom.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Place {
    device: DeviceId,
    kind: Kind,
    dma: DmaAddr,
    len: u64,
}

impl Place {
    fn of(party: &Party<'_>) -> Self {
        let &Party {
            device,
            kind,
            dma,
            len,
            ..
        } = party;
        Self {
            device,
            kind,
            dma,
            len,
        }
    }

    /// Whether the first address of another is one of these.
    fn holds(&self, other: &Self) -> bool {
        let offset = other.dma.offset_from(self.dma);
        let is_inside = offset.is_some_and(|offset| offset < self.len);
        (self.device, self.kind) == (other.device, other.kind) && is_inside
    }
}

#[derive(Clone, Copy)]
struct Entry<'m> {
    party: Party<'m>,
    memory: PhysRange,
    /// Whether it is memory linked to addresses that have an entry of their own.
    is_link: bool,
    /// Whether that memory is kept from the device.
    is_withheld: bool,
}

impl<'m> Entry<'m> {
    fn new(party: Party<'m>, memory: PhysRange, is_link: bool) -> Self {
        Self {
            party,
            memory,
            is_link,
            is_withheld: false,
        }
    }

    /// The lines of the CPU's caches that hold its memory: none of registers, and of other devices'.
    fn lines(&self, line_bytes: u64) -> PhysRange {
        let is_ram = self.party.peer.is_none() && self.party.kind != Kind::Resource;
        match is_ram && !self.memory.is_empty() {
            true => cache::whole_lines(self.memory, line_bytes),
            false => no_memory(),
        }
    }

    /// Whether it is linked to one of these addresses.
    fn is_link_in(&self, place: &Place) -> bool {
        self.is_link && place.holds(&Place::of(&self.party))
    }

    /// It in two, where `at` is one of its addresses and not the first.
    fn split(self, at: DmaAddr) -> Option<(Self, Self)> {
        let offset = at.offset_from(self.party.dma)?;
        let (before, after) = self.memory.split_at(offset)?;
        if before.is_empty() || after.is_empty() {
            return None;
        }
        let [mut first, mut second] = [self; 2];
        (first.party.len, first.memory) = (offset, before);
        (second.party.len, second.memory) = (self.party.len - offset, after);
        second.party.dma = at;
        Some((first, second))
    }
}

struct Book<'m, const ENTRIES: usize, const FINDINGS: usize> {
    entries: [Option<Entry<'m>>; ENTRIES],
    /// No entry lies at or above.
    top: usize,
    findings: [Option<Finding<'m>>; FINDINGS],
    counts: FaultCounts,
    line_bytes: u64,
}

/// The memory of a mapping that has none.
fn no_memory() -> PhysRange {
    let zero = PhysAddr::new(0);
    PhysRange::between(zero, zero).unwrap_or_else(|| unreachable!("an empty range"))
}

/// A [`Checker`] that keeps book of what is mapped, one entry for each physical run (at least one for
/// each mapping), and of the first `FINDINGS` things that were wrong. One serves any number of devices:
/// give each a reference.
///
/// Every call looks at all entries in use. It is for finding faults, not for production.
pub struct Ledger<'m, P: Platform, const ENTRIES: usize, const FINDINGS: usize> {
    book: IrqMutex<P, Book<'m, ENTRIES, FINDINGS>>,
}

impl<'m, P: Platform, const ENTRIES: usize, const FINDINGS: usize>
    Ledger<'m, P, ENTRIES, FINDINGS>
{
    /// An empty book for devices on `platform`.
    pub fn new(platform: &P) -> Self {
        Self {
            book: IrqMutex::<P, _>::new(Book {
                entries: [None; ENTRIES],
                top: 0,
                findings: [None; FINDINGS],
                counts: FaultCounts::default(),
                line_bytes: platform.cache_line_bytes(),
            }),
        }
    }

    /// How often each fault was found.
    pub fn counts(&self) -> FaultCounts {
        self.book.lock().counts
    }

    /// The finding at `index`, in the order in which they were made; `None` past the last that was
    /// kept.
    pub fn finding(&self, index: usize) -> Option<Finding<'m>> {
        self.book.lock().findings.get(index).copied().flatten()
    }

    /// How many entries there are: what is in devices' hands.
    pub fn live(&self) -> usize {
        self.book.lock().entries.iter().flatten().count()
    }
}

impl<'m, const ENTRIES: usize, const FINDINGS: usize> Book<'m, ENTRIES, FINDINGS> {
    fn keep(&mut self, fault: Fault<'m>, party: Party<'m>) {
        let count = match fault {
            Fault::Overlap(_) => &mut self.counts.overlaps,
            Fault::Leak => &mut self.counts.leaks,
            Fault::Misuse(_) => &mut self.counts.misuses,
            Fault::Withheld => &mut self.counts.withheld,
            Fault::Unknown => &mut self.counts.unknown,
        };
        *count += 1;
        if let Some(free) = self.findings.iter_mut().find(|finding| finding.is_none()) {
            *free = Some(Finding { fault, party });
        }
    }

    fn insert(&mut self, entry: Entry<'m>) {
        match self.entries.iter().position(Option::is_none) {
            Some(index) => {
                self.entries[index] = Some(entry);
                self.top = self.top.max(index + 1);
            }
            None => self.counts.unwatched += 1,
        }
    }

    /// Enters memory that comes into a device's hands beside what is there.
    fn insert_link(&mut self, entry: Entry<'m>) {
        if let Some(other) = self.overlapping(&entry) {
            self.keep(Fault::Overlap(other), entry.party);
        }
        self.insert(entry);
    }

    /// The first live mapping that shares a line with `entry`, where a device writes one of them.
    fn overlapping(&self, entry: &Entry<'m>) -> Option<Party<'m>> {
        let writes = |party: &Party<'m>| party.direction.is_some_and(Direction::device_writes);
        let others = self.entries[..self.top].iter().flatten();
        let lines = entry.lines(self.line_bytes);
        others
            .filter(|other| other.lines(self.line_bytes).overlaps(&lines))
            .map(|other| other.party)
            .find(|other| writes(other) || writes(&entry.party))
    }

    /// Forgets every run of a mapping; says whether one was known.
    fn remove(&mut self, of: impl Fn(&Party<'m>) -> bool) -> Option<Party<'m>> {
        let mut known = None;
        for slot in &mut self.entries[..self.top] {
            let Some(entry) = slot.filter(|entry| !entry.is_link && of(&entry.party)) else {
                continue;
            };
            let same = |known: &Party<'m>| known.caller == entry.party.caller;
            if known.as_ref().is_none_or(same) {
                known = Some(entry.party);
                *slot = None;
            }
        }
        known
    }

    /// Cuts what is linked across the ends of some addresses in two.
    fn cut_links(&mut self, place: &Place) {
        let ends = [Some(place.dma), place.dma.checked_add(place.len)];
        for end in ends.into_iter().flatten() {
            for index in 0..self.top {
                let link = self.entries[index].filter(|entry| entry.is_link);
                let same = |entry: &Entry<'m>| {
                    (entry.party.device, entry.party.kind) == (place.device, place.kind)
                };
                let parts = link.filter(same).and_then(|entry| entry.split(end));
                if let Some((before, after)) = parts {
                    self.entries[index] = Some(before);
                    self.insert(after);
                }
            }
        }
    }

    /// Forgets what was linked to some addresses.
    fn remove_links(&mut self, place: &Place) {
        self.cut_links(place);
        for index in 0..self.top {
            let link = self.entries[index].filter(|entry| entry.is_link_in(place));
            let Some(link) = link else { continue };
            self.entries[index] = None;
            if link.is_withheld {
                self.keep(Fault::Withheld, link.party);
            }
        }
    }
}

impl<'m, P: Platform, const ENTRIES: usize, const FINDINGS: usize> Checker<'m>
    for &Ledger<'m, P, ENTRIES, FINDINGS>
{
    fn began(
        &self,
        device: &DeviceInfo<'m>,
        event: &Event,
        runs: impl Iterator<Item = PhysRange> + Clone,
    ) {
        let party = Party::of(device, event);
        let mut book = self.book.lock();
        let runs = runs.filter(|run| !run.is_empty());
        let entries = runs.map(|run| Entry::new(party, run, false));
        // A mapping does not overlap itself: all its runs are looked at before any is entered.
        let other = entries.clone().find_map(|entry| book.overlapping(&entry));
        if let Some(other) = other {
            book.keep(Fault::Overlap(other), party);
        }
        let mut is_entered = false;
        for entry in entries {
            book.insert(entry);
            is_entered = true;
        }
        if !is_entered {
            // Something without memory of its own can still be ended wrongly, or left behind.
            book.insert(Entry::new(party, no_memory(), false));
        }
    }

    fn ended(&self, device: &DeviceInfo<'m>, event: &Event) {
        let (mut book, party) = (self.book.lock(), Party::of(device, event));
        let place = Place::of(&party);
        book.remove_links(&place);
        let known = book.remove(|other| Place::of(other) == place);
        if known.is_none() && book.counts.unwatched == 0 {
            book.keep(Fault::Unknown, party);
        }
    }

    fn linked(&self, device: &DeviceInfo<'m>, event: &Event, run: PhysRange) {
        let entry = Entry::new(Party::of(device, event), run, true);
        self.book.lock().insert_link(entry);
    }

    fn unlinked(&self, device: &DeviceInfo<'m>, event: &Event) {
        let place = Place::of(&Party::of(device, event));
        self.book.lock().remove_links(&place);
    }

    fn withheld(&self, device: &DeviceInfo<'m>, event: &Event) {
        let place = Place::of(&Party::of(device, event));
        let mut book = self.book.lock();
        book.cut_links(&place);
        let links = book.entries.iter_mut().flatten();
        for link in links.filter(|entry| entry.is_link_in(&place)) {
            link.is_withheld = true;
        }
    }

    fn readmitted(&self, device: &DeviceInfo<'m>, event: &Event, memory: PhysRange) {
        let place = Place::of(&Party::of(device, event));
        let mut book = self.book.lock();
        for index in 0..book.top {
            let link = book.entries[index].filter(|entry| entry.is_link_in(&place));
            let Some(mut link) = link else { continue };
            let offset = link.party.dma.offset_from(place.dma);
            let here = offset.and_then(|offset| memory.slice(offset, link.party.len));
            link.memory = here.unwrap_or(link.memory);
            link.is_withheld = false;
            book.entries[index] = None;
            book.insert_link(link);
        }
    }

    fn misused(
        &self,
        device: &DeviceInfo<'m>,
        error: &RawError,
        caller: &'static Location<'static>,
    ) {
        let handle = error.handle();
        let party = Party {
            device: device.id,
            name: device.name,
            kind: Kind::Raw,
            dma: handle.addr,
            len: handle.len,
            direction: None,
            peer: None,
            caller: Some(caller),
        };
        self.book.lock().keep(Fault::Misuse(*error), party);
    }

    fn removed(&self, device: &DeviceInfo<'m>) {
        let mut book = self.book.lock();
        // Each round forgets one mapping, so there are no more rounds than entries.
        while let Some(party) = book.entries[..book.top]
            .iter()
            .flatten()
            .filter(|entry| !entry.is_link)
            .map(|entry| entry.party)
            .find(|party| party.device == device.id)
        {
            book.remove(|other| *other == party);
            book.remove_links(&Place::of(&party));
            book.keep(Fault::Leak, party);
        }
    }
}

impl<P: Platform, const ENTRIES: usize, const FINDINGS: usize> fmt::Debug
    for Ledger<'_, P, ENTRIES, FINDINGS>
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ledger({:?})", self.counts())
    }
}
