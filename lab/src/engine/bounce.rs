//! Our bounce pool under a replay: the code that ships, on memory of this process.

use std::time::Duration;

use anyhow::Context as _;
use dmakit_addr::{AlignMask, Bidirectional, BoundaryMask, DmaMask, PAGE_BYTES, PhysAddr};
use dmakit_linux_model as model;
use dmakit_platform::host::HostPlatform;
use dmakit_platform::{CopySource, CpuId, Instant, PoolMemory, Segment, SegmentRequest, Window};
use dmakit_swiotlb::{
    BounceBuffer, BounceConfig, BouncePool, DeviceId, DeviceLimits, GrowthConfig, MapError,
    MapRequest, NoGrowth, Statistics,
};
use model::{BounceMemory, Counters, MapFailure, PoolId, Request, Slots};

use super::SLOT_BYTES;
use super::arena::Arena;

/// How often upkeep comes: as late after a request for growth as the incumbent's worker is taken to
/// be. The pool itself has no thread, so it is for its embedder to come.
pub(super) const UPKEEP_EVERY: Duration = Duration::from_micros(200);
/// Pools that are added or given back in one go.
pub(super) const UPKEEP_BUDGET: u32 = 4;

/// A pool, what is mapped in it, and the time.
pub struct Bounce<M> {
    pool: BouncePool<HostPlatform, M>,
    device: DeviceId,
    /// Mappings by the number that their [`Slots`] carry.
    held: Vec<Option<BounceBuffer<Bidirectional>>>,
    idle: Vec<u32>,
    counters: Counters,
    /// When upkeep comes; never for a pool that stays as it is.
    upkeep_at: Option<Instant>,
    /// When the pool next looks whether memory can go back.
    window_end: Option<Instant>,
}

/// A source of any bytes: a replay counts copies and makes none.
struct Uncopied(u64);

impl CopySource for Uncopied {
    fn len_bytes(&self) -> u64 {
        self.0
    }

    fn copy_to(&self, _offset: u64, _window: Window<'_>) {}
}

impl Bounce<NoGrowth> {
    /// A pool that stays as it is.
    ///
    /// # Errors
    /// Where there is no memory for it, or its shape is refused.
    pub fn fixed(slots: u64, areas: u64) -> anyhow::Result<Self> {
        let arena = Arena::new(slots * SLOT_BYTES).context("memory for the bounce pool")?;
        let segment = first_segment(&arena, slots)?;
        let pool = BouncePool::new(HostPlatform::new(CPUS_MAX), segment, &config(areas))?;
        Self::of(pool, None)
    }
}

impl Bounce<Arena> {
    /// A pool that begins with `slots`.
    ///
    /// # Errors
    /// As [`Bounce::fixed`].
    pub fn growing(slots: u64, areas: u64, growth: GrowthConfig) -> anyhow::Result<Self> {
        let first = slots * SLOT_BYTES;
        // What is freed may lie in pieces: twice as much always has room for one more.
        let arena =
            Arena::new((first + growth.bytes_max) * 2).context("memory for bounce pools")?;
        Self::growing_on(arena, slots, areas, growth)
    }
}

/// The recording's CPUs are numbered as they are; none has as many.
pub(super) const CPUS_MAX: usize = 4096;

fn first_segment(memory: &impl PoolMemory, slots: u64) -> anyhow::Result<Segment> {
    let request = SegmentRequest {
        len: slots * SLOT_BYTES,
        align: PAGE_BYTES,
        node: None,
        limit: DmaMask::ALL,
    };
    Ok(memory.allocate_pool(&request)?)
}

fn config(areas: u64) -> BounceConfig {
    BounceConfig {
        slot_bytes: SLOT_BYTES as u32,
        areas: areas as u32,
        devices: 1,
        credit_batch: 0,
        ..BounceConfig::default()
    }
}

impl<M: PoolMemory> Bounce<M> {
    /// A pool that begins with `slots` and takes all its memory from `memory`.
    ///
    /// # Errors
    /// As [`Bounce::fixed`].
    pub fn growing_on(
        memory: M,
        slots: u64,
        areas: u64,
        growth: GrowthConfig,
    ) -> anyhow::Result<Self> {
        let segment = first_segment(&memory, slots)?;
        let platform = HostPlatform::new(CPUS_MAX);
        let pool = BouncePool::growing(platform, segment, &config(areas), growth, memory)?;
        Self::of(pool, Some(Instant::default()))
    }

    fn of(pool: BouncePool<HostPlatform, M>, upkeep_at: Option<Instant>) -> anyhow::Result<Self> {
        let device = pool.attach(None)?;
        let mut bounce = Self {
            pool,
            device,
            held: Vec::new(),
            idle: Vec::new(),
            counters: Counters::default(),
            upkeep_at,
            window_end: None,
        };
        bounce.note_pools();
        Ok(bounce)
    }

    /// All counters of the pool itself.
    pub fn statistics(&self) -> Statistics {
        self.pool.statistics()
    }

    fn note_pools(&mut self) {
        let statistics = self.pool.statistics();
        self.counters.pool_slots = (statistics.pool_bytes / SLOT_BYTES) as u32;
        self.counters.pool_slots_peak = (statistics.pool_bytes_high / SLOT_BYTES) as u32;
        self.counters.grown_pools = statistics.grown as u32;
        self.counters.transient_pools = statistics.transient_mapped;
        self.counters.probed = statistics.probes;
    }
}

impl<M: PoolMemory> BounceMemory for Bounce<M> {
    fn advance(&mut self, now_ns: u64) {
        let now = Instant::from_nanos(now_ns);
        while let Some(at) = self.upkeep_at.filter(|at| *at <= now) {
            // Idle time passes at once but for the ends of windows, where memory goes back.
            let at = match self.window_end {
                Some(end) if end > at => end.min(now),
                _ => at,
            };
            let done = self.pool.maintain(at, UPKEEP_BUDGET);
            let is_done = !done.has_more && done.draining == 0 && done.shrunk_bytes == 0;
            self.window_end = done.next.filter(|_| is_done);
            self.note_pools();
            self.upkeep_at = Some(at.saturating_add(UPKEEP_EVERY));
        }
    }

