//! Interrupts: the CPU's local APIC, to which devices write their messages.

use core::arch::asm;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU32, Ordering};

use dmakit_addr::PhysAddr;
use dmakit_platform::Mmio;

use crate::handlers::{self, Handler};
use crate::machine::Machine;
use crate::memory::{Coherent, EarlyMemory};
use crate::registers::Registers;

use super::ports::Port;

/// Where the local APIC has its registers, and where a message to CPU 0 is written (Intel SDM, 10.4.1
/// and 10.11.1).
const APIC: u64 = 0xfee0_0000;
const APIC_END: u64 = 0xb0;
const APIC_SPURIOUS: u64 = 0xf0;

/// Vectors of devices: those that [`start.s`](super) has entries for.
const FIRST: u32 = 32;
const VECTORS: u32 = 16;

/// Data of the two old interrupt controllers: which lines are masked.
const MASKS: [Port; 2] = [Port::new(0x21), Port::new(0xa1)];

/// Interrupts, with memory for as long as the machine runs.
pub type Running = Interrupts;

/// Interrupts of this machine; they need no memory.
pub struct Interrupts {
    next: AtomicU32,
}

/// What a function's events come from: as many vectors.
pub struct Source {
    first: u32,
}

#[repr(C, align(16))]
struct Table(UnsafeCell<[[u64; 2]; 256]>);

// SAFETY: written once, before the CPU is told where it is.
unsafe impl Sync for Table {}

static TABLE: Table = Table(UnsafeCell::new([[0; 2]; 256]));

fn apic() -> Registers {
    // SAFETY: every x86-64 CPU has it there, mapped uncached; this image drives it alone.
    unsafe { Registers::new(APIC, 0x1000) }
}

/// Takes an interrupt; called with interrupts off.
pub extern "C" fn take(vector: u64) {
    handlers::call(vector as u32);
    apic().write32(APIC_END, 0);
}

impl Interrupts {
    /// Lets the CPU take interrupts of devices, and of nobody else.
    ///
    /// # Safety
    /// Nobody else uses the interrupt controllers and the CPU's table.
    pub unsafe fn start(_: &Machine, _: &EarlyMemory) -> Result<Self, &'static str> {
        for mask in MASKS {
            mask.write8(0xff);
        }
        // SAFETY: once, and the caller's promise.
        unsafe { load_table() };
        apic().write32(APIC_SPURIOUS, 0x1ff);
        // SAFETY: each vector that can come has an entry.
        unsafe { asm!("sti") };
        Ok(Self {
            next: AtomicU32::new(FIRST),
        })
    }

    /// The same: no memory is needed.
    pub fn with_memory(self, _: &'static Coherent) -> Running {
        self
    }

    /// Where devices write to interrupt.
    pub fn doorbell(&self) -> PhysAddr {
        PhysAddr::new(APIC)
    }

    /// A function that interrupts with `events` events, none of them used yet.
    pub fn source(&self, _id: u32, events: u32) -> Result<Source, &'static str> {
        let first = self.next.fetch_add(events, Ordering::Relaxed);
        match first + events <= FIRST + VECTORS {
            true => Ok(Source { first }),
            false => Err("no vector left"),
        }
    }

    /// What a function writes to the doorbell for its first event; one more for each further one.
    pub fn message(&self, source: &Source) -> u32 {
        source.first
    }

    /// Calls `handler` whenever the function raises `event`.
    pub fn handle(
        &self,
        source: &mut Source,
        event: u32,
        handler: Handler,
    ) -> Result<(), &'static str> {
        handlers::add(source.first + event, handler);
        Ok(())
    }
}

/// # Safety
/// Once, with interrupts off.
unsafe fn load_table() {
    unsafe extern "C" {
        static exception_entries: u8;
        static interrupt_entries: u8;
    }
    let entries = [
        (0, FIRST, &raw const exception_entries),
        (FIRST, VECTORS, &raw const interrupt_entries),
    ];
    for (first, count, code) in entries {
        for index in 0..count {
            // Entries are 16 bytes apart. A gate for interrupts, present (Intel SDM, 6.14.1).
            let at = code.addr() as u64 + u64::from(index) * 16;
            let low = at & 0xffff | 8 << 16 | 0x8e << 40 | (at >> 16 & 0xffff) << 48;
            // SAFETY: the CPU does not use the table yet, and the caller's promise.
            unsafe { (*TABLE.0.get())[(first + index) as usize] = [low, at >> 32] };
        }
    }
    #[repr(C, packed)]
    struct Pointer(u16, u64);
    let pointer = Pointer(256 * 16 - 1, TABLE.0.get().addr() as u64);
    // SAFETY: the table stays for ever.
    unsafe { asm!("lidt [{}]", in(reg) &raw const pointer) };
}
