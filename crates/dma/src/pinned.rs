//! A user's memory under a pin.

use core::borrow::Borrow;
use core::fmt;

use dmakit_addr::PhysRange;
use dmakit_phys::Pin;
use dmakit_platform::{CopySource, CopyTarget, Segment, Window};

use crate::DmaMemory;
use crate::memory::sealed;

/// Bytes of pinned frames, as memory that a mapping can own: map it in one step, or
/// [link](crate::Device::link_memory) it run by run.
///
/// The pin keeps the frames where they are, and forgetting a mapping leaks it. `S` is or shares the
/// segment that the frames lie in: all of a page allocator's memory, in an `Arc` for example. Other
/// bytes of the first and the last frame are the user's own; what is not trusted does not see them.
pub struct PinnedMemory<S> {
    pin: Pin,
    ram: S,
    offset: u64,
    len: u64,
}

/// Memory that is not all there, and the pin as it was.
#[derive(Debug)]
pub struct NotPinned {
    /// The first bytes that are not in the segment, where the pin has them.
    pub outside: Option<PhysRange>,
    /// How many bytes the pin has from there on.
    pub pinned: u64,
    /// The pin.
    pub pin: Pin,
}

impl fmt::Display for NotPinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.outside {
            Some(run) => write!(f, "{run} is not in the segment"),
            None => write!(f, "the pin has {} bytes from there on", self.pinned),
        }
    }
}

impl core::error::Error for NotPinned {}

impl<S: Borrow<Segment> + Send + 'static> PinnedMemory<S> {
    /// `len` bytes of the frames of `pin` from byte `offset` on, all of them in `ram`. O(runs).
    ///
    /// # Errors
    /// [`NotPinned`], with the pin.
    pub fn new(pin: Pin, ram: S, offset: u64, len: u64) -> Result<Self, NotPinned> {
        let range = ram.borrow().range();
        let outside = pin.runs(offset, len).find(|run| !range.contains_range(run));
        let pinned = pin.runs(offset, len).map(|run| run.len()).sum();
        if outside.is_some() || pinned != len {
            return Err(NotPinned {
                outside,
                pinned,
                pin,
            });
        }
        Ok(Self {
            pin,
            ram,
            offset,
            len,
        })
    }

    /// The pin, to be given back.
    pub fn into_pin(self) -> Pin {
        self.pin
    }

    /// Visits the memory of `len` bytes from `offset` on, as far as there are any, each part with where
    /// it is among them.
    fn each(&self, offset: u64, len: u64, mut visit: impl FnMut(u64, Window<'_>)) {
        let left = self.len.saturating_sub(offset).min(len);
        let ram = self.ram.borrow();
        let mut at = 0;
        for run in self.pin.runs(self.offset.saturating_add(offset), left) {
            let start = run.start().raw() - ram.range().start().raw();
            if let Some(part) = ram.window().slice(start, run.len()) {
                visit(at, part);
            }
            at += run.len();
        }
    }
}

impl<S: Borrow<Segment> + Send + 'static> CopySource for PinnedMemory<S> {
    fn len_bytes(&self) -> u64 {
        self.len
    }

    fn copy_to(&self, offset: u64, window: Window<'_>) {
        self.each(offset, window.range().len(), |at, part| {
            if let Some(to) = window.slice(at, part.range().len()) {
                to.copy_from(part);
            }
        });
    }
}

impl<S: Borrow<Segment> + Send + 'static> CopyTarget for PinnedMemory<S> {
    fn copy_from(&mut self, offset: u64, window: Window<'_>) {
        self.each(offset, window.range().len(), |at, part| {
            if let Some(from) = window.slice(at, part.range().len()) {
                part.copy_from(from);
            }
        });
    }
}

impl<S> sealed::Sealed for PinnedMemory<S> {}

impl<S: Borrow<Segment> + Send + 'static> DmaMemory for PinnedMemory<S> {
    fn runs(&self) -> impl Iterator<Item = PhysRange> + Clone + '_ {
        self.pin.runs(self.offset, self.len)
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) -> usize {
        let mut done = 0;
        self.each(offset, bytes.len() as u64, |at, part| {
            let at = at as usize;
            part.read(&mut bytes[at..at + part.len()]);
            done += part.len();
        });
        done
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> usize {
        let mut done = 0;
        self.each(offset, bytes.len() as u64, |at, part| {
            let at = at as usize;
            part.write(&bytes[at..at + part.len()]);
            done += part.len();
        });
        done
    }
}

impl<S> fmt::Debug for PinnedMemory<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (id, offset, len) = (self.pin.id(), self.offset, self.len);
        write!(f, "PinnedMemory({len} bytes at {offset} of {id})")
    }
}
