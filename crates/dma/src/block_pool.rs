//! Small blocks of coherent memory.

use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};

use dmakit_addr::{Address, Attributes};
use dmakit_platform::{IrqMutex, Platform, Segment};

use crate::block_layout::BLOCKS_MAX;
use crate::check::Checker;
use crate::chunk::{ChunkMemory, check_source, give_home, put_back};
use crate::coherent::{Home, Origin};
use crate::{
    BlockLayout, Coherent, CoherentError, Device, DeviceId, DeviceShared, NotHere, PoolBusy,
    PoolError, PoolStats, Translate,
};

const WORDS: usize = BLOCKS_MAX / 64;

/// No chunk.
const NONE: u32 = u32::MAX;

/// Room for one chunk in a [`DmaPool`]: its bookkeeping, which lies outside the chunk, where no
/// device can write it.
#[derive(Default)]
pub struct PoolChunk {
    memory: Option<ChunkMemory<WORDS>>,
    free: [u64; WORDS],
    free_count: u32,
    next: Option<u32>,
}

/// Small blocks of coherent memory for one device: descriptors, completion words, command headers.
///
/// [`alloc`](Self::alloc) and [`free`](Self::free) are O(1), never sleep and may be called in hard
/// interrupts. Memory comes in chunks, by [`refill`](Self::refill), which may sleep; the embedder
/// calls it when [`wants_refill`](Self::wants_refill) says so. `S` holds the bookkeeping of as many
/// chunks as the pool may have. Which blocks are free is kept there and not in the blocks, where the
/// device could change it.
pub struct DmaPool<P: Platform, S> {
    layout: BlockLayout,
    device: DeviceId,
    inner: IrqMutex<P, Inner<S>>,
    wants_refill: AtomicBool,
}

struct Inner<S> {
    chunks: S,
    /// The first of the chunks that have a free block.
    first: u32,
    live: u64,
    free: u64,
    installed: usize,
}

impl fmt::Debug for PoolChunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.memory {
            Some(memory) => write!(
                f,
                "PoolChunk({:?}, {} free)",
                memory.carved, self.free_count
            ),
            None => f.write_str("PoolChunk(empty)"),
        }
    }
}

impl PoolChunk {
    fn install(&mut self, memory: ChunkMemory<WORDS>, blocks: usize) {
        for (index, word) in self.free.iter_mut().enumerate() {
            let here = blocks.saturating_sub(index * 64).min(64);
            *word = if here == 0 {
                0
            } else {
                u64::MAX >> (64 - here)
            };
        }
        self.free_count = blocks as u32;
        self.memory = Some(memory);
    }

    /// O(words) for a constant number of words.
    fn first_free(&self) -> Option<usize> {
        let index = self.free.iter().position(|word| *word != 0)?;
        Some(index * 64 + self.free[index].trailing_zeros() as usize)
    }
}

impl<S: AsMut<[PoolChunk]> + AsRef<[PoolChunk]>> Inner<S> {
    fn stats(&self) -> PoolStats {
        PoolStats {
            live: self.live,
            free: self.free,
            chunks: self.installed,
            chunks_max: self.chunks.as_ref().len(),
        }
    }

    /// A free block of the first chunk that has one.
    fn take(&mut self, layout: &BlockLayout) -> Option<(u32, Segment, Origin)> {
        let index = self.first;
        let chunk = self.chunks.as_mut().get_mut(index as usize)?;
        let block = chunk.first_free()?;
        let memory = chunk.memory.as_mut()?;
        let offset = layout.offset(block);
        let first_unit = (offset / layout.unit_bytes()) as usize;
        let (segment, origin) = memory.take(first_unit, layout.units())?;
        chunk.free[block / 64] &= !(1 << (block % 64));
        chunk.free_count -= 1;
        if chunk.free_count == 0 {
            self.first = chunk.next.take().unwrap_or(NONE);
        }
        self.live += 1;
        self.free -= 1;
        Some((index, segment, origin))
    }

    fn put(&mut self, layout: &BlockLayout, index: u32, segment: Segment) -> Result<(), Segment> {
        let start = segment.range().start();
        let Some(chunk) = self.chunks.as_mut().get_mut(index as usize) else {
            return Err(segment);
        };
        let Some(memory) = &mut chunk.memory else {
            return Err(segment);
        };
        memory.carved.put(segment)?;
        // It was a part of the chunk, so it does not start below.
        let offset = start.offset_from(memory.carved.range().start());
        let block = layout.block_at(offset.unwrap_or(0));
        chunk.free[block / 64] |= 1 << (block % 64);
        chunk.free_count += 1;
        if chunk.free_count == 1 {
            chunk.next = Some(self.first).filter(|first| *first != NONE);
            self.first = index;
        }
        self.live -= 1;
        self.free += 1;
        Ok(())
    }
}

