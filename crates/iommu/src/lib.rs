//! IOMMU domains: what devices may reach, and when they no longer can.
//!
//! A [`Domain`] joins a space of device addresses, a page table and the hardware that walks it.
//! Mapping takes addresses and fills the table. Unmapping clears the table and queues the
//! invalidation; what comes back is a [`Ticket`], which owns the addresses and the table pages until
//! a [`Proof`] shows that a sync which began later is complete. Only then may they be used again:
//! there is no other way to get them back.
//!
//! [`Batch`] keeps all of that, and shares one sync between many unmaps.
//!
//! [`Lazy`] gives that up in part, on purpose and by another type: mappings end at once for the
//! driver, hardware may use them until the next flush, and it counts how much is exposed.
//!
//! Layer L2. Hardware stands behind [`Hardware`], called once for a batch and never for a page; a
//! driver implements it. Nothing here knows a device's driver or where its buffers come from.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod batch;
mod costs;
mod domain;
mod epochs;
mod error;
mod fault;
mod fold;
mod hardware;
mod identity;
mod lazy;
mod no_translation;
mod ticket;
mod translate;
mod untranslated;
mod withhold;

pub use batch::{Batch, BatchConfig, BatchFailure, Held};
pub use costs::InvalidationCosts;
pub use domain::{Domain, Mapped};
pub use error::{IdentityError, MapError, UnmapFailure};
pub use fault::{Fault, FaultReason};
pub use fold::{FaultFold, FoldedFault};
pub use hardware::{Hardware, Invalidation, SyncError};
pub use identity::IdentityRegion;
pub use lazy::{Exposure, Lazy, LazyConfig};
pub use no_translation::NoTranslation;
pub use ticket::{DomainId, Epoch, Proof, RedeemError, RedeemFailure, Ticket};
pub use translate::{LinkCursor, StrictDomain, Switched, Translate};
pub use untranslated::Untranslated;
pub use withhold::{Withheld, WithholdError};
