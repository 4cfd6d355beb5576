//! All pools of one machine with the kernel's counters.

use std::collections::BTreeMap;
use std::fmt;

use crate::engine::Engine;
use crate::swiotlb::pool::Pool;
use crate::swiotlb::rules::{DeviceLimits, Need, Request};
use crate::swiotlb::{HALVING_STOPS_AT_SLOTS, MAPPING_BYTES_MAX, SEGMENT_SLOTS, SLOT_BYTES};

/// The largest block of the page allocator in slots: 4 MiB with 4 KiB pages.
const BLOCK_PAGES_MAX: u64 = 1024;

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
    /// How long the worker of [`Engine::Linux6_12Dynamic`] takes to make a pool.
    pub growth_run_ns: u64,
}

impl SwiotlbConfig {
    /// A guess: allocating and clearing a few MiB.
    pub const GROWTH_RUN_NS: u64 = 200_000;

    /// Slots of a pool that is added: as the boot pool's, at most the largest block of the page
    /// allocator.
    pub fn grown_slots(&self) -> u32 {
        let block_slots = BLOCK_PAGES_MAX * self.page_bytes / SLOT_BYTES;
        u64::from(self.slots).min(block_slots) as u32
    }
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
                write!(
                    f,
                    "{bytes} bytes are more than {MAPPING_BYTES_MAX}, the longest mapping"
                )
            }
            Self::Full {
                wanted,
                total,
                used,
            } => {
                write!(f, "no free run of {wanted} slots: {used} of {total} used")
            }
            Self::TransientMisaligned { wanted } => {
                write!(
                    f,
                    "a transient pool of {wanted} slots begins at the wrong slot of its page"
                )
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
    growth_wanted_by: Option<u32>,
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
            growth_wanted_by: None,
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
            return Err(MapFailure::TooLong {
                bytes: u64::from(need.slots) * SLOT_BYTES,
            });
        }
        let mut probed = 0;
        let found = self.search(request, &need, &mut probed);
        self.counters.probed += probed;
        if let Some((index, first)) = found {
            let (id, pool) = &mut self.pools[index];
            let id = *id;
            pool.take(first, need.slots);
            return Ok(self.handed_out(id, first, &need, false));
        }
        if !self.config.engine.grows() {
            return Err(MapFailure::Full {
                wanted: need.slots,
                total: self.counters.pool_slots,
                used: self.counters.used,
            });
        }
        self.growth_wanted_by = Some(request.cpu);
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

    /// The CPU on which the last miss asked for another pool; asking again clears it.
    ///
    /// The kernel's worker is bound to that CPU and runs when the CPU next schedules, which only
    /// the caller can know: it says so with [`Swiotlb::start_growth_at`].
    pub fn take_growth_request(&mut self) -> Option<u32> {
        self.growth_wanted_by.take()
    }

    /// Lets the worker start at that time, unless it is waiting to start already. Asked while it
    /// runs, it runs once more.
    pub fn start_growth_at(&mut self, at_ns: u64) {
        self.worker = match self.worker {
            Worker::Idle => Worker::Queued(at_ns),
            Worker::Queued(at) => Worker::Queued(at),
            Worker::Running(done, _) => Worker::Running(done, true),
        };
    }

    /// Where a mapping would begin now; `None` if it would be refused or get a pool of its own.
    /// Changes nothing, so a pool that is about to be added does not count.
    pub fn peek(&self, device: &DeviceLimits, request: &Request) -> Option<(PoolId, u64)> {
        let need = Need::new(self.config.engine, self.config.page_bytes, device, request);
        if need.slots > SEGMENT_SLOTS {
            return None;
        }
        let (index, first) = self.search(request, &need, &mut 0)?;
        Some((self.pools[index].0, offset_of(first, &need)))
    }

    /// Undoes [`Swiotlb::unmap`], if the slots are still free; cursors stay where they are.
    pub fn retake(&mut self, slots: &Slots) -> bool {
        let pool = self.pools.iter_mut().find(|(id, _)| *id == slots.pool);
        match pool {
            Some((_, pool)) if pool.is_free(slots.first, slots.count) => {
                pool.retake(slots.first, slots.count);
                self.counters.used += slots.count;
                true
            }
            _ => false,
        }
    }

    /// Where each area of the boot pool begins its first search, as after earlier use.
    pub fn set_cursors(&mut self, cursors: &[u32]) {
        let (_, pool) = &mut self.pools[0];
        for (area, cursor) in (0..pool.areas()).zip(cursors) {
            pool.set_cursor(area, *cursor);
        }
    }

    /// As [`Swiotlb::set_cursors`] for one area.
    pub(crate) fn set_cursor(&mut self, area: u32, cursor: u32) {
        self.pools[0].1.set_cursor(area, cursor);
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
    fn search(&self, request: &Request, need: &Need, probed: &mut u64) -> Option<(usize, u32)> {
        for round in 0..self.config.areas {
            for (index, (_, pool)) in self.pools.iter().enumerate().rev() {
                if round >= pool.areas() {
                    continue;
                }
                let area = request.cpu.wrapping_add(round) & (pool.areas() - 1);
                if let Some(first) = pool.find(area, need, request.original, probed) {
                    return Some((index, first));
                }
            }
        }
        None
    }

    fn handed_out(&mut self, pool: PoolId, first: u32, need: &Need, is_transient: bool) -> Slots {
        self.counters.used += need.slots;
        self.counters.high_water = self.counters.high_water.max(self.counters.used);
        let offset_bytes = offset_of(first, need);
        Slots {
            pool,
            first,
            count: need.slots,
            offset_bytes,
            is_transient,
        }
    }

    /// Does what the worker has done by then.
    pub(crate) fn run_worker(&mut self, now_ns: u64) {
        loop {
            self.worker = match self.worker {
                Worker::Queued(at) if at <= now_ns => {
                    Worker::Running(at.saturating_add(self.config.growth_run_ns), false)
                }
                Worker::Running(done, again) if done <= now_ns => {
                    self.add_pool();
                    if again {
                        Worker::Running(done.saturating_add(self.config.growth_run_ns), false)
                    } else {
                        Worker::Idle
                    }
                }
                _ => return,
            };
        }
    }

    fn add_pool(&mut self) {
        let slots = self.config.grown_slots();
        let areas = areas_for(self.config.areas, slots);
        let id = self.new_pool_id();
        // Pages of the buddy allocator are aligned to their own size; no mask asks for more.
        self.pools.push((id, Pool::new(0, slots, areas)));
        self.counters.pool_slots += slots;
        self.counters.grown_pools += 1;
        self.note_pool_peak();
    }

    /// The newest of the pools that were added, while the worker may not have finished yet.
    pub(crate) fn newest_grown(&self) -> Option<PoolId> {
        self.pools
            .last()
            .map(|(id, _)| *id)
            .filter(|id| *id != PoolId(0))
    }

    /// Whether a pool has been asked for and is not there yet.
    pub(crate) fn is_growing(&self) -> bool {
        !matches!(self.worker, Worker::Idle)
    }

    /// Takes an unused newest pool away again: the worker had not finished after all.
    pub(crate) fn withdraw_newest(&mut self, now_ns: u64) {
        if let Some((_, pool)) = self.pools.pop() {
            self.counters.pool_slots -= pool.slots();
            self.counters.grown_pools -= 1;
            self.worker = Worker::Running(now_ns + 1, self.is_growing());
        }
    }

    /// Lets the worker finish at once.
    pub(crate) fn finish_growth(&mut self, now_ns: u64) {
        let again = matches!(self.worker, Worker::Running(_, true));
        self.worker = if again {
            Worker::Queued(now_ns)
        } else {
            Worker::Idle
        };
        self.add_pool();
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

fn offset_of(first: u32, need: &Need) -> u64 {
    u64::from(first + need.pad_slots) * SLOT_BYTES + need.offset_bytes
}

/// As many areas as wanted, but none below one segment.
pub(crate) fn areas_for(areas: u32, slots: u32) -> u32 {
    if slots < areas.saturating_mul(SEGMENT_SLOTS) {
        (slots / SEGMENT_SLOTS).max(1)
    } else {
        areas
    }
}

/// The next smaller size that the kernel tries when memory is short.
pub(crate) fn halved(slots: u32) -> Option<u32> {
    (slots > HALVING_STOPS_AT_SLOTS).then(|| (slots / 2).next_multiple_of(SEGMENT_SLOTS))
}
