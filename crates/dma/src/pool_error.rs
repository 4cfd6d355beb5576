//! What pools of coherent memory say of themselves.

use core::fmt;

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
