//! Text on the machine's first serial port.

use core::fmt::{Arguments, Write};
use core::ptr::{NonNull, without_provenance_mut};

use arm_pl011_uart::{PL011Registers, Uart, UniqueMmioPointer};

const PL011: usize = 0x900_0000;

pub fn print(text: Arguments<'_>) {
    let registers = NonNull::new(without_provenance_mut::<PL011Registers>(PL011));
    let Some(registers) = registers else { return };
    // SAFETY: QEMU's `virt` has a PL011 there, mapped as device memory; one CPU runs.
    let mut uart = Uart::new(unsafe { UniqueMmioPointer::new(registers) });
    let _ = uart.write_fmt(text);
}
