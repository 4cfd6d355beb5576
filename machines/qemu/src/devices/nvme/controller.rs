//! Bring-up, transfers and shutdown.

mod power;

use std::fmt;
use std::time::Duration;

use dmakit_addr::IovaRange;
use dmakit_platform::{Mmio, Platform};

use super::command::{self, Command, PAGE};
use super::error::NvmeError;
use super::queue::{ENTRIES, Entry, PAIR_BYTES, QueuePair};
use super::registers::{self as reg, Capabilities};
use crate::devices::Block;

/// The longest that a command may take.
const COMMAND_TIME_MAX: Duration = Duration::from_secs(10);

/// Where the page for `IDENTIFY` lies in the block.
const IDENTIFY_AT: u64 = 2 * PAIR_BYTES;
/// Where the PRP lists begin, one page for each command.
const LISTS_AT: u64 = IDENTIFY_AT + PAGE;
/// The namespace that is used.
const NAMESPACE: u32 = 1;
/// The number of the I/O queues.
const IO: u16 = 1;

/// What a transfer does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Disk to memory.
    Read,
    /// Memory to disk.
    Write,
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

/// A disk that was not brought up; the block is given back, and is not to be freed before the
/// device can no longer reach it.
#[derive(Debug)]
pub struct StartFailure {
    /// Why.
    pub error: NvmeError,
    /// The memory for queues.
    pub memory: Block,
}

impl fmt::Display for StartFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for StartFailure {}

/// A running controller and its first namespace.
pub struct Nvme<P, R> {
    platform: P,
    regs: R,
    memory: Block,
    capabilities: Capabilities,
    admin: QueuePair,
    io: QueuePair,
    /// The operation code of each command in flight.
    in_flight: [Option<u8>; ENTRIES as usize],
    identity: Identity,
}

impl<P, R> Nvme<P, R> {
    /// Bytes of the block that it needs for queues and lists.
    pub const MEMORY_BYTES: u64 = LISTS_AT + ENTRIES as u64 * PAGE;

    /// Commands that may be in flight: a full queue has one entry less.
    pub const DEPTH_MAX: usize = ENTRIES as usize - 1;
}

impl<P: Platform, R: Mmio> Nvme<P, R> {
    /// Resets the controller and brings it up (7.6.1), with queues and lists in
    /// `memory`.
    ///
    /// # Errors
    /// [`StartFailure`] with the memory.
    #[allow(clippy::result_large_err)]
    pub fn start(platform: P, regs: R, memory: Block) -> Result<Self, StartFailure> {
        let capabilities = Capabilities(regs.read64(reg::CAP));
        let mut this = Self {
            platform,
            regs,
            memory,
            capabilities,
            admin: QueuePair::new(0),
            io: QueuePair::new(PAIR_BYTES),
            in_flight: [None; ENTRIES as usize],
            identity: Identity {
                model: String::new(),
                serial: String::new(),
                transfer_max: 0,
                block: 0,
                blocks: 0,
            },
        };
        match this.bring_up() {
            Ok(()) => Ok(this),
            Err(error) => Err(StartFailure {
                error,
                memory: this.memory,
            }),
        }
    }

    /// What the disk says of itself.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Where the device sees queues and lists.
    pub fn memory(&self) -> IovaRange {
        self.memory.range()
    }

    /// Commands in flight.
    pub fn in_flight(&self) -> usize {
        self.in_flight.iter().flatten().count()
    }

    /// Starts a transfer of blocks from `lba` on; gives its number. Does not wait.
    ///
    /// # Errors
    /// [`NvmeError`]; nothing was started then.
    pub fn submit(
        &mut self,
        operation: Operation,
        lba: u64,
        range: IovaRange,
    ) -> Result<u16, NvmeError> {
        let Identity {
            block,
            blocks,
            transfer_max,
            ..
        } = self.identity;
        let len = range.len();
        if range.is_empty() || len % block != 0 || range.start().raw() & 3 != 0 {
            return Err(NvmeError::Shape { range, block });
        }
        if len > transfer_max {
            return Err(NvmeError::TooLong {
                len,
                max: transfer_max,
            });
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
        let at = LISTS_AT + u64::from(slot) * PAGE;
        let list = self.memory.window().slice(at, PAGE);
        let (prps, _) = list
            .and_then(|list| command::prps(range, list, self.memory.iova(at).raw()))
            .ok_or(NvmeError::TooLong {
                len,
                max: transfer_max,
            })?;
        let opcode = match operation {
            Operation::Read => command::READ,
            Operation::Write => command::WRITE,
        };
        // A transfer has at most 2 MiB in blocks of at least 512 bytes.
        let command = command::transfer(opcode, slot, NAMESPACE, prps, lba, count as u16);
        self.send(slot, opcode, &command)?;
        Ok(slot)
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
        let Some((entry, head)) = self.io.pop(&self.platform, self.memory.window()) else {
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
        range: IovaRange,
    ) -> Result<(), NvmeError> {
        let opcode = match operation {
            Operation::Read => command::READ,
            Operation::Write => command::WRITE,
        };
        self.submit(operation, lba, range)?;
        self.wait_good(opcode)
    }

    /// Waits until the disk has written back all that it holds; nothing else in flight.
    ///
    /// # Errors
    /// As [`transfer`](Self::transfer).
    pub fn flush(&mut self) -> Result<(), NvmeError> {
        self.submit_flush()?;
        self.wait_good(command::FLUSH)
    }

    /// Shuts the controller down (7.6.2); gives the memory back, which the device no longer uses.
    ///
    /// # Errors
    /// [`StartFailure`] with the memory, which the device may still use.
    #[allow(clippy::result_large_err)]
    pub fn stop(self) -> Result<Block, StartFailure> {
        match self.shut_down() {
            Ok(()) => Ok(self.memory),
            Err(error) => Err(StartFailure {
                error,
                memory: self.memory,
            }),
        }
    }

    fn wait_good(&mut self, opcode: u8) -> Result<(), NvmeError> {
        let completion = self.wait()?;
        judged(opcode, completion.status)
    }

    fn send(&mut self, slot: u16, opcode: u8, command: &Command) -> Result<(), NvmeError> {
        let memory = self.memory.window();
        let tail = self.io.push(&self.platform, memory, command);
        let tail = tail.ok_or(NvmeError::Full)?;
        self.in_flight[usize::from(slot)] = Some(opcode);
        self.ring(2 * IO, tail);
        Ok(())
    }

    fn free_slot(&self) -> Result<u16, NvmeError> {
        if self.in_flight() >= Self::DEPTH_MAX {
            return Err(NvmeError::Full);
        }
        let free = self.in_flight.iter().position(Option::is_none);
        free.map(|slot| slot as u16).ok_or(NvmeError::Full)
    }

    fn bases(&self, pair: &QueuePair) -> [u64; 2] {
        [pair.submissions(), pair.completions()].map(|offset| self.memory.iova(offset).raw())
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
