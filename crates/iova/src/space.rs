//! A space of device addresses.

use alloc::vec::Vec;
use core::num::NonZeroU64;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use dmakit_addr::{Address, Granule, Iova, IovaRange};
use dmakit_platform::{CpuGuard, CpuSlot, PerCpu, Platform, SleepMutex};

use crate::cache::{CLASSES, CpuCache, MAGAZINE};
use crate::depot::Depots;
use crate::error::{AllocCause, AllocError, SpaceError};
use crate::extent::{Class, Extent, NO_CLASS};
use crate::node::{LEVELS_MAX, child_order};
use crate::request::{Request, Reservation, Shape, class_of, taken};
use crate::shared::SharedTree;
use crate::tree::{Policy, Tree, TreeError};

/// Nodes that [`Space::maintain`] keeps in stock, and that a fresh space has.
const STOCK: usize = 64;

/// Counters of a space, each exact, all of no single moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Statistics {
    /// Requests that a CPU's own cache served.
    pub hits: u64,
    /// Cacheable requests that went past it.
    pub misses: u64,
    /// Bytes free and in no cache.
    pub free: u64,
    /// Bytes of the largest power of two that is free at a multiple of itself and in no cache.
    pub largest: u64,
    /// Bytes free and held by caches.
    pub cached: u64,
    /// Bytes handed out, as rounded up; exact while nobody allocates or frees.
    pub used: u64,
    /// Bytes that the space's own records occupy, the CPUs' caches not counted.
    pub records: usize,
    /// Bytes given back that this space had not handed out: a caller's mistake, and ignored.
    pub refused: u64,
}

/// Device addresses of one domain: an aperture in granules, minus what is reserved.
///
/// Blocks of up to 4 MiB come back to the CPU that frees them and go out again from there without a
/// lock; everything else is a walk down a tree whose every node knows what fits below.
/// Neither a full space nor a low limit makes a request slow: O(levels), at most six, whatever was
/// asked before.
///
/// `S` is the storage of the CPUs' caches, one [`CpuSlot`] for each CPU, supplied by the embedder.
pub struct Space<P: Platform, S> {
    pub(crate) granule: Granule,
    pub(crate) aperture: IovaRange,
    policy: Policy,
    pub(crate) tree: SharedTree<P>,
    /// Granules withheld for good, `(start, end)`, apart from each other and in order.
    pub(crate) reserved: SleepMutex<P, Vec<(u64, u64)>>,
    pub(crate) depots: Depots<P>,
    pub(crate) cpus: PerCpu<S>,
    /// Bytes that were given back but had not been taken.
    refused: AtomicU64,
}

impl<P: Platform, S: AsRef<[CpuSlot<CpuCache>]>> Space<P, S> {
    /// A space of `aperture`, in which address 0 is never handed out. May allocate memory.
    ///
    /// # Errors
    /// [`SpaceError`] for an aperture that is not whole granules or has too many of them, or where
    /// there is no memory for the records.
    pub fn new(
        granule: Granule,
        aperture: IovaRange,
        policy: Policy,
        cpus: S,
    ) -> Result<Self, SpaceError> {
        let whole =
            aperture.start().is_aligned(granule.bytes()) && aperture.len() & granule.mask() == 0;
        if aperture.is_empty() || !whole {
            return Err(SpaceError::Aperture(aperture));
        }
        if granule < Granule::K4 {
            return Err(SpaceError::Granule(granule));
        }
        let end = aperture.end().raw() >> granule.shift();
        let max = 1 << child_order(LEVELS_MAX + 1);
        if end > max {
            return Err(SpaceError::TooLarge { granules: end, max });
        }
        let mut tree = Tree::new(end).ok_or(SpaceError::NoMemory)?;
        tree.stock(STOCK).ok_or(SpaceError::NoMemory)?;
        let start = (aperture.start().raw() >> granule.shift()).max(1);
        tree.give(start, end - start)
            .map_err(|_| SpaceError::NoMemory)?;
        Ok(Self {
            granule,
            aperture,
            policy,
            tree: SharedTree::new(tree),
            reserved: SleepMutex::<P, _>::new(Vec::new()),
            depots: Depots::new().ok_or(SpaceError::NoMemory)?,
            cpus: PerCpu::new(cpus),
            refused: AtomicU64::new(0),
        })
    }

    /// The granule of the space.
    #[inline]
    pub fn granule(&self) -> Granule {
        self.granule
    }

