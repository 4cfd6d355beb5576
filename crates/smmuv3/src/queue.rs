//! The command queue.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

use dmakit_platform::{Barrier, IrqMutex, Mmio, Platform, Segment};

use crate::spec::command::{Command, SYNC};
use crate::spec::registers::{CMDQ_CONS, CMDQ_PROD, GERROR, GERROR_CMDQ, GERRORN, command_error};

/// The longest that the SMMU may take for the commands before it, or for room in the queue.
pub const COMMAND_TIME_MAX: Duration = Duration::from_secs(1);

/// Commands that did not complete in time. Nothing that waited for them may be reused until the
/// SMMU was reset into abort.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SyncTimeout {
    /// How far the SMMU had come, counted from the start.
    pub consumed: u64,
    /// How far it was to come.
    pub target: u64,
}

impl fmt::Display for SyncTimeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { consumed, target } = self;
        write!(
            f,
            "the SMMU has executed {consumed} commands and not {target} in {COMMAND_TIME_MAX:?}"
        )
    }
}

impl core::error::Error for SyncTimeout {}

/// A command that the SMMU refused; a sync took its place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RefusedCommand {
    /// The reason, as the manual numbers it: 1 illegal, 2 unreadable, 3 device invalidation timed
    /// out.
    pub reason: u32,
    /// The command.
    pub command: Command,
}

/// A ring of commands that any CPU fills.
///
/// One interrupt-safe lock is held while commands are written in place, a few nanoseconds; nobody
/// waits for the SMMU under it unless the ring is full. Waiting for completion needs no lock, and
/// two CPUs that wait at once share a sync.
pub(crate) struct CommandQueue<P: Platform> {
    segment: Segment,
    shift: u32,
    state: IrqMutex<P, State>,
    /// Commands that the SMMU has executed, counted from the start; never ahead of the truth.
    consumed: AtomicU64,
}

struct State {
    /// Commands written, counted from the start.
    produced: u64,
    /// The count right after the last sync.
    synced: u64,
    refused: u64,
    last_refused: Option<RefusedCommand>,
}

impl<P: Platform> CommandQueue<P> {
    /// A queue of `2^shift` commands in a zeroed segment.
    pub(crate) fn new(segment: Segment, shift: u32) -> Self {
        let state = State {
            produced: 0,
            synced: 0,
            refused: 0,
            last_refused: None,
        };
        Self {
            segment,
            shift,
            state: IrqMutex::<P, _>::new(state),
            consumed: AtomicU64::new(0),
        }
    }

    /// Where it is.
    pub(crate) fn base(&self) -> u64 {
        self.segment.range().start().raw()
    }

    /// log2 of its length.
    pub(crate) fn shift(&self) -> u32 {
        self.shift
    }

    /// Takes the queue: commands pushed now stand together.
    pub(crate) fn produce<'a, R: Mmio>(
        &'a self,
        platform: &'a P,
        regs: &'a R,
    ) -> Producer<'a, P, R> {
        Producer {
            queue: self,
            platform,
            regs,
            state: self.state.lock(),
        }
    }

    /// Waits until the SMMU has executed everything up to `target`.
    pub(crate) fn wait<R: Mmio>(
        &self,
        platform: &P,
        regs: &R,
        target: u64,
    ) -> Result<(), SyncTimeout> {
        if self.poll(regs) >= target {
            return Ok(());
        }
        // A look at the clock costs as much as the whole way here: only now.
        let start = platform.now();
        loop {
            let consumed = self.poll(regs);
            if consumed >= target {
                platform.barrier(Barrier::AfterDevice);
                return Ok(());
            }
            self.replace_refused(platform, regs);
            if platform.now().saturating_since(start) > COMMAND_TIME_MAX {
                return Err(SyncTimeout { consumed, target });
            }
            core::hint::spin_loop();
        }
    }

    /// How many commands the SMMU refused, and the last of them.
    pub(crate) fn refused(&self) -> (u64, Option<RefusedCommand>) {
        let state = self.state.lock();
        (state.refused, state.last_refused)
    }

    fn mask(&self) -> u64 {
        (1 << (self.shift + 1)) - 1
    }

    /// What a count looks like in an index register: the wrap bit above the index.
    fn index(&self, count: u64) -> u32 {
        (count & self.mask()) as u32
    }

    /// Looks how far the SMMU has come.
    #[inline]
    fn poll<R: Mmio>(&self, regs: &R) -> u64 {
        // Read before the register, so that the distance is what the SMMU did since.
        let known = self.consumed.load(Ordering::Relaxed);
        let index = u64::from(regs.read32(CMDQ_CONS)) & self.mask();
        let ahead = index.wrapping_sub(known) & self.mask();
        let now = known + ahead;
        self.consumed.fetch_max(now, Ordering::AcqRel).max(now)
    }

    /// Puts a sync where the SMMU stopped, and lets it go on (7.1: acknowledge only after the
    /// command was replaced).
    #[cold]
    fn replace_refused<R: Mmio>(&self, platform: &P, regs: &R) {
        if (regs.read32(GERROR) ^ regs.read32(GERRORN)) & GERROR_CMDQ == 0 {
            return;
        }
        let mut state = self.state.lock();
        // Another CPU may have been faster.
        let (error, seen) = (regs.read32(GERROR), regs.read32(GERRORN));
        if (error ^ seen) & GERROR_CMDQ == 0 {
            return;
        }
        let cons = regs.read32(CMDQ_CONS);
        let slot = u64::from(cons) & ((1 << self.shift) - 1);
        let command = self.slot(slot).map(|words| {
            let command = [
                words[0].load(Ordering::Relaxed),
                words[1].load(Ordering::Relaxed),
            ];
            words[0].store(SYNC[0], Ordering::Relaxed);
            words[1].store(SYNC[1], Ordering::Relaxed);
            command
        });
        state.refused += 1;
        state.last_refused = command.map(|command| RefusedCommand {
            reason: command_error(cons),
            command,
        });
        platform.barrier(Barrier::BeforeDevice);
        regs.write32(GERRORN, seen ^ GERROR_CMDQ);
    }

    #[inline]
    fn slot(&self, index: u64) -> Option<&[AtomicU64]> {
        let words = self.segment.window().words64()?;
        words.get(index as usize * 2..index as usize * 2 + 2)
    }
}

