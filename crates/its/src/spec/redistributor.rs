//! Redistributor registers about LPIs (12.10, 12.11), and entries of the configuration table (6.2.2).

/// On or off.
pub const CTLR: u64 = 0x00;
/// What it can do, and which CPU it is of.
pub const TYPER: u64 = 0x08;
/// Where the configuration table is; one for all redistributors.
pub const PROPBASER: u64 = 0x70;
/// Where the pending table is; one for each redistributor.
pub const PENDBASER: u64 = 0x78;

/// `CTLR`: LPIs. Many implementations never let it be cleared again.
pub const CTLR_ENABLE_LPIS: u32 = 1 << 0;
/// `TYPER`: has physical LPIs.
pub const TYPER_PLPIS: u64 = 1 << 0;

/// `TYPER.Processor_Number`.
pub const fn processor(typer: u64) -> u16 {
    (typer >> 8) as u16
}

/// A configuration table at an address aligned to 4 KiB, for interrupts of `id_bits` bits, 1 to 32.
pub const fn propbaser(address: u64, id_bits: u32) -> u64 {
    address & 0x000f_ffff_ffff_f000 | (id_bits.saturating_sub(1) as u64 & 0x1f)
}

/// Where a configuration table is, and the bits of its interrupts' numbers.
pub const fn parse_propbaser(register: u64) -> (u64, u32) {
    (
        register & 0x000f_ffff_ffff_f000,
        (register & 0x1f) as u32 + 1,
    )
}

/// A pending table at an address aligned to 64 KiB.
pub const fn pendbaser(address: u64) -> u64 {
    address & PENDING_ADDRESS
}

/// `PENDBASER`: the address.
pub const PENDING_ADDRESS: u64 = 0x000f_ffff_ffff_0000;

/// The number of the first LPI.
pub const LPI_FIRST: u32 = 8192;

/// An interrupt of a priority (bits 7:2), off or on; bit 1 is one.
pub const fn configuration(priority: u8, is_enabled: bool) -> u8 {
    priority & 0xfc | 1 << 1 | is_enabled as u8
}
