//! Keeping book of mappings, to find what types cannot.

use core::fmt;
use core::panic::Location;

use dmakit_addr::{Direction, DmaAddr, PhysAddr, PhysRange};
use dmakit_platform::{IrqMutex, Platform};

use crate::check::{Checker, Event, Kind};
use crate::{DeviceId, DeviceInfo, RawError, cache};

/// What was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Fault<'m> {
    /// It shares a cache line with another live mapping, and a device writes one of the two.
    Overlap(Party<'m>),
    /// It was still mapped when its device was removed.
    Leak,
    /// A raw handle was used wrongly.
    Misuse(RawError),
    /// It ended and nothing knows when it began.
    Unknown,
}

/// A mapping, and who asked for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Party<'m> {
    /// The device.
    pub device: DeviceId,
    /// Its name.
    pub name: &'m str,
    /// What was mapped.
    pub kind: Kind,
    /// Its first DMA address.
    pub dma: DmaAddr,
    /// How many bytes it has.
    pub len: u64,
    /// Which way the bytes move, where that is known.
    pub direction: Option<Direction>,
    /// The line of the driver that mapped it, or misused it; absent where nothing knows.
    pub caller: Option<&'static Location<'static>>,
}

/// Something that a driver should not have done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Finding<'m> {
    /// What.
    pub fault: Fault<'m>,
    /// With which mapping.
    pub party: Party<'m>,
}

impl fmt::Display for Party<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, dma, len, .. } = self;
        write!(f, "{name}: {len} bytes at DMA address {dma}")?;
        if let Some(direction) = self.direction {
            write!(f, ", {direction}")?;
        }
        match self.caller {
            Some(caller) => write!(f, ", from {}:{}", caller.file(), caller.line()),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Finding<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.party)?;
        match &self.fault {
            Fault::Overlap(other) => write!(f, "shares a cache line with {other}"),
            Fault::Leak => f.write_str("still mapped when the device was removed"),
            Fault::Misuse(error) => error.fmt(f),
            Fault::Unknown => f.write_str("ended and was not known to have begun"),
        }
    }
}

/// How often each fault was found, kept or not.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct FaultCounts {
    /// Mappings that share a line with another.
    pub overlaps: u64,
    /// Mappings left at a removal.
    pub leaks: u64,
    /// Raw handles used wrongly.
    pub misuses: u64,
    /// Ends without a beginning. Those of mappings that found no room are not among them.
    pub unknown: u64,
    /// Runs that found no room in the book, so that nothing is known of them.
    pub unwatched: u64,
}

impl FaultCounts {
    /// Everything that a driver did wrong.
    pub fn total(&self) -> u64 {
        self.overlaps + self.leaks + self.misuses + self.unknown
    }
}

#[derive(Clone, Copy)]
struct Entry<'m> {
    party: Party<'m>,
    lines: PhysRange,
    /// Whether it is memory linked to addresses that have an entry of their own.
    is_link: bool,
}

struct Book<'m, const ENTRIES: usize, const FINDINGS: usize> {
    entries: [Option<Entry<'m>>; ENTRIES],
    /// No entry lies at or above.
    top: usize,
    findings: [Option<Finding<'m>>; FINDINGS],
    counts: FaultCounts,
}

/// The lines of a mapping that has no memory: none.
fn no_lines() -> PhysRange {
    let zero = PhysAddr::new(0);
    PhysRange::between(zero, zero).unwrap_or_else(|| unreachable!("an empty range"))
}

/// A [`Checker`] that keeps book of what is mapped, one entry for each physical run (at least one for each mapping), and of the
/// first `FINDINGS` things that were wrong. One serves any number of devices: give each a reference.
///
/// Every call looks at all entries in use. It is for finding faults, not for production.
pub struct Ledger<'m, P: Platform, const ENTRIES: usize, const FINDINGS: usize> {
    line_bytes: u64,
    book: IrqMutex<P, Book<'m, ENTRIES, FINDINGS>>,
}

impl<'m, P: Platform, const ENTRIES: usize, const FINDINGS: usize>
    Ledger<'m, P, ENTRIES, FINDINGS>
{
    /// An empty book for devices on `platform`.
    pub fn new(platform: &P) -> Self {
        Self {
            line_bytes: platform.cache_line_bytes(),
            book: IrqMutex::<P, _>::new(Book {
                entries: [None; ENTRIES],
                top: 0,
                findings: [None; FINDINGS],
                counts: FaultCounts::default(),
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

    /// The first live mapping that shares a line with `entry`, where a device writes one of them.
    fn overlapping(&self, entry: &Entry<'m>) -> Option<Party<'m>> {
        let writes = |party: &Party<'m>| party.direction.is_some_and(Direction::device_writes);
        let others = self.entries[..self.top].iter().flatten();
        others
            .filter(|other| other.lines.overlaps(&entry.lines))
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

    /// Forgets what was linked to addresses of a device.
    fn remove_links(&mut self, device: DeviceId, kind: Kind, dma: DmaAddr, len: u64) {
        let end = dma.raw().saturating_add(len);
        for slot in &mut self.entries[..self.top] {
            let gone = slot.is_some_and(|entry| {
                let party = entry.party;
                let is_inside = (dma.raw()..end).contains(&party.dma.raw());
                entry.is_link && (party.device, party.kind) == (device, kind) && is_inside
            });
            if gone {
                *slot = None;
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
        let party = Party {
            device: device.id,
            name: device.name,
            kind: event.kind,
            dma: event.dma,
            len: event.len,
            direction: Some(event.direction),
            caller: Some(event.caller),
        };
        let mut book = self.book.lock();
        let entries = runs.filter(|run| !run.is_empty()).map(|run| Entry {
            party,
            lines: cache::whole_lines(run, self.line_bytes),
            is_link: false,
        });
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
            book.insert(Entry {
                party,
                lines: no_lines(),
                is_link: false,
            });
        }
    }

    fn ended(&self, device: &DeviceInfo<'m>, kind: Kind, dma: DmaAddr, len: u64) {
        let mut book = self.book.lock();
        book.remove_links(device.id, kind, dma, len);
        let key = (device.id, kind, dma, len);
        let known = book.remove(|party| (party.device, party.kind, party.dma, party.len) == key);
        if known.is_none() && book.counts.unwatched == 0 {
            let party = Party {
                device: device.id,
                name: device.name,
                kind,
                dma,
                len,
                direction: None,
                caller: None,
            };
            book.keep(Fault::Unknown, party);
        }
    }

    fn linked(&self, device: &DeviceInfo<'m>, event: &Event, run: PhysRange) {
        let party = Party {
            device: device.id,
            name: device.name,
            kind: event.kind,
            dma: event.dma,
            len: event.len,
            direction: Some(event.direction),
            caller: Some(event.caller),
        };
        let entry = Entry {
            party,
            lines: cache::whole_lines(run, self.line_bytes),
            is_link: true,
        };
        let mut book = self.book.lock();
        if let Some(other) = book.overlapping(&entry) {
            book.keep(Fault::Overlap(other), party);
        }
        book.insert(entry);
    }

    fn unlinked(&self, device: &DeviceInfo<'m>, kind: Kind, dma: DmaAddr, len: u64) {
        self.book.lock().remove_links(device.id, kind, dma, len);
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
            book.remove_links(party.device, party.kind, party.dma, party.len);
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
