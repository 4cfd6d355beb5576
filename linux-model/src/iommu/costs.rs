//! What a domain has done, counted.

/// Counts of one domain.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TranslationCosts {
    /// Ranges mapped.
    pub maps: u64,
    /// Ranges unmapped.
    pub unmaps: u64,
    /// Ranges that found no addresses.
    pub failed: u64,
    /// Addresses asked of the allocator.
    pub allocations: u64,
    /// Those of them that a CPU's cache, or a depot, had.
    pub cache_hits: u64,
    /// Ranges that a search for addresses looked at, all together.
    pub tree_steps: u64,
    /// Entries written into tables, and cleared.
    pub table_stores: u64,
    /// Tables made.
    pub tables_made: u64,
    /// Commands that forget a range or a domain.
    pub invalidations: u64,
    /// Those of them that forget a whole domain.
    pub flushes: u64,
    /// Waits for hardware.
    pub syncs: u64,
    /// Frames of 4 KiB times nanoseconds between unmap and the end of the invalidation.
    pub exposed_page_ns: u128,
    /// The most frames that were exposed at once.
    pub exposed_pages_max: u64,
}
