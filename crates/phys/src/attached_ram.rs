//! The bytes behind the frames.

use alloc::vec::Vec;
use core::fmt;

use dmakit_addr::{Address, PAGE_BYTES, PfnRange};
use dmakit_platform::{
    IrqMutex, NoMemory, Platform, PoolMemory, Segment, SegmentRequest, TableMemory,
};

use crate::error::NoFrames;
use crate::frame::Frame;
use crate::page_allocator::{FrameRequest, Frames, MAX_ORDER, PageAllocator};

/// A segment that is not of these frames, given back; nothing has changed.
#[derive(Debug)]
pub struct DetachError {
    /// The segment as it was.
    pub segment: Segment,
}

impl fmt::Display for DetachError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not one whole allocation", self.segment)
    }
}

impl core::error::Error for DetachError {}

/// Pieces of RAM that no segment outside holds, by address.
struct Pieces {
    /// Ascending. What lies between two pieces of one range is out, so there are at most as many
    /// as there were ranges and are segments out: the capacity it was made with.
    held: Vec<Segment>,
    out: usize,
    out_max: usize,
}

/// RAM attached to a page allocator: its frames as segments.
///
/// It holds every segment of the allocator's memory that is not out. How many may be out at once is
/// fixed beforehand, and room for their pieces with it, so nothing is allocated later. Finding a piece is a binary search; cutting one out moves the list's tail.
pub struct AttachedRam<'a, P: Platform, S> {
    platform: P,
    allocator: &'a PageAllocator<P, S>,
    pieces: IrqMutex<P, Pieces>,
}

impl<'a, P: Platform, S: AsRef<[Frame]> + AsMut<[Frame]>> AttachedRam<'a, P, S> {
    /// Attaches `ram` to the frames of `allocator`; up to `segments` segments may be out at once, and
    /// one more is refused as [`NoMemory`] without a largest run.
    /// Frames whose RAM is not attached are still allocated, but are no segments. Allocates.
    pub fn new(
        platform: P,
        allocator: &'a PageAllocator<P, S>,
        ram: impl IntoIterator<Item = Segment>,
        segments: usize,
    ) -> Self {
        let mut held: Vec<Segment> = ram.into_iter().collect();
        held.sort_by_key(|segment| segment.range().start());
        held.reserve_exact(segments);
        Self {
            platform,
            allocator,
            pieces: IrqMutex::<P, _>::new(Pieces {
                held,
                out: 0,
                out_max: segments,
            }),
        }
    }

    /// The same where `count` segments were out before there was an allocator, each an allocation
    /// of its own by now: they come back like the others, and do not count against those that may
    /// be out. Allocates.
    #[must_use]
    pub fn with_out(mut self, count: usize) -> Self {
        let pieces = self.pieces.get_mut();
        pieces.out += count;
        pieces.out_max += count;
        // A range that is out as a whole has no piece yet.
        pieces.held.reserve_exact(pieces.out_max + count);
        self
    }

    /// The bytes of `frames`, which the segment owns from now on.
    ///
    /// # Errors
    /// The frames, where no attached RAM holds them, or too many segments are out.
    pub fn attach(&self, frames: Frames) -> Result<Segment, Frames> {
        let cut = self.pieces.lock().cut(frames.range());
        cut.ok_or(frames)
    }

    /// The frames of a segment that [`attach`](Self::attach) gave, which own it from now on.
    ///
    /// # Errors
    /// [`DetachError`] with the segment, where it is not one whole allocation.
    pub fn detach(&self, segment: Segment) -> Result<Frames, DetachError> {
        let range = segment.range();
        let whole = range.start().is_aligned(PAGE_BYTES) && range.len() % PAGE_BYTES == 0;
        let token = whole
            .then(|| self.allocator.token(range.frames()))
            .flatten();
        let Some(frames) = token else {
            return Err(DetachError { segment });
        };
        self.pieces.lock().put_back(segment);
        Ok(frames)
    }

