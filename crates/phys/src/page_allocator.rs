//! The page allocator, shared between CPUs.

use core::fmt;

use dmakit_addr::{Address, DmaMask, NodeId, Pfn, PfnRange};
use dmakit_platform::{IrqMutex, Platform};

use crate::buddy::{Buddy, frame_range, table_entries};
use crate::error::{FreeError, NoFrames, TableError};
use crate::frame::{Frame, MigrateType, MoverId};
use crate::memory_map::MemoryMap;
use crate::sections::Sections;

/// log2 of the frames of the largest block: 1 GiB.
pub const MAX_ORDER: u32 = 18;

/// log2 of the frames of a page block, the unit of migrate types: 2 MiB.
pub const PAGEBLOCK_ORDER: u32 = 9;

/// What frames are wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameRequest {
    /// How many, contiguous; more than zero.
    pub frames: u64,
    /// log2 of the alignment of the first, in frames. What is allocated is always aligned to the
    /// power of two that holds it.
    pub align_order: u32,
    /// Where they should lie.
    pub node: Option<NodeId>,
    /// Whether no other node will do.
    pub only_node: bool,
    /// The highest byte that they may reach.
    pub limit: DmaMask,
    /// Whom to ask to move them: then they are movable memory. `None` for memory that stays.
    pub mover: Option<MoverId>,
}

impl FrameRequest {
    /// A request that none is like.
    pub(crate) const NONE: Self = Self {
        frames: 0,
        align_order: 0,
        node: None,
        only_node: false,
        limit: DmaMask::ALL,
        mover: None,
    };

    /// `frames` unmovable frames, anywhere.
    pub fn unmovable(frames: u64) -> Self {
        Self {
            frames,
            ..Self::NONE
        }
    }

    /// `frames` frames of a mover, anywhere.
    pub fn movable(frames: u64, mover: MoverId) -> Self {
        Self {
            mover: Some(mover),
            ..Self::unmovable(frames)
        }
    }

    /// The type of the page blocks that serve it first.
    pub(crate) fn migrate_type(&self) -> MigrateType {
        match self.mover {
            Some(_) => MigrateType::Movable,
            None => MigrateType::Unmovable,
        }
    }

    /// The order of the aligned block that serves it; above [`MAX_ORDER`] none does.
    pub(crate) fn order(&self) -> u32 {
        let holds = self.frames.checked_next_power_of_two();
        let holds = holds.map_or(u64::BITS, u64::ilog2);
        holds.max(self.align_order)
    }
}

/// The owner of contiguous frames of a [`PageAllocator`].
///
/// It cannot be cloned. Dropping it leaks the frames, which stay counted as taken; to free them,
/// give it back.
#[derive(PartialEq, Eq)]
#[must_use = "dropping the owner of frames leaks them"]
pub struct Frames {
    range: PfnRange,
    number: u32,
}

impl Frames {
    pub(crate) fn new(start: u64, len: u64, number: u32) -> Self {
        let range = frame_range(start, start + len);
        Self { range, number }
    }

    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    /// Which frames.
    #[inline]
    pub fn range(&self) -> PfnRange {
        self.range
    }
}

impl fmt::Debug for Frames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frames{}", self.range)
    }
}

/// Blocks of physical frames, of up to 1 GiB.
///
/// One interrupt-safe lock stands around it: every call but [`new`](Self::new) may be made in hard
/// interrupts, and none sleeps or allocates.
pub struct PageAllocator<P: Platform, S> {
    zones: u16,
    buddy: IrqMutex<P, Buddy<S>>,
}

impl<P: Platform, S: AsRef<[Frame]> + AsMut<[Frame]>> PageAllocator<P, S> {
    /// How many entries the frame table of a map needs: one for each frame of usable and contiguous
    /// regions, and of the holes that share a page block (or, where memory spans very much, a larger
    /// section) with them, and one for each page block.
    pub fn table_entries(map: &MemoryMap) -> u64 {
        table_entries(&Sections::new(map))
    }

