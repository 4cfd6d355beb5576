//! How far the SMMU has come, seen by many CPUs.

use crate::atomic::{AtomicU64, Ordering};

/// Bits of the consumer register that are 0 in every SMMU that is there (6.3.28).
const RESERVED: u32 = 1 << 31 | 0xf << 20;

/// Commands executed, counted from the start of the queue; never ahead of the truth.
///
/// The SMMU tells only an index, modulo twice the length of the ring. Each look extends it to a
/// full count by the distance from what was known *before* the look: a CPU that was away for long
/// may understate it, and nothing makes it overstate.
///
/// What a look found is noted only when it has gone on by a quarter of the ring, so that CPUs which
/// wait write to no common line. Whoever fills the ring looks, and notes, before it laps: what is
/// published is never more than the ring's length past what is known.
///
/// A register that says more than was published (all ones, from a device that is gone) says nothing.
pub(crate) struct Progress {
    /// The length of the ring.
    len: u64,
    consumed: AtomicU64,
    /// Commands that the SMMU was told of.
    published: AtomicU64,
}

impl Progress {
    /// Of a ring of `2^shift` commands.
    pub(crate) fn new(shift: u32) -> Self {
        Self {
            len: 1 << shift,
            consumed: AtomicU64::new(0),
            published: AtomicU64::new(0),
        }
    }

    /// Notes what the SMMU is about to be told, and gives the index that says so: before the
    /// doorbell, by whoever holds the queue.
    #[inline]
    pub(crate) fn publish(&self, count: u64) -> u32 {
        self.published.store(count, Ordering::Release);
        self.index(count)
    }

    /// How registers write a count.
    #[inline]
    pub(crate) fn index(&self, count: u64) -> u32 {
        (count & (2 * self.len - 1)) as u32
    }

    /// Whether the register says that all up to `target`, which was published, is executed. False
    /// says nothing.
    #[inline]
    pub(crate) fn has_reached(&self, target: u64, read: impl FnOnce() -> u32) -> bool {
        // Acquire: another CPU may have stored what it saw in a later look. The register read here
        // must not be one from before that, or the distance would come out negative, that is,
        // huge, and commands would count as executed that are not.
        let known = self.consumed.load(Ordering::Acquire);
        let index = read();
        let ahead = u64::from(index).wrapping_sub(known) & (2 * self.len - 1);
        if ahead > self.len / 4 || index & RESERVED != 0 {
            return self.extend(known, index) >= target;
        }
        known + ahead >= target
    }

    /// As [`has_reached`](Self::has_reached), from the low half of the count that the SMMU writes
    /// to memory. Syncs complete in order, so it only grows.
    #[inline]
    pub(crate) fn has_reported(&self, target: u64, read: impl FnOnce() -> u32) -> bool {
        let known = self.consumed.load(Ordering::Acquire);
        // One that is older than what is known comes out negative.
        let ahead = read().wrapping_sub(known as u32) as i32;
        match u64::try_from(ahead) {
            Ok(ahead) if ahead <= self.len / 4 => known + ahead >= target,
            Ok(ahead) => self.reached(known + ahead) >= target,
            Err(_) => known >= target,
        }
    }

    /// Looks at the register, and notes what it says: the most that is known.
    pub(crate) fn look(&self, read: impl FnOnce() -> u32) -> u64 {
        // Acquire: as in `has_reached`.
        let known = self.consumed.load(Ordering::Acquire);
        self.extend(known, read())
    }

    #[cold]
    fn extend(&self, known: u64, index: u32) -> u64 {
        let ahead = u64::from(index).wrapping_sub(known) & (2 * self.len - 1);
        self.reached(known + ahead)
    }

    /// Notes that the SMMU says it has come to `count`; gives the most that is known.
    #[cold]
    fn reached(&self, count: u64) -> u64 {
        if count > self.published.load(Ordering::Acquire) {
            return self.consumed.load(Ordering::Acquire);
        }
        self.consumed.fetch_max(count, Ordering::AcqRel).max(count)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_gone_makes_no_progress() {
        let progress = Progress::new(6);
        progress.publish(5);
        assert_eq!(progress.look(|| 3), 3);
        assert_eq!(progress.look(|| u32::MAX), 3);
        assert!(!progress.has_reached(4, || u32::MAX));
        assert!(progress.has_reached(5, || 5));
        assert_eq!(progress.look(|| 5), 5);
        // Once round, and on.
        progress.publish(130);
        assert!(progress.has_reached(100, || 100));
        assert_eq!(progress.look(|| 2), 130);
    }
}

#[cfg(all(test, loom))]
mod protocol {
    extern crate std;

    use super::*;
    use loom::sync::atomic::AtomicU32;
    use loom::sync::{Arc, Mutex};
    use loom::thread;

    /// A ring of two slots, so an index of two bits, and an SMMU that executes what it is told.
    #[derive(Default)]
    struct Registers {
        producer: AtomicU32,
        consumer: AtomicU32,
    }

    const SHIFT: u32 = 1;
    const MASK: u64 = 0b11;

    /// Two CPUs add a command each and wait for it, while the SMMU goes on.
    fn two_waiters() {
        let progress = Arc::new(Progress::new(SHIFT));
        let regs = Arc::new(Registers::default());
        let queue = Arc::new(Mutex::new(0_u64));
        // What the SMMU has executed, as it knows best.
        let truth = Arc::new(AtomicU64::new(0));
        let cpu = |rounds: usize| {
            let (progress, regs) = (progress.clone(), regs.clone());
            let (queue, truth) = (queue.clone(), truth.clone());
            move || {
                let target = {
                    let mut produced = queue.lock().unwrap();
                    *produced += 1;
                    let index = progress.publish(*produced);
                    regs.producer.store(index, Ordering::Release);
                    *produced
                };
                for _ in 0..rounds {
                    let read = || regs.consumer.load(Ordering::Relaxed);
                    if progress.has_reached(target, read) {
                        loom::sync::atomic::fence(Ordering::Acquire);
                        assert!(truth.load(Ordering::Relaxed) >= target, "too early");
                        return;
                    }
                    thread::yield_now();
                }
            }
        };
        let waiter = thread::spawn(cpu(2));
        let smmu = {
            let (regs, truth) = (regs.clone(), truth.clone());
            thread::spawn(move || {
                let mut count = 0;
                for _ in 0..2 {
                    let told = u64::from(regs.producer.load(Ordering::Acquire));
                    while count & MASK != told {
                        count += 1;
                        truth.store(count, Ordering::Relaxed);
                        regs.consumer
                            .store((count & MASK) as u32, Ordering::Release);
                    }
                }
            })
        };
        cpu(2)();
        waiter.join().unwrap();
        smmu.join().unwrap();
    }

    #[test]
    fn nobody_believes_a_command_done_that_is_not() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(2);
        model.check(two_waiters);
    }
}
