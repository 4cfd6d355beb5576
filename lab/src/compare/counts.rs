//! What one engine did in one mode, counted.

/// Counts over the whole load. Coherent memory is left out: it is mapped once and stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Buffers mapped: single ones and scatterlists. One of them is taken for one I/O.
    pub ios: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Buffers that were refused.
    pub failed: u64,
    /// Ranges of addresses taken and given back.
    pub iova_operations: u64,
    /// Those taken that a CPU's cache had.
    pub cache_hits: u64,
    /// Physically contiguous runs that entered tables.
    pub runs: u64,
    /// Entries written into tables and cleared.
    pub table_stores: u64,
    /// Commands that forget a range or everything.
    pub invalidations: u64,
    /// Waits for hardware.
    pub syncs: u64,
    /// Pieces that found room in a bounce pool.
    pub bounces: u64,
    pub bytes_copied: u64,
    /// Frames of 4 KiB times nanoseconds that a device could still reach them after unmap.
    pub exposed_page_ns: u128,
    /// The most frames whose buffers waited for a sync at once.
    pub withheld_pages_max: u64,
}
