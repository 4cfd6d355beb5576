//! `edu`, QEMU's teaching device: one buffer, one transfer at a time.

use std::fmt;
use std::time::Duration;

use dmakit_addr::{Attributes, DirectionType, DmaMask, FromDevice, ToDevice};
use dmakit_dma::{Coherent, CoherentError, DmaMemory, DmaSegment, MapError, Translate};
use dmakit_platform::{Barrier, Mmio, Platform};

use super::DmaDevice;

const SOURCE: u64 = 0x80;
const TARGET: u64 = 0x88;
const COUNT: u64 = 0x90;
const COMMAND: u64 = 0x98;
const COMMAND_START: u64 = 1;
const COMMAND_TO_MEMORY: u64 = 2;

/// Where the device sees its own buffer.
const BUFFER: u64 = 0x4_0000;

/// Bytes of the largest transfer: one less than the buffer holds, since QEMU ends itself at exactly as
/// many.
pub const TRANSFER_MAX: u64 = 4095;

type Pattern = [u8; TRANSFER_MAX as usize];

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
        segment: DmaSegment,
        /// What it can reach.
        mask: DmaMask,
    },
    /// It did not end.
    Timeout {
        /// How long was waited.
        after: Duration,
    },
    /// The buffer was not mapped.
    Map(MapError),
    /// The buffer is lost: hardware did not say that it has forgotten it.
    Lost,
}

impl fmt::Display for EduError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length { len } => {
                write!(f, "edu transfers 1 to {} bytes, not {len}", TRANSFER_MAX)
            }
            Self::Reach { segment, mask } => {
                write!(
                    f,
                    "edu reaches {mask}, not {} bytes at {}",
                    segment.len, segment.addr
                )
            }
            Self::Timeout { after } => write!(f, "edu did not end its transfer within {after:?}"),
            Self::Map(error) => error.fmt(f),
            Self::Lost => f.write_str("the buffer is lost: the device may reach it for ever"),
        }
    }
}

impl std::error::Error for EduError {}

/// A buffer that was not transferred.
#[derive(Debug)]
pub struct EduFailure<B> {
    /// Why.
    pub error: EduError,
    /// The buffer; none where the device may still use it: it is leaked then.
    pub memory: Option<B>,
}

impl<B> fmt::Display for EduFailure<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<B: fmt::Debug> std::error::Error for EduFailure<B> {}

/// QEMU's `-device` argument for an `edu` in slot `device` that reaches `mask`.
pub fn argument(device: u8, mask: DmaMask) -> String {
    format!("edu,addr={device:#x},dma_mask={:#x}", mask.last())
}

/// The device.
///
/// It never says that a transfer failed: one that reads what it may not fills its buffer with
/// zeroes, so that what it writes later proves nothing. [`reload`](Self::reload) first.
pub struct Edu<'a, P: Platform, T, R> {
    /// For the time.
    platform: P,
    device: &'a DmaDevice<'a, P, T>,
    regs: R,
    /// Memory that the device can surely read.
    pattern: Coherent<Pattern>,
}

impl<'a, P: Platform, T: Translate, R: Mmio> Edu<'a, P, T, R> {
    /// The device behind `regs`, which was made to reach the streaming mask of `device`.
    ///
    /// # Errors
    /// [`CoherentError`].
    pub fn start(
        platform: P,
        device: &'a DmaDevice<'a, P, T>,
        regs: R,
    ) -> Result<Self, CoherentError> {
        let pattern = device.alloc_coherent(1, Attributes::NONE)?;
        Ok(Self {
            platform,
            device,
            regs,
            pattern,
        })
    }

    /// Gives back what the driver has.
    pub fn stop(self) {
        // It is this device's, and from its source.
        let _ = self.device.free_coherent(self.pattern);
    }

    /// Copies a buffer of up to [`TRANSFER_MAX`] bytes into the device's own; gives it back.
    ///
    /// # Errors
    /// [`EduFailure`].
    pub fn send<B: DmaMemory>(&self, memory: B) -> Result<B, EduFailure<B>> {
        self.run::<ToDevice, B>(memory, |segments| self.read(segments))
    }

