//! Device memory that its owner lends, and can take back.

use core::fmt;
use core::time::Duration;

use dmakit_addr::{Address, DmaAddr, DmaRange, PhysRange};
use dmakit_platform::{IrqMutex, Platform};

use super::importers::Importers;
use super::{Held, Import, PeerError, PeerImporter, PeerMemory, PlaceId};
use crate::DeviceId;

/// A provider, told from all others by its maker's number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ProviderId(pub u32);

impl fmt::Display for ProviderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "provider {}", self.0)
    }
}

/// A window of a device, all or part of a BAR: its owner's word that nothing else is there. It is
/// moved, never copied.
#[derive(PartialEq, Eq, Debug)]
pub struct PeerWindow {
    range: PhysRange,
    bus: DmaAddr,
}

impl PeerWindow {
    /// The window that processors find at `range`, and devices on its bus from `bus` on; `None` where
    /// it is empty or the bus has no such addresses.
    pub fn new(range: PhysRange, bus: DmaAddr) -> Option<Self> {
        let dma = DmaRange::new(bus, range.len()).ok()?;
        (!dma.is_empty()).then_some(Self { range, bus })
    }

    /// Where processors find it.
    pub fn range(&self) -> PhysRange {
        self.range
    }
}

/// Lends parts of one window to at most `N` importers, until it is revoked.
///
/// It is shared by reference, or counted. [`release`](Self::release) takes it by value: what is
/// released cannot be lent any more, by type.
pub struct PeerProvider<'p, P: Platform, const N: usize = 8> {
    platform: P,
    id: ProviderId,
    place: PlaceId,
    window: PeerWindow,
    importers: IrqMutex<P, Importers<'p, N>>,
}

impl<'p, P: Platform, const N: usize> PeerProvider<'p, P, N> {
    /// A provider of `window`, of the function at `place`. `id` tells it from every other provider
    /// whose parts could be mixed up with its own.
    pub fn new(platform: P, id: ProviderId, place: PlaceId, window: PeerWindow) -> Self {
        Self {
            platform,
            id,
            place,
            window,
            importers: IrqMutex::<P, _>::new(Importers::new()),
        }
    }

    /// Its number.
    pub fn id(&self) -> ProviderId {
        self.id
    }

    /// Where it stands.
    pub fn place(&self) -> PlaceId {
        self.place
    }

    /// How many bytes it has.
    pub fn len(&self) -> u64 {
        self.window.range.len()
    }

    /// Whether it has none; never.
    pub fn is_empty(&self) -> bool {
        self.window.range.is_empty()
    }

    /// Lets the driver of `device` ask for memory; `told` hears of it when the window is wanted back.
    ///
    /// # Errors
    /// [`PeerError::Revoked`], [`PeerError::Importers`].
    pub fn import(
        &self,
        device: DeviceId,
        told: &'p dyn PeerImporter,
    ) -> Result<Import, PeerError> {
        let mut importers = self.importers.lock();
        if importers.is_revoked {
            return Err(PeerError::Revoked { provider: self.id });
        }
        let slot = importers.add(device, told)?;
        Ok(Import {
            provider: self.id,
            device,
            slot,
        })
    }

    /// Ends an import that has no part.
    ///
    /// # Errors
    /// The import, with why.
    pub fn leave(&self, import: Import) -> Result<(), (Import, PeerError)> {
        if let Err(error) = self.check(import.provider) {
            return Err((import, error));
        }
        let left = self.importers.lock().leave(import.slot);
        left.map_err(|parts| {
            let device = import.device;
            (import, PeerError::HasParts { device, parts })
        })
    }

    fn check(&self, owner: ProviderId) -> Result<(), PeerError> {
        match owner == self.id {
            true => Ok(()),
            false => Err(PeerError::Foreign {
                owner,
                provider: self.id,
            }),
        }
    }

    /// Lends `len` bytes from `offset` on. Never sleeps; O(1).
    ///
    /// # Errors
    /// [`PeerError`]: nothing is lent then.
    pub fn lend(&self, import: &Import, offset: u64, len: u64) -> Result<PeerMemory, PeerError> {
        self.check(import.provider)?;
        let outside = PeerError::Outside {
            offset,
            len,
            window: self.window.range.len(),
        };
        let range = self.window.range.slice(offset, len);
        let range = range.filter(|range| !range.is_empty()).ok_or(outside)?;
        let bus = self.window.bus.checked_add(offset).ok_or(outside)?;
        let mut importers = self.importers.lock();
        if importers.is_revoked {
            return Err(PeerError::Revoked { provider: self.id });
        }
        if !importers.take(import.slot) {
            let device = import.device;
            let parts = u32::MAX;
            return Err(PeerError::HasParts { device, parts });
        }
        Ok(PeerMemory {
            provider: self.id,
            place: self.place,
            slot: import.slot,
            range,
            bus,
        })
    }

    /// Takes a part back, which no device can reach. Never sleeps; O(1).
    ///
    /// # Errors
    /// The part, with why: it is another provider's.
    pub fn take_back(&self, memory: PeerMemory) -> Result<(), (PeerMemory, PeerError)> {
        if let Err(error) = self.check(memory.provider) {
            return Err((memory, error));
        }
        self.importers.lock().give(memory.slot);
        Ok(())
    }

    /// Wants the window back: refuses new imports and new parts from now on, tells every importer,
    /// without a lock, and waits until all parts are back, which means unmapped and synced; at most
    /// as long as `within` by the platform's clock. May sleep, as importers do.
    ///
    /// # Errors
    /// [`Held`], which names who has parts. It stays revoked, and this can be called again: importers
    /// are told again.
    pub fn revoke(&self, within: Duration) -> Result<(), Held<N>> {
        self.importers.lock().is_revoked = true;
        for slot in 0..N {
            let importer = self.importers.lock().get(slot as u32);
            if let Some(importer) = importer {
                let take_back = |memory| self.take_back(memory);
                importer.told.revoked(self.id, &take_back);
            }
        }
        let start = self.platform.now();
        loop {
            let held = self.check_home();
            let waited = self.platform.now().saturating_since(start);
            match held {
                Err(held) if waited >= within => return Err(Held { waited, ..held }),
                Err(_) => core::hint::spin_loop(),
                Ok(()) => return Ok(()),
            }
        }
    }

    /// Whether all parts are home.
    fn check_home(&self) -> Result<(), Held<N>> {
        let holders = self.importers.lock().holders();
        match holders.iter().all(Option::is_none) {
            true => Ok(()),
            false => Err(Held {
                provider: self.id,
                waited: Duration::ZERO,
                holders,
            }),
        }
    }

    /// The window, once more its owner's: every part is back. Whoever shares the provider is
    /// [told](Self::revoke) first, and gives it up.
    ///
    /// # Errors
    /// The provider, with [`Held`], which names who has parts: the window must not be given to
    /// anybody else.
    #[allow(
        clippy::result_large_err,
        reason = "a provider that is not released comes back"
    )]
    pub fn release(self) -> Result<PeerWindow, (Self, Held<N>)> {
        match self.check_home() {
            Ok(()) => Ok(self.window),
            Err(held) => Err((self, held)),
        }
    }
}

impl<P: Platform, const N: usize> fmt::Debug for PeerProvider<'_, P, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerProvider({}, {:?})", self.id, self.window)
    }
}
