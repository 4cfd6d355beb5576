//! Entries of tables: where they lie, what marks them, and what memory is in use.

use dmakit_addr::{PhysAddr, PhysRange};

use super::bus::Bus;
use super::commands::FIRST;
use super::registers as reg;
use super::state::ItsState;
use super::tables::{Table, mark};
use super::view::Command;

/// Kinds of entries, for their marks.
pub(super) const DEVICE: u8 = 1;
pub(super) const EVENT: u8 = 2;
pub(super) const COLLECTION: u8 = 3;

impl ItsState {
    /// Whether there is an entry for what a command is about.
    pub(super) fn reaches(&mut self, command: Command, bus: &mut Bus<'_>) -> bool {
        match command {
            Command::MapDevice(device, _) => self.device_at(device, bus).is_some(),
            Command::MapCollection(collection, Some(_)) => {
                u64::from(collection) < self.config.collections_inside.into()
                    || self.collection_at(collection, bus).is_some()
            }
            _ => true,
        }
    }

    pub(super) fn table(&self, index: u64) -> Option<Table> {
        Table::of(self.raw(reg::BASER + 8 * index), self.config.bus_coherent)
    }

    pub(super) fn device_at(&mut self, device: u32, bus: &mut Bus<'_>) -> Option<u64> {
        let table = self.table(0)?;
        let at = table.entry_at(device.into(), bus)?;
        self.note(at, table.entry);
        Some(at)
    }

    pub(super) fn collection_at(&mut self, collection: u16, bus: &mut Bus<'_>) -> Option<u64> {
        let table = self.table(1)?;
        let at = table.entry_at(collection.into(), bus)?;
        self.note(at, table.entry);
        Some(at)
    }

    pub(super) fn event_at(&self, table: u64, event: u32) -> u64 {
        table + u64::from(event) * self.config.event_entry
    }

    pub(super) fn note(&mut self, at: u64, len: u64) {
        self.counts.reached.insert((at, len));
    }

    pub(super) fn write_mark(&mut self, command: Command, bus: &mut Bus<'_>) {
        let [devices, collections] = [0, 1].map(|index| self.table(index));
        let snoops = devices.is_some_and(|table| table.snoops);
        let (at, bytes) = match command {
            Command::MapDevice(device, to) => {
                let len = self.config.device_entry;
                let bytes = to.map(|to| mark(DEVICE, device.into(), to.table, len));
                let at = self.device_at(device, bus);
                (at, bytes.unwrap_or_else(|| vec![0; len as usize]))
            }
            Command::MapCollection(collection, to) => {
                let len = collections.map_or(0, |table| table.entry);
                let bytes = to.map(|_| mark(COLLECTION, collection.into(), 0, len));
                let is_inside = u64::from(collection) < u64::from(self.config.collections_inside);
                let at = match is_inside {
                    true => None,
                    false => self.collection_at(collection, bus),
                };
                (at, bytes.unwrap_or_else(|| vec![0; len as usize]))
            }
            Command::MapEvent(device, event, _)
            | Command::Move(device, event, _)
            | Command::Discard(device, event) => {
                let len = self.config.event_entry;
                let bytes = self
                    .now
                    .events
                    .get(&(device, event))
                    .map(|to| mark(EVENT, event_id(device, event), to.interrupt.into(), len));
                let mapped = self.now.devices.get(&device);
                let at = mapped.map(|mapped| self.event_at(mapped.table, event));
                if let Some(at) = at {
                    self.note(at, len);
                }
                (at, bytes.unwrap_or_else(|| vec![0; len as usize]))
            }
            _ => (None, Vec::new()),
        };
        if let Some(at) = at {
            bus.write(at, &bytes, snoops);
        }
    }

    pub(super) fn has_mark(
        &self,
        kind: u8,
        id: u64,
        content: u64,
        at: u64,
        bus: &mut Bus<'_>,
    ) -> Option<()> {
        let len = match kind {
            DEVICE => self.config.device_entry,
            EVENT => self.config.event_entry,
            _ => self.table(1)?.entry,
        };
        let snoops = self.table(0)?.snoops;
        let bytes = bus.read(at, len, snoops)?;
        (bytes == mark(kind, id, content, len)).then_some(())
    }

    /// Whether it may still use a byte of `range`: then nobody else gets it.
    pub(crate) fn uses(&self, range: PhysRange) -> bool {
        let overlaps = |start: u64, len: u64| {
            PhysRange::new(PhysAddr::new(start), len).is_ok_and(|used| used.overlaps(&range))
        };
        let resting = self.raw(reg::CTLR) & reg::QUIESCENT != 0;
        let tables = (0..8).filter_map(|index| self.table(index));
        let devices = self.seen.devices.values().chain(self.now.devices.values());
        let mut devices = devices.map(|mapped| (mapped.table, mapped.bits));
        let cbaser = self.raw(reg::CBASER);
        let queue_bytes = ((cbaser & 0xff) + 1) << 12;
        let its = !resting
            && (cbaser & reg::VALID != 0 && overlaps(cbaser & reg::ADDRESS, queue_bytes)
                || tables
                    .into_iter()
                    .any(|table| overlaps(table.base, table.bytes))
                || devices.any(|(table, bits)| overlaps(table, self.config.event_entry << bits)));
        let lpis = self.redistributors.iter().any(|cpu| {
            let interrupts = 1_u64 << ((cpu.prop & 0x1f) + 1);
            let configured = interrupts.saturating_sub(FIRST.into());
            cpu.ctlr & reg::ENABLE_LPIS != 0
                && (overlaps(cpu.prop & reg::ADDRESS, configured)
                    || overlaps(cpu.pend & reg::ADDRESS, interrupts / 8))
        });
        its || lpis
    }
}

pub(super) fn event_id(device: u32, event: u32) -> u64 {
    u64::from(device) << 32 | u64::from(event)
}
