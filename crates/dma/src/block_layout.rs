//! Where small blocks lie in their chunks.

use core::fmt;

use dmakit_addr::{BoundaryMask, PAGE_BYTES};

/// The smallest block and the finest alignment: what smaller ones would save, their bookkeeping
/// would cost.
const BLOCK_MIN_BYTES: u64 = 16;

/// A page of the smallest blocks.
pub(crate) const BLOCKS_MAX: usize = (PAGE_BYTES / BLOCK_MIN_BYTES) as usize;

/// How the blocks of a [`DmaPool`](crate::DmaPool) lie.
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
    pub(crate) fn unit_bytes(&self) -> u64 {
        if self.chunk_bytes == PAGE_BYTES {
            BLOCK_MIN_BYTES
        } else {
            self.chunk_bytes
        }
    }

    pub(crate) fn offset(&self, block: usize) -> u64 {
        let block = block as u64;
        block / self.row_blocks * self.row_bytes + block % self.row_blocks * self.stride
    }

    pub(crate) fn block_at(&self, offset: u64) -> usize {
        let row = offset / self.row_bytes;
        (row * self.row_blocks + offset % self.row_bytes / self.stride) as usize
    }

    pub(crate) fn units(&self) -> usize {
        self.stride.div_ceil(self.unit_bytes()) as usize
    }
}
