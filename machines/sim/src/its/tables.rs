//! Where entries lie, and the marks that they leave in RAM.

use super::bus::Bus;
use super::registers as reg;
use crate::rng::mix;

/// Bytes that are looked at together.
const LINE: u64 = 64;

/// Lines of a table that are looked at, beside both ends.
const LOOKS: u64 = 32;

/// A table as its register says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Table {
    pub(super) base: u64,
    pub(super) bytes: u64,
    pub(super) entry: u64,
    page: u64,
    is_two_level: bool,
    pub(super) snoops: bool,
}

impl Table {
    /// From a register; `None` for one that is not valid.
    pub(super) fn of(register: u64, bus_coherent: bool) -> Option<Self> {
        if register & reg::VALID == 0 {
            return None;
        }
        let page: u64 = [0x1000, 0x4000, 0x1_0000][(register >> 8 & 3).min(2) as usize];
        let mut base = register & 0x0000_ffff_ffff_f000 & !(page - 1);
        if page == 0x1_0000 {
            base |= (register >> 12 & 0xf) << 48;
        }
        Some(Self {
            base,
            bytes: ((register & 0xff) + 1) * page,
            entry: (register >> 48 & 0x1f) + 1,
            page,
            is_two_level: register & reg::INDIRECT != 0,
            snoops: bus_coherent && snoops(register, 59),
        })
    }

    /// Where the entry of an ID lies; `None` beyond the table, or where no page of a second level
    /// has it.
    pub(super) fn entry_at(&self, id: u64, bus: &mut Bus<'_>) -> Option<u64> {
        if !self.is_two_level {
            let end = (id + 1).checked_mul(self.entry)?;
            return (end <= self.bytes).then(|| self.base + id * self.entry);
        }
        let of_page = self.page / self.entry;
        let offset = id / of_page * 8;
        if offset >= self.bytes {
            return None;
        }
        let level_1 = bus.read_word(self.base + offset, self.snoops)?;
        let page = level_1 & reg::ADDRESS & !(self.page - 1);
        (level_1 & reg::VALID != 0).then(|| page + id % of_page * self.entry)
    }

    /// Whether every line that is looked at holds zero, as tables must at the start: both ends, and
    /// some between.
    pub(super) fn looks_empty(&self, bus: &mut Bus<'_>) -> bool {
        let lines = self.bytes / LINE;
        let between = (0..LOOKS).map(|_| bus.rng.below(lines));
        let indices: Vec<u64> = [0, lines - 1].into_iter().chain(between).collect();
        indices.into_iter().all(|index| {
            bus.read(self.base + index * LINE, LINE, self.snoops)
                .is_some_and(|bytes| bytes.iter().all(|byte| *byte == 0))
        })
    }
}

/// Whether attributes of a register mean that caches are looked into.
pub(super) fn snoops(register: u64, inner: u32) -> bool {
    register >> 10 & 3 != 0 && register >> inner & 7 > 1
}

/// The bytes that stand for an entry: unlike those of any other, and never zero.
pub(super) fn mark(kind: u8, id: u64, content: u64, len: u64) -> Vec<u8> {
    let seed = mix(content ^ mix(id ^ u64::from(kind) << 56));
    (0..len).map(|index| mix(seed ^ index) as u8 | 1).collect()
}
