//! Entries that are made invalid for a while, and come back leading elsewhere.

use core::fmt;
use core::sync::atomic::Ordering;

use dmakit_addr::{Address, Iova, IovaRange, PhysAddr};
use dmakit_platform::{Platform, TableMemory};

use crate::table::Table;
use crate::{Entry, Format, Gather, PageTable, UnmapError};

/// What makes an entry present.
const PRESENT: u64 = 1;

/// Entries that were not withheld. Nothing has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WithholdError {
    /// The range is not whole leaves, or not all mapped.
    Shape(UnmapError),
    /// What it maps is not contiguous memory.
    Scattered {
        /// The first address that leads elsewhere.
        iova: Iova,
        /// Where it leads.
        phys: PhysAddr,
    },
    /// Entries of this format are not made invalid by one bit.
    Format,
}

impl fmt::Display for WithholdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shape(error) => error.fmt(f),
            Self::Scattered { iova, phys } => {
                write!(f, "{iova} leads to {phys}, apart from what is before it")
            }
            Self::Format => f.write_str("entries of this format cannot be withheld"),
        }
    }
}

impl core::error::Error for WithholdError {}

impl<F: Format, P: Platform, M: TableMemory> PageTable<F, P, M> {
    /// Makes the entries of `range`, which map contiguous memory by whole leaves, invalid, and adds
    /// them to `gather`; says where the memory is, and how many bytes the largest leaf maps.
    ///
    /// All else that the entries say stays in them, and every table in its place, so that
    /// [`restore`](Self::restore) needs nothing and cannot fail. The caller owns the addresses:
    /// nobody maps or unmaps there meanwhile. Until the caches are invalidated hardware may still use
    /// the entries. Never sleeps; O(leaves).
    ///
    /// # Errors
    /// [`WithholdError`].
    pub fn withhold(
        &self,
        range: IovaRange,
        gather: &mut Gather,
    ) -> Result<(PhysAddr, u64), WithholdError> {
        let (start, end) = self.checked(range).map_err(WithholdError::Shape)?;
        for edge in [start, end] {
            self.refuse_cut_leaf(range, edge)
                .map_err(WithholdError::Shape)?;
        }
        let absent = WithholdError::Shape(UnmapError::Absent(range));
        let (mut at, mut first, mut largest) = (start, None, 0);
        while at < end {
            let leaf = self.leaf_at(Iova::new(at)).ok_or(absent)?;
            let base = *first.get_or_insert(leaf.phys);
            if base.checked_add(at - start) != Some(leaf.phys) {
                let (iova, phys) = (leaf.range.start(), leaf.phys);
                return Err(WithholdError::Scattered { iova, phys });
            }
            if self.format().is_present(leaf.entry & !PRESENT) {
                return Err(WithholdError::Format);
            }
            largest = largest.max(leaf.range.len());
            at = leaf.range.end().raw();
        }
        self.each_leaf(start, end, |at, table, height, index, entry| {
            table.words()[index].store(entry & !PRESENT, Ordering::Relaxed);
            self.clean(table, index, 1);
            gather.add(at, at + self.format().geometry().span(height), height, 1);
        });
        Ok((first.ok_or(absent)?, largest))
    }

    /// Makes the entries of a range that was withheld valid again, leading to `to` instead of `from`;
    /// both differ by a multiple of what the largest leaf maps. They allow what they allowed before.
    ///
    /// Hardware has forgotten the entries: break before make. Never sleeps; O(leaves).
    pub fn restore(&self, range: IovaRange, from: PhysAddr, to: PhysAddr) {
        let (start, end) = (range.start().raw(), range.end().raw());
        self.each_leaf(start, end, |_, table, height, index, entry| {
            let Entry::Leaf(phys, _) = self.format().parse(height, entry | PRESENT) else {
                return;
            };
            let moved = phys
                .offset_from(from)
                .and_then(|offset| to.checked_add(offset));
            let moved = self.format().address(moved.unwrap_or(phys));
            let rest = entry & !self.format().address(phys);
            table.words()[index].store(rest | moved | PRESENT, Ordering::Relaxed);
            self.clean(table, index, 1);
        });
    }

    /// Visits the entries of `[start, end)` that have no table under them.
    fn each_leaf(&self, start: u64, end: u64, mut visit: impl FnMut(u64, &Table, u32, usize, u64)) {
        let geometry = self.format().geometry();
        let mut at = start;
        while at < end {
            let (mut number, mut height) = (self.root, geometry.root_height());
            let Some((table, index)) = (loop {
                let Some(table) = self.tables.get(number as usize) else {
                    break None;
                };
                let index = geometry.index(at, height);
                match (table.child(index), height.checked_sub(1)) {
                    (Some(child), Some(below)) => (number, height) = (child, below),
                    _ => break Some((table, index)),
                }
            }) else {
                return;
            };
            let entry = table.words()[index].load(Ordering::Relaxed);
            visit(at, table, height, index, entry);
            at += geometry.span(height);
        }
    }
}
