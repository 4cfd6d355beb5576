//! What an unmap owes.

use core::fmt;

use dmakit_addr::IovaRange;
use dmakit_io_pgtable::FallenTables;

/// A domain, told from all others that its maker numbered. 63 bits count: the numbers above are of
/// devices without translation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DomainId(pub u64);

/// What tells the numbers of devices without translation from those of domains.
const UNTRANSLATED: u64 = 1 << 63;

impl DomainId {
    /// The domain that a device without translation is by itself.
    pub(crate) const fn untranslated(number: u64) -> Self {
        Self(number | UNTRANSLATED)
    }

    /// The same number as one of a domain.
    pub(crate) const fn translated(self) -> Self {
        Self(self.0 & !UNTRANSLATED)
    }
}

impl fmt::Display for DomainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 & UNTRANSLATED {
            0 => write!(f, "domain {}", self.0),
            _ => write!(f, "device {} without translation", self.translated().0),
        }
    }
}

/// A moment in the life of a domain: how many syncs had begun.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Epoch(pub(crate) u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "epoch {}", self.0)
    }
}

/// Addresses and table pages of an unmapped range, which hardware may still use.
///
/// Forgetting one leaks them, and nothing else.
#[must_use = "a forgotten ticket leaks addresses and table pages"]
#[derive(Debug)]
pub struct Ticket {
    pub(crate) domain: DomainId,
    pub(crate) range: IovaRange,
    pub(crate) addresses: Addresses,
    pub(crate) fallen: FallenTables,
    pub(crate) since: Epoch,
}

/// What becomes of the addresses of a ticket that was paid for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Addresses {
    /// They stay with whoever reserved them.
    Stay,
    /// They are free again, as they were allocated.
    Free,
    /// They are free again, as they were claimed.
    Unclaim,
}

impl Ticket {
    /// Whose it is.
    pub fn domain(&self) -> DomainId {
        self.domain
    }

    /// The addresses.
    pub fn range(&self) -> IovaRange {
        self.range
    }

    /// What a sync must have completed.
    pub fn since(&self) -> Epoch {
        self.since
    }
}

/// Proof that a sync of a domain is complete: hardware has forgotten everything whose invalidation
/// was queued before it began. Good for any number of tickets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Proof {
    pub(crate) domain: DomainId,
    pub(crate) completed: Epoch,
}

impl Proof {
    /// The domain that was synced.
    pub fn domain(&self) -> DomainId {
        self.domain
    }

    /// The last epoch whose tickets it covers.
    pub fn completed(&self) -> Epoch {
        self.completed
    }

    /// Whether it pays for a ticket.
    ///
    /// # Errors
    /// [`RedeemError`].
    #[inline]
    pub(crate) fn covers(&self, ticket: &Ticket) -> Result<(), RedeemError> {
        self.pays(ticket.domain, ticket.since)
    }

    /// Whether it pays for what a domain owes since an epoch.
    ///
    /// # Errors
    /// [`RedeemError`].
    #[inline]
    pub fn pays(&self, domain: DomainId, since: Epoch) -> Result<(), RedeemError> {
        if self.domain != domain {
            return Err(RedeemError::ForeignProof {
                owed: domain,
                proof: self.domain,
            });
        }
        if self.completed < since {
            return Err(RedeemError::OlderProof {
                owed: since,
                completed: self.completed,
            });
        }
        Ok(())
    }
}

/// Why a proof does not pay for a ticket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RedeemError {
    /// The proof is of another domain.
    ForeignProof {
        /// The ticket's domain.
        owed: DomainId,
        /// The proof's.
        proof: DomainId,
    },
    /// The sync began before the range was unmapped.
    OlderProof {
        /// What must be complete.
        owed: Epoch,
        /// What is.
        completed: Epoch,
    },
    /// The ticket is another domain's.
    ForeignTicket {
        /// The ticket's domain.
        owner: DomainId,
        /// The one that was to take it.
        domain: DomainId,
    },
}

impl fmt::Display for RedeemError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ForeignProof { owed, proof } => {
                write!(f, "a sync of {proof} says nothing about {owed}")
            }
            Self::OlderProof { owed, completed } => {
                write!(f, "{owed} must be complete, and only {completed} is")
            }
            Self::ForeignTicket { owner, domain } => {
                write!(f, "a ticket of {owner}, not of {domain}")
            }
        }
    }
}

impl core::error::Error for RedeemError {}

/// A ticket that was not paid for, given back as it was.
#[derive(Debug)]
pub struct RedeemFailure {
    /// Why.
    pub error: RedeemError,
    /// The ticket.
    pub ticket: Ticket,
}

impl fmt::Display for RedeemFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl core::error::Error for RedeemFailure {}
