//! The bridge from Rust memory to physical addresses.

#[cfg(feature = "alloc")]
use alloc::{boxed::Box, vec::Vec};
use core::fmt;
use core::ptr::NonNull;

use dmakit_addr::{PhysAddr, PhysRange, RangeError};

use crate::{Segment, Window};

/// Memory that the CPU owns and may lend to a device: a list of physical runs and the bytes behind
/// them.
///
/// It is owned or `'static`, never borrowed and never on a stack: forgetting the mapping that holds
/// it leaks the buffer and cannot free memory under a device. While a device may use the buffer,
/// the mapping owns it, so the CPU has no way to its bytes.
pub struct CpuBuffer {
    storage: Storage,
    len: u64,
}

enum Storage {
    Segment(Segment),
    #[cfg(feature = "alloc")]
    Segments(Vec<Segment>),
    /// Memory of the program, held by pointer so that no reference stands while a device writes.
    Program {
        bytes: NonNull<[u8]>,
        runs: ProgramRuns,
    },
}

/// What lies behind memory of the program, which also tells where it came from.
enum ProgramRuns {
    /// Static bytes, contiguous.
    Static(PhysRange),
    #[cfg(feature = "alloc")]
    Boxed(Vec<PhysRange>),
}

// SAFETY: the pointers stand for memory that the buffer owns alone.
unsafe impl Send for CpuBuffer {}
// SAFETY: shared access only reads the bytes, and writing takes `&mut`.
unsafe impl Sync for CpuBuffer {}

/// Bytes that a copy can come from.
pub trait CopySource {
    /// How many bytes there are.
    fn len_bytes(&self) -> u64;

    /// Fills `window` from the bytes at `offset`, as far as they reach.
    fn copy_to(&self, offset: u64, window: Window<'_>);
}

/// Bytes that a copy can go to.
pub trait CopyTarget: CopySource {
    /// Overwrites the bytes at `offset` from `window`, as far as they reach.
    fn copy_from(&mut self, offset: u64, window: Window<'_>);
}

impl CopySource for [u8] {
    fn len_bytes(&self) -> u64 {
        self.len() as u64
    }

    #[inline]
    fn copy_to(&self, offset: u64, window: Window<'_>) {
        if let Some(bytes) = usize::try_from(offset)
            .ok()
            .and_then(|offset| self.get(offset..))
        {
            window.write(bytes);
        }
    }
}

impl CopyTarget for [u8] {
    #[inline]
    fn copy_from(&mut self, offset: u64, window: Window<'_>) {
        if let Some(bytes) = usize::try_from(offset)
            .ok()
            .and_then(|offset| self.get_mut(offset..))
        {
            window.read(bytes);
        }
    }
}

impl CpuBuffer {
    /// The first `len` bytes of a segment.
    ///
    /// # Errors
    /// The segment as it was, where it is shorter.
    pub fn from_segment(segment: Segment, len: u64) -> Result<Self, Segment> {
        if len > segment.len() {
            return Err(segment);
        }
        Ok(Self {
            storage: Storage::Segment(segment),
            len,
        })
    }

    /// The first `len` bytes of `segments`, one after the other.
    ///
    /// # Errors
    /// The segments as they were, where they are shorter.
    #[cfg(feature = "alloc")]
    pub fn from_segments(segments: Vec<Segment>, len: u64) -> Result<Self, Vec<Segment>> {
        let whole = segments
            .iter()
            .try_fold(0_u64, |sum, segment| sum.checked_add(segment.len()));
        if whole.is_none_or(|whole| len > whole) {
            return Err(segments);
        }
        Ok(Self {
            storage: Storage::Segments(segments),
            len,
        })
    }

    /// Static memory, physically contiguous from `start`.
    ///
    /// # Errors
    /// [`RangeError`] where the run would pass the end of the address space.
    ///
    /// # Safety
    /// The physical memory behind all of `bytes` is the run at `start`.
    pub unsafe fn from_static(
        bytes: &'static mut [u8],
        start: PhysAddr,
    ) -> Result<Self, RangeError> {
        let len = bytes.len() as u64;
        let run = PhysRange::new(start, len)?;
        Ok(Self {
            storage: Storage::Program {
                bytes: NonNull::from(bytes),
                runs: ProgramRuns::Static(run),
            },
            len,
        })
    }

