//! QEMU's `virt` for Arm: entry, exceptions, and what there is only here.

pub mod board;
pub mod console;
mod failing_domain;
pub mod interrupts;
pub mod translation;
pub mod tree;

use aarch64_paging::descriptor::El1Attributes;
use aarch64_rt::{
    ExceptionHandlers, InitialPagetable, RegisterStateRef, entry, exception_handlers,
    initial_pagetable,
};
use dmakit_addr::{PAGE_BYTES, PhysAddr, PhysRange};
use smccc::Hvc;

pub use tree::Chips;

const DEVICE: El1Attributes = El1Attributes::VALID
    .union(El1Attributes::ATTRIBUTE_INDEX_0)
    .union(El1Attributes::ACCESSED)
    .union(El1Attributes::UXN);
const MEMORY: El1Attributes = El1Attributes::VALID
    .union(El1Attributes::ATTRIBUTE_INDEX_1)
    .union(El1Attributes::INNER_SHAREABLE)
    .union(El1Attributes::ACCESSED)
    .union(El1Attributes::NON_GLOBAL);

initial_pagetable!({
    let mut table = [0; 512];
    table[0] = DEVICE.bits();
    let mut index = 1;
    while index < 256 {
        table[index] = (index << 30) | MEMORY.bits();
        index += 1;
    }
    table[256] = (256 << 30) | DEVICE.bits();
    InitialPagetable(table)
});

struct Exceptions;
impl ExceptionHandlers for Exceptions {
    extern "C" fn irq_current(_: RegisterStateRef<'_>) {
        interrupts::take();
    }
}
exception_handlers!(Exceptions);

entry!(main);
fn main(device_tree: u64, _: u64, _: u64, _: u64) -> ! {
    crate::heap::start();
    // SAFETY: the boot protocol passes the tree's address, and nobody writes there.
    crate::boot(unsafe { tree::read(device_tree) })
}

/// Where this image lies, its heap and stack included.
pub fn image() -> Option<PhysRange> {
    unsafe extern "C" {
        static text_begin: u8;
        static dma_region: u8;
    }
    let [start, end] = [&raw const text_begin, &raw const dma_region];
    let start = PhysAddr::new(start.addr() as u64 & !(PAGE_BYTES - 1));
    PhysRange::between(start, PhysAddr::new(end.addr() as u64))
}

/// Turns the machine off.
pub fn off() -> ! {
    let _ = smccc::psci::system_off::<Hvc>();
    loop {
        core::hint::spin_loop();
    }
}
