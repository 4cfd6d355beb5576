//! What the stack asks of this machine: time, barriers, caches, CPUs.

use core::arch::asm;

use dmakit_addr::PhysRange;
use dmakit_platform::{Barrier, ConversionError, Instant, Mmio, Platform};

use crate::lock::{IrqSpinLock, OnCpu};
use crate::registers::Registers;

/// One CPU of QEMU's `q35`, with memory mapped to the same numbers. Devices see its caches.
#[derive(Clone, Copy, Debug)]
pub struct Board;

/// The interrupt flag (Intel SDM, 3.4.3.3).
const INTERRUPTS: u64 = 1 << 9;

/// Registers of the timer (IA-PC HPET 1.0a, 2.3).
const HPET_CAPABILITIES: u64 = 0;
const HPET_CONFIGURATION: u64 = 0x10;
const HPET_COUNTER: u64 = 0xf0;

/// Lets time begin.
pub fn start() {
    hpet().write64(HPET_CONFIGURATION, 1);
}

fn hpet() -> Registers {
    // SAFETY: q35 has its timer there, mapped uncached; this image drives it alone.
    unsafe { Registers::new(0xfed0_0000, 0x400) }
}

/// Interrupts of this CPU, off until it is dropped; nests.
pub struct InterruptsOff {
    pub before: u64,
}

impl InterruptsOff {
    pub fn new() -> Self {
        let before: u64;
        // SAFETY: reads and clears the flag of this CPU; the compiler moves no access over it.
        unsafe { asm!("pushfq", "pop {}", "cli", out(reg) before) };
        Self { before }
    }
}

impl Drop for InterruptsOff {
    fn drop(&mut self) {
        if self.before & INTERRUPTS != 0 {
            // SAFETY: restores what `new` read on this CPU; the guard is not moved to another.
            unsafe { asm!("sti") };
        }
    }
}

impl Platform for Board {
    type IrqLock = IrqSpinLock;
    type SleepLock = IrqSpinLock;
    type CpuGuard<'a> = OnCpu;

    fn now(&self) -> Instant {
        let hpet = hpet();
        let femtoseconds = hpet.read64(HPET_CAPABILITIES) >> 32;
        let ns = u128::from(hpet.read64(HPET_COUNTER)) * u128::from(femtoseconds) / 1_000_000;
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
                Barrier::BeforeDevice => asm!("sfence"),
                Barrier::AfterDevice => asm!("lfence"),
                Barrier::Full => asm!("mfence"),
            }
        }
    }

    fn cache_line_bytes(&self) -> u64 {
        64
    }

    // Devices see the CPU's caches, and no device is said not to.
    fn clean(&self, _range: PhysRange) {}

    fn invalidate(&self, _range: PhysRange) {}

    fn clean_invalidate(&self, _range: PhysRange) {}

    // No host is kept out of this machine's memory.
    fn share(&self, _range: PhysRange) -> Result<(), ConversionError> {
        Ok(())
    }

    fn unshare(&self, _range: PhysRange) -> Result<(), ConversionError> {
        Ok(())
    }
}
