//! How Linux translates for devices: its IOVA allocator, flush queue, scatterlist layout and table
//! writes, re-derived from described behaviour.
//!
//! [`Domain`] is one IOMMU domain under [`Calls`](crate::Calls): which addresses each mapping gets,
//! what enters and leaves the tables, what is invalidated when, and what that costs in counts.
//! [`agree_on_translation`] compares it with a recording.

mod agreement;
mod costs;
mod domain;
mod layout;
mod magazines;
mod queue;
mod referee;
mod runs;
mod setup;
mod space;
mod tables;
#[cfg(test)]
mod tests;
mod tree;

pub use agreement::{Difference, DifferenceReason, TranslationAgreement, agree_on_translation};
pub use costs::TranslationCosts;
pub use domain::{Domain, DomainConfig, Invalidation, NoAddresses, Timer, Translated};
pub use layout::{Layout, SegmentLimits, lay_out};
pub use referee::AddressAgreement;
pub use setup::TranslationSetup;
