//! RAM that is memory of this process.

use std::fs::File;
use std::io;
use std::ptr::NonNull;
use std::sync::Arc;

use dmakit_addr::{PhysAddr, PhysRange};
use memmap2::{MmapOptions, MmapRaw};

use crate::{Ram, RamRange, Segment, Window};

/// RAM of a machine that lives in this process: each range is a mapping of its own, so that one
/// physical address lies far from the next range's and from every CPU pointer.
///
/// It is both ends of the memory bus. As the embedder it hands the ranges out once, as owning
/// segments; as the hardware it reaches any byte, for device models and cache models, through
/// [`hardware_window`](Self::hardware_window).
#[derive(Clone, Debug)]
pub struct HostRam {
    ranges: Arc<[HostRange]>,
}

#[derive(Debug)]
struct HostRange {
    range: PhysRange,
    mapping: Arc<MmapRaw>,
}

impl HostRam {
    /// Zeroed RAM at `ranges`, which the process pays for only where it is touched, and the
    /// segments that own it, in order.
    ///
    /// # Errors
    /// What the system says where it has no such memory, and [`io::ErrorKind::InvalidInput`] where
    /// two ranges overlap or one is empty.
    pub fn new(ranges: &[PhysRange]) -> io::Result<(Self, Vec<Segment>)> {
        let mappings = ranges.iter().map(|range| {
            let len = length(range)?;
            // Nobody promises to fill it: the system need not set memory aside.
            MmapOptions::new()
                .len(len)
                .no_reserve_swap()
                .map_anon()
                .map(MmapRaw::from)
        });
        Self::from_mappings(ranges, mappings)
    }

    /// RAM at `start` that is the file `file`, shared with whoever else maps it, and the segment
    /// that owns it here.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn from_file(file: &File, start: PhysAddr) -> io::Result<(Self, Segment)> {
        let len = file.metadata()?.len();
        let range = PhysRange::new(start, len).map_err(invalid)?;
        let mapping = MmapOptions::new().len(length(&range)?).map_raw(file);
        let (ram, mut segments) = Self::from_mappings(&[range], [mapping])?;
        segments
            .pop()
            .map(|segment| (ram, segment))
            .ok_or_else(|| invalid("no segment"))
    }

    fn from_mappings(
        ranges: &[PhysRange],
        mappings: impl IntoIterator<Item = io::Result<MmapRaw>>,
    ) -> io::Result<(Self, Vec<Segment>)> {
        for (i, range) in ranges.iter().enumerate() {
            if let Some(other) = ranges[..i].iter().find(|other| other.overlaps(range)) {
                return Err(invalid(format!("RAM at {range} overlaps RAM at {other}")));
            }
        }
        let ranges = ranges
            .iter()
            .zip(mappings)
            .map(|(&range, mapping)| {
                Ok(HostRange {
                    range,
                    mapping: Arc::new(mapping?),
                })
            })
            .collect::<io::Result<Arc<[_]>>>()?;
        let segments = ranges
            .iter()
            .map(HostRange::segment)
            .collect::<io::Result<_>>()?;
        Ok((Self { ranges }, segments))
    }

    /// The bytes of `range` as a device or a cache sees them, whoever owns them; `None` where they
    /// do not all lie in one range of RAM.
    ///
    /// This is the machine's side of the bus. Code that stands for software uses the window of a
    /// segment that it owns.
    #[inline]
    pub fn hardware_window(&self, range: PhysRange) -> Option<Window<'_>> {
        let host = self
            .ranges
            .iter()
            .find(|host| host.range.contains_range(&range))?;
        let start = NonNull::new(host.mapping.as_mut_ptr())?;
        // SAFETY: the mapping has the range's length, lives as long as `self`, and holds no Rust
        // object; writes of others are what windows are made for.
        let window = unsafe { Window::from_raw(start, host.range) };
        window.slice(range.start().raw() - host.range.start().raw(), range.len())
    }

    /// The ranges of RAM, in the order they were given.
    pub fn ranges(&self) -> impl Iterator<Item = PhysRange> + '_ {
        self.ranges.iter().map(|host| host.range)
    }
}

impl HostRange {
    /// The owner of the range. Called once for each: by the constructor.
    fn segment(&self) -> io::Result<Segment> {
        let start =
            NonNull::new(self.mapping.as_mut_ptr()).ok_or_else(|| invalid("null mapping"))?;
        // SAFETY: 1. the mapping is readable and writable, and `keep` holds it for as long as any
        // part of the segment lives; 2. and 3. it is fresh, and reached only through windows, and
        // physical ranges were checked for overlap; 4. the physical side is this machine's fiction.
        let mut ram = unsafe {
            Ram::new(
                [RamRange {
                    range: self.range,
                    start,
                }]
                .into_iter(),
            )
        };
        let segment = ram.next().ok_or_else(|| invalid("empty RAM"))?;
        Ok(segment.keep(self.mapping.clone()))
    }
}

fn length(range: &PhysRange) -> io::Result<usize> {
    match usize::try_from(range.len()) {
        Ok(len) if len > 0 => Ok(len),
        _ => Err(invalid(format!("RAM at {range} cannot be mapped"))),
    }
}

fn invalid(why: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why.to_string())
}
