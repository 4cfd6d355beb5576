//! A tree of tables and the memory that holds them.

use core::sync::atomic::Ordering;

use dmakit_addr::{NodeId, PhysAddr};
use dmakit_platform::{Arena, Platform, TableMemory};

use crate::descend::Contents;
use crate::hint::{Hints, PLACES_ALL};
use crate::sync::AtomicUsize;
use crate::table::{Stock, Table};
use crate::{Format, TableError};

/// Entries of one tree of tables, and the memory that holds them.
///
/// Map, unmap and look-ups take `&self` from any number of CPUs, in any context. The callers see to
/// it that no two of them work on the same addresses at once, as owners of IOVA ranges do.
///
/// A table stays in the tree until an unmap covers all that it maps: then it goes into the gather,
/// and after [`recycle`](Self::recycle) into a stock of tables, from which it is used again.
/// A table emptied piece by piece stays where it is, and later mappings there use its small leaves,
/// until [`prune`](Self::prune) takes it out. Memory goes back to its provider when the page table is
/// dropped.
pub struct PageTable<F: Format, P: Platform, M: TableMemory> {
    pub(crate) format: F,
    pub(crate) platform: P,
    pub(crate) memory: M,
    pub(crate) node: Option<NodeId>,
    /// Whether hardware walks go past the CPU's caches.
    pub(crate) cleans: bool,
    /// Output addresses of so many bits stand in an entry as they are.
    pub(crate) plain_bits: u32,
    /// Whether the format has no groups of leaves.
    pub(crate) has_single_leaves: bool,
    /// Bytes of the largest leaf or group of leaves.
    pub(crate) largest_leaf: u64,
    pub(crate) tables: Arena<Table>,
    /// Numbers of the arena that have no table.
    pub(crate) lost: AtomicUsize,
    pub(crate) root: u32,
    /// Tables without, and with, records for tables below them.
    pub(crate) stock: [Stock; 2],
    /// By height.
    pub(crate) hints: [Hints; 3],
}

/// How many tables there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Statistics {
    /// Tables in the tree or in gathers, the root included.
    pub used: usize,
    /// Tables in stock.
    pub stock: usize,
}

/// Whether hardware's table walks look into the CPU's caches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WalkCoherence {
    /// They do.
    Coherent,
    /// They do not: entries are cleaned to memory.
    NonCoherent,
}

impl<F: Format, P: Platform, M: TableMemory> PageTable<F, P, M> {
    /// An empty table, its memory near `node`. Takes the root from `memory`.
    ///
    /// # Errors
    /// [`TableError`] where there is no memory for it.
    pub fn new(
        format: F,
        platform: P,
        memory: M,
        node: Option<NodeId>,
        coherence: WalkCoherence,
    ) -> Result<Self, TableError> {
        let geometry = format.geometry();
        let (height, entries) = (geometry.root_height(), geometry.root_entries());
        let group = |height| {
            format
                .contiguous(height)
                .map_or(1, |(count, _)| count as u64)
        };
        let leaves = (0..=height).filter(|&height| height == 0 || format.has_leaves(height));
        let plain_bits = geometry.output_bits().min(48);
        let mut this = Self {
            hints: Hints::of(&format, plain_bits),
            plain_bits,
            has_single_leaves: (0..=height).all(|height| format.contiguous(height).is_none()),
            largest_leaf: leaves
                .map(|height| geometry.span(height) * group(height))
                .max()
                .unwrap_or(geometry.granule().bytes()),
            format,
            platform,
            memory,
            node,
            cleans: coherence == WalkCoherence::NonCoherent,
            tables: Arena::with_places(PLACES_ALL).ok_or(TableError::Records)?,
            lost: AtomicUsize::new(0),
            root: 0,
            stock: Default::default(),
        };
        this.root = this.add_table(height, entries, Contents::Clear)?;
        Ok(this)
    }

    /// The format.
    pub fn format(&self) -> &F {
        &self.format
    }

    /// Where hardware finds the root.
    pub fn root_phys(&self) -> PhysAddr {
        self.tables
            .get(self.root as usize)
            .map_or(PhysAddr::new(0), Table::phys)
    }

    /// How many tables there are.
    pub fn statistics(&self) -> Statistics {
        let stock: usize = self.stock.iter().map(|stock| stock.len() as usize).sum();
        Statistics {
            // While others come and go the two are of different moments.
            used: self
                .tables
                .len()
                .saturating_sub(self.lost.load(Ordering::Relaxed) + stock),
            stock,
        }
    }

    /// Writes entries back to memory where hardware walks past the caches.
    #[inline]
    pub(crate) fn clean(&self, table: &Table, index: usize, count: usize) {
        if self.cleans {
            if let Some(range) = table
                .words
                .segment()
                .range()
                .slice(index as u64 * 8, count as u64 * 8)
            {
                self.platform.clean(range);
            }
        }
    }
}

impl<F: Format, P: Platform, M: TableMemory> Drop for PageTable<F, P, M> {
    fn drop(&mut self) {
        for table in self.tables.drain() {
            self.memory.free_table(table.words.into_segment());
        }
    }
}
