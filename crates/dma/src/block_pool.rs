//! Small blocks of coherent memory.

use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};

use dmakit_addr::{Address, Attributes, BoundaryMask, PAGE_BYTES};
use dmakit_platform::{Carved, IrqMutex, Platform, Segment};

use crate::check::Checker;
use crate::coherent::{Home, Origin};
use crate::{Coherent, CoherentError, CoherentSource, Device, DeviceId, DeviceShared, NotHere};

/// The smallest block and the finest alignment: what smaller ones would save, their bookkeeping
/// would cost.
const BLOCK_MIN_BYTES: u64 = 16;

/// A page of the smallest blocks.
const BLOCKS_MAX: usize = (PAGE_BYTES / BLOCK_MIN_BYTES) as usize;
const WORDS: usize = BLOCKS_MAX / 64;

/// No chunk.
const NONE: u32 = u32::MAX;

/// How the blocks of a [`DmaPool`] lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockLayout {
    stride: u64,
    /// Blocks between two boundaries.
    row_blocks: u64,
    row_bytes: u64,
    chunk_bytes: u64,
}

/// A size, alignment and boundary that no blocks can have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LayoutError {
    /// The size asked for, in bytes.
    pub size: u64,
    /// The alignment asked for, in bytes.
    pub align: u64,
    /// The mask of the boundary.
    pub boundary: BoundaryMask,
}

impl fmt::Display for LayoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "no blocks of {} bytes aligned to {} within the boundary mask {:#x}",
            self.size,
            self.align,
            self.boundary.raw()
        )
    }
}

impl core::error::Error for LayoutError {}

impl BlockLayout {
    /// Blocks of `size` bytes aligned to `align`, a power of two, none of which crosses `boundary`.
    /// Both are raised to 16 bytes.
    ///
    /// # Errors
    /// [`LayoutError`] where the size is 0 or more than 2 GiB, the alignment is no power of two up to
    /// a page, or the boundary is nearer than a block is long.
    pub fn new(size: u64, align: u64, boundary: BoundaryMask) -> Result<Self, LayoutError> {
        let refused = LayoutError {
            size,
            align,
            boundary,
        };
        let is_sane = (1..=1 << 31).contains(&size) && align.is_power_of_two();
        if !is_sane || align > PAGE_BYTES {
            return Err(refused);
        }
        let stride = size.next_multiple_of(align.max(BLOCK_MIN_BYTES));
        let chunk_bytes = stride.next_multiple_of(PAGE_BYTES);
        let row_bytes = boundary
            .raw()
            .saturating_add(1)
            .min(chunk_bytes.next_power_of_two());
        if stride > row_bytes {
            return Err(refused);
        }
        Ok(Self {
            stride,
            row_blocks: row_bytes / stride,
            row_bytes,
            chunk_bytes,
        })
    }

    /// Bytes from one block to the next.
    pub fn block_bytes(&self) -> u64 {
        self.stride
    }

    /// Bytes of coherent memory that are asked for at a time.
    pub fn chunk_bytes(&self) -> u64 {
        self.chunk_bytes
    }

    /// How many blocks a chunk holds.
    pub fn blocks_per_chunk(&self) -> usize {
        let rows = self.chunk_bytes / self.row_bytes;
        let odd = (self.chunk_bytes % self.row_bytes) / self.stride;
        // At most a page of the smallest blocks: larger chunks hold one block.
        (rows * self.row_blocks + odd) as usize
    }

    /// What chunks are cut into. A chunk of many blocks is a page, and one of a single block is a
    /// unit by itself.
    fn unit_bytes(&self) -> u64 {
        if self.chunk_bytes == PAGE_BYTES {
            BLOCK_MIN_BYTES
        } else {
            self.chunk_bytes
        }
    }

    fn offset(&self, block: usize) -> u64 {
        let block = block as u64;
        block / self.row_blocks * self.row_bytes + block % self.row_blocks * self.stride
    }

    fn block_at(&self, offset: u64) -> usize {
        let row = offset / self.row_bytes;
        (row * self.row_blocks + offset % self.row_bytes / self.stride) as usize
    }

    fn units(&self) -> usize {
        self.stride.div_ceil(self.unit_bytes()) as usize
    }
}

/// Room for one chunk in a [`DmaPool`]: its bookkeeping, which lies outside the chunk, where no
/// device can write it.
#[derive(Default)]
pub struct PoolChunk {
    memory: Option<ChunkMemory>,
    free: [u64; WORDS],
    free_count: u32,
    next: Option<u32>,
}

struct ChunkMemory {
    carved: Carved<WORDS>,
    origin: Origin,
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

/// A pool's numbers at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct PoolStats {
    /// Blocks (of a [`CoherentPool`](crate::CoherentPool): pages) that are out.
    pub live: u64,
    /// Those that are free.
    pub free: u64,
    /// Chunks that the pool has.
    pub chunks: usize,
    /// Chunks for which it has room.
    pub chunks_max: usize,
}

