//! The command queue.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use core::time::Duration;

use dmakit_platform::{Barrier, IrqMutex, Mmio, Platform, Segment};

use crate::atomic::spin_loop;
use crate::progress::Progress;
use crate::refusal::{RefusedCommand, Remedy, SyncFailure};
use crate::spec::command::{Command, SYNC, sync_with_message};
use crate::spec::registers::{
    CMDQ_CONS, CMDQ_PROD, GERROR, GERROR_CMDQ, GERROR_SERVICE_FAILURE, GERRORN, command_error,
};

/// The longest that the SMMU may take for the commands before it, or for room in the queue.
pub const COMMAND_TIME_MAX: Duration = Duration::from_secs(1);

/// Looks at memory or the consumer index between looks at the clock and at errors.
const LOOKS: u32 = if cfg!(loom) { 1 } else { 16 };

/// A ring of commands that any CPU fills.
///
/// One interrupt-safe lock is held while commands are written in place, a few nanoseconds; nobody
/// waits for the SMMU under it unless the ring is full. Waiting for completion needs no lock, and
/// two CPUs that wait at once share a sync.
pub(crate) struct CommandQueue<P: Platform> {
    segment: Segment,
    shift: u32,
    /// Whether the SMMU reads past the CPU's caches.
    cleans: bool,
    /// Where syncs write the count that they complete, on an SMMU that can do so.
    message: Option<Segment>,
    /// Whether an invalidation was lost for good.
    is_broken: AtomicBool,
    state: Line<IrqMutex<P, State>>,
    progress: Line<Progress>,
}

/// What CPUs write often, away from what they all only read. 128 bytes because adjacent lines are
/// fetched in pairs on common machines.
#[repr(align(128))]
struct Line<T>(T);

/// What went through the queue since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CommandCounts {
    /// Commands written, syncs included.
    pub commands: u64,
    /// Syncs among them.
    pub syncs: u64,
    /// Writes of the producer index.
    pub doorbells: u64,
    /// Commands that the SMMU stopped at.
    pub refused: u64,
    /// The last of those.
    pub last_refused: Option<RefusedCommand>,
}

#[derive(Default)]
struct State {
    /// Commands written, counted from the start: `counts.commands`.
    counts: CommandCounts,
    /// The count at which the ring is full, as far as is known: never more than the length of the
    /// ring past what the SMMU is known to have executed.
    full: u64,
    /// The count right after the last sync.
    synced: u64,
    /// The count that the SMMU was last told.
    published: u64,
}

impl<P: Platform> CommandQueue<P> {
    /// A queue of `2^shift` commands in a zeroed segment; `message` where syncs can write there.
    pub(crate) fn new(
        segment: Segment,
        shift: u32,
        message: Option<Segment>,
        cleans: bool,
    ) -> Self {
        Self {
            segment,
            shift,
            cleans,
            message,
            is_broken: AtomicBool::new(false),
            state: Line(IrqMutex::<P, _>::new(State {
                full: 1 << shift,
                ..State::default()
            })),
            progress: Line(Progress::new(shift)),
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

    /// Its memory, once the SMMU is off.
    pub(crate) fn into_segments(self) -> impl Iterator<Item = Segment> {
        self.message.into_iter().chain([self.segment])
    }

    /// Takes the queue: commands pushed now stand together, unless the ring is full meanwhile.
    pub(crate) fn produce<'a, R: Mmio>(
        &'a self,
        platform: &'a P,
        regs: &'a R,
    ) -> Producer<'a, P, R> {
        Producer {
            queue: self,
            platform,
            regs,
            state: self.state.0.lock(),
        }
    }

    /// Waits until the SMMU has executed everything up to `target`. No locked operation and no look
    /// at the clock where it has already.
    #[inline]
    pub(crate) fn wait<R: Mmio>(
        &self,
        platform: &P,
        regs: &R,
        target: u64,
    ) -> Result<(), SyncFailure> {
        if !self.has_reached(regs, target) {
            self.wait_long(platform, regs, target)?;
        }
        // What the SMMU and the devices did before, before what this CPU does next.
        platform.barrier(Barrier::AfterDevice);
        match self.is_broken.load(Ordering::Acquire) {
            false => Ok(()),
            true => Err(self.broken()),
        }
    }

    #[cold]
    fn broken(&self) -> SyncFailure {
        let refused = self.counts().last_refused;
        refused.map_or(SyncFailure::Service, SyncFailure::Refused)
    }

