//! Offsets and bits of registers, as IHI 0069 12.10 and 12.18 have them.

pub(super) const CTLR: u64 = 0x0;
pub(super) const IIDR: u64 = 0x4;
pub(super) const TYPER: u64 = 0x8;
pub(super) const CBASER: u64 = 0x80;
pub(super) const CWRITER: u64 = 0x88;
pub(super) const CREADR: u64 = 0x90;
pub(super) const BASER: u64 = 0x100;
pub(super) const BASER_END: u64 = 0x140;
pub(super) const PIDR2: u64 = 0xffe8;

pub(super) const ENABLED: u64 = 1;
pub(super) const QUIESCENT: u64 = 1 << 31;
pub(super) const STALLED: u64 = 1;
pub(super) const RETRY: u64 = 1;
pub(super) const OFFSET: u64 = 0xf_ffe0;

pub(super) const VALID: u64 = 1 << 63;
pub(super) const INDIRECT: u64 = 1 << 62;
/// Addresses of 52 bits.
pub(super) const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

pub(super) const R_CTLR: u64 = 0x0;
pub(super) const R_TYPER: u64 = 0x8;
pub(super) const PROPBASER: u64 = 0x70;
pub(super) const PENDBASER: u64 = 0x78;
pub(super) const ENABLE_LPIS: u64 = 1;
