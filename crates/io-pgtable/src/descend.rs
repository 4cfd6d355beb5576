//! The way down to an entry, on which tables are made.

use core::sync::atomic::Ordering;

use dmakit_addr::DmaMask;
use dmakit_platform::{Barrier, NoMemory, Platform, SegmentRequest, TableMemory, Words};

use crate::table::Table;
use crate::{Entry, Format, MapFailure, PageTable, TableError};

/// What entries a table is taken with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contents {
    /// None.
    Clear,
    /// Anything: its taker writes all of them before hardware can reach it.
    Undefined,
}

/// A stretch of entries of one table.
pub(crate) struct Place<'a> {
    pub(crate) table: &'a Table,
    pub(crate) height: u32,
    pub(crate) index: usize,
    /// Whether the table was made on the way, so that what its maker's range has of it is clear.
    pub(crate) is_fresh: bool,
}

impl<F: Format, P: Platform, M: TableMemory> PageTable<F, P, M> {
    /// The entry for `at` in the table at `height`, or in a lower one where there is a table already;
    /// tables on the way are made.
    pub(crate) fn descend(&self, at: u64, height: u32) -> Result<Place<'_>, MapFailure> {
        let geometry = self.format.geometry();
        let (mut nearest, mut here) = self.nearest(height, at);
        let mut is_fresh = false;
        loop {
            let Some(table) = nearest else {
                return Err(MapFailure::Table(TableError::Records));
            };
            let index = geometry.index(at, here);
            if here <= height && table.child(index).is_none() {
                return Ok(Place {
                    table,
                    height: here,
                    index,
                    is_fresh,
                });
            }
            let number;
            (number, is_fresh) = self.child(table, here, index)?;
            here -= 1;
            nearest = self.tables.get(number as usize);
            if let (true, Some(fresh)) = (is_fresh, nearest) {
                self.name(fresh, here, at);
            }
            self.remember(here, at, number);
        }
    }

    /// The lowest table, at `height` or above, that is on the way to `at` and at hand, and its height.
    #[inline]
    fn nearest(&self, height: u32, at: u64) -> (Option<&Table>, u32) {
        let top = self.format.geometry().root_height();
        for here in height..top.min(self.hints.len() as u32) {
            if let Some((table, ..)) = self.at_hand(here as usize, at) {
                return (Some(table), here);
            }
        }
        (self.tables.get(self.root as usize), top)
    }

    /// The table under an entry, made where there is none, and whether it was.
    fn child(&self, table: &Table, height: u32, index: usize) -> Result<(u32, bool), MapFailure> {
        let entry = table.words()[index].load(Ordering::Relaxed);
        match table.child(index) {
            Some(child) => {
                if !self.format.is_present(entry) {
                    // Whoever made the table has not come to writing the entry: it must be there
                    // before we can say that something below it is mapped.
                    self.publish(table, index, child)?;
                }
                Ok((child, false))
            }
            None => match self.format.parse(height, entry) {
                Entry::Absent => self.make_child(table, height, index),
                Entry::Leaf(..) => Err(MapFailure::Occupied),
                // The entry was seen before the number that was stored first.
                Entry::Table(_) => match table.latest_child(index) {
                    Some(child) => Ok((child, false)),
                    None => Err(MapFailure::Occupied),
                },
            },
        }
    }

    #[cold]
    fn make_child(
        &self,
        table: &Table,
        height: u32,
        index: usize,
    ) -> Result<(u32, bool), MapFailure> {
        let fresh = self
            .take_table(height - 1, Contents::Clear)
            .map_err(MapFailure::Table)?;
        let (child, is_fresh) = match table.install(index, fresh) {
            Ok(()) => (fresh, true),
            Err(there) => {
                self.stock[usize::from(height > 1)].push(&self.tables, fresh);
                (there, false)
            }
        };
        self.publish(table, index, child)?;
        Ok((child, is_fresh))
    }

    /// Writes the entry of a table that is ready and installed. Writing it twice does no harm.
    #[cold]
    pub(crate) fn publish(
        &self,
        table: &Table,
        index: usize,
        child: u32,
    ) -> Result<(), MapFailure> {
        let Some(below) = self.tables.get(child as usize) else {
            return Err(MapFailure::Table(TableError::Records));
        };
        // The table's entries before the entry that leads to them.
        self.platform.barrier(Barrier::BeforeDevice);
        table.words()[index].store(self.format.table(below.phys()), Ordering::Relaxed);
        self.clean(table, index, 1);
        Ok(())
    }

    /// A table for `height`.
    pub(crate) fn take_table(&self, height: u32, contents: Contents) -> Result<u32, TableError> {
        let Some(number) = self.stock[usize::from(height > 0)].pop(&self.tables) else {
            return self.add_table(height, self.format.geometry().entries(), contents);
        };
        // In stock lies what it last had.
        if let (Contents::Clear, Some(table)) = (contents, self.tables.get(number as usize)) {
            table.words.segment().window().fill(0);
            self.clean(table, 0, table.words().len());
        }
        Ok(number)
    }

    #[cold]
    pub(crate) fn add_table(
        &self,
        height: u32,
        entries: usize,
        contents: Contents,
    ) -> Result<u32, TableError> {
        // A root may have a few entries only; memory comes in frames.
        let len = (entries as u64 * 8).max(4096);
        let limit = DmaMask::bits(self.format.geometry().output_bits()).unwrap_or(DmaMask::ALL);
        let request = SegmentRequest {
            len,
            align: len,
            node: self.node,
            limit,
        };
        let segment = match contents {
            Contents::Clear => self.memory.allocate_table(&request),
            Contents::Undefined => self.memory.allocate_unwritten(&request),
        };
        let segment = segment.map_err(TableError::Memory)?;
        let words = match segment.len() == len {
            true => Words::new(segment),
            false => Err(segment),
        };
        let words = words.map_err(|segment| {
            // Not what was asked for: its end is what bounds a table.
            self.memory.free_table(segment);
            TableError::Memory(NoMemory {
                request,
                largest_free: None,
            })
        })?;
        let table = Table::new(words, entries, height).map_err(|words| {
            self.memory.free_table(words.into_segment());
            TableError::Records
        })?;
        let number = self.tables.push(table).map_err(|table| {
            self.lost.fetch_add(1, Ordering::Relaxed);
            self.memory.free_table(table.words.into_segment());
            TableError::Records
        })?;
        u32::try_from(number).map_err(|_| TableError::Records)
    }
}