    /// What went through it.
    pub(crate) fn counts(&self) -> CommandCounts {
        self.state.0.lock().counts
    }

    #[cold]
    fn wait_long<R: Mmio>(&self, platform: &P, regs: &R, target: u64) -> Result<(), SyncFailure> {
        let start = platform.now();
        loop {
            for _ in 0..LOOKS {
                if self.has_reached(regs, target) {
                    return Ok(());
                }
                spin_loop();
            }
            // A sync that took the place of a refused command writes no message.
            let consumed = self.look_at_index(regs);
            if consumed >= target {
                return Ok(());
            }
            self.recover(platform, regs)?;
            if platform.now().saturating_since(start) > COMMAND_TIME_MAX {
                return Err(SyncFailure::Timeout { consumed, target });
            }
        }
    }

    /// Whether the SMMU has come to `target`: from memory where it writes there, else from its index.
    #[inline]
    fn has_reached<R: Mmio>(&self, regs: &R, target: u64) -> bool {
        let progress = &self.progress.0;
        match self.message.as_ref().and_then(message_word) {
            Some(word) => progress.has_reported(target, || word.load(Ordering::Acquire)),
            None => progress.has_reached(target, || regs.read32(CMDQ_CONS)),
        }
    }

    fn look_at_index<R: Mmio>(&self, regs: &R) -> u64 {
        self.progress.0.look(|| regs.read32(CMDQ_CONS))
    }

    /// Where the SMMU has stopped at a command, replaces that and lets it go on (7.1: acknowledged
    /// only afterwards).
    #[cold]
    fn recover<R: Mmio>(&self, platform: &P, regs: &R) -> Result<(), SyncFailure> {
        let active = active_errors(regs);
        if active & GERROR_SERVICE_FAILURE != 0 {
            return Err(SyncFailure::Service);
        }
        if active & GERROR_CMDQ == 0 {
            return Ok(());
        }
        let mut state = self.state.0.lock();
        // Another CPU may have been faster.
        if active_errors(regs) & GERROR_CMDQ == 0 {
            return Ok(());
        }
        let cons = regs.read32(CMDQ_CONS);
        let slot = u64::from(cons) & ((1 << self.shift) - 1);
        let reason = command_error(cons);
        if let Some(words) = self.slot(slot) {
            let command = [0, 1].map(|word: usize| words[word].load(Ordering::Relaxed));
            state.counts.refused += 1;
            state.counts.last_refused = Some(RefusedCommand { reason, command });
            let replacement = match Remedy::of(reason, command) {
                Remedy::Repeat => command,
                Remedy::Replace(wider) => wider,
                Remedy::GiveUp => {
                    self.is_broken.store(true, Ordering::Release);
                    SYNC
                }
            };
            words[0].store(replacement[0], Ordering::Relaxed);
            words[1].store(replacement[1], Ordering::Relaxed);
            self.clean(platform, slot, 1);
        }
        platform.barrier(Barrier::BeforeDevice);
        acknowledge(regs, GERROR_CMDQ);
        Ok(())
    }

    /// Acknowledges global errors of `mask`: which of them were active.
    ///
    /// An acknowledgement reads and then writes what there is of all errors, so all of them are made
    /// under the lock of this queue: one from in between would be undone.
    pub(crate) fn acknowledge<R: Mmio>(&self, regs: &R, mask: u32) -> u32 {
        let _lock = self.state.0.lock();
        acknowledge(regs, mask)
    }

    /// Writes slots back to memory, where the SMMU does not look into caches.
    fn clean(&self, platform: &P, slot: u64, count: u64) {
        if self.cleans {
            if let Some(range) = self.segment.range().slice(slot * 16, count * 16) {
                platform.clean(range);
            }
        }
    }

    fn slot(&self, index: u64) -> Option<&[AtomicU64]> {
        self.words().get(index as usize * 2..index as usize * 2 + 2)
    }

    /// All slots, two words each.
    #[inline]
    fn words(&self) -> &[AtomicU64] {
        // A queue's segment is aligned to its size, and may be longer.
        let words = self.segment.window().words64();
        words
            .and_then(|words| words.get(..2 << self.shift))
            .unwrap_or(&[])
    }
}

fn message_word(segment: &Segment) -> Option<&AtomicU32> {
    segment.window().words32()?.first()
}

