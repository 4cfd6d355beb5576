//! I/O ports.

use core::arch::asm;

/// A port of a chip that this image drives alone.
#[derive(Clone, Copy, Debug)]
pub struct Port(u16);

// SAFETY (each block): the chips behind these ports reach no memory.
impl Port {
    pub const fn new(number: u16) -> Self {
        Self(number)
    }

    pub fn read8(self) -> u8 {
        let value: u8;
        // SAFETY: see above.
        unsafe { asm!("in al, dx", in("dx") self.0, out("al") value, options(nomem, nostack)) };
        value
    }

    pub fn write8(self, value: u8) {
        // SAFETY: see above.
        unsafe { asm!("out dx, al", in("dx") self.0, in("al") value, options(nomem, nostack)) };
    }

    pub fn write16(self, value: u16) {
        // SAFETY: see above.
        unsafe { asm!("out dx, ax", in("dx") self.0, in("ax") value, options(nomem, nostack)) };
    }
}
