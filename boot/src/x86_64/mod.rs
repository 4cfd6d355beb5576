//! QEMU's `q35`: entry, exceptions, and what there is only here. No IOMMU is driven.

pub mod board;
pub mod console;
pub mod interrupts;
mod ports;
mod start_info;
pub mod translation;

use core::arch::global_asm;

use dmakit_addr::{PhysAddr, PhysRange};

use ports::Port;

global_asm!(
    include_str!("start.s"),
    main = sym main,
    exception = sym exception,
    interrupt = sym interrupts::take,
);

/// Nothing that the description has to tell of.
#[derive(Clone, Default, Debug)]
pub struct Chips;

/// Where q35 has the register that turns it off, once its firmware ran (ICH9, 9.10: PM1a_CNT).
const POWER: Port = Port::new(0x604);

extern "C" fn main(start_info: u64) -> ! {
    crate::heap::start();
    board::start();
    // SAFETY: the boot protocol passes the address, and nobody writes there.
    crate::boot(unsafe { start_info::read(start_info) })
}

extern "C" fn exception(vector: u64, first: u64, second: u64) -> ! {
    println!("exception {vector}: {first:#x} {second:#x}");
    off()
}

/// Where this image lies, its heap and stack included.
pub fn image() -> Option<PhysRange> {
    unsafe extern "C" {
        static image_begin: u8;
        static image_end: u8;
    }
    let [start, end] = [&raw const image_begin, &raw const image_end];
    let at = |address: *const u8| PhysAddr::new(address.addr() as u64);
    PhysRange::between(at(start), at(end))
}

/// Turns the machine off.
pub fn off() -> ! {
    // To S5, now.
    POWER.write16(1 << 13);
    loop {
        core::hint::spin_loop();
    }
}
