//! Bring-up, transfers and shutdown.

mod power;

use std::time::Duration;

use dmakit_addr::{AlignMask, DmaMask};
use dmakit_dma::{DeviceId, DeviceInfo, DmaSegment, Translate};
use dmakit_platform::{Mmio, Platform};

use super::command::{self, Command, PAGE, PrpError};
use super::error::NvmeError;
use super::memory::{DEPTH_MAX, Memory};
use super::queue::Entry;
use super::registers::{self as reg, Capabilities};
use crate::devices::DmaDevice;

/// The longest that a command may take.
const COMMAND_TIME_MAX: Duration = Duration::from_secs(60);

/// The namespace that is used.
const NAMESPACE: u32 = 1;
/// The number of the I/O queues.
const IO: u16 = 1;

/// What the driver says of a controller before it does DMA: it reaches everything, and where a buffer
/// is copied the copy has the same place in its pages, because only the first page of a transfer may be
/// used from its middle on, and only the last to there.
pub fn info(id: DeviceId, name: &str) -> DeviceInfo<'_> {
    DeviceInfo {
        min_align: AlignMask::new(PAGE - 1).unwrap_or_default(),
        ..DeviceInfo::new(id, name, DmaMask::ALL)
    }
}

/// What a transfer does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Disk to memory.
    Read,
    /// Memory to disk.
    Write,
}

impl Operation {
    fn opcode(self) -> u8 {
        match self {
            Self::Read => command::READ,
            Self::Write => command::WRITE,
        }
    }
}

/// A command that has completed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Completion {
    /// The number that submitting it gave.
    pub slot: u16,
    /// 0, or type and code of an error (4.6.1).
    ///
    /// 0 does not prove that data arrived: QEMU's model says it after faults too.
    pub status: u16,
}

/// What the disk says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// Its model.
    pub model: String,
    /// Its serial number.
    pub serial: String,
    /// Bytes of the largest transfer, as far as this driver uses it.
    pub transfer_max: u64,
    /// Bytes of a block.
    pub block: u64,
    /// Blocks.
    pub blocks: u64,
}

/// A running controller and its first namespace.
pub struct Nvme<'a, P: Platform, T, R> {
    /// For the time.
    platform: P,
    device: &'a DmaDevice<'a, P, T>,
    regs: R,
    capabilities: Capabilities,
    memory: Memory,
    /// The operation code of each command in flight.
    in_flight: [Option<u8>; DEPTH_MAX],
    identity: Identity,
}

impl<'a, P: Platform, T: Translate, R: Mmio> Nvme<'a, P, T, R> {
    /// Resets the controller and brings it up (7.6.1), with queues and lists in coherent memory. Its
    /// I/O queue interrupts by `vector`, which the caller has set up, or is polled alone.
    ///
    /// # Errors
    /// [`NvmeError`]; everything has gone back then, or is leaked, where the controller does not stop
    /// using it.
    pub fn start(
        platform: P,
        device: &'a DmaDevice<'a, P, T>,
        regs: R,
        vector: Option<u16>,
    ) -> Result<Self, NvmeError> {
        let capabilities = Capabilities(regs.read64(reg::CAP));
        power::check(capabilities)?;
        // It may still use the memory of an earlier life.
        regs.write32(reg::CC, 0);
        let memory = Memory::allocate(device)?;
        let mut this = Self {
            platform,
            device,
            regs,
            capabilities,
            memory,
            in_flight: [None; DEPTH_MAX],
            identity: Identity {
                model: String::new(),
                serial: String::new(),
                transfer_max: 0,
                block: 0,
                blocks: 0,
            },
        };
        match this.bring_up(vector) {
            Ok(()) => Ok(this),
            Err(error) => {
                // What the controller does not let go of is leaked, and the device counts it.
                let _ = this.disable();
                Err(error)
            }
        }
    }

    /// What the disk says of itself.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Commands in flight.
    pub fn in_flight(&self) -> usize {
        self.in_flight.iter().flatten().count()
    }

    /// Starts a transfer of blocks from `lba` on, from or to memory that is mapped for the device as
    /// `segments`; gives its number. Does not wait.
    ///
    /// # Errors
    /// [`NvmeError`]; nothing was started then.
    pub fn submit(
        &mut self,
        operation: Operation,
        lba: u64,
        segments: &[DmaSegment],
    ) -> Result<u16, NvmeError> {
        let Identity {
            block,
            blocks,
            transfer_max,
            ..
        } = self.identity;
        let len = segments.iter().map(|segment| segment.len).sum();
        if len == 0 || len % block != 0 {
            return Err(NvmeError::Blocks { len, block });
        }
        let too_long = NvmeError::TooLong {
            len,
            max: transfer_max,
        };
        if len > transfer_max {
            return Err(too_long);
        }
        let count = len / block;
        if lba.checked_add(count).is_none_or(|end| end > blocks) {
            return Err(NvmeError::Beyond {
                lba,
                blocks: count,
                size: blocks,
            });
        }
        let slot = self.free_slot()?;
        let prps = self.list(slot, segments).map_err(|error| match error {
            PrpError::Misplaced(segment) => NvmeError::Misplaced { segment },
            PrpError::Pages => too_long,
        })?;
        let opcode = operation.opcode();
        // A transfer has at most 2 MiB in blocks of at least 512 bytes.
        let command = command::transfer(opcode, slot, NAMESPACE, prps, lba, count as u16);
        self.send(slot, opcode, &command)?;
        Ok(slot)
    }

