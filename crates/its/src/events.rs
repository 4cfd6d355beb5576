//! Events of devices: which interrupt they raise, and on which CPU.

use core::fmt;

use dmakit_platform::{Mmio, Platform, TableMemory};

use crate::device::Route;
use crate::spec::command::{self, Command};
use crate::{CommandFailure, Device, Its, Lpi, Lpis};

/// An event that was not changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EventError {
    /// An event that the device does not have.
    Unknown {
        /// The event.
        event: u32,
        /// Events are below this.
        events: u32,
    },
    /// It raises an interrupt already.
    InUse {
        /// The event.
        event: u32,
    },
    /// It raises no interrupt.
    NotMapped {
        /// The event.
        event: u32,
    },
    /// A collection without a redistributor.
    NoCollection {
        /// The collection.
        collection: u16,
    },
    /// The device is of another ITS.
    Foreign {
        /// The device's ID.
        device: u32,
    },
    /// Not all commands took effect. Where the first was refused, nothing has changed.
    Commands(CommandFailure),
}

impl fmt::Display for EventError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { event, events } => {
                write!(f, "event {event} is beyond the device's {events}")
            }
            Self::InUse { event } => write!(f, "event {event} raises an interrupt already"),
            Self::NotMapped { event } => write!(f, "event {event} raises no interrupt"),
            Self::NoCollection { collection } => {
                write!(f, "collection {collection} has no redistributor")
            }
            Self::Foreign { device } => write!(f, "device {device:#x} is of another ITS"),
            Self::Commands(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for EventError {}

/// An event that was not mapped.
#[derive(PartialEq, Eq, Debug)]
pub struct MapError {
    /// The interrupt, unless it is unknown whether the ITS uses it: then the event counts as mapped,
    /// and unmapping it gives the interrupt.
    pub lpi: Option<Lpi>,
    /// Why.
    pub error: EventError,
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl core::error::Error for MapError {}

/// Whether it was this command that the ITS refused, so that it had no effect.
fn is_refused(result: &Result<(), CommandFailure>, command: &Command) -> bool {
    matches!(result, Err(CommandFailure::Refused(refused)) if refused.command == *command)
}

/// None of these sleeps: all may be called in hard interrupts, where they wait for the ITS.
impl<P: Platform, R: Mmio, M: TableMemory> Its<P, R, M> {
    /// Lets an event of a device raise `lpi` on the CPU of a collection, once it is
    /// [enabled](Self::enable).
    ///
    /// # Errors
    /// [`MapError`], with the interrupt.
    pub fn map(
        &self,
        device: &mut Device,
        event: u32,
        lpi: Lpi,
        collection: u16,
    ) -> Result<(), MapError> {
        let checked = self
            .check(device, event)
            .and_then(|()| self.target_of(collection))
            .and_then(|target| match device.routes[event as usize] {
                Some(_) => Err(EventError::InUse { event }),
                None => Ok(target),
            });
        let target = match checked {
            Ok(target) => target,
            Err(error) => {
                let lpi = Some(lpi);
                return Err(MapError { lpi, error });
            }
        };
        let id = device.id;
        let map = match lpi.number() == event {
            true => command::mapi(id, event, collection),
            false => command::mapti(id, event, lpi.number(), collection),
        };
        // The redistributor may remember an earlier life of the number.
        let forget = command::inv(id, event);
        let result = self.run(&[map, forget, command::sync(target)]);
        let lpi = match is_refused(&result, &map) {
            true => Some(lpi),
            false => {
                device.routes[event as usize] = Some(Route { lpi, collection });
                None
            }
        };
        result.map_err(|error| MapError {
            lpi,
            error: EventError::Commands(error),
        })
    }

    /// Lets an event raise nothing any more, and gives its interrupt. What was pending is dropped.
    ///
    /// # Errors
    /// [`EventError`]; the event is then as before, or where the ITS did not answer, can be unmapped
    /// again.
    pub fn unmap(&self, device: &mut Device, event: u32) -> Result<Lpi, EventError> {
        let target = self.target_of(self.route(device, event)?.collection)?;
        self.run(&[command::discard(device.id, event), command::sync(target)])
            .map_err(EventError::Commands)?;
        let route = device.routes[event as usize].take();
        route
            .map(|route| route.lpi)
            .ok_or(EventError::NotMapped { event })
    }

    /// Moves an event to the CPU of another collection, with what is pending.
    ///
    /// # Errors
    /// [`EventError`].
    pub fn move_event(
        &self,
        device: &mut Device,
        event: u32,
        collection: u16,
    ) -> Result<(), EventError> {
        let from = self.target_of(self.route(device, event)?.collection)?;
        let to = self.target_of(collection)?;
        // What was on its way to the old CPU has arrived, and the new one has what was moved, with
        // the configuration of today.
        let move_event = command::movi(device.id, event, collection);
        let commands = [
            move_event,
            command::sync(from),
            command::inv(device.id, event),
            command::sync(to),
        ];
        let result = self.run(&commands);
        if let (Some(route), false) = (
            &mut device.routes[event as usize],
            is_refused(&result, &move_event),
        ) {
            route.collection = collection;
        }
        result.map_err(EventError::Commands)
    }

    /// Lets the interrupt of an event reach its CPU. `lpis` are those that it was taken from.
    ///
    /// # Errors
    /// [`EventError`].
    pub fn enable(&self, lpis: &Lpis<P>, device: &Device, event: u32) -> Result<(), EventError> {
        self.configure(lpis, device, event, true)
    }

    /// Keeps the interrupt of an event from its CPU; it stays pending meanwhile.
    ///
    /// # Errors
    /// [`EventError`].
    pub fn disable(&self, lpis: &Lpis<P>, device: &Device, event: u32) -> Result<(), EventError> {
        self.configure(lpis, device, event, false)
    }

    /// Raises an event as its device would.
    ///
    /// # Errors
    /// [`EventError`].
    pub fn raise(&self, device: &Device, event: u32) -> Result<(), EventError> {
        self.run_on(device, event, command::int(device.id, event))
    }

    /// Drops an event's pending interrupt.
    ///
    /// # Errors
    /// [`EventError`].
    pub fn clear(&self, device: &Device, event: u32) -> Result<(), EventError> {
        self.run_on(device, event, command::clear(device.id, event))
    }

    fn configure(
        &self,
        lpis: &Lpis<P>,
        device: &Device,
        event: u32,
        is_enabled: bool,
    ) -> Result<(), EventError> {
        lpis.set(self.route(device, event)?.lpi.number(), is_enabled);
        self.run_on(device, event, command::inv(device.id, event))
    }

    fn run_on(&self, device: &Device, event: u32, command: Command) -> Result<(), EventError> {
        let target = self.target_of(self.route(device, event)?.collection)?;
        self.run(&[command, command::sync(target)])
            .map_err(EventError::Commands)
    }

    fn check(&self, device: &Device, event: u32) -> Result<(), EventError> {
        let events = device.events();
        if device.its != self.config.base {
            return Err(EventError::Foreign { device: device.id });
        }
        match event < events {
            true => Ok(()),
            false => Err(EventError::Unknown { event, events }),
        }
    }

    fn route<'a>(&self, device: &'a Device, event: u32) -> Result<&'a Route, EventError> {
        self.check(device, event)?;
        device.routes[event as usize]
            .as_ref()
            .ok_or(EventError::NotMapped { event })
    }
}
