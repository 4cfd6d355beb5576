//! One table: found in its register, sized, given memory.

use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use dmakit_addr::PhysRange;
use dmakit_platform::{Barrier, Mmio, NoMemory, Platform, Segment, TableMemory};

use crate::memory::{Given, Provider};
use crate::negotiate::negotiate;
use crate::spec::attributes::{Attributes, Placement};
use crate::spec::registers::baser;
use crate::spec::table::{self, PageSize, TableKind, entry_bytes, level_1};
use crate::{Layout, Levels, Refused, Sharing, StartError};

/// A table as it stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TableInfo {
    /// What it holds.
    pub kind: TableKind,
    /// Its shape.
    pub layout: Layout,
    /// The memory at the address in the register.
    pub range: PhysRange,
    /// How the ITS reaches it.
    pub attributes: Attributes,
    /// Pages of a second level so far.
    pub leaves: u64,
}

/// A table that the ITS knows.
pub(crate) struct Table {
    kind: TableKind,
    layout: Layout,
    attributes: Attributes,
    /// Whether the ITS reads past the CPU's caches.
    cleans: bool,
    root: Given,
    leaves: Vec<Option<Given>>,
    leaves_given: u64,
}

/// What a table is wanted for.
#[derive(Clone, Copy)]
pub(crate) struct Wanted {
    /// IDs, as far as it can hold them.
    pub(crate) ids: u64,
    pub(crate) levels: Levels,
    pub(crate) sharing: Sharing,
    /// Attributes to try first.
    pub(crate) attributes: Attributes,
}

/// What a table register says before it is used.
struct Register<'a, R> {
    regs: &'a R,
    offset: u64,
    /// Type and entry size, which are fixed.
    fixed: u64,
}

impl<R: Mmio> Register<'_, R> {
    /// Writes a value, and says what became of it.
    fn exchange(&self, value: u64) -> u64 {
        self.regs.write64(self.offset, self.fixed | value);
        self.regs.read64(self.offset)
    }

    /// The largest page size that it takes: some have only one, and say so.
    fn page_size(&self) -> Result<PageSize, Refused> {
        let mut last = Refused {
            register: self.offset,
            wrote: 0,
            read: 0,
        };
        for page in PageSize::ALL {
            let read = self.exchange(page.encode());
            if PageSize::decode(read) == Some(page) {
                return Ok(page);
            }
            last.wrote = self.fixed | page.encode();
            last.read = read;
        }
        Err(last)
    }

    fn takes_two_levels(&self, page: PageSize, attributes: Attributes) -> bool {
        let attributes = Placement::ITS.encode(attributes);
        let read = self.exchange(table::INDIRECT | attributes | page.encode());
        read & table::INDIRECT != 0
    }

    fn layout(&self, wanted: &Wanted) -> Result<Layout, StartError> {
        let ids = wanted.ids;
        let page = self.page_size().map_err(StartError::Refused)?;
        let entry = entry_bytes(self.fixed);
        let flat = Layout::flat(ids, entry, page);
        let is_large = ids.saturating_mul(entry) > 2 * page.bytes();
        let wants_two = match wanted.levels {
            Levels::Cheapest => is_large,
            Levels::Flat => flat.ids < ids,
            Levels::Two => true,
        };
        Ok(
            match wants_two && self.takes_two_levels(page, wanted.attributes) {
                true => Layout::two_level(ids, entry, page),
                false => flat,
            },
        )
    }
}

impl Table {
    /// Sets up the table of register `index`, which is of `kind`.
    pub(crate) fn start<P: Platform, R: Mmio, M: TableMemory>(
        platform: &P,
        regs: &R,
        provider: &Provider<M>,
        index: usize,
        kind: TableKind,
        wanted: &Wanted,
    ) -> Result<Self, StartError> {
        let offset = baser(index);
        let found = regs.read64(offset);
        let register = Register {
            regs,
            offset,
            fixed: found & 0x071f_0000_0000_0000,
        };
        let layout = register.layout(wanted)?;
        let page = layout.page;
        let root = provider
            .allocate(layout.bytes(), page.bytes(), page.address_bits())
            .map_err(StartError::Memory)?;
        let mut table = Self {
            kind,
            layout,
            attributes: wanted.attributes,
            cleans: true,
            root,
            leaves: Vec::new(),
            leaves_given: 0,
        };
        let result = table
            .make_room()
            .and_then(|()| table.describe(&register).map_err(StartError::Refused));
        if let Err(error) = result {
            // The register is not valid, or the ITS off: it has seen nothing.
            register.exchange(0);
            provider.free(table.root);
            return Err(error);
        }
        table.cleans = wanted.sharing == Sharing::Never || !table.attributes.is_coherent();
        if table.cleans {
            platform.clean(table.root.segment.range());
        }
        Ok(table)
    }

