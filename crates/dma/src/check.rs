//! The seam for watching what types cannot see.

use core::panic::Location;

use dmakit_addr::{Direction, DmaAddr, PhysRange};

use crate::{DeviceInfo, RawError};

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
    /// Addresses that are linked to memory from their start.
    Request,
    /// Addresses that are linked to pages in any order.
    Window,
}

/// Something that begins to be in a device's hands.
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
    /// The line of the driver that asked for it.
    pub caller: &'static Location<'static>,
}

/// Watches a device's mappings: [`Unchecked`] does nothing and costs nothing, a
/// [`Ledger`](crate::Ledger) keeps book.
///
/// Calls come in any context; an implementor neither sleeps nor allocates.
pub trait Checker<'m> {
    /// Whether it wants to know anything.
    const IS_WATCHING: bool = true;

    /// Something was mapped. `runs` is the memory that the device, or the copying, will touch.
    fn began(
        &self,
        device: &DeviceInfo<'m>,
        event: &Event,
        runs: impl Iterator<Item = PhysRange> + Clone,
    );

    /// The mapping of this kind, address and length has ended, with all that was linked to it.
    fn ended(&self, device: &DeviceInfo<'m>, kind: Kind, dma: DmaAddr, len: u64);

    /// Memory was linked to addresses of a request or window whose beginning was told.
    fn linked(&self, device: &DeviceInfo<'m>, event: &Event, run: PhysRange);

    /// What was linked there is so no more; the request or window goes on.
    fn unlinked(&self, device: &DeviceInfo<'m>, kind: Kind, dma: DmaAddr, len: u64);

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
    fn ended(&self, _: &DeviceInfo<'m>, _: Kind, _: DmaAddr, _: u64) {}

    #[inline]
    fn linked(&self, _: &DeviceInfo<'m>, _: &Event, _: PhysRange) {}

    #[inline]
    fn unlinked(&self, _: &DeviceInfo<'m>, _: Kind, _: DmaAddr, _: u64) {}

    #[inline]
    fn misused(&self, _: &DeviceInfo<'m>, _: &RawError, _: &'static Location<'static>) {}

    #[inline]
    fn removed(&self, _: &DeviceInfo<'m>) {}
}
