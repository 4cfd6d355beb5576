//! Registers of page 0 and page 1 (chapter 6.3).

/// Bytes of a register page; page 1 follows page 0.
pub const PAGE_BYTES: u64 = 0x1_0000;

/// Features.
pub const IDR0: u64 = 0x00;
/// Sizes of queues, stream IDs and substream IDs.
pub const IDR1: u64 = 0x04;
/// Range invalidation and others.
pub const IDR3: u64 = 0x0c;
/// Output addresses and granules.
pub const IDR5: u64 = 0x14;
/// What is enabled.
pub const CR0: u64 = 0x20;
/// What has taken effect of `CR0`.
pub const CR0ACK: u64 = 0x24;
/// Memory attributes of tables and queues.
pub const CR1: u64 = 0x28;
/// Broadcast invalidation, and what a bad stream ID records.
pub const CR2: u64 = 0x2c;
/// What happens to transactions while translation is off.
pub const GBPA: u64 = 0x44;
/// Which interrupts are enabled.
pub const IRQ_CTRL: u64 = 0x50;
/// What has taken effect of `IRQ_CTRL`.
pub const IRQ_CTRLACK: u64 = 0x54;
/// Global errors: a bit is active while it differs from `GERRORN`'s.
pub const GERROR: u64 = 0x60;
/// Global errors that were seen.
pub const GERRORN: u64 = 0x64;
/// Where the global error interrupt writes; 0 for a wire.
pub const GERROR_IRQ_CFG0: u64 = 0x68;
/// Where the stream table is.
pub const STRTAB_BASE: u64 = 0x80;
/// Shape of the stream table.
pub const STRTAB_BASE_CFG: u64 = 0x88;
/// Where the command queue is, and log2 of its entries.
pub const CMDQ_BASE: u64 = 0x90;
/// Command queue, written by the driver.
pub const CMDQ_PROD: u64 = 0x98;
/// Command queue, written by the SMMU; bits 30:24 say why it stopped.
pub const CMDQ_CONS: u64 = 0x9c;
/// Where the event queue is, and log2 of its entries.
pub const EVENTQ_BASE: u64 = 0xa0;
/// Where the event queue interrupt writes; 0 for a wire.
pub const EVENTQ_IRQ_CFG0: u64 = 0xb0;
/// Event queue, written by the SMMU; bit 31 flips on overflow. On page 1.
pub const EVENTQ_PROD: u64 = PAGE_BYTES + 0xa8;
/// Event queue, written by the driver. On page 1.
pub const EVENTQ_CONS: u64 = PAGE_BYTES + 0xac;

/// `CR0`, `CR0ACK`: translation.
pub const CR0_SMMUEN: u32 = 1 << 0;
/// `CR0`: the event queue.
pub const CR0_EVENTQEN: u32 = 1 << 2;
/// `CR0`: the command queue.
pub const CR0_CMDQEN: u32 = 1 << 3;

/// `CR1`: tables and queues inner shareable, write-back in both caches.
pub const CR1_INNER_WRITE_BACK: u32 = 0xd75;
/// `CR1`: tables and queues outer shareable, not cached.
pub const CR1_UNCACHED: u32 = 0x820;

/// `CR2`: transactions with a stream ID out of range are recorded.
pub const CR2_RECINVSID: u32 = 1 << 1;
/// `CR2`: broadcast TLB maintenance of CPUs is ignored.
pub const CR2_PTM: u32 = 1 << 2;

/// `GBPA`: written with this bit; it clears when the write took effect.
pub const GBPA_UPDATE: u32 = 1 << 31;
/// `GBPA`: transactions are aborted.
pub const GBPA_ABORT: u32 = 1 << 20;

/// `IRQ_CTRL`: global errors.
pub const IRQ_CTRL_GERROR: u32 = 1 << 0;
/// `IRQ_CTRL`: the event queue.
pub const IRQ_CTRL_EVENTQ: u32 = 1 << 2;

/// `GERROR`: the command queue stopped at a bad command.
pub const GERROR_CMDQ: u32 = 1 << 0;
/// `GERROR`: an event record could not be written, and was lost.
pub const GERROR_EVENTQ_ABORT: u32 = 1 << 2;
/// `GERROR`: the SMMU is in a mode from which only a reset leads.
pub const GERROR_SERVICE_FAILURE: u32 = 1 << 8;

/// `STRTAB_BASE_CFG`: two-level.
pub const STRTAB_TWO_LEVEL: u32 = 1 << 16;

/// `*_BASE`: the hint to allocate reads (queues that the SMMU writes: writes) in caches.
pub const BASE_ALLOCATE: u64 = 1 << 62;

/// Queue index registers: bit 31 of a producer says that records were lost.
pub const INDEX_OVERFLOW: u32 = 1 << 31;

/// Why the command queue stopped (`CMDQ_CONS` 30:24).
pub const fn command_error(cons: u32) -> u32 {
    cons >> 24 & 0x7f
}

/// `CMDQ_CONS.ERR`: the command is illegal.
pub const COMMAND_ERROR_ILLEGAL: u32 = 1;
/// `CMDQ_CONS.ERR`: the command could not be read.
pub const COMMAND_ERROR_ABORT: u32 = 2;
/// `CMDQ_CONS.ERR`: a device did not answer an invalidation of its own cache.
pub const COMMAND_ERROR_ATC_TIMEOUT: u32 = 3;
