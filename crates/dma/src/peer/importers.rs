//! Who has a provider's memory.

use super::{Holder, PeerError, PeerMemory, ProviderId};
use crate::DeviceId;

/// A driver that uses a provider's memory: a seam, implemented by importers.
pub trait PeerImporter: Sync {
    /// The provider wants its window back. New parts are refused already; whoever is told ends its
    /// mappings, syncs, and gives the parts back, now by `take_back` or soon.
    ///
    /// Called without any lock, where one may sleep, and perhaps more than once.
    fn revoked(&self, provider: ProviderId, take_back: &TakeBack<'_>);
}

/// [`PeerProvider::take_back`](super::PeerProvider::take_back) of the provider that calls.
pub type TakeBack<'a> = dyn Fn(PeerMemory) -> Result<(), (PeerMemory, PeerError)> + 'a;

/// An importer's place at a provider. Forgetting one keeps its place taken.
#[must_use = "a dropped import keeps its place; leave it"]
#[derive(PartialEq, Eq, Debug)]
pub struct Import {
    pub(super) provider: ProviderId,
    pub(super) device: DeviceId,
    pub(super) slot: u32,
}

impl Import {
    /// Whose memory.
    pub fn provider(&self) -> ProviderId {
        self.provider
    }

    /// For which device.
    pub fn device(&self) -> DeviceId {
        self.device
    }
}

/// One importer.
#[derive(Clone, Copy)]
pub(super) struct Importer<'p> {
    pub(super) device: DeviceId,
    pub(super) told: &'p dyn PeerImporter,
    pub(super) parts: u32,
}

/// All importers of a provider, and whether it still lends.
pub(super) struct Importers<'p, const N: usize> {
    pub(super) is_revoked: bool,
    all: [Option<Importer<'p>>; N],
}

impl<'p, const N: usize> Importers<'p, N> {
    pub(super) const fn new() -> Self {
        Self {
            is_revoked: false,
            all: [None; N],
        }
    }

    pub(super) fn add(
        &mut self,
        device: DeviceId,
        told: &'p dyn PeerImporter,
    ) -> Result<u32, PeerError> {
        let free = self.all.iter().position(Option::is_none);
        let slot = free.ok_or(PeerError::Importers { max: N })?;
        self.all[slot] = Some(Importer {
            device,
            told,
            parts: 0,
        });
        Ok(slot as u32)
    }

    pub(super) fn get(&self, slot: u32) -> Option<Importer<'p>> {
        self.all.get(slot as usize).copied().flatten()
    }

    /// Counts a part that an importer takes.
    pub(super) fn take(&mut self, slot: u32) -> bool {
        let Some(Some(importer)) = self.all.get_mut(slot as usize) else {
            return false;
        };
        let more = importer.parts.checked_add(1);
        importer.parts = more.unwrap_or(importer.parts);
        more.is_some()
    }

    /// Counts a part that has come back.
    pub(super) fn give(&mut self, slot: u32) {
        if let Some(Some(importer)) = self.all.get_mut(slot as usize) {
            importer.parts = importer.parts.saturating_sub(1);
        }
    }

    /// Frees the place of an importer that has no part; how many it has otherwise.
    pub(super) fn leave(&mut self, slot: u32) -> Result<(), u32> {
        match self.all.get_mut(slot as usize) {
            Some(Some(importer)) if importer.parts > 0 => Err(importer.parts),
            Some(importer) => {
                *importer = None;
                Ok(())
            }
            None => Ok(()),
        }
    }

    pub(super) fn holders(&self) -> [Option<Holder>; N] {
        let holder = |importer: Option<Importer<'_>>| {
            let Importer { device, parts, .. } = importer?;
            (parts > 0).then_some(Holder { device, parts })
        };
        self.all.map(holder)
    }
}