    fn map(
        &mut self,
        _now_ns: u64,
        device: &model::DeviceLimits,
        request: &Request,
    ) -> Result<Slots, MapFailure> {
        HostPlatform::bind_thread(CpuId::new(request.cpu));
        let limits = DeviceLimits {
            mask: DmaMask::up_to(device.dma_mask),
            boundary: BoundaryMask::new(device.segment_boundary).unwrap_or(BoundaryMask::NONE),
            min_align: AlignMask::new(device.min_align_mask).unwrap_or(AlignMask::NONE),
            ..DeviceLimits::default()
        };
        let asked = MapRequest {
            align: AlignMask::new(request.alloc_align_mask).unwrap_or(AlignMask::NONE),
            ..MapRequest::whole(PhysAddr::new(request.original), request.bytes)
        };
        let source = Uncopied(request.bytes);
        match self.pool.map(self.device, &limits, &source, &asked) {
            Ok(buffer) => Ok(self.handed_out(device, request, buffer)),
            Err(error) => Err(failure(&error, &self.counters)),
        }
    }

    fn unmap(&mut self, slots: &Slots) {
        let buffer = self
            .held
            .get_mut(slots.first as usize)
            .and_then(Option::take);
        if let Some(buffer) = buffer {
            let ended = self.pool.unmap_unsynced(buffer);
            debug_assert!(ended.is_ok(), "the buffer is this pool's own");
            self.idle.push(slots.first);
            self.counters.used -= slots.count;
        }
    }

    fn reset_high_water(&mut self) {
        self.counters.high_water = 0;
    }

    fn counters(&self) -> &Counters {
        &self.counters
    }
}

impl<M: PoolMemory> Bounce<M> {
    /// Numbers the mapping. Its slots follow from the pool's layout rule: the original's low bits
    /// under the device's mask are kept within the first slot.
    fn handed_out(
        &mut self,
        device: &model::DeviceLimits,
        request: &Request,
        buffer: BounceBuffer<Bidirectional>,
    ) -> Slots {
        let offset = request.original & device.min_align_mask & (SLOT_BYTES - 1);
        let count = (request.bytes + offset).div_ceil(SLOT_BYTES) as u32;
        self.counters.used += count;
        self.counters.high_water = self.counters.high_water.max(self.counters.used);
        let slots = Slots {
            pool: PoolId(0),
            first: self.idle.pop().unwrap_or(self.held.len() as u32),
            count,
            offset_bytes: buffer.start().raw(),
            is_transient: buffer.is_transient(),
        };
        match self.held.get_mut(slots.first as usize) {
            Some(place) => *place = Some(buffer),
            None => self.held.push(Some(buffer)),
        }
        slots
    }
}

fn failure(error: &MapError, counters: &Counters) -> MapFailure {
    match *error {
        MapError::TooLarge { len } => MapFailure::TooLong { bytes: len },
        MapError::Full(full) => MapFailure::Full {
            wanted: full.slots,
            total: full.total as u32,
            used: full.used as u32,
        },
        _ => MapFailure::Full {
            wanted: 0,
            total: counters.pool_slots,
            used: counters.used,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(cpu: u32, original: u64, bytes: u64) -> Request {
        Request {
            cpu,
            original,
            bytes,
            alloc_align_mask: 0,
        }
    }

    #[test]
    fn slots_counted_outside_are_those_that_the_pool_counts() {
        let mut bounce = Bounce::fixed(1024, 2).unwrap();
        let nvme = model::DeviceLimits {
            min_align_mask: 4095,
            ..model::DeviceLimits::default()
        };
        let mut held = Vec::new();
        for (index, bytes) in [1, 512, 2048, 2049, 4096, 8191, 65536]
            .into_iter()
            .enumerate()
        {
            for original in [0x1000, 0x1200, 0x1e00, 0x1fff] {
                let request = request(index as u32, original, bytes);
                held.push(bounce.map(0, &nvme, &request).unwrap());
                let counted = u64::from(bounce.counters().used);
                assert_eq!(counted, bounce.statistics().used, "{original:#x} {bytes}");
            }
        }
        for slots in held {
            bounce.unmap(&slots);
        }
        assert_eq!((bounce.counters().used, bounce.statistics().used), (0, 0));
    }

    #[test]
    fn a_pool_that_grew_gives_back_after_the_burst() {
        let growth = GrowthConfig {
            step: 256 << 10,
            granule: 256 << 10,
            reserve: 256 << 10,
            bytes_max: 16 << 20,
            shrink_after: Duration::from_secs(1),
            ..GrowthConfig::default()
        };
        let mut bounce = Bounce::growing(128, 1, growth).unwrap();
        let begun = bounce.counters().pool_slots;
        let limits = model::DeviceLimits::default();
        let mut held = Vec::new();
        for step in 0..100 {
            let now_ns = step * 1_000_000;
            bounce.advance(now_ns);
            held.push(
                bounce
                    .map(now_ns, &limits, &request(0, 0x1000, 65536))
                    .unwrap(),
            );
        }
        let grown = bounce.counters().pool_slots;
        assert!(grown >= 3200, "{grown} slots");
        for slots in held {
            bounce.unmap(&slots);
        }
        bounce.advance(4_000_000_000);
        assert_eq!(bounce.counters().pool_slots, begun);
    }
}