    /// Boxed bytes and the physical runs behind them, in order; `Err` gives the bytes back where
    /// the runs' lengths do not add up to theirs.
    ///
    /// # Errors
    /// The bytes as they were.
    ///
    /// # Safety
    /// The physical memory behind `bytes` is exactly `runs`, in order, and stays so.
    #[cfg(feature = "alloc")]
    pub unsafe fn from_boxed(bytes: Box<[u8]>, runs: Vec<PhysRange>) -> Result<Self, Box<[u8]>> {
        let len = bytes.len() as u64;
        let sum = runs
            .iter()
            .try_fold(0_u64, |sum, run| sum.checked_add(run.len()));
        if sum != Some(len) {
            return Err(bytes);
        }
        let bytes = NonNull::from(Box::leak(bytes));
        Ok(Self {
            storage: Storage::Program {
                bytes,
                runs: ProgramRuns::Boxed(runs),
            },
            len,
        })
    }

    /// Its length in bytes.
    #[inline]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The physical runs behind it, in order; together exactly as long as the buffer.
    #[inline]
    pub fn runs(&self) -> Runs<'_> {
        let parts = match &self.storage {
            Storage::Segment(segment) => Parts::One(Some(segment.range())),
            Storage::Program {
                runs: ProgramRuns::Static(run),
                ..
            } => Parts::One(Some(*run)),
            #[cfg(feature = "alloc")]
            Storage::Segments(segments) => Parts::Segments(segments.iter()),
            #[cfg(feature = "alloc")]
            Storage::Program {
                runs: ProgramRuns::Boxed(runs),
                ..
            } => Parts::Runs(runs.iter()),
        };
        Runs {
            parts,
            left: self.len,
        }
    }

    /// Copies the bytes at `offset` out, as far as both reach; says how many.
    pub fn read(&self, offset: u64, bytes: &mut [u8]) -> usize {
        let mut done = 0;
        self.each_part(offset, bytes.len() as u64, |part| {
            let to = &mut bytes[done..];
            done += match part {
                Part::Ram(window) => {
                    window.read(to);
                    window.len()
                }
                Part::Program(from) => {
                    to[..from.len()].copy_from_slice(from);
                    from.len()
                }
            };
        });
        done
    }

    /// Overwrites the bytes at `offset`, as far as both reach; says how many.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> usize {
        let mut done = 0;
        self.each_part_mut(offset, bytes.len() as u64, |part| {
            let from = &bytes[done..];
            done += match part {
                PartMut::Ram(window) => {
                    window.write(from);
                    window.len()
                }
                PartMut::Program(to) => {
                    to.copy_from_slice(&from[..to.len()]);
                    to.len()
                }
            };
        });
        done
    }

    /// The segment back, where the buffer was made of one.
    ///
    /// # Errors
    /// The buffer as it was.
    pub fn into_segment(self) -> Result<Segment, Self> {
        match self.storage {
            Storage::Segment(segment) => Ok(segment),
            storage => Err(Self {
                storage,
                len: self.len,
            }),
        }
    }

    /// The segments back, where the buffer was made of segments.
    ///
    /// # Errors
    /// The buffer as it was.
    #[cfg(feature = "alloc")]
    pub fn into_segments(self) -> Result<Vec<Segment>, Self> {
        match self.storage {
            Storage::Segment(segment) => Ok(Vec::from([segment])),
            Storage::Segments(segments) => Ok(segments),
            storage => Err(Self {
                storage,
                len: self.len,
            }),
        }
    }

    /// The bytes back, where the buffer was made of boxed bytes.
    ///
    /// # Errors
    /// The buffer as it was.
    #[cfg(feature = "alloc")]
    pub fn into_boxed(self) -> Result<Box<[u8]>, Self> {
        match self.storage {
            Storage::Program {
                bytes,
                runs: ProgramRuns::Boxed(_),
            } => {
                // SAFETY: `from_boxed` leaked this very box, and `self`, its only owner, is consumed.
                Ok(unsafe { Box::from_raw(bytes.as_ptr()) })
            }
            storage => Err(Self {
                storage,
                len: self.len,
            }),
        }
    }