    /// An allocator of all usable memory of `map`, with its frame table in `table`: a `Vec`, or a
    /// slice of memory that the caller has early. All page blocks begin movable.
    ///
    /// `limits` are the highest bytes of the zones of each node, ascending; above the last lies one
    /// more zone. A request whose own limit is one of them, or above all memory, costs the same
    /// wherever it ends up; one whose limit cuts a zone walks free lists.
    ///
    /// Allocates small tables. Takes a step for each frame.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn new(map: &MemoryMap, limits: &[DmaMask], table: S) -> Result<Self, TableError> {
        let buddy = Buddy::new(map, limits, table)?;
        Ok(Self {
            zones: buddy.zones(),
            buddy: IrqMutex::<P, _>::new(buddy),
        })
    }

    /// Allocates contiguous frames; their contents are undefined.
    ///
    /// The asked node comes first, then the others by distance. On a node the highest zone under
    /// the limit comes first. In a zone, movable requests are served from movable ranges, then
    /// from movable, contiguous and unmovable blocks; unmovable ones from unmovable blocks, then
    /// from movable ones.
    ///
    /// # Errors
    /// [`NoFrames`], only where no aligned block that holds the request is wholly free in one such
    /// zone and type, and for no frames; nothing has changed then.
    pub fn allocate(&self, request: &FrameRequest) -> Result<Frames, NoFrames> {
        let of = request.migrate_type();
        let (start, number) = self.buddy.lock().allocate(request, of)?;
        Ok(Frames::new(start, request.frames, number))
    }

    /// Allocates for what moves: nobody may pin or move the frames yet.
    pub(crate) fn allocate_target(
        &self,
        request: &FrameRequest,
        of: MigrateType,
    ) -> Result<Frames, NoFrames> {
        let (start, number) = {
            let mut buddy = self.buddy.lock();
            let (start, number) = buddy.allocate(request, of)?;
            buddy.begin_arrival(start);
            (start, number)
        };
        Ok(Frames::new(start, request.frames, number))
    }

    /// Frees what was allocated here. Steps: at most the number of orders squared, and one for each
    /// page block. Frames whose mover is being asked at this moment are free once that is over.
    ///
    /// # Errors
    /// [`FreeError`] with the frames, where this allocator did not give them, they are pinned, or
    /// somebody keeps [books](Self::book) of them; nothing has changed then.
    pub fn free(&self, frames: Frames) -> Result<(), FreeError> {
        let Frames { range, number } = &frames;
        let freed = self
            .buddy
            .lock()
            .free(range.start().raw(), range.len(), *number);
        freed.map_err(|reason| FreeError { frames, reason })
    }

    /// Notes that somebody keeps books of frames that stay, as contiguous areas do of their claims:
    /// from now on only [`free_booked`](Self::free_booked) frees them.
    pub fn book(&self, frames: &Frames) {
        let start = frames.range.start().raw();
        self.buddy.lock().book(start, frames.number);
    }

    /// Frees frames for whoever keeps books of them, if anybody does; as [`free`](Self::free).
    ///
    /// # Errors
    /// As for [`free`](Self::free).
    pub fn free_booked(&self, frames: Frames) -> Result<(), FreeError> {
        let Frames { range, number } = &frames;
        let start = range.start().raw();
        let freed = {
            let mut buddy = self.buddy.lock();
            let booked = buddy.unbook(start, *number);
            let freed = buddy.free(start, range.len(), *number);
            if freed.is_err() && booked {
                buddy.book(start, *number);
            }
            freed
        };
        freed.map_err(|reason| FreeError { frames, reason })
    }

    /// The allocation that a frame lies in, if there is one: found from the frame alone, in at most
    /// one look for each order.
    pub fn owner(&self, frame: Pfn) -> Option<PfnRange> {
        let (start, len) = self.buddy.lock().owner(frame.raw())?;
        Some(frame_range(start, start + len))
    }

    /// Makes the page blocks of `blocks` of one type; free frames in them serve requests of that
    /// type from now on, taken ones once they are freed. A page block that is wholly free is never
    /// unmovable: it becomes movable. `false`, and nothing has changed, unless
    /// both ends are aligned to page blocks and all frames are the allocator's. Takes a step for
    /// each frame, under the lock: not for interrupts.
    pub fn set_migrate_type(&self, blocks: PfnRange, migrate_type: MigrateType) -> bool {
        let step = 1 << PAGEBLOCK_ORDER;
        if !blocks.start().is_aligned(step) || blocks.len() % step != 0 {
            return false;
        }
        let (start, end) = (blocks.start().raw(), blocks.end().raw());
        let mut buddy = self.buddy.lock();
        if !(start..end).all(|frame| buddy.manages(frame)) {
            return false;
        }
        for block in (start..end).step_by(step as usize) {
            buddy.set_block_type(block, migrate_type);
        }
        true
    }

    /// The type of the page block that a frame lies in.
    pub fn migrate_type(&self, frame: Pfn) -> Option<MigrateType> {
        let buddy = self.buddy.lock();
        let managed = buddy.manages(frame.raw());
        buddy.block_type(frame.raw()).filter(|_| managed)
    }

    /// Free frames of all nodes.
    pub fn free_frames(&self) -> u64 {
        self.buddy.lock().free_total()
    }

    /// Free frames of one node.
    pub fn free_on(&self, node: NodeId) -> u64 {
        self.buddy.lock().free_on(node.index())
    }

    /// Free blocks of one order and type. Walks the lists: for reports, not for interrupts.
    pub fn free_blocks(&self, order: u32, migrate_type: MigrateType) -> u64 {
        if order > MAX_ORDER {
            return 0;
        }
        self.buddy.lock().free_blocks(order, migrate_type)
    }

    /// The first page block of which something else is kept than its frames say, for tests and for
    /// kernels that suspect somebody: `None` where what searches rely on agrees with every frame.
    /// Takes a step for each frame, under the lock.
    pub fn first_miscounted(&self) -> Option<Pfn> {
        self.buddy.lock().first_miscounted().map(Pfn::new)
    }

    /// How many zones there are, of all nodes.
    pub(crate) fn zones(&self) -> u16 {
        self.zones
    }

    /// One step under the lock.
    pub(crate) fn locked<T>(&self, step: impl FnOnce(&mut Buddy<S>) -> T) -> T {
        step(&mut self.buddy.lock())
    }

    /// The token of an allocation that starts at `range` and is as long.
    pub(crate) fn token(&self, range: PfnRange) -> Option<Frames> {
        let (len, number) = self.buddy.lock().taken_at(range.start().raw())?;
        (len == range.len()).then_some(Frames { range, number })
    }
}

impl<P: Platform, S: AsRef<[Frame]> + AsMut<[Frame]>> fmt::Debug for PageAllocator<P, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageAllocator")
            .field("free_frames", &self.free_frames())
            .finish_non_exhaustive()
    }
}
