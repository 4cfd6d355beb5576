//! Bounce pools on an area that serves movable memory while it is idle.

use alloc::vec::Vec;
use core::fmt;

use dmakit_addr::{DmaMask, PAGE_BYTES};
use dmakit_phys::{AttachedRam, ClaimLimits, Frame, Frames, Migrate};
use dmakit_platform::{IrqMutex, NoMemory, Platform, PoolMemory, Segment, SegmentRequest};

use crate::areas::{AreaClaim, AreaId, Areas};

/// How much an [`AreaPool`] keeps ready.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AreaPoolConfig {
    /// Bytes of a piece and its alignment: a power of two, at least a page. Pools grow by pieces:
    /// it is their growth step.
    pub piece_bytes: u64,
    /// Fewer bytes than this are too few: pieces are claimed.
    pub low_bytes: u64,
    /// So far, and no further: what comes back above it is lent again.
    pub high_bytes: u64,
    /// The highest byte of a piece.
    pub limit: DmaMask,
}

/// What a call of [`AreaPool::maintain`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PoolUpkeep {
    /// Bytes taken back from those they were lent to.
    pub claimed_bytes: u64,
    /// Bytes lent again.
    pub released_bytes: u64,
    /// Whether pieces are still missing: the budget was spent, or a claim failed.
    pub is_short: bool,
}

/// Memory by which bounce pools grow, from an area whose idle part serves movable memory.
///
/// Pools ask where somebody waits for them, with locks held. So a request never waits for memory to
/// move: it is served by a piece that is kept ready, or by a window that is idle anyway. What is
/// kept ready is made up between two watermarks by [`maintain`](Self::maintain), ahead of need and
/// with no lock held.
pub struct AreaPool<'m, P: Platform, S, M> {
    areas: &'m Areas<'m, P, S, M>,
    ram: &'m AttachedRam<'m, P, S>,
    area: AreaId,
    config: AreaPoolConfig,
    /// With room for all that it may hold.
    ready: IrqMutex<P, Vec<Segment>>,
}

