//! Commands (5.3): 32 bytes each.

/// One command, as four little-endian words.
pub type Command = [u64; WORDS];

/// Words of a command.
pub const WORDS: usize = 4;
/// Bytes of a command.
pub const BYTES: u64 = 32;

const VALID: u64 = 1 << 63;

/// The opcode of a command.
pub const fn opcode(command: Command) -> u8 {
    command[0] as u8
}

const fn with_event(opcode: u64, device: u32, event: u32) -> Command {
    [opcode | (device as u64) << 32, event as u64, 0, 0]
}

/// Routes an event to another collection, its pending state included (`MOVI`).
pub const fn movi(device: u32, event: u32, collection: u16) -> Command {
    let command = with_event(0x01, device, event);
    [command[0], command[1], collection as u64, 0]
}

/// Raises an event as the device would (`INT`).
pub const fn int(device: u32, event: u32) -> Command {
    with_event(0x03, device, event)
}

/// Clears an event's pending state (`CLEAR`).
pub const fn clear(device: u32, event: u32) -> Command {
    with_event(0x04, device, event)
}

/// Completes when everything before it that concerns a redistributor has taken effect (`SYNC`).
pub const fn sync(redistributor: u64) -> Command {
    [0x05, 0, redistributor, 0]
}

/// Gives a device its table of `2^event_bits` entries, 1 to 32, at an address aligned to 256 bytes
/// (`MAPD`).
pub const fn mapd(device: u32, event_bits: u32, table: u64) -> Command {
    let size = event_bits.saturating_sub(1) as u64 & 0x1f;
    let table = table & 0x000f_ffff_ffff_ff00;
    [0x08 | (device as u64) << 32, size, VALID | table, 0]
}

/// Takes a device's table away (`MAPD` with V clear; the rest is ignored).
pub const fn unmapd(device: u32, event_bits: u32, table: u64) -> Command {
    let command = mapd(device, event_bits, table);
    [command[0], command[1], command[2] & !VALID, 0]
}

/// Gives a collection its redistributor (`MAPC`).
pub const fn mapc(collection: u16, redistributor: u64) -> Command {
    [0x09, 0, VALID | redistributor | collection as u64, 0]
}

/// Takes a collection's redistributor away (`MAPC` with V clear).
pub const fn unmapc(collection: u16) -> Command {
    [0x09, 0, collection as u64, 0]
}

/// Gives an event its interrupt and collection (`MAPTI`).
pub const fn mapti(device: u32, event: u32, interrupt: u32, collection: u16) -> Command {
    let event = event as u64 | (interrupt as u64) << 32;
    [0x0a | (device as u64) << 32, event, collection as u64, 0]
}

/// As [`mapti`] where interrupt and event have the same number (`MAPI`).
pub const fn mapi(device: u32, event: u32, collection: u16) -> Command {
    let command = with_event(0x0b, device, event);
    [command[0], command[1], collection as u64, 0]
}

/// Makes a changed configuration of an event's interrupt take effect (`INV`).
pub const fn inv(device: u32, event: u32) -> Command {
    with_event(0x0c, device, event)
}

/// As [`inv`] for all interrupts of a collection (`INVALL`).
pub const fn invall(collection: u16) -> Command {
    [0x0d, 0, collection as u64, 0]
}

/// Takes an event's interrupt away, pending state included (`DISCARD`).
pub const fn discard(device: u32, event: u32) -> Command {
    with_event(0x0f, device, event)
}

/// How commands name a redistributor: by the address of its registers or by its number, as
/// `GITS_TYPER.PTA` says.
pub const fn redistributor(by_address: bool, address: u64, processor: u16) -> u64 {
    match by_address {
        true => address & 0x000f_ffff_ffff_0000,
        false => (processor as u64) << 16,
    }
}
