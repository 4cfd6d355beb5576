//! Pools that come and go.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use dmakit_platform::{CpuId, Instant, IrqMutex, NoMemory, Platform, PoolMemory, Segment};
use dmakit_platform::{SegmentRequest, SleepMutex};

use crate::buffer::{FIRST, GROWN, RESERVE};
use crate::hint::Hint;
use crate::index::AddressIndex;
use crate::layout::{Layout, SlotShift};
use crate::level::Level;
use crate::pool::Pool;
use crate::shared_area::Begin;
use crate::sync::{AtomicU64, Ordering};
use crate::{DeviceLimits, GrowthConfig, Lifetime, NoRun};

/// How many grown pools there can be at once.
pub(crate) const GROWN_MAX: usize = 64;
/// Areas of a grown pool.
pub(crate) const GROWN_AREAS: u32 = 8;

/// A pool set that does not grow.
#[derive(Clone, Copy, Debug)]
pub enum NoGrowth {}

impl PoolMemory for NoGrowth {
    fn allocate_pool(&self, _request: &SegmentRequest) -> Result<Segment, NoMemory> {
        match *self {}
    }

    fn free_pool(&self, _segment: Segment) {
        match *self {}
    }
}

/// The largest request that went unserved since somebody last looked.
pub(crate) struct Wanted(AtomicU64);

impl Wanted {
    pub(crate) fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Asks for room for `slots`. Costs one load where as much is asked for already.
    pub(crate) fn raise(&self, slots: u32) {
        if self.0.load(Ordering::Relaxed) < u64::from(slots) {
            self.0.fetch_max(u64::from(slots), Ordering::Release);
        }
    }

    /// What was asked for; nothing is, afterwards.
    pub(crate) fn take(&self) -> u32 {
        match self.0.load(Ordering::Relaxed) {
            0 => 0,
            _ => self.0.swap(0, Ordering::Acquire) as u32,
        }
    }

    pub(crate) fn is_raised(&self) -> bool {
        self.0.load(Ordering::Relaxed) != 0
    }
}

/// A place for a grown pool.
///
/// The hints stay when the pool goes, so that a full pool is passed over without touching it.
pub(crate) struct GrownPlace<P: Platform> {
    pool: IrqMutex<P, Option<Arc<Pool<P>>>>,
    pub(crate) hints: Arc<[Hint]>,
}

impl<P: Platform> GrownPlace<P> {
    fn new() -> Self {
        Self {
            pool: IrqMutex::<P, _>::new(None),
            hints: (0..GROWN_AREAS).map(|_| Hint::closed()).collect(),
        }
    }

    /// The pool, for as long as one looks at it: whoever takes the pool out waits until nobody
    /// does.
    pub(crate) fn get(&self) -> Option<Arc<Pool<P>>> {
        self.pool.lock().clone()
    }

    pub(crate) fn put(&self, pool: Arc<Pool<P>>) {
        *self.pool.lock() = Some(pool);
    }

    pub(crate) fn take(&self) -> Option<Arc<Pool<P>>> {
        self.pool.lock().take()
    }
}

/// All that a pool set needs to grow and shrink.
pub(crate) struct Growth<P: Platform, M> {
    pub(crate) provider: M,
    pub(crate) config: GrowthConfig,
    shift: SlotShift,
    headroom_slots: u64,
    pub(crate) wanted: Wanted,
    /// Serves what cannot wait for growth. It is shared with the host beforehand.
    pub(crate) reserve: Pool<P>,
    pub(crate) places: Box<[GrownPlace<P>]>,
    /// Bit `n`: place `n` has a pool that takes mappings.
    pub(crate) open: AtomicU64,
    pub(crate) index: AddressIndex,
    pub(crate) bytes: Bytes,
    pub(crate) gone: Gone,
    pub(crate) upkeep: SleepMutex<P, Upkeep<P>>,
}

/// Memory that the pools hold, in bytes.
pub(crate) struct Bytes {
    /// All pools, the reserve included.
    pub(crate) held: AtomicU64,
    pub(crate) held_high: AtomicU64,
    /// Lost: sharing or taking back failed.
    pub(crate) quarantined: AtomicU64,
    /// Slots of grown pools that take mappings.
    pub(crate) open_slots: AtomicU64,
    pub(crate) grown: AtomicU64,
    pub(crate) shrunk: AtomicU64,
    pub(crate) refused: AtomicU64,
    /// The most areas that all pools had at once.
    pub(crate) areas_high: AtomicU64,
}

/// What pools did that are gone.
pub(crate) struct Gone {
    pub(crate) mapped: AtomicU64,
    pub(crate) copied: AtomicU64,
    pub(crate) probes: AtomicU64,
}

