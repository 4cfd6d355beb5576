//! Offsets and bits of registers, as IHI 0070 6.3 has them.

pub(super) const CR0: u64 = 0x20;
pub(super) const CR0ACK: u64 = 0x24;
pub(super) const GBPA: u64 = 0x44;
pub(super) const IRQ_CTRL: u64 = 0x50;
pub(super) const IRQ_CTRLACK: u64 = 0x54;
pub(super) const GERROR: u64 = 0x60;
pub(super) const GERRORN: u64 = 0x64;
pub(super) const STRTAB_BASE: u64 = 0x80;
pub(super) const STRTAB_BASE_CFG: u64 = 0x88;
pub(super) const CMDQ_BASE: u64 = 0x90;
pub(super) const CMDQ_PROD: u64 = 0x98;
pub(super) const CMDQ_CONS: u64 = 0x9c;
pub(super) const EVENTQ_BASE: u64 = 0xa0;
pub(super) const EVENTQ_PROD: u64 = 0x1_00a8;
pub(super) const EVENTQ_CONS: u64 = 0x1_00ac;

pub(super) const SMMUEN: u32 = 1;
pub(super) const EVENTQEN: u32 = 1 << 2;
pub(super) const CMDQEN: u32 = 1 << 3;
pub(super) const GBPA_UPDATE: u32 = 1 << 31;
pub(super) const GBPA_ABORT: u32 = 1 << 20;
pub(super) const CMDQ_ERR: u32 = 1;
pub(super) const EVENTQ_ABORT: u32 = 1 << 2;
pub(super) const SERVICE_FAILURE: u32 = 1 << 8;
pub(super) const OVERFLOW: u32 = 1 << 31;
/// Bits of a queue's or table's base that are an address.
pub(super) const ADDRESS: u64 = 0x000f_ffff_ffff_ffc0;
