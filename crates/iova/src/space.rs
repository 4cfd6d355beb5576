//! A space of device addresses.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use dmakit_addr::{Address, Granule, Iova, IovaRange};
use dmakit_platform::{CpuGuard, CpuId, CpuSlot, IrqMutex, PerCpu, Platform, SleepMutex};

use crate::cache::{CpuCache, MAGAZINE, ORDERS};
use crate::depot::{DEPOT, Depot};
use crate::error::{AllocCause, AllocError, SpaceError};
use crate::node::{LEVELS_MAX, child_order};
use crate::request::{Request, Reservation, Shape, cached_order, taken};
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
/// Blocks of up to 1024 granules come back to the CPU that frees them and go out again from there
/// without a lock; everything else is a walk down a tree whose every node knows what fits below.
/// Neither a full space nor a low limit makes a request slow: O(levels), at most six, whatever was
/// asked before.
///
/// `S` is the storage of the CPUs' caches, one [`CpuSlot`] for each CPU, supplied by the embedder.
pub struct Space<P: Platform, S> {
    pub(crate) granule: Granule,
    pub(crate) aperture: IovaRange,
    policy: Policy,
    pub(crate) tree: IrqMutex<P, Tree>,
    /// Granules withheld for good, `(start, end)`, apart from each other and in order.
    pub(crate) reserved: SleepMutex<P, Vec<(u64, u64)>>,
    /// By order.
    depots: Vec<Depot<P>>,
    cpus: PerCpu<S>,
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
        let mut depots = Vec::new();
        depots
            .try_reserve_exact(ORDERS)
            .map_err(|_| SpaceError::NoMemory)?;
        for _ in 0..ORDERS {
            depots.push(Depot::new().ok_or(SpaceError::NoMemory)?);
        }
        Ok(Self {
            granule,
            aperture,
            policy,
            tree: IrqMutex::<P, _>::new(tree),
            reserved: SleepMutex::<P, _>::new(Vec::new()),
            depots,
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
    /// CPU's cache once, and empties its own of what lies below the limit.
    ///
    /// # Errors
    /// [`AllocError`] with the numbers; the space is as before, but that caches may have gone back
    /// to it.
    #[inline(always)]
    pub fn alloc(&self, cpu: &impl CpuGuard, request: &Request) -> Result<Reservation, AllocError> {
        match self.alloc_cached(cpu, request) {
            Some(reservation) => Ok(reservation),
            None => self.alloc_shaped(cpu, request),
        }
    }

    /// A block that this CPU has at hand, for the common kind of request.
    #[inline(always)]
    fn alloc_cached(&self, cpu: &impl CpuGuard, request: &Request) -> Option<Reservation> {
        let (order, end) = request.plain(self.granule)?;
        let (cache, flush) = self.cpus.enter(cpu)?;
        if flush {
            self.flush(cache, u64::MAX);
        }
        let start = Iova::new(cache.pop(order, end)? << self.granule.shift());
        // Below the limit, so it does not overflow.
        let range = IovaRange::new(start, request.len).ok()?;
        Some(Reservation { range, order })
    }

    /// Any request, also one that the CPU's cache does not serve at once.
    #[inline(never)]
    fn alloc_shaped(
        &self,
        cpu: &impl CpuGuard,
        request: &Request,
    ) -> Result<Reservation, AllocError> {
        let shape = request.shape(self.granule)?;
        let order = shape.cached;
        if shape.is_natural && order < ORDERS {
            if let Some((cache, flush)) = self.cpus.enter(cpu) {
                if flush {
                    self.flush(cache, u64::MAX);
                }
                if let Some(start) = cache.pop(order, shape.end) {
                    return Ok(self.reservation(start, &shape));
                }
                cache.missed();
                if let Some(start) = self.reload(cache, order, shape.end) {
                    return Ok(self.reservation(start, &shape));
                }
            }
        }
        self.alloc_slow(cpu, request, &shape)
    }

    /// Gives addresses back. Nothing may be mapped there, nor known to a translation cache. Never
    /// sleeps, never allocates memory.
    ///
    /// A reservation of another space must not come here; one that shows as such is ignored and
    /// counted.
    #[inline]
    pub fn free(&self, cpu: &impl CpuGuard, reservation: Reservation) {
        let start = self.granule_of(reservation.range.start());
        let order = reservation.order;
        if order < ORDERS {
            if let Some((cache, flush)) = self.cpus.enter(cpu) {
                if flush {
                    self.flush(cache, u64::MAX);
                }
                if cache.push(order, start) {
                    return;
                }
                self.make_room(cache, order);
                if cache.push(order, start) {
                    return;
                }
            }
        }
        self.give(
            start,
            taken(reservation.range.len() >> self.granule.shift()),
        );
    }

    /// The reservation of a range that [`Reservation::into_range`] gave, of this space, and that
    /// nobody has resumed since.
    #[inline]
    pub fn resume(&self, range: IovaRange) -> Reservation {
        let order = range
            .len()
            .trailing_zeros()
            .wrapping_sub(self.granule.shift()) as usize;
        if range.len().is_power_of_two() && order < ORDERS {
            return Reservation { range, order };
        }
        let granules = taken(range.len() >> self.granule.shift());
        Reservation {
            range,
            order: cached_order(granules),
        }
    }

    /// Fills the stock of records. May allocate memory and sleep for it.
    ///
    /// # Errors
    /// [`SpaceError::NoMemory`]; requests may then fail for want of records.
    pub fn maintain(&self) -> Result<(), SpaceError> {
        loop {
            // Memory is brought and dropped without the lock, which keeps interrupts off.
            let wanted = self.tree.lock().wanted(STOCK);
            let Some(wanted) = wanted else {
                return Ok(());
            };
            let supplies = wanted.bring().ok_or(SpaceError::NoMemory)?;
            let unused = self.tree.lock().accept(supplies);
            drop(unused);
        }
    }

    /// Asks every CPU to give its cache back when it next comes here, and gives back the depots.
    pub fn request_flush(&self) {
        self.request_flush_below(u64::MAX);
        self.empty_depots(u64::MAX);
    }

    /// Gives back the cache of the CPU that was entered: before it goes offline, or on behalf of
    /// whoever called [`request_flush`](Self::request_flush) where that CPU does no I/O. Never
    /// sleeps; O(blocks held).
    pub fn flush_cpu(&self, cpu: &impl CpuGuard) {
        if let Some((cache, _)) = self.cpus.enter(cpu) {
            self.flush(cache, u64::MAX);
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
            sum.cached += cache.granules() << shift;
        }
        for (order, depot) in self.depots.iter().enumerate() {
            sum.cached += (depot.blocks() as u64) << order << shift;
        }
        let reserved = self.reserved.lock();
        let withheld: u64 = reserved.iter().map(|(start, end)| end - start).sum();
        let start = self.granule_of(self.aperture.start()).max(1);
        let whole = self.granule_of(self.aperture.end()) - start;
        let tree = self.tree.lock();
        let idle = (tree.free_granules() + withheld) << shift;
        sum.used = (whole << shift).saturating_sub(idle + sum.cached);
        sum.free = tree.free_granules() << shift;
        sum.records = tree.bytes() + ORDERS * DEPOT * MAGAZINE * size_of::<u64>();
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

    #[inline]
    fn reservation(&self, start: u64, shape: &Shape) -> Reservation {
        Reservation {
            range: self.bytes(start, shape.wanted),
            order: shape.cached,
        }
    }

    #[cold]
    #[inline(never)]
    fn alloc_slow(
        &self,
        cpu: &impl CpuGuard,
        request: &Request,
        shape: &Shape,
    ) -> Result<Reservation, AllocError> {
        let mut again = true;
        loop {
            let mut tree = self.tree.lock();
            let free = tree.free_granules() << self.granule.shift();
            match tree.take(shape.order, shape.granules, shape.end, self.policy) {
                Ok(start) => return Ok(self.reservation(start, shape)),
                Err(TreeError::NoNodes) => return Err(request.refused(AllocCause::Records)),
                Err(_) => drop(tree),
            }
            // What caches hold below the limit may be what is missing: ours goes back now, others'
            // when they come. The rest stays where it serves later requests.
            again = again && self.flush_below(cpu, shape.end);
            if !again {
                return Err(request.refused(AllocCause::Full { free }));
            }
            again = false;
        }
    }

    /// A block out of a magazine that another CPU filled.
    #[cold]
    fn reload(&self, cache: &CpuCache, order: usize, end: u64) -> Option<u64> {
        if !cache.is_empty(order) {
            return None;
        }
        let depot = self.depots.get(order)?;
        let starts = depot.has_below(end).then(|| depot.pop()).flatten()?;
        cache.load(order, &starts);
        cache.pop(order, end)
    }

    /// Passes a magazine on, so that another block fits.
    #[cold]
    fn make_room(&self, cache: &CpuCache, order: usize) {
        let mut starts = [0; MAGAZINE];
        let count = cache.unload(order, u64::MAX, &mut starts);
        let depot = self.depots.get(order);
        let kept = count == MAGAZINE && depot.is_some_and(|depot| depot.push(&starts));
        if !kept {
            self.give_all(order, &starts[..count]);
        }
    }

    /// Gives back what this CPU's cache and the depots hold below `end`, and asks other CPUs to;
    /// whether anything came back.
    fn flush_below(&self, cpu: &impl CpuGuard, end: u64) -> bool {
        let mut came = self.empty_depots(end);
        if let Some((cache, _)) = self.cpus.enter(cpu) {
            came |= self.flush(cache, end);
        }
        self.request_flush_below(end);
        came
    }

    /// Asks the CPUs whose caches hold something below `end`.
    pub(crate) fn request_flush_below(&self, end: u64) {
        for (index, cache) in self.cpus.iter().enumerate() {
            if cache.has_below(end) {
                self.cpus.request_flush(CpuId::new(index as u32));
            }
        }
    }

    fn flush(&self, cache: &CpuCache, end: u64) -> bool {
        if !cache.has_below(end) {
            return false;
        }
        let mut starts = [0; MAGAZINE];
        for order in 0..ORDERS {
            while !cache.is_empty(order) {
                let count = cache.unload(order, end, &mut starts);
                if count == 0 {
                    break;
                }
                self.give_all(order, &starts[..count]);
            }
        }
        cache.find_lowest();
        true
    }

    /// Gives back the magazines of depots that hold something below `end`; whether there was one.
    pub(crate) fn empty_depots(&self, end: u64) -> bool {
        let mut came = false;
        for (order, depot) in self.depots.iter().enumerate() {
            while depot.has_below(end) {
                let Some(starts) = depot.pop() else {
                    break;
                };
                self.give_all(order, &starts);
                came = true;
            }
        }
        came
    }

    fn give_all(&self, order: usize, starts: &[u64]) {
        // A few at a time, so that nobody waits long for the lock.
        for few in starts.chunks(8) {
            let mut tree = self.tree.lock();
            for &start in few {
                if tree.give(start, 1 << order).is_err() {
                    self.refuse(1 << order);
                }
            }
        }
    }

    pub(crate) fn give(&self, start: u64, granules: u64) {
        if self.tree.lock().give(start, granules).is_err() {
            self.refuse(granules);
        }
    }

    #[cold]
    fn refuse(&self, granules: u64) {
        self.refused
            .fetch_add(granules << self.granule.shift(), Relaxed);
    }
}

#[cfg(test)]
mod tests;
