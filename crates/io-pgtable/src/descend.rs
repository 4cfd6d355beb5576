//! The way down to an entry, on which tables are made.

use core::sync::atomic::Ordering;

use dmakit_addr::DmaMask;
use dmakit_platform::{Barrier, Platform, SegmentRequest, TableMemory};

use crate::table::Table;
use crate::{Format, MapFailure, PageTable, TableError};

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
        if let Some(table) = self.hinted(height, at) {
            let index = geometry.index(at, height);
            if table.child(index).is_none() {
                return Ok(Place {
                    table,
                    height,
                    index,
                    is_fresh: false,
                });
            }
        }
        let mut number = self.root;
        let mut here = geometry.root_height();
        let mut is_fresh = false;
        loop {
            let Some(table) = self.tables.get(number as usize) else {
                return Err(MapFailure::Table(TableError::Records));
            };
            let index = geometry.index(at, here);
            if here <= height && table.child(index).is_none() {
                self.remember(here, at, number);
                return Ok(Place {
                    table,
                    height: here,
                    index,
                    is_fresh,
                });
            }
            (number, is_fresh) = self.child(table, here, index)?;
            here -= 1;
        }
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
            None if self.format.is_present(entry) => Err(MapFailure::Occupied),
            None => self.make_child(table, height, index),
        }
    }

    #[cold]
    fn make_child(
        &self,
        table: &Table,
        height: u32,
        index: usize,
    ) -> Result<(u32, bool), MapFailure> {
        let fresh = self.take_table(height - 1).map_err(MapFailure::Table)?;
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

    /// Writes the entry of a table that is clean and installed. Writing it twice does no harm.
    #[cold]
    fn publish(&self, table: &Table, index: usize, child: u32) -> Result<(), MapFailure> {
        let Some(below) = self.tables.get(child as usize) else {
            return Err(MapFailure::Table(TableError::Records));
        };
        // The table's zeroes before the entry that leads to them.
        self.platform.barrier(Barrier::BeforeDevice);
        table.words()[index].store(self.format.table(below.phys()), Ordering::Relaxed);
        self.clean(table, index, 1);
        Ok(())
    }

    /// A clean table for `height`.
    fn take_table(&self, height: u32) -> Result<u32, TableError> {
        match self.stock[usize::from(height > 0)].pop(&self.tables) {
            Some(number) => Ok(number),
            None => self.add_table(height, self.format.geometry().entries()),
        }
    }

    #[cold]
    pub(crate) fn add_table(&self, height: u32, entries: usize) -> Result<u32, TableError> {
        // A root may have a few entries only; memory comes in frames.
        let len = (entries as u64 * 8).max(4096);
        let limit = DmaMask::bits(self.format.geometry().output_bits()).unwrap_or(DmaMask::ALL);
        let request = SegmentRequest {
            len,
            align: len,
            node: self.node,
            limit,
        };
        let segment = self
            .memory
            .allocate_table(&request)
            .map_err(TableError::Memory)?;
        let table = Table::new(segment, entries, height).map_err(|segment| {
            self.memory.free_table(segment);
            TableError::Records
        })?;
        let number = self.tables.push(table).map_err(|table| {
            self.memory.free_table(table.segment);
            TableError::Records
        })?;
        self.held.fetch_add(1, Ordering::Relaxed);
        u32::try_from(number).map_err(|_| TableError::Records)
    }
}
