//! Mappings that have not ended yet.

use std::collections::{BTreeMap, HashMap, VecDeque};

use dmakit_addr::{Direction, DmaAddr, PhysAddr};

use super::MappingId;
use crate::Name;

/// A device by number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct DeviceId(u32);

/// In which addresses of different mappings exclude each other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) enum Space {
    /// The bounce pools, which all devices share.
    Bounce,
    /// One device's translated addresses.
    Device(DeviceId),
}

/// Half-open run of addresses that a mapping has for itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Held {
    pub(super) space: Space,
    pub(super) start: u64,
    pub(super) past: u64,
}

impl Held {
    /// The whole units around the mapping: slots of a pool, granules of an IOMMU.
    pub(super) fn new(space: Space, dma: DmaAddr, size: u64) -> Self {
        let unit = match space {
            Space::Bounce => 2048,
            Space::Device(_) => 4096,
        };
        let start = dma.raw() & !(unit - 1);
        let past = dma
            .raw()
            .saturating_add(size.max(1))
            .saturating_add(unit - 1)
            & !(unit - 1);
        Self { space, start, past }
    }

    pub(super) fn overlaps(&self, other: &Self) -> bool {
        self.space == other.space && self.start < other.past && other.start < self.past
    }
}

type PageKey = (DeviceId, DmaAddr, u64, Direction);
type SgKey = (DeviceId, Box<[PhysAddr]>);

/// How many entries of a scatterlist tell it from others: where the kernel cuts its list of a map.
const SG_KEY_ENTRIES: usize = 128;

#[derive(Default)]
pub(super) struct Live {
    devices: HashMap<Name, DeviceId>,
    pages: HashMap<PageKey, VecDeque<MappingId>>,
    lists: HashMap<SgKey, VecDeque<Vec<MappingId>>>,
    held: BTreeMap<(Space, u64), Vec<(u64, MappingId)>>,
    of: HashMap<MappingId, Option<Held>>,
}

impl Live {
    pub(super) fn device(&mut self, name: &Name) -> DeviceId {
        if let Some(known) = self.devices.get(name) {
            return *known;
        }
        let id = DeviceId(u32::try_from(self.devices.len()).unwrap_or(u32::MAX));
        self.devices.insert(name.clone(), id);
        id
    }

    pub(super) fn len(&self) -> usize {
        self.of.len()
    }

    pub(super) fn add_page(&mut self, key: PageKey, id: MappingId) {
        self.pages.entry(key).or_default().push_back(id);
    }

    pub(super) fn add_list(&mut self, device: DeviceId, phys: &[PhysAddr], ids: Vec<MappingId>) {
        let key = (device, sg_key(phys));
        self.lists.entry(key).or_default().push_back(ids);
    }

    /// Records what a mapping holds for itself.
    pub(super) fn hold(&mut self, id: MappingId, held: Option<Held>) {
        if let Some(held) = held {
            let at = (held.space, held.start);
            self.held.entry(at).or_default().push((held.past, id));
        }
        self.of.insert(id, held);
    }

    /// The oldest mapping of this key, which ends now.
    pub(super) fn take_page(&mut self, key: &PageKey) -> Option<MappingId> {
        loop {
            let queue = self.pages.get_mut(key)?;
            let id = queue.pop_front();
            if queue.is_empty() {
                self.pages.remove(key);
            }
            let id = id?;
            // One ended by the reuse of its address is no longer there.
            if self.of.contains_key(&id) {
                return Some(id);
            }
        }
    }

    /// The oldest list of this key that has any mapping left, which ends now.
    pub(super) fn take_list(
        &mut self,
        device: DeviceId,
        phys: &[PhysAddr],
    ) -> Option<Vec<MappingId>> {
        let key = (device, sg_key(phys));
        loop {
            let queue = self.lists.get_mut(&key)?;
            let ids = queue.pop_front();
            if queue.is_empty() {
                self.lists.remove(&key);
            }
            let ids = ids?;
            if ids.iter().any(|id| self.of.contains_key(id)) {
                return Some(ids);
            }
        }
    }

    /// Forgets a mapping; gives what it held, `None` where it had ended already.
    pub(super) fn end(&mut self, id: MappingId) -> Option<Option<Held>> {
        let held = self.of.get(&id).copied()?;
        self.unhold(id);
        self.of.remove(&id);
        Some(held)
    }

    /// Lets others have what a mapping held.
    pub(super) fn unhold(&mut self, id: MappingId) {
        let Some(Some(held)) = self.of.get_mut(&id).map(Option::take) else {
            return;
        };
        let at = (held.space, held.start);
        if let Some(ids) = self.held.get_mut(&at) {
            ids.retain(|(_, other)| *other != id);
            if ids.is_empty() {
                self.held.remove(&at);
            }
        }
    }

    /// Mappings whose addresses `held` takes again. Live mappings do not overlap each other but for
    /// those whose end is recorded late, so the nearest two below are looked at, not all.
    pub(super) fn overlapping(&self, held: &Held) -> Vec<MappingId> {
        let mut found = Vec::new();
        let from = (held.space, held.start);
        let below = self.held.range((held.space, 0)..from).rev().take(2);
        let inside = self.held.range(from..(held.space, held.past));
        for (_, ids) in below.chain(inside) {
            for &(past, id) in ids {
                if past > held.start {
                    found.push(id);
                }
            }
        }
        found
    }
}

fn sg_key(phys: &[PhysAddr]) -> Box<[PhysAddr]> {
    phys[..phys.len().min(SG_KEY_ENTRIES)].into()
}
