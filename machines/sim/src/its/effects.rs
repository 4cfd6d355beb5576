//! What commands and devices do to interrupts.

use super::bus::Bus;
use super::entries::{COLLECTION, DEVICE, EVENT, event_id};
use super::redistributor::Redistributor;
use super::state::ItsState;
use super::view::Command;

impl ItsState {
    /// Lets the oldest command that is late take effect.
    pub(super) fn apply_one(&mut self, bus: &mut Bus<'_>) -> bool {
        let Some(command) = self.late.pop_front() else {
            return false;
        };
        match command {
            Command::Raise(device, event) => self.deliver(device, event, bus),
            Command::Clear(device, event) | Command::Discard(device, event) => {
                self.drop_pending(device, event, bus);
            }
            Command::Move(device, event, collection) => {
                let was = self.drop_pending(device, event, bus);
                if let (Some((routed, _)), true) = (self.seen.target(device, event), was) {
                    let config = self.config;
                    if let Some(cpu) = self.of_collection(collection) {
                        cpu.set_pending(routed.interrupt, true, &config, bus);
                    }
                }
            }
            Command::Forget(device, event) => {
                if let Some((routed, target)) = self.seen.target(device, event) {
                    if let Some(cpu) = self.redistributor(target) {
                        cpu.forget(routed.interrupt);
                    }
                }
            }
            Command::ForgetAll(collection) => {
                if let Some(cpu) = self.of_collection(collection) {
                    cpu.forget_all();
                }
            }
            Command::MapEvent(_, _, routed) => {
                // It may look at the configuration at once, and remember it.
                let config = self.config;
                if let Some(cpu) = self.of_collection(routed.collection) {
                    cpu.is_enabled(routed.interrupt, &config, bus);
                }
            }
            Command::MapDevice(..) | Command::MapCollection(..) | Command::Sync => {}
        }
        self.seen.apply(command);
        true
    }

    /// Drops an event's pending interrupt; says whether there was one.
    fn drop_pending(&mut self, device: u32, event: u32, bus: &mut Bus<'_>) -> bool {
        let config = self.config;
        let Some((routed, target)) = self.seen.target(device, event) else {
            return false;
        };
        self.redistributor(target)
            .is_some_and(|cpu| cpu.set_pending(routed.interrupt, false, &config, bus))
    }

    fn of_collection(&mut self, collection: u16) -> Option<&mut Redistributor> {
        let target = self.seen.collections.get(&collection).copied()?;
        self.redistributor(target)
    }

    /// A device raises an event.
    pub(super) fn deliver(&mut self, device: u32, event: u32, bus: &mut Bus<'_>) {
        let config = self.config;
        let found = self.look_up(device, event, bus);
        let cpu = found.and_then(|(interrupt, target)| {
            let cpu = self.redistributor(target)?;
            cpu.set_pending(interrupt, true, &config, bus);
            cpu.is_pending(interrupt, &config, bus).then_some(())
        });
        if cpu.is_none() {
            self.counts.dropped += 1;
        }
    }

    fn look_up(&mut self, device: u32, event: u32, bus: &mut Bus<'_>) -> Option<(u32, u64)> {
        if !self.is_on() {
            return None;
        }
        let mapped = *self.seen.devices.get(&device)?;
        let at = self.device_at(device, bus)?;
        self.has_mark(DEVICE, device.into(), mapped.table, at, bus)?;
        if u64::from(event) >> mapped.bits != 0 {
            return None;
        }
        // The entry is read whether or not the event is mapped.
        let at = self.event_at(mapped.table, event);
        let snoops = self.table(0)?.snoops;
        self.note(at, self.config.event_entry);
        bus.read(at, self.config.event_entry, snoops)?;
        let (routed, target) = self.seen.target(device, event)?;
        let interrupt = routed.interrupt.into();
        self.has_mark(EVENT, event_id(device, event), interrupt, at, bus)?;
        if u64::from(routed.collection) >= self.config.collections_inside.into() {
            let at = self.collection_at(routed.collection, bus)?;
            self.has_mark(COLLECTION, routed.collection.into(), 0, at, bus)?;
        }
        Some((routed.interrupt, target))
    }

    fn redistributor(&mut self, target: u64) -> Option<&mut Redistributor> {
        let config = self.config;
        let cpu = (0..config.redistributors).find(|cpu| config.name(*cpu) == target)?;
        self.redistributors.get_mut(usize::from(cpu))
    }
}