impl<'m, P, S, M> AreaPool<'m, P, S, M>
where
    P: Platform,
    S: AsRef<[Frame]> + AsMut<[Frame]>,
    M: Migrate,
{
    /// Pool memory from one area, nothing of it ready. `None` where a piece is no power of two of at
    /// least a page, or the low watermark lies above the high one. Allocates a list of pieces.
    pub fn new(
        areas: &'m Areas<'m, P, S, M>,
        ram: &'m AttachedRam<'m, P, S>,
        area: AreaId,
        config: AreaPoolConfig,
    ) -> Option<Self> {
        let piece = config.piece_bytes;
        let sound =
            piece.is_power_of_two() && piece >= PAGE_BYTES && config.low_bytes <= config.high_bytes;
        let pieces = usize::try_from(config.high_bytes.checked_div(piece)?).ok()?;
        sound.then(|| Self {
            areas,
            ram,
            area,
            config,
            ready: IrqMutex::<P, _>::new(Vec::with_capacity(pieces)),
        })
    }

    /// Bytes that are ready.
    pub fn ready_bytes(&self) -> u64 {
        self.ready.lock().len() as u64 * self.config.piece_bytes
    }

    /// Whether there is something to do for [`maintain`](Self::maintain).
    pub fn wants_maintenance(&self) -> bool {
        self.ready_bytes() < self.config.low_bytes
    }

    /// Below the low watermark, claims pieces until the high one is reached, `budget` of them at
    /// most, and has what is in their way moved within `limits`. May sleep; no lock is held.
    pub fn maintain(&self, limits: &ClaimLimits, budget: u32) -> PoolUpkeep {
        let piece = self.config.piece_bytes;
        let mut done = PoolUpkeep::default();
        if !self.wants_maintenance() {
            return done;
        }
        for _ in 0..budget {
            if self.ready_bytes() + piece > self.config.high_bytes {
                return done;
            }
            let claim = self.claim(piece, piece, self.config.limit);
            let claimed = self.areas.claim(self.area, &claim, limits).ok();
            let Some(segment) = claimed.and_then(|frames| self.attach(frames)) else {
                break;
            };
            match self.put(segment) {
                Ok(()) => done.claimed_bytes += piece,
                // Others came back meanwhile.
                Err(segment) => self.release(segment),
            }
        }
        done.is_short = self.wants_maintenance();
        done
    }

    /// Lends everything that is ready again: how many bytes. May sleep.
    pub fn release_ready(&self) -> u64 {
        let mut bytes = 0;
        loop {
            let segment = self.ready.lock().pop();
            let Some(segment) = segment else {
                return bytes;
            };
            bytes += segment.len();
            self.release(segment);
        }
    }

    fn claim(&self, len: u64, align: u64, limit: DmaMask) -> AreaClaim {
        AreaClaim {
            frames: len.div_ceil(PAGE_BYTES),
            align_order: (align / PAGE_BYTES).max(1).ilog2(),
            limit,
        }
    }

    fn attach(&self, frames: Frames) -> Option<Segment> {
        match self.ram.attach(frames) {
            Ok(segment) => Some(segment),
            Err(frames) => {
                let released = self.areas.release(frames);
                debug_assert!(released.is_ok(), "claimed a moment ago");
                None
            }
        }
    }

    /// Keeps a piece ready, if there is room for it.
    fn put(&self, segment: Segment) -> Result<(), Segment> {
        let mut ready = self.ready.lock();
        let bytes = (ready.len() as u64 + 1) * self.config.piece_bytes;
        if bytes > self.config.high_bytes || segment.len() != self.config.piece_bytes {
            return Err(segment);
        }
        ready.push(segment);
        Ok(())
    }

    /// A piece that is ready and serves a request.
    fn take(&self, request: &SegmentRequest) -> Option<Segment> {
        let piece = self.config.piece_bytes;
        if request.len.checked_next_multiple_of(PAGE_BYTES)? != piece || request.align > piece {
            return None;
        }
        let mut ready = self.ready.lock();
        let serves = |segment: &Segment| request.limit.reaches(&segment.range());
        let at = ready.iter().rposition(serves)?;
        Some(ready.swap_remove(at))
    }

    /// Sends a segment home. One that is no whole claim of an area leaks.
    fn release(&self, segment: Segment) {
        let frames = self.ram.detach(segment).ok();
        let released = frames.map(|frames| self.areas.release(frames));
        debug_assert!(matches!(released, Some(Ok(()))), "a segment from elsewhere");
    }
}

impl<P, S, M> PoolMemory for AreaPool<'_, P, S, M>
where
    P: Platform,
    S: AsRef<[Frame]> + AsMut<[Frame]>,
    M: Migrate,
{
    /// Never waits. The node is the area's.
    fn allocate_pool(&self, request: &SegmentRequest) -> Result<Segment, NoMemory> {
        let refused = NoMemory {
            request: *request,
            largest_free: None,
        };
        if request.len == 0 || !request.align.is_power_of_two() {
            return Err(refused);
        }
        if let Some(segment) = self.take(request) {
            return Ok(segment);
        }
        let claim = self.claim(request.len, request.align, request.limit);
        let claimed = self.areas.claim_free(self.area, &claim).ok();
        claimed
            .and_then(|frames| self.attach(frames))
            .ok_or(refused)
    }

    /// What has the size of a piece is kept ready below the low watermark, so that a pool that comes
    /// and goes moves nothing; the rest is lent again.
    fn free_pool(&self, segment: Segment) {
        let is_low = self.wants_maintenance();
        let kept = match is_low && segment.is_aligned(self.config.piece_bytes) {
            true => self.put(segment),
            false => Err(segment),
        };
        if let Err(segment) = kept {
            self.release(segment);
        }
    }
}

impl<P: Platform, S, M> fmt::Debug for AreaPool<'_, P, S, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AreaPool")
            .field("config", &self.config)
            .field("ready", &self.ready.lock().len())
            .finish_non_exhaustive()
    }
}
