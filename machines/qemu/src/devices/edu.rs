//! `edu`, QEMU's teaching device: one buffer, one transfer at a time.

use std::fmt;
use std::time::Duration;

use dmakit_addr::{DmaMask, Iova, IovaRange};
use dmakit_platform::{Barrier, Mmio, Platform};

use super::Block;

const SOURCE: u64 = 0x80;
const TARGET: u64 = 0x88;
const COUNT: u64 = 0x90;
const COMMAND: u64 = 0x98;
const COMMAND_START: u64 = 1;
const COMMAND_TO_MEMORY: u64 = 2;

/// Where the device sees its own buffer.
const BUFFER: u64 = 0x4_0000;

/// A transfer takes 100 ms of the machine's time.
const TRANSFER_TIME_MAX: Duration = Duration::from_secs(5);

/// Why there was no transfer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EduError {
    /// No bytes, or more than the device takes at once.
    Length {
        /// Bytes that were asked for.
        len: u64,
    },
    /// The device would cut the address off and go somewhere else.
    Reach {
        /// Where it was to go.
        range: IovaRange,
        /// What it can reach.
        mask: DmaMask,
    },
    /// It did not end.
    Timeout {
        /// How long was waited.
        after: Duration,
    },
}

impl fmt::Display for EduError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length { len } => write!(
                f,
                "edu transfers 1 to {} bytes, not {len}",
                Edu::<(), ()>::TRANSFER_MAX
            ),
            Self::Reach { range, mask } => write!(f, "edu reaches {mask}, not {range}"),
            Self::Timeout { after } => write!(f, "edu did not end its transfer within {after:?}"),
        }
    }
}

impl std::error::Error for EduError {}

/// The device.
///
/// It never says that a transfer failed: one that reads what it may not fills its buffer with
/// zeroes, so that what it writes later proves nothing. [`reload`](Self::reload) first.
pub struct Edu<P, R> {
    platform: P,
    regs: R,
    mask: DmaMask,
}

impl<P, R> Edu<P, R> {
    /// Vendor and device, as a PCI function says them.
    pub const IDENTITY: u32 = 0x11e8_1234;

    /// Bytes of the largest transfer: one less than the buffer holds, since QEMU ends itself at
    /// exactly as many.
    pub const TRANSFER_MAX: u64 = 4095;
}

impl Edu<(), ()> {
    /// QEMU's `-device` argument for an `edu` in slot `device` that reaches `mask`.
    pub fn argument(device: u8, mask: DmaMask) -> String {
        format!("edu,addr={device:#x},dma_mask={:#x}", mask.last())
    }
}

impl<P: Platform, R: Mmio> Edu<P, R> {
    /// The device behind `regs`, which was made to reach `mask`.
    pub fn new(platform: P, regs: R, mask: DmaMask) -> Self {
        Self {
            platform,
            regs,
            mask,
        }
    }

    /// What it can reach.
    pub fn mask(&self) -> DmaMask {
        self.mask
    }

    /// Copies `len` bytes of memory into its buffer.
    ///
    /// # Errors
    /// [`EduError`]. A fault is no error: its buffer then has zeroes.
    pub fn read(&self, from: Iova, len: u64) -> Result<(), EduError> {
        self.check(from, len)?;
        self.transfer(from.raw(), BUFFER, len, COMMAND_START)
    }

    /// Copies the first `len` bytes of its buffer to memory.
    ///
    /// # Errors
    /// [`EduError`]. A fault is no error: memory is then as before.
    pub fn write(&self, to: Iova, len: u64) -> Result<(), EduError> {
        self.check(to, len)?;
        self.transfer(BUFFER, to.raw(), len, COMMAND_START | COMMAND_TO_MEMORY)
    }

    /// Fills its buffer with `byte` by way of a block that it can surely read, so that a write that
    /// must not land would be seen.
    ///
    /// # Errors
    /// [`EduError`].
    pub fn reload(&self, block: &Block, byte: u8) -> Result<(), EduError> {
        let len = block.range().len().min(Self::TRANSFER_MAX);
        block.window().fill(byte);
        self.read(block.iova(0), len)
    }

    fn check(&self, address: Iova, len: u64) -> Result<(), EduError> {
        if len == 0 || len > Self::TRANSFER_MAX {
            return Err(EduError::Length { len });
        }
        let range = IovaRange::new(address, len).map_err(|_| EduError::Length { len })?;
        match self.mask.reaches(&range) {
            true => Ok(()),
            false => Err(EduError::Reach {
                range,
                mask: self.mask,
            }),
        }
    }

    fn transfer(&self, source: u64, target: u64, len: u64, command: u64) -> Result<(), EduError> {
        self.platform.barrier(Barrier::BeforeDevice);
        self.regs.write64(SOURCE, source);
        self.regs.write64(TARGET, target);
        self.regs.write64(COUNT, len);
        self.regs.write64(COMMAND, command);
        let start = self.platform.now();
        while self.regs.read64(COMMAND) & COMMAND_START != 0 {
            if self.platform.now().saturating_since(start) > TRANSFER_TIME_MAX {
                return Err(EduError::Timeout {
                    after: TRANSFER_TIME_MAX,
                });
            }
            std::thread::yield_now();
        }
        self.platform.barrier(Barrier::AfterDevice);
        Ok(())
    }
}