    /// Takes addresses as asked. Never sleeps, never allocates memory.
    ///
    /// O(1) from the CPU's cache, else O(levels) under one lock; a request that fails looks at every
    /// CPU's cache once, and empties its own of what lies below the limit. Where nothing of the size
    /// is free at all it takes no lock.
    ///
    /// # Errors
    /// [`AllocError`] with the numbers; the space is as before, but that caches may have gone back
    /// to it.
    #[inline(always)]
    pub fn alloc(&self, cpu: &impl CpuGuard, request: &Request) -> Result<Reservation, AllocError> {
        if let Some(reservation) = self.alloc_cached(cpu, request) {
            return Ok(reservation);
        }
        // The request is passed as a copy and the result made of parts, so that on the way above
        // both stay in registers.
        match self.alloc_shaped(cpu, *request) {
            Ok(Reservation { start, extent }) => Ok(Reservation { start, extent }),
            Err(cause) => Err(request.refused(cause)),
        }
    }

    /// A block that this CPU has at hand, for the common kind of request.
    #[inline(always)]
    fn alloc_cached(&self, cpu: &impl CpuGuard, request: &Request) -> Option<Reservation> {
        if !request.is_plain() {
            return None;
        }
        let len = request.len;
        let start = self.enter(cpu)?.pop(len, request.end())?;
        let extent = Extent::new(len, len.trailing_zeros());
        Some(Reservation { start, extent })
    }

    /// Any request, also one that the CPU's cache does not serve at once.
    #[cold]
    #[inline(never)]
    fn alloc_shaped(
        &self,
        cpu: &impl CpuGuard,
        request: Request,
    ) -> Result<Reservation, AllocCause> {
        let shape = request.shape(self.granule)?;
        if shape.is_natural && CLASSES.contains(&shape.class) {
            if let Some(cache) = self.enter(cpu) {
                let end = request.end();
                let start = cache.pop(1 << shape.class, end);
                if let Some(start) = start.or_else(|| self.reload(cache, shape.class, end)) {
                    let extent = self.extent(&shape);
                    return Ok(Reservation { start, extent });
                }
            }
        }
        self.alloc_slow(cpu, &shape, request.end())
    }

    /// Gives addresses back. Nothing may be mapped there, nor known to a translation cache. Never
    /// sleeps, never allocates memory.
    ///
    /// A reservation of another space must not come here; one that shows as such is ignored and
    /// counted.
    #[inline]
    pub fn free(&self, cpu: &impl CpuGuard, reservation: Reservation) {
        let Reservation { start, extent } = reservation;
        let cache = self.enter(cpu);
        if !cache.is_some_and(|cache| cache.push(extent.class(), start.get())) {
            self.free_uncached(cpu, start.get(), extent);
        }
    }

    /// Gives back what the CPU's cache did not take at once.
    #[cold]
    #[inline(never)]
    fn free_uncached(&self, cpu: &impl CpuGuard, start: u64, extent: Extent) {
        let class = extent.class();
        if CLASSES.contains(&class) {
            if let Some(cache) = self.enter(cpu) {
                self.make_room(cache, class);
                if cache.push(class, start) {
                    return;
                }
            }
        }
        let shift = self.granule.shift();
        self.give(start >> shift, taken(extent.len() >> shift));
    }

    /// The cache of the CPU that was entered, after it gave back what others asked for.
    #[inline(always)]
    fn enter(&self, cpu: &impl CpuGuard) -> Option<&CpuCache> {
        let (cache, flush) = self.cpus.enter(cpu)?;
        if flush {
            self.flush(cache, u64::MAX);
        }
        Some(cache)
    }

    /// The reservation of a range that [`Reservation::into_range`] gave, of this space, and that
    /// nobody has resumed since.
    #[inline]
    pub fn resume(&self, range: IovaRange) -> Reservation {
        let len = range.len();
        let Some(start) = NonZeroU64::new(range.start().raw()) else {
            // Never handed out: to be refused by the tree, which has no class to go by.
            return Reservation {
                start: NonZeroU64::MIN,
                extent: Extent::new(len, NO_CLASS),
            };
        };
        let class = match len.is_power_of_two() {
            true => len.trailing_zeros(),
            false => class_of(taken(len >> self.granule.shift()), self.granule),
        };
        let extent = Extent::new(len, class);
        Reservation { start, extent }
    }

