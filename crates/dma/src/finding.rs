//! What a book of mappings finds.

use core::fmt;
use core::panic::Location;

use dmakit_addr::{Direction, DmaAddr};

use crate::check::{Event, Kind};
use crate::{DeviceId, DeviceInfo, ProviderId, RawError};

/// What was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Fault<'m> {
    /// It shares a cache line with another live mapping, and a device writes one of the two.
    Overlap(Party<'m>),
    /// It was still mapped when its device was removed.
    Leak,
    /// It ended while its memory was kept from the device to be moved, and nothing has let it in again.
    Withheld,
    /// A raw handle was used wrongly.
    Misuse(RawError),
    /// It ended and nothing knows when it began.
    Unknown,
}

/// A mapping, or memory linked to one, and who asked for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Party<'m> {
    /// The device.
    pub device: DeviceId,
    /// Its name.
    pub name: &'m str,
    /// What was mapped.
    pub kind: Kind,
    /// Its first DMA address.
    pub dma: DmaAddr,
    /// How many bytes it has.
    pub len: u64,
    /// Which way the bytes move, where that is known.
    pub direction: Option<Direction>,
    /// Whose memory lies behind it, where that is another device's.
    pub peer: Option<ProviderId>,
    /// The line of the driver that mapped it, or misused it; absent where nothing knows.
    pub caller: Option<&'static Location<'static>>,
}

/// Something that a driver should not have done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Finding<'m> {
    /// What.
    pub fault: Fault<'m>,
    /// With which mapping.
    pub party: Party<'m>,
}

impl<'m> Party<'m> {
    /// What `event` says of a mapping of `device`.
    pub(crate) fn of(device: &DeviceInfo<'m>, event: &Event) -> Self {
        Self {
            device: device.id,
            name: device.name,
            kind: event.kind,
            dma: event.dma,
            len: event.len,
            direction: Some(event.direction),
            peer: event.peer,
            caller: event.caller,
        }
    }
}

impl fmt::Display for Party<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, dma, len, .. } = self;
        write!(f, "{name}: {len} bytes at DMA address {dma}")?;
        if let Some(direction) = self.direction {
            write!(f, ", {direction}")?;
        }
        if let Some(peer) = self.peer {
            write!(f, ", memory of {peer}")?;
        }
        match self.caller {
            Some(caller) => write!(f, ", from {}:{}", caller.file(), caller.line()),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Finding<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.party)?;
        match &self.fault {
            Fault::Overlap(other) => write!(f, "shares a cache line with {other}"),
            Fault::Leak => f.write_str("still mapped when the device was removed"),
            Fault::Withheld => f.write_str("ended while its memory was kept from the device"),
            Fault::Misuse(error) => error.fmt(f),
            Fault::Unknown => f.write_str("ended and was not known to have begun"),
        }
    }
}

/// How often each fault was found, kept or not.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct FaultCounts {
    /// Mappings that share a line with another.
    pub overlaps: u64,
    /// Mappings left at a removal.
    pub leaks: u64,
    /// Raw handles used wrongly.
    pub misuses: u64,
    /// Ends of what was kept from its device.
    pub withheld: u64,
    /// Ends without a beginning. Those of mappings that found no room are not among them.
    pub unknown: u64,
    /// Runs that found no room in the book, so that nothing is known of them.
    pub unwatched: u64,
}

impl FaultCounts {
    /// Everything that a driver did wrong.
    pub fn total(&self) -> u64 {
        self.overlaps + self.leaks + self.misuses + self.withheld + self.unknown
    }
}
