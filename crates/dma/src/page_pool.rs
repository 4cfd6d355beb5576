//! Coherent memory for moments that cannot sleep.

use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;

use dmakit_addr::{Attributes, PAGE_BYTES};
use dmakit_platform::{Instant, IrqMutex, Platform, Segment};

use crate::check::Checker;
use crate::chunk::{ChunkMemory, check_source, give_home, put_back};
use crate::coherent::{Home, Origin};
use crate::page_chunk::{CHUNK_PAGES_MAX, PageChunk};
use crate::{
    Coherent, CoherentError, Device, DeviceId, DeviceShared, NotHere, PoolBusy, PoolError,
    PoolStats, Translate,
};

/// When a [`CoherentPool`] grows and shrinks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CoherentPoolConfig {
    /// Below so many free bytes more are wanted.
    pub low_bytes: u64,
    /// More than this the pool never holds, in bytes.
    pub max_bytes: u64,
    /// How long a chunk must have been to spare before it goes.
    pub calm: Duration,
}

/// What one round of maintenance did.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Maintained {
    /// Bytes added.
    pub added: u64,
    /// Bytes sent home.
    pub released: u64,
}

/// Coherent memory by the page for one device, ready for hard interrupts.
///
/// [`alloc`](Self::alloc) and [`free`](Self::free) never sleep; they look at a bitmap of at most
/// 1024 pages for each chunk. Chunks come and go in [`maintain`](Self::maintain), which may sleep: a
/// fast path that leaves too little behind only sets a flag for it. Unlike Linux's atomic pools this
/// one shrinks. `S` holds the bookkeeping of as many chunks as the pool may have.
pub struct CoherentPool<P: Platform, S> {
    config: CoherentPoolConfig,
    device: DeviceId,
    inner: IrqMutex<P, Inner<S>>,
    wants_more: AtomicBool,
}

struct Inner<S> {
    chunks: S,
    live: u64,
    free: u64,
    installed: usize,
    /// Since when a chunk has been to spare.
    calm_since: Option<Instant>,
}

impl<S: AsMut<[PageChunk]> + AsRef<[PageChunk]>> Inner<S> {
    fn stats(&self) -> PoolStats {
        PoolStats {
            live: self.live,
            free: self.free,
            chunks: self.installed,
            chunks_max: self.chunks.as_ref().len(),
        }
    }

    fn total_bytes(&self) -> u64 {
        (self.live + self.free) * PAGE_BYTES
    }

    fn take(&mut self, count: u32, align: u32) -> Option<(u32, Segment, Origin)> {
        for (index, chunk) in self.chunks.as_mut().iter_mut().enumerate() {
            let Some(first) = chunk.find(count, align) else {
                continue;
            };
            let memory = chunk.memory.as_mut()?;
            let (segment, origin) = memory.take(first as usize, count as usize)?;
            chunk.mark(first, count, true);
            self.live += u64::from(count);
            self.free -= u64::from(count);
            return Some((index as u32, segment, origin));
        }
        None
    }

    fn put(&mut self, index: u32, segment: Segment) -> Result<(), Segment> {
        let range = segment.range();
        let Some(chunk) = self.chunks.as_mut().get_mut(index as usize) else {
            return Err(segment);
        };
        let Some(memory) = &mut chunk.memory else {
            return Err(segment);
        };
        memory.carved.put(segment)?;
        let offset = range.start().raw() - memory.carved.range().start().raw();
        let count = (range.len() / PAGE_BYTES) as u32;
        chunk.mark((offset / PAGE_BYTES) as u32, count, false);
        self.live -= u64::from(count);
        self.free += u64::from(count);
        Ok(())
    }

    /// A chunk of which nothing is out and without which enough would be left.
    fn spare(&self, low_bytes: u64) -> Option<usize> {
        let keep = low_bytes.div_ceil(PAGE_BYTES).saturating_mul(2);
        let free = self.free;
        let spare =
            |chunk: &PageChunk| chunk.is_whole() && free - u64::from(chunk.pages) >= keep.max(1);
        self.chunks.as_ref().iter().position(spare)
    }
}

