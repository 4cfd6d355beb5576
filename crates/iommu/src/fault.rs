//! Accesses that were not translated.

use core::fmt;

use dmakit_addr::Iova;

use crate::DomainId;

/// Why an access was not translated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultReason {
    /// Nothing is mapped there.
    Unmapped,
    /// Mapped, but not for this access.
    Permission,
    /// The table says something that hardware does not understand, or cannot be read.
    Table,
    /// The device is not attached, or what describes it is broken.
    Device,
    /// Something else, numbered as hardware does.
    Other(u32),
}

/// An access that was not translated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// The domain to which the device is attached, where the one who reports it knows that.
    pub domain: Option<DomainId>,
    /// The device, as hardware numbers it.
    pub stream: u32,
    /// Which of its contexts, where it has several and named one.
    pub substream: Option<u32>,
    /// Where it went, where that is known.
    pub iova: Option<Iova>,
    /// Whether it wanted to write, where that is known.
    pub is_write: Option<bool>,
    /// Why it was not translated.
    pub reason: FaultReason,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let access = match self.is_write {
            Some(true) => "write",
            Some(false) => "read",
            None => "access",
        };
        write!(f, "{access} by stream {:#x}", self.stream)?;
        if let Some(substream) = self.substream {
            write!(f, ", substream {substream:#x}")?;
        }
        if let Some(domain) = self.domain {
            write!(f, " in {domain}")?;
        }
        if let Some(iova) = self.iova {
            write!(f, " at {iova}")?;
        }
        match self.reason {
            FaultReason::Unmapped => f.write_str(": nothing is mapped there"),
            FaultReason::Permission => f.write_str(": not permitted"),
            FaultReason::Table => f.write_str(": the page table is broken"),
            FaultReason::Device => f.write_str(": the device has no translation"),
            FaultReason::Other(number) => write!(f, ": reason {number:#x}"),
        }
    }
}
