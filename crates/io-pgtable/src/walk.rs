//! Reading what is mapped.

use core::sync::atomic::Ordering;

use dmakit_addr::{Address, Iova, IovaRange, PhysAddr};
use dmakit_platform::{Platform, TableMemory};

use crate::{Entry, Format, PageTable};

/// One leaf entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leaf {
    /// The addresses that it maps.
    pub range: IovaRange,
    /// Where its first byte lies.
    pub phys: PhysAddr,
    /// Its height: 0 for single granules.
    pub height: u32,
    /// Whether it says that it is one of a contiguous group.
    pub is_contiguous: bool,
    /// The entry as hardware reads it.
    pub entry: u64,
}

impl<F: Format, P: Platform, M: TableMemory> PageTable<F, P, M> {
    /// The leaf that maps an address; `None` where nothing is mapped. At most four loads of
    /// entries. Where somebody unmaps the address meanwhile, what comes back may be stale or belong
    /// to what is mapped next.
    #[inline]
    pub fn leaf_at(&self, iova: Iova) -> Option<Leaf> {
        let geometry = self.format().geometry();
        let address = iova.raw();
        if address >> geometry.input_bits() != 0 {
            return None;
        }
        let (mut table, top) = match self.at_hand(0, address) {
            Some((table, ..)) => (table, 0),
            None => (self.tables.get(self.root as usize)?, geometry.root_height()),
        };
        for height in (0..=top).rev() {
            let index = geometry.index(address, height);
            let entry = table.words().get(index)?.load(Ordering::Relaxed);
            match self.format().parse(height, entry) {
                Entry::Absent => return None,
                Entry::Table(_) => table = self.tables.get(table.child(index)? as usize)?,
                Entry::Leaf(phys, is_contiguous) => {
                    let span = geometry.span(height);
                    let range = IovaRange::new(iova.align_down(span), span).ok()?;
                    return Some(Leaf {
                        range,
                        phys,
                        height,
                        is_contiguous,
                        entry,
                    });
                }
            }
        }
        None
    }

    /// Where an address leads; `None` where nothing is mapped.
    #[inline]
    pub fn iova_to_phys(&self, iova: Iova) -> Option<PhysAddr> {
        let (geometry, address) = (self.format().geometry(), iova.raw());
        if address >> geometry.input_bits() != 0 {
            return None;
        }
        if let Some((_, _, word)) = self.at_hand(0, address) {
            let offset = address & geometry.granule().mask();
            return match self.format().parse(0, word.load(Ordering::Relaxed)) {
                Entry::Leaf(phys, _) => Some(PhysAddr::new(phys.raw() | offset)),
                _ => None,
            };
        }
        self.phys_by_walk(iova)
    }

    #[inline(never)]
    fn phys_by_walk(&self, iova: Iova) -> Option<PhysAddr> {
        let leaf = self.leaf_at(iova)?;
        leaf.phys.checked_add(iova.offset_from(leaf.range.start())?)
    }

    /// All leaves in `range`, in order, for dumps and checks.
    pub fn leaves(&self, range: IovaRange) -> Leaves<'_, F, P, M> {
        Leaves {
            table: self,
            at: range.start().raw(),
            end: range.end().raw(),
        }
    }

    /// How many bytes from `address` on surely hold no leaf: the rest of the largest empty entry.
    fn gap_at(&self, address: u64) -> u64 {
        let geometry = self.format().geometry();
        let mut number = self.root;
        for height in (0..=geometry.root_height()).rev() {
            let index = geometry.index(address, height);
            let child = self
                .tables
                .get(number as usize)
                .and_then(|table| table.child(index));
            match child {
                Some(child) => number = child,
                None => return geometry.span(height) - (address & (geometry.span(height) - 1)),
            }
        }
        geometry.granule().bytes()
    }
}

/// The leaves of a range, in order.
pub struct Leaves<'a, F: Format, P: Platform, M: TableMemory> {
    table: &'a PageTable<F, P, M>,
    at: u64,
    end: u64,
}

impl<F: Format, P: Platform, M: TableMemory> Iterator for Leaves<'_, F, P, M> {
    type Item = Leaf;

    fn next(&mut self) -> Option<Leaf> {
        while self.at < self.end {
            match self.table.leaf_at(Iova::new(self.at)) {
                Some(leaf) => {
                    self.at = leaf.range.end().raw();
                    return Some(leaf);
                }
                None => self.at = self.at.checked_add(self.table.gap_at(self.at))?,
            }
        }
        None
    }
}
