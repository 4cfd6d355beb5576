//! The two kinds of lock.

use core::sync::atomic::{AtomicBool, Ordering};

use crate::Platform;

/// Data under a lock that hard interrupts may take.
pub type IrqMutex<P, T> = lock_api::Mutex<<P as Platform>::IrqLock, T>;

/// Data under a lock whose holder may sleep.
pub type SleepMutex<P, T> = lock_api::Mutex<<P as Platform>::SleepLock, T>;

/// A test-and-set spin lock for machines, or moments, without interrupts.
///
/// A kernel wraps it with its own way to keep interrupts off; a process uses it as it is. One
/// locked read-modify-write to take, one plain store to release.
///
/// It is not fair. Each look of a CPU that waits takes the line away from the holder, so it looks more
/// and more rarely, in the end about half a microsecond apart. A holder that soon locks again still
/// has the line meanwhile, and what it guards: so these pass from CPU to CPU for several operations
/// at once.
pub struct RawSpinLock {
    held: AtomicBool,
}

/// log2 of the most pauses between two looks at a lock; one takes 10 to 40 ns.
const PAUSES_SHIFT_MAX: u32 = 5;

impl RawSpinLock {
    #[cold]
    fn wait(&self) {
        let mut looks = 0_u32;
        loop {
            for _ in 0..1 << looks.min(PAUSES_SHIFT_MAX) {
                core::hint::spin_loop();
            }
            if !self.held.load(Ordering::Relaxed) {
                return;
            }
            looks = looks.saturating_add(1);
            // In a process the holder may have lost its time slice: give it ours.
            #[cfg(feature = "host")]
            if looks % 8 == 0 {
                std::thread::yield_now();
            }
        }
    }
}

// SAFETY: `held` goes from false to true in one atomic step, by exactly one caller, and back only
// in `unlock`; acquire and release order what the lock guards.
unsafe impl lock_api::RawMutex for RawSpinLock {
    // The lock's whole use is as an initial value, copied into each mutex.
    #[allow(clippy::declare_interior_mutable_const)]
    const INIT: Self = Self {
        held: AtomicBool::new(false),
    };

    type GuardMarker = lock_api::GuardNoSend;

    #[inline]
    fn lock(&self) {
        while !self.try_lock() {
            self.wait();
        }
    }

    #[inline]
    fn try_lock(&self) -> bool {
        self.held
            .compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }

    #[inline]
    unsafe fn unlock(&self) {
        self.held.store(false, Ordering::Release);
    }

    #[inline]
    fn is_locked(&self) -> bool {
        self.held.load(Ordering::Relaxed)
    }
}