    fn segment(&self, request: &SegmentRequest) -> Result<Segment, NoMemory> {
        let refused = |largest_free| NoMemory {
            request: *request,
            largest_free,
        };
        if !request.align.is_power_of_two() || request.len == 0 {
            return Err(refused(None));
        }
        let wanted = FrameRequest {
            frames: request.len.div_ceil(PAGE_BYTES),
            align_order: (request.align / PAGE_BYTES).max(1).ilog2(),
            node: request.node,
            only_node: false,
            limit: request.limit,
            mover: None,
        };
        let frames = self
            .allocator
            .allocate(&wanted)
            .map_err(|error| refused(largest_bytes(&error)))?;
        self.attach(frames).map_err(|frames| {
            // The allocator gave them a moment ago and takes them back.
            let freed = self.allocator.free(frames);
            debug_assert!(freed.is_ok());
            refused(None)
        })
    }

    /// Frees a segment. One that is not from here, or was claimed from an area, stays with nobody,
    /// which leaks it: the trait has no way to return it.
    fn take_back(&self, segment: Segment) {
        let freed = self
            .detach(segment)
            .map(|frames| self.allocator.free(frames));
        debug_assert!(matches!(freed, Ok(Ok(()))), "not from here: {freed:?}");
    }
}

fn largest_bytes(error: &NoFrames) -> Option<u64> {
    let order = error.largest_order.filter(|order| *order <= MAX_ORDER)?;
    Some(PAGE_BYTES << order)
}

impl Pieces {
    fn cut(&mut self, frames: PfnRange) -> Option<Segment> {
        let wanted = frames.bytes()?;
        let after = self
            .held
            .partition_point(|held| held.range().start() <= wanted.start());
        let index = after.checked_sub(1)?;
        let has = self.held[index].range();
        if !has.contains_range(&wanted) || self.out == self.out_max {
            return None;
        }
        let below = wanted.start().offset_from(has.start())?;
        // The offsets were checked against the piece, so no split is refused.
        let piece = self.held.remove(index);
        let (low, rest) = piece.split_at(below).ok()?;
        let (middle, high) = rest.split_at(wanted.len()).ok()?;
        if !high.is_empty() {
            self.held.insert(index, high);
        }
        if !low.is_empty() {
            self.held.insert(index, low);
        }
        self.out += 1;
        Some(middle)
    }

    fn put_back(&mut self, segment: Segment) {
        let start = segment.range().start();
        let index = self
            .held
            .partition_point(|held| held.range().start() < start);
        let mut whole = segment;
        self.out = self.out.saturating_sub(1);
        if index < self.held.len() {
            let high = self.held.remove(index);
            match Segment::merge(whole, high) {
                Ok(merged) => whole = merged,
                Err(apart) => {
                    whole = apart.low;
                    self.held.insert(index, apart.high);
                }
            }
        }
        if let Some(below) = index.checked_sub(1) {
            let low = self.held.remove(below);
            match Segment::merge(low, whole) {
                Ok(merged) => self.held.insert(below, merged),
                Err(apart) => {
                    self.held.insert(below, apart.high);
                    self.held.insert(below, apart.low);
                }
            }
        } else {
            self.held.insert(index, whole);
        }
    }
}

/// Unmovable frames, at most 1 GiB aligned to at most 1 GiB; lengths are rounded up to frames.
/// Takes two interrupt-safe locks one after the other, never sleeps.
impl<P: Platform, S: AsRef<[Frame]> + AsMut<[Frame]>> TableMemory for AttachedRam<'_, P, S> {
    fn allocate_table(&self, request: &SegmentRequest) -> Result<Segment, NoMemory> {
        let segment = self.segment(request)?;
        segment.window().fill(0);
        self.platform.clean(segment.range());
        Ok(segment)
    }

    fn allocate_unwritten(&self, request: &SegmentRequest) -> Result<Segment, NoMemory> {
        self.segment(request)
    }

    fn free_table(&self, segment: Segment) {
        self.take_back(segment);
    }
}

/// As for tables, with undefined contents.
impl<P: Platform, S: AsRef<[Frame]> + AsMut<[Frame]>> PoolMemory for AttachedRam<'_, P, S> {
    fn allocate_pool(&self, request: &SegmentRequest) -> Result<Segment, NoMemory> {
        self.segment(request)
    }

    fn free_pool(&self, segment: Segment) {
        self.take_back(segment);
    }
}

impl<P: Platform, S> fmt::Debug for AttachedRam<'_, P, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pieces = self.pieces.lock();
        f.debug_struct("AttachedRam")
            .field("pieces", &pieces.held.len())
            .field("out", &pieces.out)
            .finish_non_exhaustive()
    }
}