/// The queue, held by one CPU.
pub(crate) struct Producer<'a, P: Platform, R: Mmio> {
    queue: &'a CommandQueue<P>,
    platform: &'a P,
    regs: &'a R,
    state: lock_api::MutexGuard<'a, P::IrqLock, State>,
}

impl<P: Platform, R: Mmio> Producer<'_, P, R> {
    /// Adds a command. Waits for room where the ring is full.
    #[inline]
    pub(crate) fn push(&mut self, command: Command) -> Result<(), SyncTimeout> {
        let len = 1 << self.queue.shift;
        if self.state.produced - self.queue.consumed.load(Ordering::Relaxed) >= len {
            self.wait_for_room(len)?;
        }
        if let Some(slot) = self.queue.slot(self.state.produced & (len - 1)) {
            slot[0].store(command[0], Ordering::Relaxed);
            slot[1].store(command[1], Ordering::Relaxed);
        }
        self.state.produced += 1;
        Ok(())
    }

    /// Hands what was added to the SMMU; the count that it must come to.
    pub(crate) fn publish(self) -> u64 {
        self.ring();
        self.state.produced
    }

    /// Hands what was added to the SMMU, with a sync unless one that nobody can have waited for in
    /// vain stands at the end already; the count that it must come to.
    pub(crate) fn publish_with_sync(mut self) -> Result<u64, SyncTimeout> {
        if self.state.synced != self.state.produced || self.state.produced == 0 {
            self.push(SYNC)?;
            self.state.synced = self.state.produced;
        }
        self.ring();
        Ok(self.state.produced)
    }

    fn ring(&self) {
        // The commands before the index that makes them valid.
        self.platform.barrier(Barrier::BeforeDevice);
        self.regs
            .write32(CMDQ_PROD, self.queue.index(self.state.produced));
    }

    #[cold]
    fn wait_for_room(&mut self, len: u64) -> Result<(), SyncTimeout> {
        self.ring();
        let target = self.state.produced + 1 - len;
        let start = self.platform.now();
        loop {
            let consumed = self.queue.poll(self.regs);
            if consumed >= target {
                return Ok(());
            }
            let stopped = (self.regs.read32(GERROR) ^ self.regs.read32(GERRORN)) & GERROR_CMDQ != 0;
            if stopped {
                // The lock is ours: let go of it for the one who replaces the command.
                let (queue, platform, regs) = (self.queue, self.platform, self.regs);
                lock_api::MutexGuard::unlocked(&mut self.state, || {
                    queue.replace_refused(platform, regs);
                });
            }
            if self.platform.now().saturating_since(start) > COMMAND_TIME_MAX {
                return Err(SyncTimeout { consumed, target });
            }
            core::hint::spin_loop();
        }
    }
}