impl<P: Platform, S: AsMut<[PageChunk]> + AsRef<[PageChunk]>> CoherentPool<P, S> {
    /// A pool without memory for `device`, with room for as many chunks as `chunks` holds. What the
    /// chunks held before is forgotten.
    pub fn new<'m, M, C: Checker<'m>, T: Translate>(
        device: &Device<'m, P, M, C, T>,
        config: CoherentPoolConfig,
        mut chunks: S,
    ) -> Self {
        chunks.as_mut().fill_with(PageChunk::default);
        Self {
            config,
            device: device.info().id,
            inner: IrqMutex::<P, _>::new(Inner {
                chunks,
                live: 0,
                free: 0,
                installed: 0,
                calm_since: None,
            }),
            wants_more: AtomicBool::new(true),
        }
    }

    /// Its numbers now, in pages.
    pub fn stats(&self) -> PoolStats {
        self.inner.lock().stats()
    }

    /// Memory for `count` values, zeroed, in whole pages that are aligned to the power of two at or
    /// above their number. Never sleeps.
    ///
    /// # Errors
    /// [`PoolError`]; where the pool is exhausted, more has been requested.
    pub fn alloc<T: DeviceShared>(&self, count: usize) -> Result<Coherent<T>, PoolError> {
        let block = CHUNK_PAGES_MAX * PAGE_BYTES;
        let size = (count as u64).saturating_mul(size_of::<T>() as u64);
        if size == 0 || size > block {
            return Err(PoolError::TooLarge { size, block });
        }
        // At most the pages of a chunk.
        let pages = size.div_ceil(PAGE_BYTES) as u32;
        let mut inner = self.inner.lock();
        let taken = inner.take(pages, pages.next_power_of_two());
        if taken.is_none() || inner.free * PAGE_BYTES < self.config.low_bytes {
            self.wants_more.store(true, Ordering::Relaxed);
        }
        let Some((chunk, segment, origin)) = taken else {
            return Err(PoolError::Exhausted {
                wanted: u64::from(pages),
                stats: inner.stats(),
            });
        };
        drop(inner);
        segment.window().fill(0);
        Ok(origin.block(segment, count, Home::Pages { chunk }))
    }

    /// Takes a block back. The device has forgotten its address. Never sleeps.
    ///
    /// # Errors
    /// [`NotHere`] with the block where it did not come from this pool.
    pub fn free<T>(&self, block: Coherent<T>) -> Result<(), NotHere<T>> {
        put_back(block, |home, segment| match home {
            Home::Pages { chunk } => self.inner.lock().put(chunk, segment),
            _ => Err(segment),
        })
    }

    /// Whether the fast path asked for more. Cheap: one load.
    pub fn wants_maintenance(&self) -> bool {
        self.wants_more.load(Ordering::Relaxed)
    }

    /// Adds chunks until enough is free, or sends one home that has been to spare long enough.
    /// Touches at most `budget_bytes`. May sleep.
    ///
    /// Growth doubles the pool as far as budget and maximum allow, and halves what it asks for where
    /// the source has no such run.
    ///
    /// # Errors
    /// What the device's source of coherent memory says; what was added before stays.
    pub fn maintain<'m, M, C: Checker<'m>, T: Translate>(
        &self,
        device: &Device<'m, P, M, C, T>,
        now: Instant,
        budget_bytes: u64,
    ) -> Result<Maintained, CoherentError> {
        check_source(device, self.device)?;
        let mut done = Maintained::default();
        if self.wants_more.swap(false, Ordering::Relaxed) {
            self.grow(device, budget_bytes, &mut done)?;
        } else {
            done.released = self.shrink(device, now, budget_bytes);
        }
        Ok(done)
    }

