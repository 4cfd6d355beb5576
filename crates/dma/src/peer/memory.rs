//! Parts of a provider's window, lent to an importer.

use dmakit_addr::{Attributes, DmaAddr, DmaRange, PhysRange};
use dmakit_platform::{CopySource, CopyTarget, Window};

use super::{PlaceId, ProviderId};

/// A part of a provider's window, lent to one importer until it is
/// [taken back](super::PeerProvider::take_back).
///
/// Whoever maps it owns it, and gets it back when no device can reach it: so what has come home is
/// out of reach. Forgetting one keeps the provider's window from ever being released.
#[must_use = "a dropped part keeps its window from being released; give it back"]
#[derive(PartialEq, Eq, Debug)]
pub struct PeerMemory {
    pub(super) provider: ProviderId,
    pub(super) place: PlaceId,
    pub(super) slot: u32,
    pub(super) range: PhysRange,
    pub(super) bus: DmaAddr,
}

impl PeerMemory {
    /// Whose it is.
    pub fn provider(&self) -> ProviderId {
        self.provider
    }

    /// Where the provider stands.
    pub fn place(&self) -> PlaceId {
        self.place
    }

    /// Where processors and IOMMUs find it.
    pub fn range(&self) -> PhysRange {
        self.range
    }

    /// Where devices on the same bus find it.
    pub fn bus_range(&self) -> Option<DmaRange> {
        DmaRange::new(self.bus, self.range.len()).ok()
    }
}

/// Its bytes are another device's: nothing is ever copied, since it never bounces.
impl CopySource for PeerMemory {
    fn len_bytes(&self) -> u64 {
        self.range.len()
    }

    fn copy_to(&self, _: u64, _: Window<'_>) {}
}

impl CopyTarget for PeerMemory {
    fn copy_from(&mut self, _: u64, _: Window<'_>) {}
}

/// Several parts, of one or more providers, as what a [`Request`](crate::Request) owns.
#[must_use = "dropped parts keep their windows from being released; give them back"]
#[derive(PartialEq, Eq, Debug)]
pub struct PeerList<S>(pub S);

impl<S: AsRef<[PeerMemory]>> CopySource for PeerList<S> {
    fn len_bytes(&self) -> u64 {
        let parts = self.0.as_ref().iter();
        parts.fold(0, |sum, part| sum.saturating_add(part.range.len()))
    }

    fn copy_to(&self, _: u64, _: Window<'_>) {}
}

impl<S: AsRef<[PeerMemory]>> CopyTarget for PeerList<S> {
    fn copy_from(&mut self, _: u64, _: Window<'_>) {}
}

/// What can be asked for when peer memory is mapped.
pub(super) const PEER: Attributes = Attributes::MMIO
    .union(Attributes::NO_WARN)
    .union(Attributes::SKIP_CPU_SYNC);
