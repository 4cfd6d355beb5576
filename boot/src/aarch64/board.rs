//! What the stack asks of this machine: time, barriers, caches, CPUs.

use core::arch::asm;

use dmakit_addr::PhysRange;
use dmakit_platform::{Barrier, ConversionError, Instant, Platform};

use crate::lock::{IrqSpinLock, OnCpu};

/// One CPU of QEMU's `virt`, with its caches on and memory mapped to the same numbers.
#[derive(Clone, Copy, Debug)]
pub struct Board;

/// Interrupts of this CPU, off until it is dropped; nests.
pub struct InterruptsOff {
    pub before: u64,
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
        OnCpu::enter()
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
