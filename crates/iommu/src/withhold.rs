//! Mappings kept from hardware while the memory behind them moves.

use core::fmt;

use dmakit_addr::{IovaRange, PhysAddr};
use dmakit_io_pgtable::{Format, Gather, WithholdError as TableError};
use dmakit_iova::CpuCache;
use dmakit_platform::{CpuSlot, Platform, TableMemory};

use crate::{Domain, DomainId, Hardware, SyncError};

/// A mapped range that hardware does not reach until it is [readmitted](Domain::readmit).
///
/// Its addresses stay mapped for whoever mapped them, and must not be unmapped meanwhile. Forgetting
/// one leaves them out of reach.
#[must_use = "a dropped one leaves its range out of reach; readmit it"]
#[derive(PartialEq, Eq, Debug)]
pub struct Withheld {
    domain: DomainId,
    range: IovaRange,
    from: PhysAddr,
    to: PhysAddr,
    leaf_bytes: u64,
}

impl Withheld {
    /// The addresses.
    pub fn range(&self) -> IovaRange {
        self.range
    }

    /// Where they will lead.
    pub fn memory(&self) -> PhysAddr {
        self.to
    }

    /// Lets the addresses lead to other memory, from the moment when they are readmitted.
    ///
    /// # Errors
    /// [`WithholdError::Misplaced`], where it does not lie in its leaves as the memory before does;
    /// they lead where they led.
    pub fn redirect(&mut self, to: PhysAddr) -> Result<(), WithholdError> {
        let leaf_bytes = self.leaf_bytes;
        if (to.raw() ^ self.from.raw()) & (leaf_bytes - 1) != 0 {
            return Err(WithholdError::Misplaced { to, leaf_bytes });
        }
        self.to = to;
        Ok(())
    }
}

/// A mapping that was not withheld, or does not lead elsewhere. Nothing has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WithholdError {
    /// The table cannot.
    Table(TableError),
    /// Hardware did not say in time that it has forgotten the range, which leads where it led.
    Hardware(SyncError),
    /// The new memory is not aligned as the leaves need it.
    Misplaced {
        /// Where it begins.
        to: PhysAddr,
        /// What the largest leaf maps.
        leaf_bytes: u64,
    },
}

impl fmt::Display for WithholdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table(error) => error.fmt(f),
            Self::Hardware(error) => error.fmt(f),
            Self::Misplaced { to, leaf_bytes } => {
                write!(
                    f,
                    "{to} does not lie in a leaf of {leaf_bytes} bytes as before"
                )
            }
        }
    }
}

impl core::error::Error for WithholdError {}

impl<P, S, F, M, H> Domain<P, S, F, M, H>
where
    P: Platform,
    S: AsRef<[CpuSlot<CpuCache>]>,
    F: Format,
    M: TableMemory,
    H: Hardware,
{
    /// Keeps hardware from `range`, which maps contiguous memory by whole leaves: when this returns,
    /// what hardware wrote through it has landed, and nothing more gets there. Accesses fault
    /// meanwhile, reads too. Whoever calls owns the addresses. Never sleeps; spins, for a bounded
    /// time.
    ///
    /// Break before make: nothing of the old translation is left in any cache.
    ///
    /// # Errors
    /// [`WithholdError`]: the range is mapped as before.
    pub fn withhold(&self, range: IovaRange) -> Result<Withheld, WithholdError> {
        let mut gather = Gather::new();
        let withheld = self.table().withhold(range, &mut gather);
        let (from, leaf_bytes) = withheld.map_err(WithholdError::Table)?;
        let forgotten = self.invalidate(&gather).and_then(|()| self.sync());
        if let Err(error) = forgotten {
            // Hardware may have forgotten it or not, and finds the same either way.
            self.table().restore(range, from, from);
            return Err(WithholdError::Hardware(error));
        }
        Ok(Withheld {
            domain: self.id(),
            range,
            from,
            to: from,
            leaf_bytes,
        })
    }

    /// Lets hardware in again, to wherever the range leads now. Never sleeps; O(leaves).
    ///
    /// # Errors
    /// What was withheld, where it is another domain's. The inner error, where hardware that caches
    /// the absence of mappings takes no commands: the range is mapped then, and perhaps out of reach.
    pub fn readmit(&self, withheld: Withheld) -> Result<Result<(), SyncError>, Withheld> {
        if withheld.domain != self.id() {
            return Err(withheld);
        }
        let Withheld {
            range, from, to, ..
        } = withheld;
        self.table().restore(range, from, to);
        Ok(self.hardware().mapped(range))
    }
}
