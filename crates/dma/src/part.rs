//! Parts of what is mapped.

use dmakit_addr::{PhysAddr, PhysRange};
use dmakit_platform::{CopySource, CopyTarget, Window};

/// The bytes of a part, as those of all that is mapped.
pub(crate) struct Part<R> {
    pub(crate) of: R,
    pub(crate) at: u64,
}

impl<S: CopySource + ?Sized> CopySource for Part<&S> {
    fn len_bytes(&self) -> u64 {
        self.of.len_bytes().saturating_sub(self.at)
    }

    fn copy_to(&self, offset: u64, window: Window<'_>) {
        self.of.copy_to(self.at + offset, window);
    }
}

impl<S: CopySource + ?Sized> CopySource for Part<&mut S> {
    fn len_bytes(&self) -> u64 {
        self.of.len_bytes().saturating_sub(self.at)
    }

    fn copy_to(&self, offset: u64, window: Window<'_>) {
        self.of.copy_to(self.at + offset, window);
    }
}

impl<S: CopyTarget + ?Sized> CopyTarget for Part<&mut S> {
    fn copy_from(&mut self, offset: u64, window: Window<'_>) {
        self.of.copy_from(self.at + offset, window);
    }
}

/// Bytes of a mapping, all in one place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Touched {
    /// Where the part that they are of is in the memory that is mapped.
    pub(crate) at: u64,
    /// Which bytes of the part.
    pub(crate) offset: u64,
    pub(crate) len: u64,
    /// Where the part's slots begin.
    pub(crate) slots: Option<PhysAddr>,
    pub(crate) run: PhysRange,
}

impl Touched {
    /// Where the device reads and writes them.
    pub(crate) fn memory(&self) -> PhysRange {
        let start = self.slots.unwrap_or(self.run.start());
        let whole = PhysRange::new(start, self.run.len());
        let part = whole
            .ok()
            .and_then(|whole| whole.slice(self.offset, self.len));
        part.unwrap_or(self.run)
    }
}