impl<P: Platform, S: AsMut<[PoolChunk]> + AsRef<[PoolChunk]>> DmaPool<P, S> {
    /// A pool without memory for `device`, with room for as many chunks as `chunks` holds. What the
    /// chunks held before is forgotten.
    pub fn new<'m, M, C: Checker<'m>, T: Translate>(
        device: &Device<'m, P, M, C, T>,
        layout: BlockLayout,
        mut chunks: S,
    ) -> Self {
        chunks.as_mut().fill_with(PoolChunk::default);
        Self {
            layout,
            device: device.info().id,
            inner: IrqMutex::<P, _>::new(Inner {
                chunks,
                first: NONE,
                live: 0,
                free: 0,
                installed: 0,
            }),
            wants_refill: AtomicBool::new(true),
        }
    }

    /// How its blocks lie.
    pub fn layout(&self) -> BlockLayout {
        self.layout
    }

    /// Its numbers now.
    pub fn stats(&self) -> PoolStats {
        self.inner.lock().stats()
    }

    /// A block for one `T`. It holds whatever its last user left there: the same device, which could
    /// read it all along. O(1), never sleeps.
    ///
    /// # Errors
    /// [`PoolError`]; where the pool is exhausted, a refill has been requested.
    pub fn alloc<T: DeviceShared>(&self) -> Result<Coherent<T>, PoolError> {
        let size = size_of::<T>() as u64;
        if size == 0
            || size > self.layout.block_bytes()
            || align_of::<T>() as u64 > self.layout.block_bytes()
        {
            return Err(PoolError::TooLarge {
                size,
                block: self.layout.block_bytes(),
            });
        }
        let mut inner = self.inner.lock();
        let taken = inner.take(&self.layout);
        if inner.free == 0 {
            self.wants_refill.store(true, Ordering::Relaxed);
        }
        let Some((chunk, segment, origin)) = taken else {
            return Err(PoolError::Exhausted {
                wanted: 1,
                stats: inner.stats(),
            });
        };
        drop(inner);
        Ok(origin.block(segment, 1, Home::Blocks { chunk }))
    }

    /// Takes a block back. The device has forgotten its address. O(1), never sleeps.
    ///
    /// # Errors
    /// [`NotHere`] with the block where it did not come from this pool.
    pub fn free<T>(&self, block: Coherent<T>) -> Result<(), NotHere<T>> {
        put_back(block, |home, segment| match home {
            Home::Blocks { chunk } => self.inner.lock().put(&self.layout, chunk, segment),
            _ => Err(segment),
        })
    }

    /// Whether the last block went, or none was there. Cheap: one load.
    pub fn wants_refill(&self) -> bool {
        self.wants_refill.load(Ordering::Relaxed)
    }

    /// Adds up to `chunks` chunks where a refill was requested; says how many. May sleep.
    ///
    /// # Errors
    /// What the device's source of coherent memory says; what was added before stays.
    pub fn refill<'m, M, C: Checker<'m>, T: Translate>(
        &self,
        device: &Device<'m, P, M, C, T>,
        chunks: usize,
    ) -> Result<usize, CoherentError> {
        check_source(device, self.device)?;
        if !self.wants_refill.swap(false, Ordering::Relaxed) {
            return Ok(0);
        }
        for added in 0..chunks {
            let stats = self.stats();
            if stats.chunks == stats.chunks_max {
                return Ok(added);
            }
            let bytes = self.layout.chunk_bytes() as usize;
            let memory = match device.alloc_coherent::<u8>(bytes, Attributes::NONE) {
                Ok(memory) => memory,
                Err(error) => {
                    self.wants_refill.store(true, Ordering::Relaxed);
                    return Err(error);
                }
            };
            if let Err(memory) = self.install(memory) {
                // Another refill took the last room meanwhile.
                give_home(device, memory);
                return Ok(added);
            }
        }
        Ok(chunks)
    }

    fn install(&self, memory: Coherent<u8>) -> Result<(), Coherent<u8>> {
        let memory = ChunkMemory::new(memory, self.layout.unit_bytes())?;
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        let chunks = inner.chunks.as_mut().iter_mut().enumerate();
        let mut empty = chunks.filter(|(_, chunk)| chunk.memory.is_none());
        if let Some((index, chunk)) = empty.next() {
            let blocks = self.layout.blocks_per_chunk();
            chunk.install(memory, blocks);
            chunk.next = Some(inner.first).filter(|first| *first != NONE);
            inner.first = index as u32;
            inner.free += blocks as u64;
            inner.installed += 1;
            return Ok(());
        }
        // Nothing was taken from it, so it is whole.
        memory.into_whole().map_or(Ok(()), Err)
    }

    /// Takes the pool down and sends its chunks home. May sleep.
    ///
    /// # Errors
    /// [`PoolBusy`] with the pool and the number of blocks that are out, or where it is another
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

impl<P: Platform, S> fmt::Debug for DmaPool<P, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DmaPool of {}, {:?}", self.device, self.layout)
    }
}
