//! How far the SMMU has come, seen by many CPUs.

use crate::atomic::{AtomicU64, Ordering};

/// Commands executed, counted from the start of the queue; never ahead of the truth.
///
/// The SMMU tells only an index, modulo twice the length of the ring. Each look extends it to a
/// full count by the distance from what was known *before* the look: a CPU that was away for long
/// may understate it, and nothing makes it overstate.
///
/// A register that says more than was published (all ones, from a device that is gone) says nothing.
pub(crate) struct Progress {
    consumed: AtomicU64,
    /// Commands that the SMMU was told of.
    published: AtomicU64,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self {
            consumed: AtomicU64::new(0),
            published: AtomicU64::new(0),
        }
    }

    /// Notes what the SMMU is about to be told: before the doorbell, by whoever holds the queue.
    #[inline]
    pub(crate) fn publish(&self, count: u64) {
        self.published.store(count, Ordering::Release);
    }

    /// What is known without a look.
    #[inline]
    pub(crate) fn known(&self) -> u64 {
        self.consumed.load(Ordering::Acquire)
    }

    /// Looks at the register, of which the bits in `mask` count.
    #[inline]
    pub(crate) fn look(&self, mask: u64, read: impl FnOnce() -> u32) -> u64 {
        // Acquire: another CPU may have stored what it saw in a later look. The register read here
        // must not be one from before that, or the distance would come out negative, that is,
        // huge, and commands would count as executed that are not.
        let known = self.known();
        let ahead = u64::from(read()).wrapping_sub(known) & mask;
        self.reached(known + ahead)
    }

    /// Notes that the SMMU says it has come to `count`; gives the most that is known.
    #[inline]
    pub(crate) fn reached(&self, count: u64) -> u64 {
        if count > self.published.load(Ordering::Acquire) {
            return self.known();
        }
        self.consumed.fetch_max(count, Ordering::AcqRel).max(count)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_gone_makes_no_progress() {
        let progress = Progress::new();
        progress.publish(5);
        assert_eq!(progress.look(0x7f, || 3), 3);
        assert_eq!(progress.look(0x7f, || u32::MAX), 3);
        assert_eq!(progress.look(0x7f, || 5), 5);
        // Once round, and on.
        progress.publish(130);
        assert_eq!(progress.look(0x7f, || 100), 100);
        assert_eq!(progress.look(0x7f, || 2), 130);
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

    const MASK: u64 = 0b11;

    /// Two CPUs add a command each and wait for it, while the SMMU goes on.
    fn two_waiters() {
        let progress = Arc::new(Progress::new());
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
                    progress.publish(*produced);
                    let index = (*produced & MASK) as u32;
                    regs.producer.store(index, Ordering::Release);
                    *produced
                };
                for _ in 0..rounds {
                    let read = || regs.consumer.load(Ordering::Relaxed);
                    if progress.look(MASK, read) >= target {
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
        model.preemption_bound = Some(3);
        model.check(two_waiters);
    }
}