    /// Fills the stock of records. May allocate memory and sleep for it.
    ///
    /// # Errors
    /// [`SpaceError::NoMemory`]; requests may then fail for want of records.
    pub fn maintain(&self) -> Result<(), SpaceError> {
        loop {
            // Memory is brought and dropped without the lock, which keeps interrupts off.
            let wanted = self.tree.with(|tree| tree.wanted(STOCK));
            let Some(wanted) = wanted else {
                return Ok(());
            };
            let supplies = wanted.bring().ok_or(SpaceError::NoMemory)?;
            let unused = self.tree.with(|tree| tree.accept(supplies));
            drop(unused);
        }
    }

    /// The counters.
    pub fn statistics(&self) -> Statistics {
        let shift = self.granule.shift();
        let mut sum = Statistics {
            refused: self.refused.load(Relaxed),
            ..Statistics::default()
        };
        for cache in self.cpus.iter() {
            sum.hits += cache.hits();
            sum.misses += cache.misses();
            sum.cached += cache.bytes();
        }
        sum.cached += self.depots.bytes();
        let reserved = self.reserved.lock();
        let withheld: u64 = reserved.iter().map(|(start, end)| end - start).sum();
        let start = self.granule_of(self.aperture.start()).max(1);
        let whole = self.granule_of(self.aperture.end()) - start;
        let (free, records) = self.tree.with(|tree| (tree.free_granules(), tree.bytes()));
        let idle = (free + withheld) << shift;
        sum.used = (whole << shift).saturating_sub(idle + sum.cached);
        sum.free = free << shift;
        sum.largest = self.tree.largest_granules() << shift;
        sum.records = records + Depots::<P>::BYTES;
        sum
    }

    #[inline]
    pub(crate) fn granule_of(&self, iova: Iova) -> u64 {
        iova.raw() >> self.granule.shift()
    }

    /// The addresses of `granules` from `start`, which lie inside the aperture.
    #[inline]
    pub(crate) fn bytes(&self, start: u64, granules: u64) -> IovaRange {
        let shift = self.granule.shift();
        // Inside the aperture, which is a range: no shift overflows.
        IovaRange::new(Iova::new(start << shift), granules << shift).unwrap_or(self.aperture)
    }

    fn alloc_slow(
        &self,
        cpu: &impl CpuGuard,
        shape: &Shape,
        end: u64,
    ) -> Result<Reservation, AllocCause> {
        let shift = self.granule.shift();
        let mut again = true;
        loop {
            let free = self.tree.free_granules() << shift;
            if !self.tree.rules_out(shape.order, shape.end) {
                let take = |tree: &mut Tree| {
                    tree.take(shape.order, shape.granules, shape.end, self.policy)
                };
                match self.tree.with(take) {
                    Ok(start) => {
                        let extent = self.extent(shape);
                        let start = NonZeroU64::new(start << shift);
                        // Address 0 is not in the tree.
                        let start = start.ok_or(AllocCause::Request)?;
                        return Ok(Reservation { start, extent });
                    }
                    Err(TreeError::NoNodes) => return Err(AllocCause::Records),
                    Err(_) => {}
                }
            }
            // What caches hold below the limit may be what is missing: ours goes back now, others'
            // when they come. The rest stays where it serves later requests.
            again = again && self.flush_below(cpu, end);
            if !again {
                let largest = self.tree.largest_granules() << shift;
                return Err(AllocCause::Full { free, largest });
            }
            again = false;
        }
    }

    /// What a request of that shape takes.
    fn extent(&self, shape: &Shape) -> Extent {
        Extent::new(shape.wanted << self.granule.shift(), shape.class)
    }

    /// A block out of a magazine that another CPU filled.
    fn reload(&self, cache: &CpuCache, class: Class, end: u64) -> Option<NonZeroU64> {
        cache.missed();
        if !cache.is_empty(class) {
            return None;
        }
        let starts = self.depots.pop(class, end)?;
        cache.load(class, &starts);
        cache.pop(1 << class, end)
    }

    /// Passes a magazine on, so that another block fits.
    fn make_room(&self, cache: &CpuCache, class: Class) {
        let mut starts = [0; MAGAZINE];
        let count = cache.unload(class, u64::MAX, &mut starts);
        if count < MAGAZINE || !self.depots.push(class, &starts) {
            self.give_all(class, &starts[..count]);
        }
    }

    pub(crate) fn give(&self, start: u64, granules: u64) {
        // Granule 0 was never handed out, and must not be.
        let given = start != 0 && self.tree.with(|tree| tree.give(start, granules)).is_ok();
        if !given {
            self.refuse(granules);
        }
    }

    #[cold]
    pub(crate) fn refuse(&self, granules: u64) {
        self.refused
            .fetch_add(granules << self.granule.shift(), Relaxed);
    }
}

#[cfg(test)]
mod tests;