    /// Copies as many bytes as a buffer has from the device's own; gives it back.
    ///
    /// # Errors
    /// [`EduFailure`].
    pub fn receive<B: DmaMemory>(&self, memory: B) -> Result<B, EduFailure<B>> {
        self.run::<FromDevice, B>(memory, |segments| self.write(segments))
    }

    /// Maps a buffer, transfers it, and unmaps it.
    fn run<D: DirectionType, B: DmaMemory>(
        &self,
        memory: B,
        transfer: impl FnOnce(&[DmaSegment]) -> Result<(), EduError>,
    ) -> Result<B, EduFailure<B>> {
        let mapping = self
            .device
            .map_request::<D, B>(memory, Attributes::NONE)
            .map_err(|failure| EduFailure {
                error: EduError::Map(failure.error),
                memory: Some(failure.memory),
            })?;
        let segments: Vec<_> = self.device.segments(&mapping).collect();
        let transferred = transfer(&segments);
        if let Err(error @ EduError::Timeout { .. }) = transferred {
            // Nobody knows what the device does now: it keeps the buffer.
            let memory = None;
            return Err(EduFailure { error, memory });
        }
        let back = self.device.unmap_and_sync(mapping);
        let memory = back.map_err(|_| EduFailure {
            error: EduError::Lost,
            memory: None,
        })?;
        match transferred {
            Ok(()) => Ok(memory),
            Err(error) => {
                let memory = Some(memory);
                Err(EduFailure { error, memory })
            }
        }
    }

    /// Copies mapped memory into its buffer, one segment behind the other.
    ///
    /// # Errors
    /// [`EduError`]. A fault is no error: its buffer then has zeroes.
    pub fn read(&self, from: &[DmaSegment]) -> Result<(), EduError> {
        self.check(from)?;
        let mut buffer = BUFFER;
        for segment in from {
            self.transfer(segment.addr.raw(), buffer, segment.len, COMMAND_START)?;
            buffer += segment.len;
        }
        Ok(())
    }

    /// Copies the front of its buffer to mapped memory, one segment behind the other.
    ///
    /// # Errors
    /// [`EduError`]. A fault is no error: memory is then as before.
    pub fn write(&self, to: &[DmaSegment]) -> Result<(), EduError> {
        self.check(to)?;
        let command = COMMAND_START | COMMAND_TO_MEMORY;
        let mut buffer = BUFFER;
        for segment in to {
            self.transfer(buffer, segment.addr.raw(), segment.len, command)?;
            buffer += segment.len;
        }
        Ok(())
    }

    /// Fills its buffer with `byte` by way of memory that it can surely read, so that a write that must
    /// not land would be seen.
    ///
    /// # Errors
    /// [`EduError`].
    pub fn reload(&self, byte: u8) -> Result<(), EduError> {
        let view = self.device.view(&self.pattern);
        if let Some(pattern) = view.and_then(|view| view.at(0)) {
            pattern.write(&[byte; TRANSFER_MAX as usize]);
        }
        self.read(&[DmaSegment {
            addr: self.pattern.dma_addr(),
            len: TRANSFER_MAX,
        }])
    }

    fn check(&self, segments: &[DmaSegment]) -> Result<(), EduError> {
        let len = segments.iter().map(|segment| segment.len).sum();
        if !(1..=TRANSFER_MAX).contains(&len) {
            return Err(EduError::Length { len });
        }
        let mask = self.device.info().streaming_mask;
        let is_beyond = |segment: &&DmaSegment| {
            let end = segment.addr.raw().checked_add(segment.len);
            end.is_none_or(|end| end - 1 > mask.last())
        };
        match segments.iter().find(is_beyond) {
            None => Ok(()),
            Some(&segment) => Err(EduError::Reach { segment, mask }),
        }
    }

    fn transfer(&self, source: u64, target: u64, len: u64, command: u64) -> Result<(), EduError> {
        self.device.barrier(Barrier::BeforeDevice);
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
        self.device.barrier(Barrier::AfterDevice);
        Ok(())
    }
}
