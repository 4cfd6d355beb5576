//! What can be lent to a device.

use core::fmt;

use dmakit_addr::PhysRange;
use dmakit_platform::{CopySource, CopyTarget, CpuBuffer, Window};

pub(crate) mod sealed {
    pub trait Sealed {}
}

/// Memory that a mapping can own: one [`CpuBuffer`], a [`ScatterList`] of several, or a user's under a
/// pin.
///
/// Owned or `'static` by construction, so forgetting a mapping leaks it and frees nothing under a
/// device.
pub trait DmaMemory: sealed::Sealed + CopyTarget + Send + Sized {
    /// The physical runs behind it, in order; together exactly as long as it is.
    fn runs(&self) -> impl Iterator<Item = PhysRange> + Clone + '_;

    /// Copies the bytes at `offset` out, as far as both reach; says how many.
    fn read(&self, offset: u64, bytes: &mut [u8]) -> usize;

    /// Overwrites the bytes at `offset`, as far as both reach; says how many.
    fn write(&mut self, offset: u64, bytes: &[u8]) -> usize;
}

impl sealed::Sealed for CpuBuffer {}

impl DmaMemory for CpuBuffer {
    #[inline]
    fn runs(&self) -> impl Iterator<Item = PhysRange> + Clone + '_ {
        Self::runs(self)
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) -> usize {
        Self::read(self, offset, bytes)
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> usize {
        Self::write(self, offset, bytes)
    }
}

/// Several buffers that a device sees as one stretch of bytes, in order.
///
/// `S` is whatever holds them: an array, or a vector where there is an allocator.
pub struct ScatterList<S> {
    buffers: S,
    len: u64,
}

impl<S: AsRef<[CpuBuffer]> + AsMut<[CpuBuffer]> + Send> ScatterList<S> {
    /// The buffers as one.
    ///
    /// # Errors
    /// The buffers as they were, where their lengths do not add up to a number.
    pub fn new(buffers: S) -> Result<Self, S> {
        let len = buffers
            .as_ref()
            .iter()
            .try_fold(0_u64, |sum, buffer| sum.checked_add(buffer.len()));
        match len {
            Some(len) => Ok(Self { buffers, len }),
            None => Err(buffers),
        }
    }

    /// The buffers, to look at: while they are mapped the list is the mapping's.
    pub fn buffers(&self) -> &[CpuBuffer] {
        self.buffers.as_ref()
    }

    /// The buffers.
    pub fn into_buffers(self) -> S {
        self.buffers
    }

    /// Visits the buffers that `len` bytes from `offset` touch, each with the offset inside it and
    /// what part of the bytes lies there.
    fn each(&self, offset: u64, len: u64, mut visit: impl FnMut(&CpuBuffer, u64, Part)) {
        let mut walk = Walk::new(offset, len);
        for buffer in self.buffers.as_ref() {
            if let Some((inside, part)) = walk.step(buffer.len()) {
                visit(buffer, inside, part);
            }
        }
    }

    fn each_mut(
        &mut self,
        offset: u64,
        len: u64,
        mut visit: impl FnMut(&mut CpuBuffer, u64, Part),
    ) {
        let mut walk = Walk::new(offset, len);
        for buffer in self.buffers.as_mut() {
            if let Some((inside, part)) = walk.step(buffer.len()) {
                visit(buffer, inside, part);
            }
        }
    }
}

/// Which of the bytes of an access lie in one buffer.
#[derive(Clone, Copy)]
struct Part {
    from: u64,
    len: u64,
}

impl Part {
    fn of<'b>(&self, bytes: &'b [u8]) -> &'b [u8] {
        // An access is no longer than its slice, so the part lies inside.
        &bytes[self.from as usize..][..self.len as usize]
    }

    fn of_mut<'b>(&self, bytes: &'b mut [u8]) -> &'b mut [u8] {
        &mut bytes[self.from as usize..][..self.len as usize]
    }
}

/// An access on its way through a list of buffers.
struct Walk {
    skip: u64,
    left: u64,
    done: u64,
}

impl Walk {
    fn new(offset: u64, len: u64) -> Self {
        Self {
            skip: offset,
            left: len,
            done: 0,
        }
    }

    fn step(&mut self, buffer_len: u64) -> Option<(u64, Part)> {
        if self.skip >= buffer_len {
            self.skip -= buffer_len;
            return None;
        }
        let inside = self.skip;
        let len = self.left.min(buffer_len - inside);
        let part = Part {
            from: self.done,
            len,
        };
        self.skip = 0;
        self.left -= len;
        self.done += len;
        (len > 0).then_some((inside, part))
    }
}

impl<S: AsRef<[CpuBuffer]> + AsMut<[CpuBuffer]> + Send> CopySource for ScatterList<S> {
    fn len_bytes(&self) -> u64 {
        self.len
    }

    fn copy_to(&self, offset: u64, window: Window<'_>) {
        self.each(offset, window.range().len(), |buffer, inside, part| {
            if let Some(window) = window.slice(part.from, part.len) {
                buffer.copy_to(inside, window);
            }
        });
    }
}

impl<S: AsRef<[CpuBuffer]> + AsMut<[CpuBuffer]> + Send> CopyTarget for ScatterList<S> {
    fn copy_from(&mut self, offset: u64, window: Window<'_>) {
        self.each_mut(offset, window.range().len(), |buffer, inside, part| {
            if let Some(window) = window.slice(part.from, part.len) {
                buffer.copy_from(inside, window);
            }
        });
    }
}

impl<S> sealed::Sealed for ScatterList<S> {}

impl<S: AsRef<[CpuBuffer]> + AsMut<[CpuBuffer]> + Send> DmaMemory for ScatterList<S> {
    fn runs(&self) -> impl Iterator<Item = PhysRange> + Clone + '_ {
        self.buffers.as_ref().iter().flat_map(CpuBuffer::runs)
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) -> usize {
        let mut done = 0;
        self.each(offset, bytes.len() as u64, |buffer, inside, part| {
            done += buffer.read(inside, part.of_mut(bytes));
        });
        done
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> usize {
        let mut done = 0;
        self.each_mut(offset, bytes.len() as u64, |buffer, inside, part| {
            done += buffer.write(inside, part.of(bytes));
        });
        done
    }
}

impl<S: AsRef<[CpuBuffer]>> fmt::Debug for ScatterList<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.buffers.as_ref()).finish()
    }
}
