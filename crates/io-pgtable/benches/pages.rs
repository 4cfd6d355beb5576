//! Tables from a stack of pages, and what mapping stores at least.
#![allow(dead_code, reason = "each program uses the parts that it needs")]

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use dmakit_addr::{Granule, Iova, IovaRange, PhysAddr, PhysRange};
use dmakit_io_pgtable::lpae::{ContiguousHint, Lpae, Stage};
use dmakit_io_pgtable::{Gather, PageTable, Permissions, WalkCoherence};
use dmakit_platform::host::{HostPlatform, HostRam};
use dmakit_platform::{NoMemory, Segment, SegmentRequest, TableMemory};

pub const K: u64 = 1 << 10;
pub const M: u64 = 1 << 20;
pub const G: u64 = 1 << 30;

/// Tables from a stack, as a CPU's own list of free pages would serve them.
pub struct Memory {
    free: Mutex<Vec<Segment>>,
    _ram: HostRam,
}

impl Memory {
    pub fn new(tables: u64) -> Self {
        let range = PhysRange::new(PhysAddr::new(1 << 32), tables * 4096).unwrap();
        let (ram, segments) = HostRam::new(&[range]).unwrap();
        let mut free = Vec::new();
        for mut rest in segments {
            rest.window().fill(0);
            while rest.len() > 4096 {
                let (one, more) = rest.split_at(4096).unwrap();
                free.push(one);
                rest = more;
            }
            free.push(rest);
        }
        Self {
            free: Mutex::new(free),
            _ram: ram,
        }
    }

    /// Visits the words of as many tables as a tree takes and gives back, in the order in which it does
    /// so: what was given back last is taken first.
    pub fn visit(&self, tables: usize, mut visit: impl FnMut(&[AtomicU64])) {
        let mut free = self.free.lock().unwrap();
        let first = free.len() - tables;
        for table in free[first..].iter().rev() {
            visit(table.window().words64().unwrap());
        }
        free[first..].reverse();
    }
}

impl TableMemory for &Memory {
    fn allocate_table(&self, request: &SegmentRequest) -> Result<Segment, NoMemory> {
        let segment = self.allocate_unwritten(request)?;
        segment.window().fill(0);
        Ok(segment)
    }

    fn allocate_unwritten(&self, request: &SegmentRequest) -> Result<Segment, NoMemory> {
        self.free.lock().unwrap().pop().ok_or(NoMemory {
            request: *request,
            largest_free: None,
        })
    }

    fn free_table(&self, segment: Segment) {
        self.free.lock().unwrap().push(segment);
    }
}

pub type Table<'a> = PageTable<Lpae, HostPlatform, &'a Memory>;

pub fn table(memory: &Memory) -> Table<'_> {
    let format = Lpae::new(Stage::One, Granule::K4, 48, 48, ContiguousHint::Never).unwrap();
    let platform = HostPlatform::new(2);
    PageTable::new(format, platform, memory, None, WalkCoherence::Coherent).unwrap()
}

pub fn at(start: u64, len: u64) -> IovaRange {
    IovaRange::new(Iova::new(start), len).unwrap()
}

#[inline]
pub fn map(table: &Table<'_>, start: u64, len: u64) {
    let phys = PhysAddr::new((1 << 40) + start);
    table
        .map(at(start, len), phys, Permissions::READ_WRITE)
        .unwrap();
}

#[inline]
pub fn unmap(table: &Table<'_>, start: u64, len: u64, gather: &mut Gather) {
    table.unmap(at(start, len), gather).unwrap();
}

/// Entries checked to be clear and stored, then checked to be present and cleared.
pub fn checked_stores(words: &[AtomicU64], from: usize, count: usize, bits: u64) {
    let words = &words[from..from + count];
    checked_fill(words, bits);
    checked_clear(words);
}

/// Entries checked to be clear and stored.
pub fn checked_fill(words: &[AtomicU64], bits: u64) {
    let mut entry = bits;
    for word in words {
        if word.load(Relaxed) == 0 {
            word.store(entry, Relaxed);
        }
        entry += 4096;
    }
}

/// Entries checked to be present and cleared.
pub fn checked_clear(words: &[AtomicU64]) {
    for word in words {
        if word.load(Relaxed) & 1 != 0 {
            word.store(0, Relaxed);
        }
    }
}

/// Entries stored. Never inlined: where the first was kept from the compiler's sight, it may keep the
/// running one in memory too, at five times the cost.
#[inline(never)]
pub fn stores(words: &[AtomicU64], bits: u64) {
    let mut entry = bits;
    for word in words {
        word.store(entry, Relaxed);
        entry += 4096;
    }
}