    /// Writes the PRP list of command `slot`.
    fn list(&self, slot: u16, segments: &[DmaSegment]) -> Result<[u64; 2], PrpError> {
        let first = usize::from(slot) * command::LIST_ENTRIES;
        let place = self.memory.lists.dma_addr_of(first);
        let (Some(view), Some(at)) = (self.device.view(&self.memory.lists), place) else {
            return Err(PrpError::Pages);
        };
        command::prps(segments, at.raw(), |index, page| {
            if let Some(entry) = view.at(first + index) {
                entry.write(&page.to_le());
            }
        })
    }

    /// Starts writing all that the disk holds back to where it stays; gives the command's number.
    ///
    /// # Errors
    /// [`NvmeError::Full`].
    pub fn submit_flush(&mut self) -> Result<u16, NvmeError> {
        let slot = self.free_slot()?;
        self.send(slot, command::FLUSH, &command::flush(slot, NAMESPACE))?;
        Ok(slot)
    }

    /// Takes a completion, if there is one. Does not wait.
    ///
    /// # Errors
    /// [`NvmeError::Stray`].
    pub fn complete(&mut self) -> Result<Option<Completion>, NvmeError> {
        let Some((entry, head)) = self.memory.io.pop(self.device) else {
            return Ok(None);
        };
        self.ring(2 * IO + 1, head);
        let Entry { slot, status } = entry;
        match self.in_flight.get_mut(usize::from(slot)).map(Option::take) {
            Some(Some(_)) => Ok(Some(Completion { slot, status })),
            _ => Err(NvmeError::Stray { slot }),
        }
    }

    /// Waits for a completion.
    ///
    /// # Errors
    /// [`NvmeError::Timeout`], [`NvmeError::Fatal`], [`NvmeError::Stray`].
    pub fn wait(&mut self) -> Result<Completion, NvmeError> {
        let start = self.platform.now();
        loop {
            if let Some(completion) = self.complete()? {
                return Ok(completion);
            }
            self.check_alive(start)?;
        }
    }

    /// One transfer, and nothing else in flight.
    ///
    /// # Errors
    /// [`NvmeError`]; [`NvmeError::Refused`] with the status of a command that failed.
    pub fn transfer(
        &mut self,
        operation: Operation,
        lba: u64,
        segments: &[DmaSegment],
    ) -> Result<(), NvmeError> {
        self.submit(operation, lba, segments)?;
        self.wait_good(operation.opcode())
    }

    /// Waits until the disk has written back all that it holds; nothing else in flight.
    ///
    /// # Errors
    /// As [`transfer`](Self::transfer).
    pub fn flush(&mut self) -> Result<(), NvmeError> {
        self.submit_flush()?;
        self.wait_good(command::FLUSH)
    }

    /// Shuts the controller down (7.6.2), and gives back what the driver has.
    ///
    /// # Errors
    /// [`NvmeError`], with a controller that may still use its queues: they are leaked.
    pub fn stop(self) -> Result<(), NvmeError> {
        self.shut_down()?;
        self.disable()
    }

    fn wait_good(&mut self, opcode: u8) -> Result<(), NvmeError> {
        let completion = self.wait()?;
        judged(opcode, completion.status)
    }

    fn send(&mut self, slot: u16, opcode: u8, command: &Command) -> Result<(), NvmeError> {
        let tail = self.memory.io.push(self.device, command);
        let tail = tail.ok_or(NvmeError::Full)?;
        self.in_flight[usize::from(slot)] = Some(opcode);
        self.ring(2 * IO, tail);
        Ok(())
    }

    fn free_slot(&self) -> Result<u16, NvmeError> {
        let free = self.in_flight.iter().position(Option::is_none);
        free.map(|slot| slot as u16).ok_or(NvmeError::Full)
    }

    /// Rings doorbell `number` (3.1.17): even for tails of submissions, odd for heads of
    /// completions.
    fn ring(&self, number: u16, value: u32) {
        let at = u64::from(number) << self.capabilities.stride_shift();
        self.regs.write32(reg::DOORBELLS + at, value);
    }

    /// Fails for a controller that has failed, and for a wait since `start` that is too long.
    fn check_alive(&self, start: dmakit_platform::Instant) -> Result<(), NvmeError> {
        let status = self.regs.read32(reg::CSTS);
        if status & reg::CSTS_FATAL != 0 {
            return Err(NvmeError::Fatal { status });
        }
        if self.platform.now().saturating_since(start) > COMMAND_TIME_MAX {
            return Err(NvmeError::Timeout {
                after: COMMAND_TIME_MAX,
            });
        }
        std::thread::yield_now();
        Ok(())
    }
}

fn judged(opcode: u8, status: u16) -> Result<(), NvmeError> {
    match status {
        0 => Ok(()),
        status => Err(NvmeError::Refused { opcode, status }),
    }
}
