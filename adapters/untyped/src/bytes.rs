//! Bytes of the program, by pointer.

use core::ptr::NonNull;

use dmakit_addr::PhysRange;
use dmakit_platform::{CopySource, CopyTarget, Window};

/// Bytes of the program that are lent to a device, and the physical run behind them.
///
/// No reference to them stands while it exists: it copies through the pointer.
#[derive(Clone, Copy, Debug)]
pub struct ProgramBytes {
    bytes: NonNull<[u8]>,
    run: PhysRange,
}

// SAFETY: a pointer to the program's own memory, which all CPUs see; it is followed only as the
// conditions of `new` say, and they name no CPU.
unsafe impl Send for ProgramBytes {}

impl ProgramBytes {
    /// `bytes`, behind which `run` lies; `None` where they are not as long as each other.
    ///
    /// # Safety
    /// For as long as the value, or a mapping made of it, lives:
    /// 1. `bytes` is valid for reads, and for writes where it is lent for the device to write;
    /// 2. nothing else writes them while a method of the device that was given the value runs;
    /// 3. the physical memory behind them is `run`.
    pub unsafe fn new(bytes: NonNull<[u8]>, run: PhysRange) -> Option<Self> {
        (bytes.len() as u64 == run.len()).then_some(Self { bytes, run })
    }

    /// The physical run.
    pub fn run(&self) -> PhysRange {
        self.run
    }

    /// Whether these are the bytes.
    pub(crate) fn is(&self, bytes: NonNull<[u8]>) -> bool {
        core::ptr::eq(self.bytes.as_ptr(), bytes.as_ptr())
    }

    /// The bytes from `offset` on.
    fn tail(&self, offset: u64) -> NonNull<[u8]> {
        let len = self.bytes.len();
        let offset = usize::try_from(offset).unwrap_or(len).min(len);
        // SAFETY: `offset` is at most the length, so the pointer stays in or one past the bytes.
        let start = unsafe { self.bytes.cast::<u8>().add(offset) };
        NonNull::slice_from_raw_parts(start, len - offset)
    }
}

impl CopySource for ProgramBytes {
    fn len_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn copy_to(&self, offset: u64, window: Window<'_>) {
        // SAFETY: conditions 1 and 2 of `new`; the reference ends with this call.
        window.write(unsafe { self.tail(offset).as_ref() });
    }
}

impl CopyTarget for ProgramBytes {
    fn copy_from(&mut self, offset: u64, window: Window<'_>) {
        // SAFETY: as `copy_to`; only mappings that the device writes copy back.
        window.read(unsafe { self.tail(offset).as_mut() });
    }
}
