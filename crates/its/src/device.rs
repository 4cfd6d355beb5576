//! Devices, and the tables of their events.

use alloc::vec::Vec;
use core::fmt;

use dmakit_addr::{PhysAddr, PhysRange};
use dmakit_platform::{Mmio, NoMemory, Platform, Segment, TableMemory};

use crate::layout::{EVENT_TABLE_ALIGN, event_bits, event_table_bytes};
use crate::memory::Given;
use crate::spec::command;
use crate::spec::table::TableKind;
use crate::{CommandFailure, Its, Lpi};

/// Where an event goes.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) lpi: Lpi,
    pub(crate) collection: u16,
}

/// A device that an ITS knows: the owner of its table of events. Dropping one leaks that.
#[derive(Debug)]
pub struct Device {
    /// The ITS that it is of.
    pub(crate) its: PhysAddr,
    pub(crate) id: u32,
    bits: u32,
    table: Given,
    pub(crate) routes: Vec<Option<Route>>,
}

impl Device {
    /// Its ID.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Its events: 0 up to this.
    pub fn events(&self) -> u32 {
        self.routes.len() as u32
    }

    /// The table of its events, in the ITS's own format.
    pub fn table(&self) -> PhysRange {
        self.table.segment.range()
    }

    /// The number of the LPI that an event raises.
    pub fn interrupt(&self, event: u32) -> Option<u32> {
        let route = self.routes.get(event as usize)?.as_ref()?;
        Some(route.lpi.number())
    }
}

/// A device that was not created.
#[derive(Debug)]
pub enum CreateError {
    /// An ID for which there is no entry.
    Unknown {
        /// The ID.
        device: u32,
        /// IDs are below this.
        ids: u64,
    },
    /// The ID has a device already.
    InUse {
        /// The ID.
        device: u32,
    },
    /// No events, or more than an event ID can tell apart.
    Events {
        /// How many.
        asked: u32,
        /// Bits of an event ID.
        bits: u32,
    },
    /// No collection is mapped: there would be no redistributor whose sync ends the device.
    NoCollection,
    /// No memory for its table, or for the page of its entry.
    Memory(NoMemory),
    /// No memory for the driver's own records.
    Records,
    /// The ITS refused it; nothing has changed.
    Refused(CommandFailure),
    /// It is unknown whether the ITS uses the device's table: [`Its::destroy_device`] tries to end
    /// that.
    Pending {
        /// The device, which can be destroyed.
        device: Device,
        /// What happened.
        error: CommandFailure,
    },
}

impl fmt::Display for CreateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { device, ids } => {
                write!(f, "device {device:#x} is beyond the table of {ids} IDs")
            }
            Self::InUse { device } => write!(f, "device {device:#x} is there already"),
            Self::Events { asked, bits } => {
                write!(f, "{asked} events do not fit 1 to 2^{bits}")
            }
            Self::NoCollection => f.write_str("no collection is mapped"),
            Self::Memory(error) => write!(f, "no memory for a device's table: {error}"),
            Self::Records => f.write_str("no memory for the records of a device"),
            Self::Refused(error) | Self::Pending { error, .. } => error.fmt(f),
        }
    }
}

impl core::error::Error for CreateError {}

/// A device that was not destroyed; it comes back as it was.
#[derive(Debug)]
pub enum DestroyError {
    /// An event is mapped.
    InUse {
        /// The device.
        device: Device,
        /// The event.
        event: u32,
    },
    /// It is of another ITS.
    Foreign {
        /// The device.
        device: Device,
    },
    /// It is unknown whether the ITS still uses its table. It can be tried again.
    Commands {
        /// The device.
        device: Device,
        /// What happened.
        error: CommandFailure,
    },
}

impl fmt::Display for DestroyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InUse { device, event } => {
                write!(f, "event {event} of device {:#x} is mapped", device.id)
            }
            Self::Foreign { device } => {
                write!(f, "device {:#x} is of the ITS at {}", device.id, device.its)
            }
            Self::Commands { error, .. } => error.fmt(f),
        }
    }
}

impl core::error::Error for DestroyError {}

impl<P: Platform, R: Mmio, M: TableMemory> Its<P, R, M> {
    /// Makes a device known, with a table for `events` events. May sleep.
    ///
    /// Where the device table has two levels, the page of its entry is made first; that stays.
    ///
    /// # Errors
    /// [`CreateError`].
    pub fn create_device(&self, id: u32, events: u32) -> Result<Device, CreateError> {
        let bits = event_bits(events);
        let most = self.features.event_bits;
        if events == 0 || bits > most {
            let asked = events;
            return Err(CreateError::Events { asked, bits: most });
        }
        if self.mapped_targets().next().is_none() {
            return Err(CreateError::NoCollection);
        }
        let mut tables = self.tables.lock();
        let ids = tables.ids(TableKind::Devices);
        if u64::from(id) >= ids {
            return Err(CreateError::Unknown { device: id, ids });
        }
        let Err(place) = tables.devices.binary_search(&id) else {
            return Err(CreateError::InUse { device: id });
        };
        let reserved = tables.devices.try_reserve(1);
        reserved.map_err(|_| CreateError::Records)?;
        let mut routes = Vec::new();
        let reserved = routes.try_reserve_exact(events as usize);
        reserved.map_err(|_| CreateError::Records)?;
        routes.resize_with(events as usize, || None);
        tables
            .reach(
                TableKind::Devices,
                id.into(),
                &self.platform,
                &self.provider,
            )
            .map_err(CreateError::Memory)?;
        let len = event_table_bytes(bits, self.features.event_entry_bytes);
        let table = self
            .provider
            .allocate(len, EVENT_TABLE_ALIGN, 52)
            .map_err(CreateError::Memory)?;
        let range = table.segment.range();
        if tables.cleans_event_tables() {
            self.platform.clean(range);
        }
        let device = Device {
            its: self.config.base,
            id,
            bits,
            table,
            routes,
        };
        // As real drivers do, without a sync: commands are executed in order, so no later one of
        // this device comes before it (5.3.1).
        match self.run(&[command::mapd(id, bits, range.start().raw())]) {
            Ok(()) => {
                tables.devices.insert(place, id);
                Ok(device)
            }
            Err(error @ CommandFailure::Refused(_)) => {
                // A fresh device's memory is of the present provider.
                self.provider.free(device.table);
                Err(CreateError::Refused(error))
            }
            Err(error) => {
                tables.devices.insert(place, id);
                Err(CreateError::Pending { device, error })
            }
        }
    }

    /// Ends a device of which no event is mapped. May sleep.
    ///
    /// Its table goes home once the ITS has completed that; where it came from an earlier provider
    /// (see [`Its::with_memory`]), it is given to the caller to do so.
    ///
    /// # Errors
    /// [`DestroyError`].
    pub fn destroy_device(&self, device: Device) -> Result<Option<Segment>, DestroyError> {
        if device.its != self.config.base {
            return Err(DestroyError::Foreign { device });
        }
        if let Some(event) = device.routes.iter().position(Option::is_some) {
            let event = event as u32;
            return Err(DestroyError::InUse { device, event });
        }
        let mut tables = self.tables.lock();
        let start = device.table().start().raw();
        let unmap = command::unmapd(device.id, device.bits, start);
        // A sync, which real drivers leave out: the memory is somebody else's afterwards.
        if let Err(error) = self.run_with_syncs(&[unmap], self.mapped_targets()) {
            return Err(DestroyError::Commands { device, error });
        }
        if let Ok(place) = tables.devices.binary_search(&device.id) {
            tables.devices.remove(place);
        }
        Ok(self.provider.free(device.table))
    }
}