fn active_errors(regs: &impl Mmio) -> u32 {
    regs.read32(GERROR) ^ regs.read32(GERRORN)
}

/// As [`CommandQueue::acknowledge`], under the lock already.
fn acknowledge(regs: &impl Mmio, mask: u32) -> u32 {
    let seen = regs.read32(GERRORN);
    let active = (regs.read32(GERROR) ^ seen) & mask;
    if active != 0 {
        regs.write32(GERRORN, seen ^ active);
    }
    active
}

/// The queue, held by one CPU.
pub(crate) struct Producer<'a, P: Platform, R: Mmio> {
    queue: &'a CommandQueue<P>,
    platform: &'a P,
    regs: &'a R,
    state: lock_api::MutexGuard<'a, P::IrqLock, State>,
}

impl<P: Platform, R: Mmio> Producer<'_, P, R> {
    /// Adds commands, built in their slots, of which the SMMU hears with the next sync. Waits for
    /// room where the ring is full.
    #[inline]
    pub(crate) fn push(
        &mut self,
        commands: impl IntoIterator<Item = Command>,
    ) -> Result<(), SyncFailure> {
        let words = self.queue.words();
        let (mut at, mut full) = (self.state.counts.commands, self.state.full);
        for command in commands {
            if at == full {
                self.state.counts.commands = at;
                self.wait_for_room()?;
                (at, full) = (self.state.counts.commands, self.state.full);
            }
            let first = (at as usize * 2) & (words.len() - 1);
            if let Some([low, high]) = words.get(first..first + 2) {
                low.store(command[0], Ordering::Relaxed);
                high.store(command[1], Ordering::Relaxed);
            }
            at += 1;
        }
        self.state.counts.commands = at;
        Ok(())
    }

    /// Hands everything to the SMMU, with a sync unless one stands at the end already; the count
    /// that it must come to.
    #[inline]
    pub(crate) fn publish_with_sync(mut self) -> Result<u64, SyncFailure> {
        if self.state.synced != self.state.counts.commands || self.state.synced == 0 {
            // Room first: while it is waited for, others may add commands.
            if self.state.counts.commands == self.state.full {
                self.wait_for_room()?;
            }
            let count = self.state.counts.commands + 1;
            let sync = match &self.queue.message {
                Some(word) => sync_with_message(word.range().start().raw(), count as u32),
                None => SYNC,
            };
            self.push([sync])?;
            self.state.counts.syncs += 1;
            self.state.synced = count;
        }
        self.ring();
        Ok(self.state.counts.commands)
    }

    #[inline]
    fn ring(&mut self) {
        let (from, to) = (self.state.published, self.state.counts.commands);
        if from == to {
            return;
        }
        if self.queue.cleans {
            self.clean(from, to - from);
        }
        // The commands before the index that makes them valid.
        self.platform.barrier(Barrier::BeforeDevice);
        let index = self.queue.progress.0.publish(to);
        self.regs.write32(CMDQ_PROD, index);
        self.state.published = to;
        self.state.counts.doorbells += 1;
    }

    /// Writes `count` slots from `from` on back to memory, round the end of the ring.
    fn clean(&self, from: u64, count: u64) {
        let len = 1_u64 << self.queue.shift;
        let first = from & (len - 1);
        let straight = count.min(len - first);
        self.queue.clean(self.platform, first, straight);
        self.queue.clean(self.platform, 0, count - straight);
    }

    #[cold]
    fn wait_for_room(&mut self) -> Result<(), SyncFailure> {
        let len = 1 << self.queue.shift;
        let start = self.platform.now();
        loop {
            self.ring();
            // Anew each time: while the lock is let go of, others fill the ring too.
            let target = self.state.counts.commands + 1 - len;
            let consumed = self.queue.look_at_index(self.regs);
            if consumed >= target {
                self.state.full = consumed + len;
                return Ok(());
            }
            if active_errors(self.regs) & (GERROR_CMDQ | GERROR_SERVICE_FAILURE) != 0 {
                // The lock is ours: let go of it for the one who replaces the command.
                let (queue, platform, regs) = (self.queue, self.platform, self.regs);
                lock_api::MutexGuard::unlocked(&mut self.state, || queue.recover(platform, regs))?;
            }
            if self.platform.now().saturating_since(start) > COMMAND_TIME_MAX {
                return Err(SyncFailure::Timeout { consumed, target });
            }
            spin_loop();
        }
    }
}
