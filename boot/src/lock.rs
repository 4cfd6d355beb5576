//! A lock and a guard that keep interrupts off.

use core::marker::PhantomData;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use dmakit_platform::{CpuGuard, CpuId};

use crate::board::InterruptsOff;

/// The present CPU, which runs nothing else while this lives. Not `Send`.
pub struct OnCpu {
    _off: InterruptsOff,
    _not_send: PhantomData<*const ()>,
}

impl OnCpu {
    pub fn enter() -> Self {
        Self {
            _off: InterruptsOff::new(),
            _not_send: PhantomData,
        }
    }
}

impl CpuGuard for OnCpu {
    fn cpu(&self) -> CpuId {
        CpuId::new(0)
    }
}

/// A spin lock that keeps this CPU's interrupts off while it is held.
pub struct IrqSpinLock {
    held: AtomicBool,
    before: AtomicU64,
}

// SAFETY: `held` goes from false to true in one atomic step, by exactly one caller, and back only in
// `unlock`; acquire and release order what the lock guards. `before` is written by the holder only.
unsafe impl lock_api::RawMutex for IrqSpinLock {
    #[allow(clippy::declare_interior_mutable_const)]
    const INIT: Self = Self {
        held: AtomicBool::new(false),
        before: AtomicU64::new(0),
    };

    type GuardMarker = lock_api::GuardNoSend;

    fn lock(&self) {
        while !self.try_lock() {
            core::hint::spin_loop();
        }
    }

    fn try_lock(&self) -> bool {
        let off = InterruptsOff::new();
        if self.held.swap(true, Ordering::Acquire) {
            return false;
        }
        self.before.store(off.before, Ordering::Relaxed);
        core::mem::forget(off);
        true
    }

    unsafe fn unlock(&self) {
        let before = self.before.load(Ordering::Relaxed);
        self.held.store(false, Ordering::Release);
        drop(InterruptsOff { before });
    }
}
