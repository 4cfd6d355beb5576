//! The way from a device to memory.

use std::fmt;

use dmakit_addr::{Address, DmaAddr, DmaRange, PhysAddr, PhysRange};

use crate::SmmuId;
use crate::smmu::Source;

/// How far device addresses lie above physical ones unless a device says otherwise: no physical
/// address of the default machine is a legal device address, nor the other way round.
pub const BUS_OFFSET: u64 = 1 << 40;

/// A run of device addresses that a bridge forwards to memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BusWindow {
    /// What the device puts on its bus.
    pub bus: DmaRange,
    /// The first byte of memory behind it.
    pub memory: PhysAddr,
}

impl BusWindow {
    /// The memory behind the window.
    ///
    /// `None` where that would pass the end of the address space.
    pub fn memory_range(&self) -> Option<PhysRange> {
        PhysRange::new(self.memory, self.bus.len()).ok()
    }
}

/// How a device's addresses become physical ones. Each part of each transfer passes here, once, at
/// the moment when it reaches memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Path {
    /// Through bridges that add an offset.
    Direct(Vec<BusWindow>),
    /// Through an SMMU, as a stream of it.
    Translated(SmmuId, Source),
}

impl Path {
    /// The memory behind the first bytes of `range`, as many as lie in one piece.
    pub(crate) fn translate(&self, range: DmaRange) -> Result<PhysRange, DmaFault> {
        match self {
            Self::Direct(windows) => windows
                .iter()
                .find_map(|window| {
                    let part = window.bus.intersection(&range);
                    let starts_here = window.bus.contains(range.start());
                    let offset = range.start().offset_from(window.bus.start())?;
                    let memory = window.memory.checked_add(offset)?;
                    starts_here
                        .then(|| PhysRange::new(memory, part.len()).ok())
                        .flatten()
                })
                .ok_or(DmaFault::NoWindow(range.start())),
            // Only the machine's state can say.
            Self::Translated(..) => Err(DmaFault::NotTranslated(range.start())),
        }
    }
}

/// Why a part of a transfer went nowhere. The first of a transfer is its result; the machine keeps
/// all of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DmaFault {
    /// No bridge forwards this address.
    NoWindow(DmaAddr),
    /// The SMMU stopped it; its event queue may say why.
    NotTranslated(DmaAddr),
    /// The address leads to no memory.
    NoRam(PhysAddr),
    /// The address has more bits than the device has wires.
    BeyondWires(DmaAddr),
    /// The memory belongs to a confidential guest, who did not share it.
    Private(PhysAddr),
    /// The device was cut off before this part was done.
    Aborted,
}

impl fmt::Display for DmaFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoWindow(addr) => write!(f, "no bridge forwards {addr}"),
            Self::NotTranslated(addr) => write!(f, "the SMMU does not translate {addr}"),
            Self::NoRam(addr) => write!(f, "no memory at {addr}"),
            Self::BeyondWires(addr) => write!(f, "{addr} is beyond the device's wires"),
            Self::Private(addr) => write!(f, "{addr} is private"),
            Self::Aborted => f.write_str("the device was cut off"),
        }
    }
}

impl std::error::Error for DmaFault {}