    fn make_room(&mut self) -> Result<(), StartError> {
        let leaves = self.layout.leaves() as usize;
        self.leaves
            .try_reserve_exact(leaves)
            .map_err(|_| StartError::Records)?;
        self.leaves.resize_with(leaves, || None);
        Ok(())
    }

    /// Writes the register; a size that it cuts is taken as it is.
    fn describe<R: Mmio>(&mut self, register: &Register<'_, R>) -> Result<(), Refused> {
        let refused = match self.try_describe(register) {
            Ok(()) => return Ok(()),
            Err(refused) => refused,
        };
        let differs = refused.wrote ^ refused.read;
        let (wrote, read) = (refused.wrote & table::SIZE, refused.read & table::SIZE);
        if differs & !Placement::ITS.mask() & !table::SIZE != 0 || read > wrote {
            return Err(refused);
        }
        self.layout = self.layout.with_pages(read + 1);
        self.leaves.truncate(self.layout.leaves() as usize);
        self.try_describe(register)
    }

    fn try_describe<R: Mmio>(&mut self, register: &Register<'_, R>) -> Result<(), Refused> {
        let Layout {
            page,
            pages,
            is_two_level,
            ..
        } = self.layout;
        let value = register.fixed
            | table::VALID
            | if is_two_level { table::INDIRECT } else { 0 }
            | page.fold(self.root.segment.range().start().raw())
            | page.encode()
            | (pages - 1);
        self.attributes = negotiate(
            register.offset,
            Placement::ITS,
            value,
            self.attributes,
            |value| register.exchange(value),
        )?;
        Ok(())
    }

    pub(crate) fn info(&self) -> TableInfo {
        TableInfo {
            kind: self.kind,
            layout: self.layout,
            range: self.root.segment.range(),
            attributes: self.attributes,
            leaves: self.leaves_given,
        }
    }

    /// Whether the ITS reads it past the CPU's caches.
    pub(crate) fn cleans(&self) -> bool {
        self.cleans
    }

    /// Makes sure that there is memory for an ID's entry. A page that is new stays until the ITS is
    /// stopped: it may remember where it is.
    ///
    /// The caller has checked the ID against [`Layout::ids`].
    pub(crate) fn reach<P: Platform, M: TableMemory>(
        &mut self,
        id: u64,
        platform: &P,
        provider: &Provider<M>,
    ) -> Result<(), NoMemory> {
        let number = self.layout.leaf_of(id) as usize;
        let Some(slot) = self.leaves.get_mut(number).filter(|slot| slot.is_none()) else {
            return Ok(());
        };
        let page = self.layout.page;
        let leaf = provider.allocate(page.bytes(), page.bytes(), 52)?;
        let entry = level_1(leaf.segment.range().start().raw(), page);
        // Its zeroes before the entry that leads to it, and that before the command that needs it.
        if self.cleans {
            platform.clean(leaf.segment.range());
        }
        platform.barrier(Barrier::BeforeDevice);
        let root = &self.root.segment;
        if let Some(word) = root.window().words64().and_then(|words| words.get(number)) {
            word.store(entry.to_le(), Ordering::Relaxed);
        }
        if let (true, Some(word)) = (self.cleans, root.range().slice(number as u64 * 8, 8)) {
            platform.clean(word);
        }
        platform.barrier(Barrier::BeforeDevice);
        *slot = Some(leaf);
        self.leaves_given += 1;
        Ok(())
    }

    /// Gives all memory home; what came from an earlier provider goes to `foreign`.
    pub(crate) fn free<M: TableMemory>(
        self,
        provider: &Provider<M>,
        mut foreign: impl FnMut(Segment),
    ) {
        let parts = self.leaves.into_iter().flatten().chain([self.root]);
        for part in parts {
            provider.free(part).map(&mut foreign);
        }
    }
}
