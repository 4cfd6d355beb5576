//! What the stack asks of this machine: time, barriers, caches, locks, CPUs.

use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use dmakit_addr::PhysRange;
use dmakit_platform::{Barrier, ConversionError, CpuGuard, CpuId, Instant, Platform};

/// One CPU of QEMU's `virt`, with its caches on and memory mapped to the same numbers.
#[derive(Clone, Copy, Debug)]
pub struct Board;

/// Interrupts of this CPU, off until it is dropped; nests.
pub struct InterruptsOff {
    before: u64,
}

impl InterruptsOff {
    pub fn new() -> Self {
        let before: u64;
        // SAFETY: reads and sets the mask of this CPU's own interrupts; touches no memory, and the
        // compiler moves no access over it.
        unsafe { asm!("mrs {}, daif", "msr daifset, #2", out(reg) before) };
        Self { before }
    }
}

impl Drop for InterruptsOff {
    fn drop(&mut self) {
        // SAFETY: restores what `new` read on this CPU; the guard is not moved to another.
        unsafe { asm!("msr daif, {}", in(reg) self.before) };
    }
}

/// The present CPU, which runs nothing else while this lives. Not `Send`.
pub struct OnCpu {
    _off: InterruptsOff,
    _not_send: core::marker::PhantomData<*const ()>,
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

impl Platform for Board {
    type IrqLock = IrqSpinLock;
    type SleepLock = IrqSpinLock;
    type CpuGuard<'a> = OnCpu;

    fn now(&self) -> Instant {
        let (ticks, per_second): (u64, u64);
        // SAFETY: two registers that may be read at any time.
        unsafe {
            asm!("isb", "mrs {}, cntvct_el0", "mrs {}, cntfrq_el0", out(reg) ticks, out(reg) per_second);
        }
        let ns = u128::from(ticks) * 1_000_000_000 / u128::from(per_second.max(1));
        Instant::from_nanos(ns as u64)
    }

    fn cpu_count(&self) -> usize {
        1
    }

    fn enter_cpu(&self) -> OnCpu {
        OnCpu {
            _off: InterruptsOff::new(),
            _not_send: core::marker::PhantomData,
        }
    }

    fn barrier(&self, barrier: Barrier) {
        // SAFETY: barriers only order what is there.
        unsafe {
            match barrier {
                Barrier::BeforeDevice => asm!("dsb st"),
                Barrier::AfterDevice => asm!("dsb ld"),
                Barrier::Full => asm!("dsb sy"),
            }
        }
    }

    fn cache_line_bytes(&self) -> u64 {
        let ctr: u64;
        // SAFETY: a register that may be read at any time.
        unsafe { asm!("mrs {}, ctr_el0", out(reg) ctr) };
        4 << ((ctr >> 16) & 0xf)
    }

    fn clean(&self, range: PhysRange) {
        // SAFETY: cleaning a line changes nothing that this CPU can see.
        self.each_line(range, |line| unsafe { asm!("dc cvac, {}", in(reg) line) });
    }

    fn invalidate(&self, range: PhysRange) {
        // SAFETY: the caller hands the range to or takes it from a device: no Rust object lies there.
        self.each_line(range, |line| unsafe { asm!("dc ivac, {}", in(reg) line) });
    }

    fn clean_invalidate(&self, range: PhysRange) {
        // SAFETY: as `clean`.
        self.each_line(range, |line| unsafe { asm!("dc civac, {}", in(reg) line) });
    }

    // No host is kept out of this machine's memory.
    fn share(&self, _range: PhysRange) -> Result<(), ConversionError> {
        Ok(())
    }

    fn unshare(&self, _range: PhysRange) -> Result<(), ConversionError> {
        Ok(())
    }
}

impl Board {
    fn each_line(&self, range: PhysRange, operate: impl Fn(u64)) {
        let bytes = self.cache_line_bytes();
        let mut line = range.start().raw() & !(bytes - 1);
        while line < range.end().raw() {
            operate(line);
            line += bytes;
        }
        self.barrier(Barrier::Full);
    }
}
