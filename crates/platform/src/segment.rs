//! Owned runs of physical memory.

use core::fmt;
use core::ptr::NonNull;

use dmakit_addr::{Address, PhysRange};

use crate::Window;

/// The owner of a contiguous run of RAM.
///
/// Holding one proves that nobody else holds any of its bytes. It cannot be cloned; it can be split
/// and merged. Dropping one leaks its run: to free memory, give the segment back to where it came
/// from.
pub struct Segment {
    start: NonNull<u8>,
    range: PhysRange,
    #[cfg(feature = "host")]
    mapping: Option<std::sync::Arc<memmap2::MmapRaw>>,
}

// SAFETY: a segment is the only way to its bytes, and through its windows they are only reached by
// copies and atomics, which need no thread of their own.
unsafe impl Send for Segment {}
// SAFETY: as above; see `Window` for two threads that copy at once.
unsafe impl Sync for Segment {}

/// Two segments that do not lie next to each other, given back as they were.
#[derive(Debug)]
pub struct MergeError {
    /// The one that was to be the lower.
    pub low: Segment,
    /// The one that was to be the upper.
    pub high: Segment,
}

impl fmt::Display for MergeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} does not end where {} starts",
            self.low.range, self.high.range
        )
    }
}

impl core::error::Error for MergeError {}

impl Segment {
    /// The segment of `range`, seen by the CPU at `start`.
    ///
    /// # Safety
    /// The conditions of [`Ram::new`](crate::Ram::new) hold for the range, and no other segment
    /// shares a byte with it.
    pub(crate) unsafe fn from_raw(start: NonNull<u8>, range: PhysRange) -> Self {
        Self {
            start,
            range,
            #[cfg(feature = "host")]
            mapping: None,
        }
    }

    /// The same segment, which keeps a host mapping alive.
    #[cfg(feature = "host")]
    pub(crate) fn keep(mut self, mapping: std::sync::Arc<memmap2::MmapRaw>) -> Self {
        self.mapping = Some(mapping);
        self
    }

    /// The physical run.
    #[inline]
    pub fn range(&self) -> PhysRange {
        self.range
    }

    /// Its length in bytes.
    #[inline]
    pub fn len(&self) -> u64 {
        self.range.len()
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// Its bytes.
    #[inline]
    pub fn window(&self) -> Window<'_> {
        // SAFETY: `from_raw`'s conditions hold for the range, which the window borrows.
        unsafe { Window::from_raw(self.start, self.range) }
    }

    /// Its first `at` bytes and the rest.
    ///
    /// # Errors
    /// The segment as it was, where it is shorter than `at`.
    pub fn split_at(self, at: u64) -> Result<(Self, Self), Self> {
        let Some((low, high)) = self.range.split_at(at) else {
            return Err(self);
        };
        // `Ram` promised that the whole length is mapped, so it fits a usize.
        // SAFETY: `at` is within the mapped run; at most one past it.
        let middle = unsafe { self.start.add(at as usize) };
        let upper = Self {
            start: middle,
            range: high,
            #[cfg(feature = "host")]
            mapping: self.mapping.clone(),
        };
        Ok((Self { range: low, ..self }, upper))
    }

    /// One segment of two that lie next to each other, for the CPU too.
    ///
    /// # Errors
    /// [`MergeError`] with both, where they do not.
    pub fn merge(low: Self, high: Self) -> Result<Self, MergeError> {
        let adjacent = low.range.end() == high.range.start()
            && low.start.as_ptr() as usize + low.len() as usize == high.start.as_ptr() as usize
            && low.same_mapping(&high);
        match PhysRange::between(low.range.start(), high.range.end()) {
            Some(range) if adjacent => Ok(Self { range, ..low }),
            _ => Err(MergeError { low, high }),
        }
    }

    #[cfg(feature = "host")]
    fn same_mapping(&self, other: &Self) -> bool {
        match (&self.mapping, &other.mapping) {
            (Some(a), Some(b)) => std::sync::Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        }
    }

    #[cfg(not(feature = "host"))]
    fn same_mapping(&self, _other: &Self) -> bool {
        true
    }

    /// The `len` bytes from `offset` as a segment of their own; `None` where they do not lie inside.
    ///
    /// # Safety
    /// Nobody else holds any of these bytes, and nobody gets them while the new segment lives:
    /// neither this segment's owner nor another part of it.
    pub(crate) unsafe fn part(&self, offset: u64, len: u64) -> Option<Self> {
        let range = self.range.slice(offset, len)?;
        // SAFETY: `slice` checked that the offset lies within the mapped run.
        let start = unsafe { self.start.add(offset as usize) };
        Some(Self {
            start,
            range,
            #[cfg(feature = "host")]
            mapping: self.mapping.clone(),
        })
    }

    /// Whether `part` is the memory of this segment from `offset` on, seen from the CPU too.
    pub(crate) fn is_same_memory(&self, part: &Self, offset: u64) -> bool {
        let expected = (self.start.as_ptr() as usize).wrapping_add(offset as usize);
        part.start.as_ptr() as usize == expected && self.same_mapping(part)
    }

    /// Whether its first byte is aligned to `align` bytes, a power of two.
    pub fn is_aligned(&self, align: u64) -> bool {
        self.range.start().is_aligned(align)
    }
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Segment{}", self.range)
    }
}
