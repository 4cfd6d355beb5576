//! What an ITS knows after some of its commands.

use std::collections::BTreeMap;

/// A device's table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Mapped {
    pub(super) table: u64,
    pub(super) bits: u32,
}

/// Where an event goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Routed {
    pub(super) interrupt: u32,
    pub(super) collection: u16,
}

/// The tables' meaning; RAM holds, for each entry, a mark that proves that it is still there.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    pub(super) devices: BTreeMap<u32, Mapped>,
    pub(super) events: BTreeMap<(u32, u32), Routed>,
    pub(super) collections: BTreeMap<u16, u64>,
}

/// A command that was understood.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Command {
    MapDevice(u32, Option<Mapped>),
    MapCollection(u16, Option<u64>),
    MapEvent(u32, u32, Routed),
    Move(u32, u32, u16),
    Discard(u32, u32),
    Raise(u32, u32),
    Clear(u32, u32),
    Forget(u32, u32),
    ForgetAll(u16),
    Sync,
}

impl View {
    /// Lets a command take effect on tables.
    pub(super) fn apply(&mut self, command: Command) {
        match command {
            Command::MapDevice(device, to) => {
                self.events.retain(|(other, _), _| *other != device);
                match to {
                    Some(mapped) => self.devices.insert(device, mapped),
                    None => self.devices.remove(&device),
                };
            }
            Command::MapCollection(collection, Some(target)) => {
                self.collections.insert(collection, target);
            }
            Command::MapCollection(collection, None) => {
                self.collections.remove(&collection);
            }
            Command::MapEvent(device, event, routed) => {
                self.events.insert((device, event), routed);
            }
            Command::Move(device, event, collection) => {
                if let Some(routed) = self.events.get_mut(&(device, event)) {
                    routed.collection = collection;
                }
            }
            Command::Discard(device, event) => {
                self.events.remove(&(device, event));
            }
            _ => {}
        }
    }

    /// Where an event goes: interrupt, and what its redistributor is called.
    pub(super) fn target(&self, device: u32, event: u32) -> Option<(Routed, u64)> {
        let routed = self.events.get(&(device, event))?;
        let target = self.collections.get(&routed.collection)?;
        Some((*routed, *target))
    }
}
