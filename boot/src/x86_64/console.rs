//! Text on the machine's first serial port.

use core::fmt::{Arguments, Write};

use super::ports::Port;

/// Data and line status of a 16550 (PC16550D, 8.0).
const DATA: Port = Port::new(0x3f8);
const STATUS: Port = Port::new(0x3f8 + 5);
const EMPTY: u8 = 1 << 5;

struct Uart;

impl Write for Uart {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        for byte in text.bytes() {
            while STATUS.read8() & EMPTY == 0 {
                core::hint::spin_loop();
            }
            DATA.write8(byte);
        }
        Ok(())
    }
}

pub fn print(text: Arguments<'_>) {
    let _ = Uart.write_fmt(text);
}
