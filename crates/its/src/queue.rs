//! The command queue.

use core::sync::atomic::Ordering;
use core::time::Duration;

use dmakit_platform::{Barrier, Mmio, Platform};

use crate::memory::Given;
use crate::spec::command::{BYTES, Command, WORDS};
use crate::spec::registers::{
    CREADR, CREADR_STALLED, CWRITER, CWRITER_RETRY, QUEUE_OFFSET, cbaser,
};
use crate::{CommandFailure, RefusedCommand};

/// The longest that the ITS may take for the commands of one call.
pub const COMMAND_TIME_MAX: Duration = Duration::from_secs(1);

/// 4 KiB pages of the queue.
const PAGES: u64 = 16;

/// Bytes of the queue, aligned likewise (12.18.2).
pub(crate) const QUEUE_BYTES: u64 = PAGES << 12;

const LEN: u64 = QUEUE_BYTES / BYTES;

/// Looks at the index between looks at the clock.
const LOOKS: u32 = 16;

/// What went through the queue since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CommandCounts {
    /// Commands written.
    pub commands: u64,
    /// Writes of the index, each followed by a wait.
    pub doorbells: u64,
    /// Commands at which the ITS stopped.
    pub refused: u64,
}

/// A ring of commands, held by one call until the ITS has come to the end of them.
///
/// Interrupts are set up and moved now and then, a few commands at a time, and an ITS takes a
/// microsecond for one. So a call waits while it holds the queue: it learns which of its own commands
/// was refused, the ring is never full, and no command of another stands behind one that is stuck.
pub(crate) struct CommandQueue {
    memory: Given,
    /// Whether the ITS reads past the CPU's caches.
    pub(crate) cleans: bool,
    /// Takes the place of a refused command: changes nothing, and is always legal.
    idle: Command,
    /// Commands that the ITS has come past, counted from the start.
    consumed: u64,
    counts: CommandCounts,
}

impl CommandQueue {
    /// A queue in zeroed memory; see the field for `idle`.
    pub(crate) fn new(memory: Given, idle: Command) -> Self {
        Self {
            memory,
            cleans: true,
            idle,
            consumed: 0,
            counts: CommandCounts::default(),
        }
    }

    /// `GITS_CBASER`, but for attributes.
    pub(crate) fn base(&self) -> u64 {
        cbaser(self.memory.segment.range().start().raw(), PAGES)
    }

    pub(crate) fn counts(&self) -> CommandCounts {
        self.counts
    }

    pub(crate) fn into_memory(self) -> Given {
        self.memory
    }

    /// Has the ITS execute `commands`, fewer than the ring holds, and waits for it.
    ///
    /// Where an earlier call gave up, the ITS first gets the same time again for what that left.
    pub(crate) fn run<P: Platform, R: Mmio>(
        &mut self,
        platform: &P,
        regs: &R,
        commands: &[Command],
    ) -> Result<(), CommandFailure> {
        if self.consumed != self.counts.commands {
            // What was refused then is not of this call.
            self.wait(platform, regs)?;
        }
        for command in commands {
            self.write(platform, self.counts.commands % LEN, command);
            self.counts.commands += 1;
        }
        // The commands before the index that makes them valid.
        platform.barrier(Barrier::BeforeDevice);
        regs.write32(CWRITER, self.cwriter());
        self.counts.doorbells += 1;
        let refused = self.wait(platform, regs)?;
        // What the ITS did before, before what this CPU does next.
        platform.barrier(Barrier::AfterDevice);
        refused.map_or(Ok(()), |refused| Err(CommandFailure::Refused(refused)))
    }

    fn cwriter(&self) -> u32 {
        // Below the ring's length: fits.
        (self.counts.commands % LEN * BYTES) as u32
    }

    /// Waits until the ITS has come to the end; gives the first command that it refused.
    fn wait<P: Platform, R: Mmio>(
        &mut self,
        platform: &P,
        regs: &R,
    ) -> Result<Option<RefusedCommand>, CommandFailure> {
        let start = platform.now();
        let cwriter = self.cwriter();
        let mut refused = None;
        loop {
            let mut creadr = 0;
            for _ in 0..LOOKS {
                creadr = regs.read32(CREADR);
                self.advance(creadr)?;
                if creadr & CREADR_STALLED != 0 {
                    let one = self.replace(platform);
                    refused = refused.or(Some(one));
                    regs.write32(CWRITER, cwriter | CWRITER_RETRY);
                } else if self.consumed == self.counts.commands {
                    return Ok(refused);
                }
                core::hint::spin_loop();
            }
            if platform.now().saturating_since(start) > COMMAND_TIME_MAX {
                return Err(CommandFailure::Timeout { creadr, cwriter });
            }
        }
    }

    /// Notes how far the ITS has come.
    fn advance(&mut self, creadr: u32) -> Result<(), CommandFailure> {
        let index = u64::from(creadr & QUEUE_OFFSET) / BYTES;
        let ahead = (index + LEN - self.consumed % LEN) % LEN;
        if index >= LEN || ahead > self.counts.commands - self.consumed {
            let cwriter = self.cwriter();
            return Err(CommandFailure::Strayed { creadr, cwriter });
        }
        self.consumed += ahead;
        Ok(())
    }

    /// Puts something harmless in the place of the command at which the ITS stands.
    #[cold]
    fn replace<P: Platform>(&mut self, platform: &P) -> RefusedCommand {
        let index = self.consumed % LEN;
        let mut command = [0; WORDS];
        if let Some(slot) = self.slot(index) {
            for (word, from) in command.iter_mut().zip(slot) {
                *word = u64::from_le(from.load(Ordering::Relaxed));
            }
        }
        self.counts.refused += 1;
        self.write(platform, index, &self.idle);
        platform.barrier(Barrier::BeforeDevice);
        RefusedCommand { command }
    }

    fn write<P: Platform>(&self, platform: &P, index: u64, command: &Command) {
        if let Some(slot) = self.slot(index) {
            for (to, word) in slot.iter().zip(command) {
                to.store(word.to_le(), Ordering::Relaxed);
            }
        }
        let range = self.memory.segment.range();
        if let (true, Some(slot)) = (self.cleans, range.slice(index * BYTES, BYTES)) {
            platform.clean(slot);
        }
    }

    fn slot(&self, index: u64) -> Option<&[core::sync::atomic::AtomicU64]> {
        let words = self.memory.segment.window().words64()?;
        let first = index as usize * WORDS;
        words.get(first..first + WORDS)
    }
}
