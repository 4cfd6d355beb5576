//! All pools of one machine with the kernel's counters.

use std::collections::BTreeMap;
use std::fmt;

use crate::engine::Engine;
use crate::swiotlb::pool::Pool;
use crate::swiotlb::rules::{DeviceLimits, Need, Request};
use crate::swiotlb::{HALVING_STOPS_AT_SLOTS, MAPPING_BYTES_MAX, SEGMENT_SLOTS, SLOT_BYTES};

/// The largest block of the page allocator in slots: 4 MiB with 4 KiB pages.
const BLOCK_PAGES_MAX: u64 = 1024;

/// When a requested pool becomes usable.
///
/// The kernel's worker runs when its CPU next schedules; no tracepoint shows the moment, so it
/// is an assumption here and results that depend on it are marked so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Growth {
    /// From the request to the worker's start. A request in that time is merged.
    pub start_ns: u64,
    /// From the worker's start to the pool's publication. A request in that time queues another
    /// run, so the pool grows twice.
    pub run_ns: u64,
}

impl Default for Growth {
    fn default() -> Self {
        Self { start_ns: 100_000, run_ns: 200_000 }
    }
}

/// What the boot pool looks like, after all rounding.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SwiotlbConfig {
    /// The rules.
    pub engine: Engine,
    /// Slots of the boot pool: a multiple of 128 per area.
    pub slots: u32,
    /// Areas of the boot pool: a power of two.
    pub areas: u32,
    /// The kernel's page size in bytes.
    pub page_bytes: u64,
    /// DMA address of the boot pool. Only bits at and above the page size are free, so it
    /// matters for masks above a page and for segment boundaries alone.
    pub start: u64,
    /// Growth of [`Engine::Linux6_12Dynamic`].
    pub growth: Growth,
}

/// Which pool: 0 is the boot pool, others count up in order of creation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PoolId(pub u32);

/// Slots that were handed out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slots {
    /// The pool.
    pub pool: PoolId,
    /// The first slot taken, padding included.
    pub first: u32,
    /// How many were taken, padding included.
    pub count: u32,
    /// From the pool's start to the mapping's first byte.
    pub offset_bytes: u64,
    /// Whether the pool exists for this mapping alone.
    pub is_transient: bool,
}

/// Why a mapping was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapFailure {
    /// Longer than a segment: no pool of any size serves it.
    TooLong {
        /// Bytes wanted, alignment included.
        bytes: u64,
    },
    /// No area has a free run that fits.
    Full {
        /// Slots wanted.
        wanted: u32,
        /// Slots of all pools.
        total: u32,
        /// Slots taken at that moment.
        used: u32,
    },
    /// A pool made for this mapping begins at a page, the device wants another slot of the page.
    TransientMisaligned {
        /// Slots wanted.
        wanted: u32,
    },
}

impl fmt::Display for MapFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TooLong { bytes } => {
                write!(f, "{bytes} bytes are more than {MAPPING_BYTES_MAX}, the longest mapping")
            }
            Self::Full { wanted, total, used } => {
                write!(f, "no free run of {wanted} slots: {used} of {total} used")
            }
            Self::TransientMisaligned { wanted } => {
                write!(f, "a transient pool of {wanted} slots begins at the wrong slot of its page")
            }
        }
    }
}

impl std::error::Error for MapFailure {}

/// What the kernel counts, and what it does not.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Slots taken now.
    pub used: u32,
    /// Highest `used` seen by a mapping since the last reset.
    pub high_water: u32,
    /// Slots of all pools that stay, without transient ones.
    pub pool_slots: u32,
    /// Slots of transient pools now.
    pub transient_slots: u32,
    /// Highest sum of the two above.
    pub pool_slots_peak: u32,
    /// Slots looked at by all searches.
    pub probed: u64,
    /// Pools added after the boot pool.
    pub grown_pools: u32,
    /// Transient pools made.
    pub transient_pools: u64,
}

#[derive(Clone, Copy, Debug)]
enum Worker {
    Idle,
    /// Starts at the time given.
    Queued(u64),
    /// Publishes at the time given; another run is wanted after that or not.
    Running(u64, bool),
}

/// The software IO TLB of one machine.
#[derive(Clone, Debug)]
pub struct Swiotlb {
    config: SwiotlbConfig,
    /// In order of creation; searched from the back, as new ones go to the list's head.
    pools: Vec<(PoolId, Pool)>,
    transient: BTreeMap<PoolId, u32>,
    worker: Worker,
    next_pool: u32,
    counters: Counters,
}

impl Swiotlb {
    /// An empty boot pool.
    pub fn new(config: SwiotlbConfig) -> Self {
        let pool = Pool::new(config.start, config.slots, config.areas);
        Self {
            config,
            pools: vec![(PoolId(0), pool)],
            transient: BTreeMap::new(),
            worker: Worker::Idle,
            next_pool: 1,
            counters: Counters {
                pool_slots: config.slots,
                pool_slots_peak: config.slots,
                ..Counters::default()
            },
        }
    }