    fn grow<'m, M, C: Checker<'m>, T: Translate>(
        &self,
        device: &Device<'m, P, M, C, T>,
        budget_bytes: u64,
        done: &mut Maintained,
    ) -> Result<(), CoherentError> {
        // A request that found nothing is why the flag may be set with enough free in pieces: one
        // chunk comes in any case.
        loop {
            let left = budget_bytes - done.added;
            let bytes = {
                let mut inner = self.inner.lock();
                inner.calm_since = None;
                let has_enough = inner.free * PAGE_BYTES >= self.config.low_bytes.max(1);
                if (has_enough && done.added > 0) || inner.installed == inner.chunks.as_ref().len()
                {
                    return Ok(());
                }
                let total = inner.total_bytes();
                let wish = total
                    .max(self.config.low_bytes)
                    .next_multiple_of(PAGE_BYTES);
                let room = self.config.max_bytes.saturating_sub(total).min(left);
                wish.min(room).min(CHUNK_PAGES_MAX * PAGE_BYTES)
            };
            if bytes < PAGE_BYTES {
                return Ok(());
            }
            match self.add(device, 1 << bytes.ilog2()) {
                Ok(0) => return Ok(()),
                Ok(added) => done.added += added,
                Err(error) => {
                    self.wants_more.store(true, Ordering::Relaxed);
                    return Err(error);
                }
            }
        }
    }

    /// Adds a chunk of `bytes`, a power of two of at least a page, or less; says how much.
    fn add<'m, M, C: Checker<'m>, T: Translate>(
        &self,
        device: &Device<'m, P, M, C, T>,
        mut bytes: u64,
    ) -> Result<u64, CoherentError> {
        let memory = loop {
            match device.alloc_coherent::<u8>(bytes as usize, Attributes::NO_WARN) {
                Ok(memory) => break memory,
                Err(CoherentError::NoMemory(_)) if bytes > PAGE_BYTES => bytes /= 2,
                Err(error) => return Err(error),
            }
        };
        match self.install(memory) {
            Ok(()) => Ok(bytes),
            Err(memory) => {
                give_home(device, memory);
                Ok(0)
            }
        }
    }

    fn install(&self, memory: Coherent<u8>) -> Result<(), Coherent<u8>> {
        let memory = ChunkMemory::new(memory, PAGE_BYTES)?;
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        let mut empty = inner
            .chunks
            .as_mut()
            .iter_mut()
            .filter(|chunk| chunk.memory.is_none());
        if let Some(chunk) = empty.next() {
            *chunk = PageChunk::new(memory);
            inner.free += u64::from(chunk.pages);
            inner.installed += 1;
            return Ok(());
        }
        // Nothing was taken from it, so it is whole.
        memory.into_whole().map_or(Ok(()), Err)
    }

    fn shrink<'m, M, C: Checker<'m>, T: Translate>(
        &self,
        device: &Device<'m, P, M, C, T>,
        now: Instant,
        budget_bytes: u64,
    ) -> u64 {
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        let Some(index) = inner.spare(self.config.low_bytes) else {
            inner.calm_since = None;
            return 0;
        };
        let since = *inner.calm_since.get_or_insert(now);
        let chunk = &mut inner.chunks.as_mut()[index];
        let pages = u64::from(chunk.pages);
        if now.saturating_since(since) < self.config.calm || pages * PAGE_BYTES > budget_bytes {
            return 0;
        }
        let Some(memory) = chunk.memory.take() else {
            return 0;
        };
        inner.free -= pages;
        inner.installed -= 1;
        drop(guard);
        memory.go_home(device);
        pages * PAGE_BYTES
    }

    /// Takes the pool down and sends its chunks home. May sleep.
    ///
    /// # Errors
    /// [`PoolBusy`] with the pool and the number of pages that are out, or where it is another
    /// device's.
    pub fn destroy<'m, M, C: Checker<'m>, T: Translate>(
        self,
        device: &Device<'m, P, M, C, T>,
    ) -> Result<S, PoolBusy<Self>> {
        let live = self.inner.lock().live;
        if live > 0 || device.info().id != self.device {
            return Err(PoolBusy { live, pool: self });
        }
        let mut inner = self.inner.into_inner();
        for chunk in inner.chunks.as_mut() {
            if let Some(memory) = chunk.memory.take() {
                memory.go_home(device);
            }
        }
        Ok(inner.chunks)
    }
}

impl<P: Platform, S> fmt::Debug for CoherentPool<P, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CoherentPool of {}", self.device)
    }
}
