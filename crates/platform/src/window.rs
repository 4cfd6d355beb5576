//! Bytes of RAM, seen through a borrow of their owner.

use core::fmt;
use core::marker::PhantomData;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64};

use dmakit_addr::PhysRange;

/// The bytes of a run of RAM, borrowed from the token that owns it.
///
/// Devices, and other CPUs with a window of the same token, may write these bytes at any moment,
/// so no reference to them is ever made: bytes are copied and filled, and words that hardware also
/// reads are atomics. A value read from here is copied out once and then checked, never read twice.
///
/// A copy that races with a device's write, or with another CPU's, yields some mixture of old and
/// new bytes and nothing worse: the memory holds no Rust object (the promise of
/// [`Ram::new`](crate::Ram::new)) and is reached through raw pointers only, as memory shared with
/// hardware is. Whoever owns a part keeps others out of it by owning it.
#[derive(Clone, Copy)]
pub struct Window<'a> {
    start: NonNull<u8>,
    range: PhysRange,
    owner: PhantomData<&'a ()>,
}

// SAFETY: see the type's documentation: copies and atomics only, through raw pointers.
unsafe impl Send for Window<'_> {}
// SAFETY: as above.
unsafe impl Sync for Window<'_> {}

impl<'a> Window<'a> {
    /// The window of `range`, seen by the CPU at `start`.
    ///
    /// # Safety
    /// `start` is valid for reads and writes of the range's length during `'a`, the bytes hold no
    /// Rust object, and they are the memory of `range`.
    pub(crate) unsafe fn from_raw(start: NonNull<u8>, range: PhysRange) -> Self {
        Self {
            start,
            range,
            owner: PhantomData,
        }
    }

    /// The physical run behind the window.
    #[inline]
    pub fn range(&self) -> PhysRange {
        self.range
    }

    /// Its length in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        // What is mapped fits the CPU's address space.
        self.range.len() as usize
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// The `len` bytes from `offset`, or `None` where they do not lie inside.
    #[inline]
    pub fn slice(&self, offset: u64, len: u64) -> Option<Self> {
        let range = self.range.slice(offset, len)?;
        // SAFETY: `slice` checked that the offset lies within the mapped run; at most one past it.
        let start = unsafe { self.start.add(offset as usize) };
        Some(Self {
            start,
            range,
            owner: PhantomData,
        })
    }

    /// Copies as many bytes as both have into `bytes`.
    #[inline]
    pub fn read(&self, bytes: &mut [u8]) {
        let len = bytes.len().min(self.len());
        // SAFETY: both are valid for `len` bytes; `bytes` is Rust memory and cannot overlap RAM
        // that holds no Rust object.
        unsafe { core::ptr::copy_nonoverlapping(self.start.as_ptr(), bytes.as_mut_ptr(), len) }
    }

    /// Copies as many bytes as both have from `bytes`.
    #[inline]
    pub fn write(&self, bytes: &[u8]) {
        let len = bytes.len().min(self.len());
        // SAFETY: as in `read`.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), self.start.as_ptr(), len) }
    }

    /// Copies as many bytes as both have from `other`, which may overlap.
    #[inline]
    pub fn copy_from(&self, other: Window<'_>) {
        let len = other.len().min(self.len());
        // SAFETY: both are valid for `len` bytes.
        unsafe { core::ptr::copy(other.start.as_ptr(), self.start.as_ptr(), len) }
    }

    /// Sets every byte.
    #[inline]
    pub fn fill(&self, byte: u8) {
        // SAFETY: the window is valid for its length.
        unsafe { core::ptr::write_bytes(self.start.as_ptr(), byte, self.len()) }
    }

    /// Sets its 64-bit words, in order, to `first`, `first + step`, and so on: as
    /// [`fill`](Self::fill) without atomics. Bytes past the last whole word stay as they are.
    #[inline]
    pub fn fill_words64(&self, first: u64, step: u64) {
        let words = self.start.as_ptr().cast::<u64>();
        let mut value = first;
        for index in 0..self.len() / 8 {
            // SAFETY: the word lies inside the window, which is valid for its length; no alignment
            // is asked for.
            unsafe { words.add(index).write_unaligned(value) }
            value = value.wrapping_add(step);
        }
    }

    /// The window as 64-bit words, or `None` where its ends are not aligned to 8 bytes.
    #[inline]
    pub fn words64(&self) -> Option<&'a [AtomicU64]> {
        let aligned = self.start.as_ptr() as usize % 8 == 0 && self.len() % 8 == 0;
        // SAFETY: aligned, valid for the length during `'a`, no Rust object there; any bytes are a
        // valid AtomicU64, and atomics allow the writes of others.
        aligned.then(|| unsafe {
            core::slice::from_raw_parts(self.start.as_ptr().cast(), self.len() / 8)
        })
    }

    /// The window as 32-bit words, or `None` where its ends are not aligned to 4 bytes.
    #[inline]
    pub fn words32(&self) -> Option<&'a [AtomicU32]> {
        let aligned = self.start.as_ptr() as usize % 4 == 0 && self.len() % 4 == 0;
        // SAFETY: as in `words64`.
        aligned.then(|| unsafe {
            core::slice::from_raw_parts(self.start.as_ptr().cast(), self.len() / 4)
        })
    }

    /// The window as 16-bit words, or `None` where its ends are not aligned to 2 bytes.
    #[inline]
    pub fn words16(&self) -> Option<&'a [AtomicU16]> {
        let aligned = self.start.as_ptr() as usize % 2 == 0 && self.len() % 2 == 0;
        // SAFETY: as in `words64`.
        aligned.then(|| unsafe {
            core::slice::from_raw_parts(self.start.as_ptr().cast(), self.len() / 2)
        })
    }

    /// The first byte, for interfaces that want a pointer. Whoever uses it promises that the segment
    /// behind the window outlives the use, and that devices may change the bytes at any time.
    #[inline]
    pub fn as_ptr(&self) -> NonNull<u8> {
        self.start
    }

    /// The window as bytes that others may write too.
    #[inline]
    pub fn bytes(&self) -> &'a [AtomicU8] {
        // SAFETY: as in `words64`.
        unsafe { core::slice::from_raw_parts(self.start.as_ptr().cast(), self.len()) }
    }
}

impl fmt::Debug for Window<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Window{}", self.range)
    }
}
