//! Registers of the ITS (12.18): the control frame, and one register of the translation frame.

/// On or off, and whether it has come to rest.
pub const CTLR: u64 = 0x00;
/// Who made it.
pub const IIDR: u64 = 0x04;
/// What it can do.
pub const TYPER: u64 = 0x08;
/// Where the command queue is.
pub const CBASER: u64 = 0x80;
/// Command queue, written by the driver: a byte offset.
pub const CWRITER: u64 = 0x88;
/// Command queue, written by the ITS: a byte offset.
pub const CREADR: u64 = 0x90;
/// Architecture version of the peripheral.
pub const PIDR2: u64 = 0xffe8;
/// Where devices write their event IDs: in the frame after that of the other registers.
pub const TRANSLATER: u64 = 0x1_0040;

/// How many table registers there are.
pub const BASERS: usize = 8;

/// Table register `index`.
pub const fn baser(index: usize) -> u64 {
    0x100 + 8 * index as u64
}

/// `CTLR`: translates, and executes commands.
pub const CTLR_ENABLED: u32 = 1 << 0;
/// `CTLR`: nothing is in progress; read only.
pub const CTLR_QUIESCENT: u32 = 1 << 31;

/// `CREADR`: stopped at the command that it points to (5.3.2).
pub const CREADR_STALLED: u32 = 1 << 0;
/// `CWRITER`: try the command at which it stopped again.
pub const CWRITER_RETRY: u32 = 1 << 0;
/// `CREADR`, `CWRITER`: the offset.
pub const QUEUE_OFFSET: u32 = 0xf_ffe0;

/// `CBASER`: the rest of the register means something.
pub const CBASER_VALID: u64 = 1 << 63;

/// A command queue of `pages` 4 KiB pages, 1 to 256, at an address aligned to 64 KiB.
pub const fn cbaser(address: u64, pages: u64) -> u64 {
    CBASER_VALID | address & 0x000f_ffff_ffff_0000 | (pages.saturating_sub(1) & 0xff)
}

/// `PIDR2.ArchRev`: 3 for GICv3, 4 for GICv4.
pub const fn architecture(pidr2: u32) -> u32 {
    pidr2 >> 4 & 0xf
}
