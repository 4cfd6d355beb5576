//! The seam for watching what types cannot see.

use core::panic::Location;

use dmakit_addr::{Direction, DmaAddr, PhysRange};

use crate::{DeviceInfo, DmaSegment, ProviderId, RawError};

/// What was mapped.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// A buffer.
    Streaming,
    /// Coherent memory.
    Coherent,
    /// A buffer mapped through raw handles.
    Raw,
    /// Memory that is not RAM.
    Resource,
    /// Another device's memory.
    Peer,
    /// Addresses that are linked to memory from their start.
    Request,
    /// Addresses that are linked to pages in any order.
    Window,
}

/// Device addresses that come into a device's hands, or leave them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// What it is.
    pub kind: Kind,
    /// Its first DMA address.
    pub dma: DmaAddr,
    /// How many bytes it has.
    pub len: u64,
    /// Which way the bytes move; both ways for coherent memory.
    pub direction: Direction,
    /// Whose memory lies behind it, where that is another device's.
    pub peer: Option<ProviderId>,
    /// The line of the driver that asked for it; absent where something ends.
    pub caller: Option<&'static Location<'static>>,
}

impl Event {
    /// What happens to `segment`, memory of this machine.
    #[inline]
    pub fn new(kind: Kind, segment: DmaSegment, direction: Direction) -> Self {
        Self {
            kind,
            dma: segment.addr,
            len: segment.len,
            direction,
            peer: None,
            caller: None,
        }
    }

    /// The same, asked for by `caller`.
    #[inline]
    pub fn by(self, caller: &'static Location<'static>) -> Self {
        let caller = Some(caller);
        Self { caller, ..self }
    }

    /// The same, of memory that is another device's.
    #[inline]
    pub fn at(self, provider: ProviderId) -> Self {
        let peer = Some(provider);
        Self { peer, ..self }
    }
}

/// Watches a device's mappings: [`Unchecked`] does nothing and costs nothing, a
/// [`Ledger`](crate::Ledger) keeps book, a [`Tracer`](crate::Tracer) writes all of it down. A pair of
/// two watches for both.
///
/// Calls come in any context; an implementor neither sleeps nor allocates.
pub trait Checker<'m> {
    /// Whether it wants to know anything.
    const IS_WATCHING: bool = true;

    /// Something was mapped. `runs` is the memory that the device, or the copying, will touch; another
    /// device's where the event names a peer, and registers where it is a resource.
    fn began(
        &self,
        device: &DeviceInfo<'m>,
        event: &Event,
        runs: impl Iterator<Item = PhysRange> + Clone,
    );

    /// The mapping of this kind, address and length has ended, with all that was linked to it.
    fn ended(&self, device: &DeviceInfo<'m>, event: &Event);

    /// Memory was linked to addresses of a request or window whose beginning was told.
    fn linked(&self, device: &DeviceInfo<'m>, event: &Event, run: PhysRange);

    /// What was linked there, or to part of it, is so no more; the request or window goes on.
    fn unlinked(&self, device: &DeviceInfo<'m>, event: &Event);

    /// What is linked there is out of the device's reach for a while: its memory is about to move.
    fn withheld(&self, device: &DeviceInfo<'m>, event: &Event);

    /// It is in reach again, and leads to `memory` now.
    fn readmitted(&self, device: &DeviceInfo<'m>, event: &Event, memory: PhysRange);

    /// A raw handle was used wrongly.
    fn misused(
        &self,
        device: &DeviceInfo<'m>,
        error: &RawError,
        caller: &'static Location<'static>,
    );

    /// The device goes away, with whatever it still has.
    fn removed(&self, device: &DeviceInfo<'m>);
}

/// Nobody watches.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Unchecked;

impl<'m> Checker<'m> for Unchecked {
    const IS_WATCHING: bool = false;

    #[inline]
    fn began(&self, _: &DeviceInfo<'m>, _: &Event, _: impl Iterator<Item = PhysRange> + Clone) {}

    #[inline]
    fn ended(&self, _: &DeviceInfo<'m>, _: &Event) {}

    #[inline]
    fn linked(&self, _: &DeviceInfo<'m>, _: &Event, _: PhysRange) {}

    #[inline]
    fn unlinked(&self, _: &DeviceInfo<'m>, _: &Event) {}

    #[inline]
    fn withheld(&self, _: &DeviceInfo<'m>, _: &Event) {}

    #[inline]
    fn readmitted(&self, _: &DeviceInfo<'m>, _: &Event, _: PhysRange) {}

    #[inline]
    fn misused(&self, _: &DeviceInfo<'m>, _: &RawError, _: &'static Location<'static>) {}

    #[inline]
    fn removed(&self, _: &DeviceInfo<'m>) {}
}

/// Both watch.
impl<'m, A: Checker<'m>, B: Checker<'m>> Checker<'m> for (A, B) {
    const IS_WATCHING: bool = A::IS_WATCHING || B::IS_WATCHING;

    fn began(
        &self,
        device: &DeviceInfo<'m>,
        event: &Event,
        runs: impl Iterator<Item = PhysRange> + Clone,
    ) {
        self.0.began(device, event, runs.clone());
        self.1.began(device, event, runs);
    }

    fn ended(&self, device: &DeviceInfo<'m>, event: &Event) {
        self.0.ended(device, event);
        self.1.ended(device, event);
    }

    fn linked(&self, device: &DeviceInfo<'m>, event: &Event, run: PhysRange) {
        self.0.linked(device, event, run);
        self.1.linked(device, event, run);
    }

    fn unlinked(&self, device: &DeviceInfo<'m>, event: &Event) {
        self.0.unlinked(device, event);
        self.1.unlinked(device, event);
    }

    fn withheld(&self, device: &DeviceInfo<'m>, event: &Event) {
        self.0.withheld(device, event);
        self.1.withheld(device, event);
    }

    fn readmitted(&self, device: &DeviceInfo<'m>, event: &Event, memory: PhysRange) {
        self.0.readmitted(device, event, memory);
        self.1.readmitted(device, event, memory);
    }

    fn misused(
        &self,
        device: &DeviceInfo<'m>,
        error: &RawError,
        caller: &'static Location<'static>,
    ) {
        self.0.misused(device, error, caller);
        self.1.misused(device, error, caller);
    }

    fn removed(&self, device: &DeviceInfo<'m>) {
        self.0.removed(device);
        self.1.removed(device);
    }
}
