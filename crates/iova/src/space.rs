//! A space of device addresses.

use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;

use dmakit_addr::{Address, DmaMask, Granule, Iova, IovaRange};
use dmakit_platform::{CpuGuard, CpuSlot, IrqMutex, PerCpu, Platform, SleepMutex};

use crate::cache::{CpuCache, MAGAZINE, ORDERS};
use crate::error::{AllocCause, AllocError, ReserveError, SpaceError};
use crate::node::{LEVELS_MAX, child_order};
use crate::tree::{Policy, Tree, TreeError};

/// Full magazines of one order that the space keeps for whichever CPU runs short.
const DEPOT: usize = 4;

/// Nodes that [`Space::maintain`] keeps in stock, and that a fresh space has.
const STOCK: usize = 64;

/// What is asked of [`Space::alloc`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// Bytes; rounded up to whole granules.
    pub len: u64,
    /// Alignment in bytes, a power of two. The length rounded up to a power of two is the least
    /// that is given, so 1 asks for that.
    pub align: u64,
    /// The highest address that may be touched.
    pub limit: DmaMask,
}

/// A run of device addresses that its holder alone may map.
///
/// It is moved, never copied, and goes back with [`Space::free`] once nothing is mapped there and
/// no translation cache can still know it. Forgetting one leaks its addresses.
#[derive(PartialEq, Eq, Debug)]
pub struct Reservation {
    range: IovaRange,
    /// Granules that were taken for it.
    granules: u64,
}

impl Reservation {
    /// The addresses, whole granules.
    pub fn range(&self) -> IovaRange {
        self.range
    }
}

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
}