    /// Maps at time `now_ns` (used by growth only).
    ///
    /// # Errors
    /// As [`MapFailure`] says; nothing has changed but the probe count and a growth request.
    pub fn map(
        &mut self,
        now_ns: u64,
        device: &DeviceLimits,
        request: &Request,
    ) -> Result<Slots, MapFailure> {
        self.run_worker(now_ns);
        let need = Need::new(self.config.engine, self.config.page_bytes, device, request);
        if need.slots > SEGMENT_SLOTS {
            // 6.1 searches in vain where 6.12 refuses at once; the answer is the same.
            return Err(MapFailure::TooLong { bytes: u64::from(need.slots) * SLOT_BYTES });
        }
        if let Some((pool, first)) = self.search(request, &need) {
            return Ok(self.handed_out(pool, first, &need, false));
        }
        if !self.config.engine.grows() {
            return Err(MapFailure::Full {
                wanted: need.slots,
                total: self.counters.pool_slots,
                used: self.counters.used,
            });
        }
        self.request_growth(now_ns);
        // Exactly as many slots as wanted, from whole pages: only its slot 0 can have the run.
        if !need.accepts(0, request.original) {
            return Err(MapFailure::TransientMisaligned { wanted: need.slots });
        }
        let pool = self.new_pool_id();
        self.transient.insert(pool, need.slots);
        self.counters.transient_pools += 1;
        self.counters.transient_slots += need.slots;
        self.note_pool_peak();
        Ok(self.handed_out(pool, 0, &need, true))
    }

    /// Unmaps what [`Swiotlb::map`] returned, once.
    pub fn unmap(&mut self, slots: &Slots) {
        self.counters.used -= slots.count;
        if slots.is_transient {
            if let Some(count) = self.transient.remove(&slots.pool) {
                self.counters.transient_slots -= count;
            }
        } else if let Some((_, pool)) = self.pools.iter_mut().find(|(id, _)| *id == slots.pool) {
            pool.give_back(slots.first, slots.count);
        }
    }

    /// What writing 0 to `io_tlb_used_hiwater` does: the counter moves again only at the next
    /// mapping, so until then it can be below `used`.
    pub fn reset_high_water(&mut self) {
        self.counters.high_water = 0;
    }

    /// The counters now.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The configuration it was made with.
    pub fn config(&self) -> &SwiotlbConfig {
        &self.config
    }

    /// The area of this CPU first, then the others in turn; within one round all pools, newest
    /// first.
    fn search(&mut self, request: &Request, need: &Need) -> Option<(PoolId, u32)> {
        let Self { pools, counters, config, .. } = self;
        for round in 0..config.areas {
            for (id, pool) in pools.iter_mut().rev() {
                if round >= pool.areas() {
                    continue;
                }
                let area = request.cpu.wrapping_add(round) & (pool.areas() - 1);
                if let Some(first) = pool.take(area, need, request.original, &mut counters.probed) {
                    return Some((*id, first));
                }
            }
        }
        None
    }

    fn handed_out(&mut self, pool: PoolId, first: u32, need: &Need, is_transient: bool) -> Slots {
        self.counters.used += need.slots;
        self.counters.high_water = self.counters.high_water.max(self.counters.used);
        let offset_bytes = u64::from(first + need.pad_slots) * SLOT_BYTES + need.offset_bytes;
        Slots { pool, first, count: need.slots, offset_bytes, is_transient }
    }

    fn request_growth(&mut self, now_ns: u64) {
        self.worker = match self.worker {
            Worker::Idle => Worker::Queued(now_ns.saturating_add(self.config.growth.start_ns)),
            Worker::Queued(at) => Worker::Queued(at),
            Worker::Running(done, _) => Worker::Running(done, true),
        };
    }

    fn run_worker(&mut self, now_ns: u64) {
        loop {
            self.worker = match self.worker {
                Worker::Queued(at) if at <= now_ns => {
                    Worker::Running(at.saturating_add(self.config.growth.run_ns), false)
                }
                Worker::Running(done, again) if done <= now_ns => {
                    self.add_pool();
                    if again {
                        Worker::Queued(done.saturating_add(self.config.growth.start_ns))
                    } else {
                        Worker::Idle
                    }
                }
                _ => return,
            };
        }
    }

    /// The boot pool's size, at most the largest block of the page allocator.
    fn add_pool(&mut self) {
        let block_slots = BLOCK_PAGES_MAX * self.config.page_bytes / SLOT_BYTES;
        let slots = u64::from(self.config.slots).min(block_slots) as u32;
        let areas = areas_for(self.config.areas, slots);
        let id = self.new_pool_id();
        // Pages of the buddy allocator are aligned to their own size; no mask asks for more.
        self.pools.push((id, Pool::new(0, slots, areas)));
        self.counters.pool_slots += slots;
        self.counters.grown_pools += 1;
        self.note_pool_peak();
    }

    fn note_pool_peak(&mut self) {
        let now = self.counters.pool_slots + self.counters.transient_slots;
        self.counters.pool_slots_peak = self.counters.pool_slots_peak.max(now);
    }

    fn new_pool_id(&mut self) -> PoolId {
        let id = PoolId(self.next_pool);
        self.next_pool += 1;
        id
    }
}

/// As many areas as wanted, but none below one segment.
pub(crate) fn areas_for(areas: u32, slots: u32) -> u32 {
    if slots < areas.saturating_mul(SEGMENT_SLOTS) { (slots / SEGMENT_SLOTS).max(1) } else { areas }
}

/// The next smaller size that the kernel tries when memory is short.
pub(crate) fn halved(slots: u32) -> Option<u32> {
    (slots > HALVING_STOPS_AT_SLOTS).then(|| (slots / 2).next_multiple_of(SEGMENT_SLOTS))
}
