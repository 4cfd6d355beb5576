//! Controller registers (3.1).

pub(super) const CAP: u64 = 0x00;
pub(super) const CC: u64 = 0x14;
pub(super) const CSTS: u64 = 0x1c;
pub(super) const AQA: u64 = 0x24;
pub(super) const ASQ: u64 = 0x28;
pub(super) const ACQ: u64 = 0x30;
pub(super) const DOORBELLS: u64 = 0x1000;

/// Enabled, NVM command set, 4 KiB pages, entries of 64 and 16 bytes.
pub(super) const CC_ENABLED: u32 = 4 << 20 | 6 << 16 | 1;
/// A normal shutdown is asked for.
pub(super) const CC_SHUTDOWN: u32 = 1 << 14;

pub(super) const CSTS_READY: u32 = 1;
pub(super) const CSTS_FATAL: u32 = 1 << 1;
pub(super) const CSTS_SHUTDOWN_MASK: u32 = 3 << 2;
pub(super) const CSTS_SHUTDOWN_DONE: u32 = 2 << 2;

/// The `CAP` fields that matter here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Capabilities(pub(super) u64);

impl Capabilities {
    /// Entries of the largest queue.
    pub(super) fn entries_max(self) -> u32 {
        (self.0 & 0xffff) as u32 + 1
    }

    /// The longest that a change of readiness takes, in units of 500 ms; 0 means none.
    pub(super) fn ready_halves(self) -> u32 {
        (self.0 >> 24) as u32 & 0xff
    }

    /// log2 of the bytes between two doorbells.
    pub(super) fn stride_shift(self) -> u32 {
        2 + ((self.0 >> 32) as u32 & 0xf)
    }

    /// log2 of the smallest page.
    pub(super) fn page_shift_min(self) -> u32 {
        12 + ((self.0 >> 48) as u32 & 0xf)
    }
}
