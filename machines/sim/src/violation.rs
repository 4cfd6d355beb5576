//! What software, or a device that it drives, did and may not do.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use dmakit_addr::{DmaAddr, PhysAddr, PhysRange};
use dmakit_platform::CpuId;
use dmakit_platform::host::ContextViolation;

use crate::{Access, DeviceId};

/// A rule that was broken. The machine goes on, as hardware would.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Violation {
    /// A device was given an address with more bits than it has wires.
    BeyondWires {
        /// Which device.
        device: DeviceId,
        /// The address.
        addr: DmaAddr,
        /// The highest address that its wires can carry.
        wires: u64,
    },
    /// A device was given a segment longer than its length counter.
    SegmentTooLong {
        /// Which device.
        device: DeviceId,
        /// The segment's length in bytes.
        len: u64,
        /// The longest that it can do.
        max: u64,
    },
    /// A device was given a segment across a boundary over which its address counter does not
    /// carry.
    BoundaryCrossed {
        /// Which device.
        device: DeviceId,
        /// Where the segment starts.
        addr: DmaAddr,
        /// Its length in bytes.
        len: u64,
    },
    /// A device reached memory that is not lent to it.
    NotGranted {
        /// Which device.
        device: DeviceId,
        /// Which way.
        access: Access,
        /// The first such byte.
        at: PhysAddr,
    },
    /// A device reached memory that was not shared with the host.
    Private {
        /// Which device.
        device: DeviceId,
        /// Which way.
        access: Access,
        /// The first such byte.
        at: PhysAddr,
    },
    /// Something was done in a context that forbids it.
    Context(ContextViolation),
    /// A thread changed its CPU while it held a guard of the old one.
    Migrated {
        /// The CPU of the guard.
        from: CpuId,
        /// The new one.
        to: CpuId,
    },
    /// Frames were converted that could not be.
    Conversion {
        /// Which.
        range: PhysRange,
        /// Why not.
        why: &'static str,
    },
    /// Cache maintenance of addresses that are not RAM.
    NotRam {
        /// Which.
        range: PhysRange,
    },
    /// An interrupt translation service, or a redistributor, was told what it must not be told.
    Interrupts {
        /// What is wrong.
        what: &'static str,
    },
    /// Memory was given to a provider in a state or shape in which it may not be.
    Freed {
        /// Which.
        range: PhysRange,
        /// What is wrong with it.
        why: &'static str,
    },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BeyondWires {
                device,
                addr,
                wires,
            } => write!(f, "{device} was given {addr}, its wires end at {wires:#x}"),
            Self::SegmentTooLong { device, len, max } => {
                write!(
                    f,
                    "{device} was given a segment of {len} bytes, it can do {max}"
                )
            }
            Self::BoundaryCrossed { device, addr, len } => write!(
                f,
                "{device} was given {len} bytes at {addr}, which cross its boundary"
            ),
            Self::NotGranted { device, access, at } => {
                write!(f, "{device} {access} {at}, which is not lent to it")
            }
            Self::Private { device, access, at } => {
                write!(f, "{device} {access} {at}, which is private")
            }
            Self::Context(violation) => violation.fmt(f),
            Self::Migrated { from, to } => write!(
                f,
                "a thread went from CPU {} to {} while it held a guard",
                from.index(),
                to.index()
            ),
            Self::Conversion { range, why } => write!(f, "conversion of {range}: {why}"),
            Self::NotRam { range } => write!(f, "cache maintenance of {range}, which is not RAM"),
            Self::Interrupts { what } => write!(f, "interrupt translation: {what}"),
            Self::Freed { range, why } => write!(f, "free of {range}: {why}"),
        }
    }
}

/// The violations of a machine's life so far.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Violations {
    /// The first of them, in the order in which they happened.
    pub first: Vec<Violation>,
    /// How many there were in all.
    pub total: u64,
}

impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} violations", self.total)?;
        for violation in &self.first {
            write!(f, "\n  {violation}")?;
        }
        let more = self.total - self.first.len() as u64;
        if more > 0 {
            write!(f, "\n  and {more} more")?;
        }
        Ok(())
    }
}

impl std::error::Error for Violations {}

/// How many violations are kept in full: the first says most, and a broken driver makes millions.
const KEPT: usize = 64;

/// Where violations go, also from inside of locks, so it has a lock of its own that is innermost.
#[derive(Debug, Default)]
pub(crate) struct Recorder(Mutex<Violations>);

impl Recorder {
    pub(crate) fn push(&self, violation: Violation) {
        let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        list.total += 1;
        if list.first.len() < KEPT {
            list.first.push(violation);
        }
    }

    pub(crate) fn list(&self) -> Violations {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn take(&self) -> Violations {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
