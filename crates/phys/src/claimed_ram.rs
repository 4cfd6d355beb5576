//! Contiguous memory without a reservation.

use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use dmakit_addr::{PAGE_BYTES, PfnRange};
use dmakit_platform::{NoMemory, Platform, Segment, SegmentRequest, TableMemory};

use crate::attached_ram::AttachedRam;
use crate::claim::ClaimLimits;
use crate::frame::Frame;
use crate::memory_map::{MemoryKind, MemoryMap, Region};
use crate::migration::Migrate;
use crate::movable_memory::MovableMemory;
use crate::window::{WindowIn, WindowRequest};

/// Memory for tables from wherever it can be had in one piece, outside of contiguous areas: from a free
/// block, and where there is none, from a range that movable memory has to leave.
///
/// So a large table needs no reservation, as long as somebody can move. The asked node comes first,
/// for both; then any. It may sleep, and is not for page tables.
pub struct ClaimedRam<'m, P: Platform, S, M> {
    platform: P,
    memory: &'m MovableMemory<P, S, M>,
    ram: &'m AttachedRam<'m, P, S>,
    usable: Vec<Region>,
    patience: Duration,
    tries: u32,
}

impl<'m, P, S, M> ClaimedRam<'m, P, S, M>
where
    P: Platform,
    S: AsRef<[Frame]> + AsMut<[Frame]>,
    M: Migrate,
{
    /// Memory of `map`, its bytes through `ram`. A claim goes on for `patience`, and asks frames that
    /// are busy `tries` times more. Allocates.
    pub fn new(
        platform: P,
        memory: &'m MovableMemory<P, S, M>,
        ram: &'m AttachedRam<'m, P, S>,
        map: &MemoryMap,
        (patience, tries): (Duration, u32),
    ) -> Self {
        let usable = map.regions().iter().copied();
        Self {
            platform,
            memory,
            ram,
            usable: usable
                .filter(|region| region.kind == MemoryKind::Usable)
                .collect(),
            patience,
            tries,
        }
    }

    /// A range that movable memory leaves, among regions that `are_near`.
    fn claim(
        &self,
        request: &SegmentRequest,
        are_near: impl Fn(&Region) -> bool,
    ) -> Option<Segment> {
        let regions = self.usable.iter().filter(|region| are_near(region));
        let within: Vec<PfnRange> = regions
            .filter_map(|region| within(region, request))
            .collect();
        let window = WindowRequest {
            within: &within,
            frames: request.len.div_ceil(PAGE_BYTES),
            align_order: (request.align / PAGE_BYTES).max(1).ilog2(),
            excluded: &[],
            memory: WindowIn::OtherMemory,
        };
        let limits = ClaimLimits {
            deadline: self.platform.now().saturating_add(self.patience),
            tries: self.tries,
        };
        let frames = self.memory.claim_window(&window, &limits).ok()?;
        self.ram.attach(frames).map_or_else(
            |frames| {
                let freed = self.memory.allocator().free(frames);
                debug_assert!(freed.is_ok(), "claimed a moment ago");
                None
            },
            Some,
        )
    }
}

/// The frames of a region below a request's limit.
fn within(region: &Region, request: &SegmentRequest) -> Option<PfnRange> {
    let bytes = region.range.bytes()?;
    let last = request.limit.last().min(bytes.last()?.raw());
    let len = last.checked_sub(bytes.start().raw())?.checked_add(1)?;
    let reached = bytes.slice(0, len)?.whole_frames();
    (!reached.is_empty()).then_some(reached)
}

impl<P, S, M> TableMemory for ClaimedRam<'_, P, S, M>
where
    P: Platform,
    S: AsRef<[Frame]> + AsMut<[Frame]>,
    M: Migrate,
{
    fn allocate_table(&self, request: &SegmentRequest) -> Result<Segment, NoMemory> {
        let segment = self.allocate_unwritten(request)?;
        segment.window().fill(0);
        self.platform.clean(segment.range());
        Ok(segment)
    }

    fn allocate_unwritten(&self, request: &SegmentRequest) -> Result<Segment, NoMemory> {
        let none = match self.ram.allocate_unwritten(request) {
            Ok(segment) => return Ok(segment),
            Err(none) if request.len == 0 || !request.align.is_power_of_two() => return Err(none),
            Err(none) => none,
        };
        let near = request
            .node
            .and_then(|node| self.claim(request, |region| region.node == node));
        near.or_else(|| self.claim(request, |_| true)).ok_or(none)
    }

    fn free_table(&self, segment: Segment) {
        self.ram.free_table(segment);
    }
}

impl<P: Platform, S, M> fmt::Debug for ClaimedRam<'_, P, S, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClaimedRam")
            .field("patience", &self.patience)
            .field("tries", &self.tries)
            .finish_non_exhaustive()
    }
}
