//! Devices that no IOMMU stands before.

use crate::epochs::Epochs;
use crate::ticket::{DomainId, Epoch, Proof};

/// The syncs of one device without translation: nothing is waited for, because nothing can take the
/// device's reach away. What its proofs say is that whoever unmapped knew the device to be done.
///
/// So that a driver's code is the same on every path. Such a proof pays for no domain's ticket.
pub struct Untranslated {
    id: DomainId,
    epochs: Epochs,
}

impl Untranslated {
    /// Those of a device that its machine knows by `number`, of which 63 bits count.
    pub fn new(number: u64) -> Self {
        Self {
            id: DomainId::untranslated(number),
            epochs: Epochs::default(),
        }
    }

    /// What tells its proofs from others.
    #[inline]
    pub fn id(&self) -> DomainId {
        self.id
    }

    /// What a buffer unmapped now must wait for.
    #[inline]
    pub fn now(&self) -> Epoch {
        self.epochs.now()
    }

    /// Covers everything unmapped before. O(1).
    #[inline]
    pub fn sync(&self) -> Proof {
        Proof {
            domain: self.id,
            completed: self.epochs.begin(),
        }
    }
}