/// Device addresses of one domain: an aperture in granules, minus what is reserved.
///
/// Blocks of up to 1024 granules come back to the CPU that frees them and go out again from there
/// without a lock; everything else is a walk down a tree whose every node knows what fits below.
/// Neither a full space nor a low limit makes a request slow: O(levels x orders), at most 6 x 37
/// steps, whatever was asked before.
///
/// `S` is the storage of the CPUs' caches, one [`CpuSlot`] for each CPU, supplied by the embedder.
pub struct Space<P: Platform, S> {
    granule: Granule,
    aperture: IovaRange,
    policy: Policy,
    tree: IrqMutex<P, Tree>,
    /// Granules withheld for good, `(start, end)`, apart from each other and in order.
    reserved: SleepMutex<P, Vec<(u64, u64)>>,
    depots: [IrqMutex<P, Vec<[u64; MAGAZINE]>>; ORDERS],
    cpus: PerCpu<S>,
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
        tree.reserve(STOCK).ok_or(SpaceError::NoMemory)?;
        let start = (aperture.start().raw() >> granule.shift()).max(1);
        tree.give(start, end - start)
            .map_err(|_| SpaceError::NoMemory)?;
        let mut depots: [Vec<[u64; MAGAZINE]>; ORDERS] = Default::default();
        for depot in &mut depots {
            depot
                .try_reserve_exact(DEPOT)
                .map_err(|_| SpaceError::NoMemory)?;
        }
        Ok(Self {
            granule,
            aperture,
            policy,
            tree: IrqMutex::<P, _>::new(tree),
            reserved: SleepMutex::<P, _>::new(Vec::new()),
            depots: depots.map(IrqMutex::<P, _>::new),
            cpus: PerCpu::new(cpus),
        })
    }

    /// The granule of the space.
    pub fn granule(&self) -> Granule {
        self.granule
    }

    /// Takes addresses as asked. Never sleeps, never allocates memory.
    ///
    /// O(1) from the CPU's cache, else O(levels x orders) under one lock.
    ///
    /// # Errors
    /// [`AllocError`] with the numbers; the space is as before, but that caches may have gone back
    /// to it.
    #[inline]
    pub fn alloc(&self, cpu: &impl CpuGuard, request: &Request) -> Result<Reservation, AllocError> {
        let shape = self.shape(request)?;
        if let Some(order) = shape.cached {
            if let Some((cache, flush)) = self.cpus.enter(cpu) {
                if flush {
                    self.flush(cache);
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
    #[inline]
    pub fn free(&self, cpu: &impl CpuGuard, reservation: Reservation) {
        let start = self.granule_of(reservation.range.start());
        let granules = reservation.granules;
        if let Some(order) = cached_order(granules) {
            if let Some((cache, flush)) = self.cpus.enter(cpu) {
                if flush {
                    self.flush(cache);
                }
                if cache.push(order, start) || self.make_room(cache, order, start) {
                    return;
                }
            }
        }
        // A reservation came from this tree, so giving it back cannot fail; one of another space
        // is refused rather than believed.
        let given = self.tree.lock().give(start, granules);
        assert!(
            given.is_ok(),
            "{:?} was not handed out by this space",
            reservation.range
        );
    }

    /// Withholds `range` for good: a hole, a doorbell, an identity region. What is outside the
    /// aperture or reserved already is no error; granules touched in part count whole. May sleep
    /// and allocate memory; O(ranges reserved).
    ///
    /// # Errors
    /// [`ReserveError`] where part of it is handed out, or is in a CPU's cache; parts that were
    /// free may then be reserved.
    pub fn reserve(&self, range: IovaRange) -> Result<(), ReserveError> {
        let inside = range.intersection(&self.aperture);
        let mut start = self.granule_of(inside.start()).max(1);
        let end = self
            .granule
            .count(inside.start().raw(), inside.len())
            .unwrap_or(0)
            + self.granule_of(inside.start());
        let mut reserved = self.reserved.lock();
        while start < end {
            let next = reserved.partition_point(|&(_, past)| past <= start);
            let hole = match reserved.get(next) {
                Some(&(first, past)) if first <= start => {
                    start = past;
                    continue;
                }
                Some(&(first, _)) => (start, first.min(end)),
                None => (start, end),
            };
            let no_memory = reserved.try_reserve(1).is_err();
            if no_memory || self.tree.lock().take_at(hole.0, hole.1 - hole.0).is_err() {
                return Err(ReserveError {
                    range,
                    taken: self.bytes(hole.0, hole.1),
                });
            }
            reserved.insert(next, hole);
            start = hole.1;
        }
        Ok(())
    }

    /// Fills the stock of records. May allocate memory and sleep for it.
    ///
    /// # Errors
    /// [`SpaceError::NoMemory`]; requests may then fail for want of records.
    pub fn maintain(&self) -> Result<(), SpaceError> {
        self.tree.lock().reserve(STOCK).ok_or(SpaceError::NoMemory)
    }

    /// Asks every CPU to give its cache back when it next comes here, and gives back the depots.
    pub fn request_flush(&self) {
        for (index, _) in self.cpus.iter().enumerate() {
            self.cpus
                .request_flush(dmakit_platform::CpuId::new(index as u32));
        }
        self.empty_depots();
    }

    /// The counters.
    pub fn statistics(&self) -> Statistics {
        let shift = self.granule.shift();
        let mut sum = Statistics::default();
        for cache in self.cpus.iter() {
            sum.hits += cache.hits.load(Relaxed);
            sum.misses += cache.misses.load(Relaxed);
            sum.cached += cache.granules() << shift;
        }
        for (order, depot) in self.depots.iter().enumerate() {
            sum.cached += ((depot.lock().len() * MAGAZINE) as u64) << order << shift;
        }
        let reserved = self.reserved.lock();
        let withheld: u64 = reserved.iter().map(|(start, end)| end - start).sum();
        let start = self.granule_of(self.aperture.start()).max(1);
        let whole = self.granule_of(self.aperture.end()) - start;
        let tree = self.tree.lock();
        let idle = (tree.free_granules() + withheld) << shift;
        sum.used = (whole << shift).saturating_sub(idle + sum.cached);
        sum.free = tree.free_granules() << shift;
        sum.records = tree.bytes() + ORDERS * DEPOT * MAGAZINE * 8;
        sum
    }

    fn granule_of(&self, iova: Iova) -> u64 {
        iova.raw() >> self.granule.shift()
    }

    /// The addresses of granules `[start, end)`, which lie inside the aperture.
    fn bytes(&self, start: u64, end: u64) -> IovaRange {
        let shift = self.granule.shift();
        // Inside the aperture, which is a range: no shift overflows.
        IovaRange::between(Iova::new(start << shift), Iova::new(end << shift))
            .unwrap_or(self.aperture)
    }

    #[inline]
    fn reservation(&self, start: u64, shape: &Shape) -> Reservation {
        Reservation {
            range: self.bytes(start, start + shape.wanted),
            granules: shape.granules,
        }
    }

    #[inline]
    fn shape(&self, request: &Request) -> Result<Shape, AllocError> {
        let refuse = || refused(request, AllocCause::Request);
        let wanted = self.granule.count(0, request.len).ok_or_else(refuse)?;
        if wanted == 0 || wanted > 1 << 62 || !request.align.is_power_of_two() {
            return Err(refuse());
        }
        let natural = wanted.next_power_of_two();
        // Small odd sizes take their whole block, so that it comes back as one that others can use.
        let granules = if natural <= 32 { natural } else { wanted };
        let aligned = (request.align >> self.granule.shift()).max(natural);
        let order = aligned.trailing_zeros();
        let end = (request.limit.last() >> self.granule.shift()).saturating_add(u64::from(
            request.limit.last() & self.granule.mask() == self.granule.mask(),
        ));
        let cached = if aligned == natural {
            cached_order(granules)
        } else {
            None
        };
        Ok(Shape {
            wanted,
            granules,
            order,
            end,
            cached,
        })
    }

    #[cold]
    fn alloc_slow(
        &self,
        cpu: &impl CpuGuard,
        request: &Request,
        shape: &Shape,
    ) -> Result<Reservation, AllocError> {
        let mut flushed = false;
        loop {
            let mut tree = self.tree.lock();
            let free = tree.free_granules() << self.granule.shift();
            match tree.take(shape.order, shape.granules, shape.end, self.policy) {
                Ok(start) => return Ok(self.reservation(start, shape)),
                Err(TreeError::NoNodes) => return Err(refused(request, AllocCause::Records)),
                Err(_) if flushed => return Err(refused(request, AllocCause::Full { free })),
                Err(_) => drop(tree),
            }
            // What caches hold may be what is missing: ours goes back now, others' when they come.
            flushed = true;
            self.request_flush();
            if let Some((cache, _)) = self.cpus.enter(cpu) {
                self.flush(cache);
            }
        }
    }

    /// A block out of a magazine that another CPU filled.
    #[cold]
    fn reload(&self, cache: &CpuCache, order: usize, end: u64) -> Option<u64> {
        if !cache.is_empty(order) {
            return None;
        }
        let starts = self.depots[order].lock().pop()?;
        cache.load(order, &starts);
        cache.pop(order, end)
    }

    /// Passes a full magazine on, so that `start` fits.
    #[cold]
    fn make_room(&self, cache: &CpuCache, order: usize, start: u64) -> bool {
        let mut starts = [0; MAGAZINE];
        let count = cache.unload(order, &mut starts);
        let mut depot = self.depots[order].lock();
        if count == MAGAZINE && depot.len() < DEPOT {
            depot.push(starts);
        } else {
            drop(depot);
            self.give_all(order, &starts[..count]);
        }
        cache.push(order, start)
    }

    #[cold]
    fn flush(&self, cache: &CpuCache) {
        let mut starts = [0; MAGAZINE];
        for order in 0..ORDERS {
            loop {
                let count = cache.unload(order, &mut starts);
                if count == 0 {
                    break;
                }
                self.give_all(order, &starts[..count]);
            }
        }
    }

    fn empty_depots(&self) {
        for (order, depot) in self.depots.iter().enumerate() {
            loop {
                let Some(starts) = depot.lock().pop() else {
                    break;
                };
                self.give_all(order, &starts);
            }
        }
    }

    fn give_all(&self, order: usize, starts: &[u64]) {
        // A few at a time, so that nobody waits long for the lock.
        for few in starts.chunks(8) {
            let mut tree = self.tree.lock();
            for &start in few {
                let given = tree.give(start, 1 << order);
                debug_assert!(given.is_ok(), "a cached block is taken in the tree");
            }
        }
    }
}

/// A request in granules.
struct Shape {
    /// Granules that the caller sees.
    wanted: u64,
    /// Granules that are taken.
    granules: u64,
    /// log2 of the alignment, at least that of the size.
    order: u32,
    /// The first granule past the limit.
    end: u64,
    /// The cached order that serves it.
    cached: Option<usize>,
}

#[inline]
fn cached_order(granules: u64) -> Option<usize> {
    let order = granules.trailing_zeros() as usize;
    (granules.is_power_of_two() && order < ORDERS).then_some(order)
}

#[cold]
fn refused(request: &Request, cause: AllocCause) -> AllocError {
    AllocError {
        asked: request.len,
        align: request.align,
        limit: request.limit,
        cause,
    }
}