/// What only upkeep sees.
pub(crate) struct Upkeep<P: Platform> {
    /// Bit `n`: the pool at place `n` takes no mapping and goes when it is empty.
    pub(crate) draining: u64,
    /// Pools taken out of their places, perhaps still looked at.
    pub(crate) retired: Vec<Arc<Pool<P>>>,
    /// Since when the low-water rule has been looking.
    pub(crate) window_start: Option<Instant>,
}

impl<P: Platform, M> Growth<P, M> {
    pub(crate) fn new(
        provider: M,
        config: GrowthConfig,
        shift: SlotShift,
        reserve: Pool<P>,
        held: u64,
    ) -> Self {
        let granules = config.bytes_max / config.granule;
        Self {
            provider,
            wanted: Wanted::new(),
            reserve,
            places: (0..GROWN_MAX).map(|_| GrownPlace::new()).collect(),
            open: AtomicU64::new(0),
            index: AddressIndex::new(config.granule.trailing_zeros(), granules),
            shift,
            headroom_slots: shift.slots(config.headroom),
            config,
            bytes: Bytes {
                held: AtomicU64::new(held),
                held_high: AtomicU64::new(held),
                quarantined: AtomicU64::new(0),
                open_slots: AtomicU64::new(0),
                grown: AtomicU64::new(0),
                shrunk: AtomicU64::new(0),
                refused: AtomicU64::new(0),
                areas_high: AtomicU64::new(0),
            },
            gone: Gone {
                mapped: AtomicU64::new(0),
                copied: AtomicU64::new(0),
                probes: AtomicU64::new(0),
            },
            upkeep: SleepMutex::<P, _>::new(Upkeep {
                draining: 0,
                retired: Vec::with_capacity(GROWN_MAX),
                window_start: None,
            }),
        }
    }

    /// Takes slots of any pool: its number and the first slot.
    ///
    /// Long-lived mappings begin with the first pool. So do brief ones while little is in use, so
    /// that grown pools run empty; while much is, they leave the rest of the first pool to the
    /// long-lived. What finds no room is served from the reserve; that, and little room left, asks
    /// for growth.
    pub(crate) fn take(
        &self,
        first: &Pool<P>,
        level: &Level,
        request: &Taking<'_>,
    ) -> Result<(u16, u32), NoRun> {
        if request.lifetime == Lifetime::Permanent {
            return request.take(first).map(|slot| (FIRST, slot));
        }
        let crowded = level.drawn() > u64::from(first.slots.slots() / 8 * 7);
        let first_last = crowded
            && request.lifetime == Lifetime::Brief
            && self.open.load(Ordering::Relaxed) != 0;
        let regular = |pool| request.take(pool).map(|slot| (FIRST, slot)).ok();
        let taken = if first_last {
            self.take_grown(request).or_else(|| regular(first))
        } else {
            regular(first).or_else(|| self.take_grown(request))
        };
        match taken {
            Some(taken) => {
                if self.is_short(first, level) {
                    self.wanted.raise(1);
                }
                Ok(taken)
            }
            None => {
                self.wanted
                    .raise(request.layout.slots_with_slack(self.shift));
                request.take(&self.reserve).map(|slot| (RESERVE, slot))
            }
        }
    }

    /// Whether less is free than the headroom.
    #[inline]
    pub(crate) fn is_short(&self, first: &Pool<P>, level: &Level) -> bool {
        let grown = self.bytes.open_slots.load(Ordering::Relaxed);
        level.drawn() + self.headroom_slots > u64::from(first.slots.slots()) + grown
    }

    fn take_grown(&self, request: &Taking<'_>) -> Option<(u16, u32)> {
        let mut open = self.open.load(Ordering::Acquire);
        while open != 0 {
            let index = open.trailing_zeros() as usize;
            open &= open - 1;
            let place = &self.places[index];
            // A run, across areas too, is no longer than the longest runs of all areas together.
            let bound: u32 = place.hints.iter().map(Hint::largest).sum();
            if bound < request.layout.slots {
                continue;
            }
            let Some(pool) = place.get() else {
                continue;
            };
            if let Ok(slot) = request.take(&pool) {
                return Some((GROWN + index as u16, slot));
            }
        }
        None
    }
}

/// One request, as every pool in turn sees it.
pub(crate) struct Taking<'a> {
    pub(crate) layout: &'a Layout,
    pub(crate) limits: &'a DeviceLimits,
    pub(crate) lifetime: Lifetime,
    pub(crate) cpu: CpuId,
    pub(crate) begin: Begin,
}

impl Taking<'_> {
    #[inline]
    pub(crate) fn take<P: Platform>(&self, pool: &Pool<P>) -> Result<u32, NoRun> {
        pool.take(self.layout, self.limits, self.cpu, self.begin)
    }
}