/// Why a pool gave no block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum PoolError {
    /// A value is longer than a block or needs more alignment.
    TooLarge {
        /// Bytes in the value.
        size: u64,
        /// Bytes in a block.
        block: u64,
    },
    /// No run of free blocks is long enough; a refill has been requested.
    Exhausted {
        /// Blocks asked for.
        wanted: u64,
        /// The pool's numbers.
        stats: PoolStats,
    },
}

impl fmt::Display for PoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge { size, block } => {
                write!(f, "a value of {size} bytes does not fit blocks of {block}")
            }
            Self::Exhausted { wanted, stats } => write!(
                f,
                "no {wanted} blocks together: {} are out, {} free, {} of {} chunks there",
                stats.live, stats.free, stats.chunks, stats.chunks_max
            ),
        }
    }
}

impl core::error::Error for PoolError {}

/// A pool that cannot be taken down, given back as it was.
pub struct PoolBusy<T> {
    /// How many blocks are out.
    pub live: u64,
    /// The pool.
    pub pool: T,
}

impl<T> fmt::Debug for PoolBusy<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PoolBusy({} live)", self.live)
    }
}

impl<T> fmt::Display for PoolBusy<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} blocks of the pool are still out", self.live)
    }
}

impl<T> core::error::Error for PoolBusy<T> {}

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
    fn install(&mut self, memory: ChunkMemory, blocks: usize) {
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
        let segment = memory.carved.take(first_unit, layout.units())?;
        let origin = memory.origin;
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
    pub fn new<'m, M, C: Checker<'m>>(
        device: &Device<'m, P, M, C>,
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
        if size == 0 || size > self.layout.stride || align_of::<T>() as u64 > self.layout.stride {
            return Err(PoolError::TooLarge {
                size,
                block: self.layout.stride,
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
        let owner = block.device;
        let Home::Blocks { chunk } = block.home else {
            return Err(NotHere { owner, block });
        };
        let (segment, rest) = block
            .into_parts()
            .map_err(|block| NotHere { owner, block })?;
        let put = self.inner.lock().put(&self.layout, chunk, segment);
        put.map_err(|segment| NotHere {
            owner,
            block: rest.with(segment),
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
    pub fn refill<'m, M, C: Checker<'m>>(
        &self,
        device: &Device<'m, P, M, C>,
        chunks: usize,
    ) -> Result<usize, CoherentError> {
        if device.info().id != self.device {
            return Err(CoherentError::Foreign {
                owner: self.device,
                device: device.info().id,
            });
        }
        if let CoherentSource::Pool = device.coherent {
            return Err(CoherentError::Indivisible);
        }
        if !self.wants_refill.swap(false, Ordering::Relaxed) {
            return Ok(0);
        }
        for added in 0..chunks {
            let stats = self.stats();
            if stats.chunks == stats.chunks_max {
                return Ok(added);
            }
            let bytes = self.layout.chunk_bytes as usize;
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
        let (segment, rest) = memory.into_parts()?;
        let origin = rest.origin(&segment);
        let carved = match Carved::new(segment, self.layout.unit_bytes()) {
            Ok(carved) => carved,
            Err(segment) => return Err(rest.with(segment)),
        };
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        let chunks = inner.chunks.as_mut().iter_mut().enumerate();
        let mut empty = chunks.filter(|(_, chunk)| chunk.memory.is_none());
        if let Some((index, chunk)) = empty.next() {
            let blocks = self.layout.blocks_per_chunk();
            chunk.install(ChunkMemory { carved, origin }, blocks);
            chunk.next = Some(inner.first).filter(|first| *first != NONE);
            inner.first = index as u32;
            inner.free += blocks as u64;
            inner.installed += 1;
            return Ok(());
        }
        match carved.into_segment() {
            Ok(segment) => Err(rest.with(segment)),
            // Nothing was taken from it, so it is whole.
            Err(_) => Ok(()),
        }
    }

    /// Takes the pool down and sends its chunks home. May sleep.
    ///
    /// # Errors
    /// [`PoolBusy`] with the pool and the number of blocks that are out, or where it is another
    /// device's.
    pub fn destroy<'m, M, C: Checker<'m>>(
        self,
        device: &Device<'m, P, M, C>,
    ) -> Result<S, PoolBusy<Self>> {
        let live = self.inner.lock().live;
        if live > 0 || device.info().id != self.device {
            return Err(PoolBusy { live, pool: self });
        }
        let mut inner = self.inner.into_inner();
        for chunk in inner.chunks.as_mut() {
            let Some(ChunkMemory { carved, origin }) = chunk.memory.take() else {
                continue;
            };
            if let Ok(segment) = carved.into_segment() {
                give_home(device, origin.whole(segment));
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

pub(crate) fn give_home<'m, P: Platform, M, C: Checker<'m>>(
    device: &Device<'m, P, M, C>,
    memory: Coherent<u8>,
) {
    // It was made by this device, with this home, so it is taken.
    let taken = device.free_coherent(memory);
    debug_assert!(taken.is_ok());
}