    /// The static bytes back, where the buffer was made of some.
    ///
    /// # Errors
    /// The buffer as it was.
    pub fn into_static(self) -> Result<&'static mut [u8], Self> {
        match self.storage {
            Storage::Program {
                mut bytes,
                runs: ProgramRuns::Static(_),
            } => {
                // SAFETY: `from_static` took the only reference, for ever, and `self`, which holds
                // it, is consumed.
                Ok(unsafe { bytes.as_mut() })
            }
            storage => Err(Self {
                storage,
                len: self.len,
            }),
        }
    }

    fn each_part(&self, offset: u64, len: u64, mut visit: impl FnMut(Part<'_>)) {
        let Some(len) = self.len.checked_sub(offset).map(|left| left.min(len)) else {
            return;
        };
        match &self.storage {
            Storage::Segment(segment) => {
                if let Some(window) = segment.window().slice(offset, len) {
                    visit(Part::Ram(window));
                }
            }
            #[cfg(feature = "alloc")]
            Storage::Segments(segments) => {
                each_window(segments, offset, len, |w| visit(Part::Ram(w)));
            }
            Storage::Program { bytes, .. } => {
                // SAFETY: the buffer owns the bytes alone, and `&self` excludes writers.
                let bytes = unsafe { bytes.as_ref() };
                visit(Part::Program(&bytes[offset as usize..][..len as usize]));
            }
        }
    }

    fn each_part_mut(&mut self, offset: u64, len: u64, mut visit: impl FnMut(PartMut<'_>)) {
        let Some(len) = self.len.checked_sub(offset).map(|left| left.min(len)) else {
            return;
        };
        match &mut self.storage {
            Storage::Segment(segment) => {
                if let Some(window) = segment.window().slice(offset, len) {
                    visit(PartMut::Ram(window));
                }
            }
            #[cfg(feature = "alloc")]
            Storage::Segments(segments) => {
                each_window(segments, offset, len, |w| visit(PartMut::Ram(w)));
            }
            Storage::Program { bytes, .. } => {
                // SAFETY: the buffer owns the bytes alone, and `&mut self` excludes everybody else.
                let bytes = unsafe { bytes.as_mut() };
                visit(PartMut::Program(
                    &mut bytes[offset as usize..][..len as usize],
                ));
            }
        }
    }
}

enum Part<'a> {
    Ram(Window<'a>),
    Program(&'a [u8]),
}

enum PartMut<'a> {
    Ram(Window<'a>),
    Program(&'a mut [u8]),
}

#[cfg(feature = "alloc")]
fn each_window(segments: &[Segment], offset: u64, len: u64, mut visit: impl FnMut(Window<'_>)) {
    let mut skip = offset;
    let mut left = len;
    for segment in segments {
        if left == 0 {
            return;
        }
        if skip >= segment.len() {
            skip -= segment.len();
            continue;
        }
        let take = (segment.len() - skip).min(left);
        if let Some(window) = segment.window().slice(skip, take) {
            visit(window);
        }
        skip = 0;
        left -= take;
    }
}

impl CopySource for CpuBuffer {
    fn len_bytes(&self) -> u64 {
        self.len
    }

    #[inline]
    fn copy_to(&self, offset: u64, window: Window<'_>) {
        let mut done = 0;
        self.each_part(offset, window.range().len(), |part| {
            let Some(to) = window.slice(done, window.range().len() - done) else {
                return;
            };
            done += match part {
                Part::Ram(from) => {
                    to.copy_from(from);
                    from.range().len()
                }
                Part::Program(from) => {
                    to.write(from);
                    from.len() as u64
                }
            };
        });
    }
}

impl CopyTarget for CpuBuffer {
    #[inline]
    fn copy_from(&mut self, offset: u64, window: Window<'_>) {
        let mut done = 0;
        self.each_part_mut(offset, window.range().len(), |part| {
            let Some(from) = window.slice(done, window.range().len() - done) else {
                return;
            };
            done += match part {
                PartMut::Ram(to) => {
                    to.copy_from(from);
                    to.range().len()
                }
                PartMut::Program(to) => {
                    from.read(to);
                    to.len() as u64
                }
            };
        });
    }
}

impl fmt::Debug for CpuBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.runs()).finish()
    }
}

/// The physical runs of a [`CpuBuffer`].
#[derive(Clone)]
pub struct Runs<'a> {
    parts: Parts<'a>,
    left: u64,
}

#[derive(Clone)]
enum Parts<'a> {
    One(Option<PhysRange>),
    #[cfg(feature = "alloc")]
    Segments(core::slice::Iter<'a, Segment>),
    #[cfg(feature = "alloc")]
    Runs(core::slice::Iter<'a, PhysRange>),
    #[cfg(not(feature = "alloc"))]
    #[allow(dead_code)]
    Never(core::marker::PhantomData<&'a ()>),
}

impl Iterator for Runs<'_> {
    type Item = PhysRange;

    #[inline]
    fn next(&mut self) -> Option<PhysRange> {
        let run = match &mut self.parts {
            Parts::One(run) => run.take(),
            #[cfg(feature = "alloc")]
            Parts::Segments(segments) => segments.next().map(Segment::range),
            #[cfg(feature = "alloc")]
            Parts::Runs(runs) => runs.next().copied(),
            #[cfg(not(feature = "alloc"))]
            Parts::Never(_) => None,
        }?;
        if self.left == 0 {
            return None;
        }
        let run = run.slice(0, run.len().min(self.left))?;
        self.left -= run.len();
        Some(run)
    }
}
