//! Commands, as IHI 0069 5.3 has them, and what is wrong with them.

use super::ItsConfig;
use super::view::{Command, Mapped, Routed, View};

/// Numbers of commands.
pub(super) const SYNC: u8 = 0x05;

/// The first LPI.
pub(super) const FIRST: u32 = 8192;

/// What a command says; `None` for one that is wrong, given all commands before it.
pub(super) fn decode(words: [u64; 4], view: &View, config: &ItsConfig) -> Option<Command> {
    let device = (words[0] >> 32) as u32;
    let event = words[1] as u32;
    let collection = words[2] as u16;
    let is_valid = words[2] >> 63 != 0;
    let has_device = u64::from(device) >> config.device_bits == 0;
    let has_collection = u64::from(collection) < config.collections();
    let of_device = view.devices.get(&device).copied();
    let has_event = of_device.is_some_and(|mapped| u64::from(event) >> mapped.bits == 0);
    let is_routed = has_event && view.events.contains_key(&(device, event));
    let is_target = |name| (0..config.redistributors).any(|cpu| config.name(cpu) == name);
    let map = |interrupt: u32| {
        let fits = interrupt >= FIRST && u64::from(interrupt) >> config.interrupt_bits == 0;
        let routed = Routed {
            interrupt,
            collection,
        };
        (has_event && fits && has_collection).then_some(Command::MapEvent(device, event, routed))
    };
    let routed = |command| is_routed.then_some(command);
    match words[0] as u8 {
        0x01 => routed(Command::Move(device, event, collection)).filter(|_| has_collection),
        0x03 => routed(Command::Raise(device, event)),
        0x04 => routed(Command::Clear(device, event)),
        SYNC => is_target(words[2] & 0x000f_ffff_ffff_0000).then_some(Command::Sync),
        0x08 => {
            let bits = (words[1] & 0x1f) as u32 + 1;
            let mapped = Mapped {
                table: words[2] & 0x000f_ffff_ffff_ff00,
                bits,
            };
            let fits = has_device && (!is_valid || bits <= config.event_bits);
            fits.then_some(Command::MapDevice(device, is_valid.then_some(mapped)))
        }
        0x09 => {
            let target = words[2] & 0x000f_ffff_ffff_0000;
            let fits = has_collection && (!is_valid || is_target(target));
            fits.then_some(Command::MapCollection(
                collection,
                is_valid.then_some(target),
            ))
        }
        0x0a => map((words[1] >> 32) as u32),
        0x0b => map(event),
        0x0c => routed(Command::Forget(device, event)),
        0x0d => view
            .collections
            .contains_key(&collection)
            .then_some(Command::ForgetAll(collection)),
        0x0f => routed(Command::Discard(device, event)),
        _ => None,
    }
}
