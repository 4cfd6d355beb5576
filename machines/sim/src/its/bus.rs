//! The rest of the machine, as the ITS sees it.

use dmakit_addr::{PhysAddr, PhysRange};

use crate::Violation;
use crate::cache::Cache;
use crate::log::Log;
use crate::rng::Rng;
use crate::violation::Recorder;

pub(crate) struct Bus<'a> {
    pub(crate) cache: &'a mut Cache,
    pub(crate) log: &'a mut Log,
    pub(crate) rng: &'a mut Rng,
    pub(crate) violations: &'a Recorder,
}

impl Bus<'_> {
    pub(super) fn violate(&self, what: &'static str) {
        self.violations.push(Violation::Interrupts { what });
    }

    /// Reads RAM; `None`, and a violation, where there is none.
    pub(super) fn read(&mut self, address: u64, len: u64, snoops: bool) -> Option<Vec<u8>> {
        let range = self.ram(address, len)?;
        let mut bytes = vec![0; len as usize];
        self.cache.device_read(range, snoops, &mut bytes, self.log);
        Some(bytes)
    }

    pub(super) fn read_word(&mut self, address: u64, snoops: bool) -> Option<u64> {
        let bytes = self.read(address, 8, snoops)?;
        Some(little_endian(&bytes))
    }

    pub(super) fn write(&mut self, address: u64, bytes: &[u8], snoops: bool) {
        if let Some(range) = self.ram(address, bytes.len() as u64) {
            self.cache.device_write(range, snoops, bytes, self.log);
        }
    }

    pub(super) fn ram(&self, address: u64, len: u64) -> Option<PhysRange> {
        let range = PhysRange::new(PhysAddr::new(address), len).ok();
        let range = range.filter(|range| self.cache.is_ram(*range));
        if range.is_none() {
            self.violate("it was sent where there is no RAM");
        }
        range
    }
}

pub(super) fn little_endian(bytes: &[u8]) -> u64 {
    let bytes = bytes.iter().rev();
    bytes.fold(0, |word, byte| word << 8 | u64::from(*byte))
}
