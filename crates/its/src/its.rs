//! A running ITS.

use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use dmakit_addr::PhysAddr;
use dmakit_platform::{IrqMutex, Mmio, NoMemory, Platform, SleepMutex, TableMemory};

use crate::memory::Provider;
use crate::queue::CommandQueue;
use crate::spec::command::{self, Command};
use crate::spec::registers::TRANSLATER;
use crate::spec::table::TableKind;
use crate::table::Table;
use crate::{CommandCounts, CommandFailure, Config, EventError, Features, TableInfo, Target};

/// A running ITS. Any CPU may call it.
pub struct Its<P: Platform, R: Mmio, M: TableMemory> {
    pub(crate) platform: P,
    pub(crate) regs: R,
    pub(crate) config: Config,
    pub(crate) features: Features,
    pub(crate) provider: Provider<M>,
    /// What commands call the redistributor of each collection, or `NO_TARGET`.
    pub(crate) targets: Vec<AtomicU64>,
    pub(crate) tables: SleepMutex<P, Tables>,
    pub(crate) queue: IrqMutex<P, CommandQueue>,
}

/// No redistributor: not a multiple of 64 KiB.
const NO_TARGET: u64 = u64::MAX;

/// The tables, and whose entries are in use.
#[derive(Default)]
pub(crate) struct Tables {
    pub(crate) tables: Vec<Table>,
    /// Devices that the ITS knows, ascending.
    pub(crate) devices: Vec<u32>,
}

impl Tables {
    /// IDs of a kind that have an entry, or can have one.
    pub(crate) fn ids(&self, kind: TableKind) -> u64 {
        let table = self.tables.iter().find(|table| table.info().kind == kind);
        table.map_or(0, |table| table.info().layout.ids)
    }

    /// Whether the ITS reads devices' tables past the CPU's caches. They have no register of their own,
    /// and are reached as the device table is.
    pub(crate) fn cleans_event_tables(&self) -> bool {
        let kind = TableKind::Devices;
        let mut tables = self.tables.iter();
        tables.any(|table| table.info().kind == kind && table.cleans())
    }

    pub(crate) fn reach<P: Platform, M: TableMemory>(
        &mut self,
        kind: TableKind,
        id: u64,
        platform: &P,
        provider: &Provider<M>,
    ) -> Result<(), NoMemory> {
        let mut tables = self.tables.iter_mut();
        match tables.find(|table| table.info().kind == kind) {
            Some(table) => table.reach(id, platform, provider),
            None => Ok(()),
        }
    }
}

/// A collection that was not mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CollectionError {
    /// More than were asked for at the start.
    Unknown {
        /// The collection.
        collection: u16,
        /// Collections are below this.
        collections: u16,
    },
    /// The commands did not take effect.
    Commands(CommandFailure),
}

impl fmt::Display for CollectionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown {
                collection,
                collections,
            } => write!(f, "collection {collection} is beyond {collections}"),
            Self::Commands(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for CollectionError {}

/// `count` collections without a redistributor; `None` without memory for that.
pub(crate) fn no_targets(count: u16) -> Option<Vec<AtomicU64>> {
    let mut targets = Vec::new();
    targets.try_reserve_exact(count.into()).ok()?;
    targets.resize_with(count.into(), || AtomicU64::new(NO_TARGET));
    Some(targets)
}

impl<P: Platform, R: Mmio, M: TableMemory> Its<P, R, M> {
    /// What it can do.
    pub fn features(&self) -> &Features {
        &self.features
    }

    /// How it is run.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The register to which devices write an event's number to raise it. Behind an IOMMU it is
    /// mapped as device memory, writable, for each device.
    pub fn doorbell(&self) -> PhysAddr {
        PhysAddr::new(self.config.base.raw() + TRANSLATER)
    }

    /// Its table of a kind, as it stands. May sleep.
    pub fn table(&self, kind: TableKind) -> Option<TableInfo> {
        let tables = self.tables.lock();
        let mut infos = tables.tables.iter().map(Table::info);
        infos.find(|info| info.kind == kind)
    }

    /// What went through its command queue.
    pub fn command_counts(&self) -> CommandCounts {
        self.queue.lock().counts()
    }

    /// Lets interrupts of a collection go to the CPU of a redistributor whose LPIs are on. Whatever
    /// it remembers of their configuration is forgotten. Never sleeps.
    ///
    /// # Errors
    /// [`CollectionError`].
    pub fn map_collection(&self, collection: u16, target: Target) -> Result<(), CollectionError> {
        let Some(slot) = self.targets.get(usize::from(collection)) else {
            return Err(CollectionError::Unknown {
                collection,
                collections: self.config.collections,
            });
        };
        let by_address = self.features.targets_by_address;
        let target = command::redistributor(by_address, target.base.raw(), target.processor);
        let sync = command::sync(target);
        let forget = command::invall(collection);
        self.run(&[command::mapc(collection, target), sync, forget, sync])
            .map_err(CollectionError::Commands)?;
        slot.store(target, Ordering::Release);
        Ok(())
    }

    /// Makes sure that a virtual CPU's entry has memory, where their table has two levels. May
    /// sleep.
    ///
    /// # Errors
    /// [`NoMemory`].
    pub fn reach_virtual_cpu(&self, id: u16) -> Result<(), NoMemory> {
        let mut tables = self.tables.lock();
        let kind = TableKind::VirtualCpus;
        match u64::from(id) < tables.ids(kind) {
            true => tables.reach(kind, id.into(), &self.platform, &self.provider),
            false => Ok(()),
        }
    }

    pub(crate) fn run(&self, commands: &[Command]) -> Result<(), CommandFailure> {
        let mut queue = self.queue.lock();
        queue.run(&self.platform, &self.regs, commands)
    }

    /// Runs `commands`, then a sync for each of `targets`.
    pub(crate) fn run_with_syncs(
        &self,
        commands: &[Command],
        targets: impl Iterator<Item = u64>,
    ) -> Result<(), CommandFailure> {
        let mut queue = self.queue.lock();
        queue.run(&self.platform, &self.regs, commands)?;
        for target in targets {
            queue.run(&self.platform, &self.regs, &[command::sync(target)])?;
        }
        Ok(())
    }

    /// Redistributors of all collections.
    pub(crate) fn mapped_targets(&self) -> impl Iterator<Item = u64> + '_ {
        let targets = self.targets.iter();
        targets
            .map(|target| target.load(Ordering::Acquire))
            .filter(|&target| target != NO_TARGET)
    }

    pub(crate) fn target_of(&self, collection: u16) -> Result<u64, EventError> {
        let target = self.targets.get(usize::from(collection));
        target
            .map(|target| target.load(Ordering::Acquire))
            .filter(|&target| target != NO_TARGET)
            .ok_or(EventError::NoCollection { collection })
    }
}
