//! What the pools did.

use dmakit_platform::Platform;

use crate::hint::Hint;
use crate::sync::{AtomicU64, Ordering};
use crate::{BouncePool, DeviceId, Full};

/// Counters of a [`BouncePool`], each exact by itself, together of no single moment.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Statistics {
    /// Slots there are, in pools that take mappings.
    pub slots: u64,
    /// Slots in use.
    pub used: u64,
    /// The most slots ever in use at once, from above: the truth lies between `used_high -
    /// used_high_slack` and `used_high`.
    pub used_high: u64,
    /// How far off `used_high` may be: two credit batches for each area that there is or was at
    /// once.
    pub used_high_slack: u64,
    /// Mappings made.
    pub mapped: u64,
    /// Mappings ended.
    pub unmapped: u64,
    /// Bytes copied, both ways, by map, unmap and sync.
    pub copied: u64,
    /// Failures, by cause.
    pub failures: Failures,
    /// Probes of all searches (see [`Area::take`](crate::Area::take)).
    pub probes: u64,
    /// The most probes of one search.
    pub probes_max: u32,
    /// Bytes of all pools, the reserve included.
    pub pool_bytes: u64,
    /// The most of that.
    pub pool_bytes_high: u64,
    /// Slots of the reserve in use: transient mappings.
    pub transient_used: u32,
    /// Mappings that the reserve served.
    pub transient_mapped: u64,
    /// Pools that were added.
    pub grown: u64,
    /// Pools that were given back.
    pub shrunk: u64,
    /// Times that growth found no memory, or was not allowed any.
    pub growth_refused: u64,
    /// Bytes lost because the host would not share them or give them back.
    pub quarantined_bytes: u64,
}

/// Failed mappings, by cause.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Failures {
    /// Too few slots were free.
    pub full: u64,
    /// Enough slots were free, but no run fitted.
    pub fragmented: u64,
    /// The device's quota.
    pub quota: u64,
    /// No pool could be reached.
    pub unreachable: u64,
    /// More than any pool has.
    pub too_large: u64,
}

/// What one device did.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct DeviceStatistics {
    /// Slots that it holds.
    pub used: u32,
    /// Mappings made.
    pub mapped: u64,
    /// Mappings ended.
    pub unmapped: u64,
    /// Bytes copied.
    pub copied: u64,
    /// Mappings that its quota refused.
    pub refused: u64,
}

/// How much there is, and can be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Capacity {
    pub(crate) slots: u64,
    /// Without the reserve.
    pub(crate) regular_slots: u64,
    /// The largest run that any pool has, or could have.
    pub(crate) max_slots: u64,
}

pub(crate) struct FailureCounts {
    full: AtomicU64,
    fragmented: AtomicU64,
    quota: AtomicU64,
    unreachable: AtomicU64,
    too_large: AtomicU64,
}

impl FailureCounts {
    pub(crate) fn new() -> Self {
        Self {
            full: AtomicU64::new(0),
            fragmented: AtomicU64::new(0),
            quota: AtomicU64::new(0),
            unreachable: AtomicU64::new(0),
            too_large: AtomicU64::new(0),
        }
    }

    pub(crate) fn count_full(&self, full: &Full) {
        if full.is_fragmented() {
            count(&self.fragmented);
        } else {
            count(&self.full);
        }
    }

    pub(crate) fn count_quota(&self) {
        count(&self.quota);
    }

    pub(crate) fn count_unreachable(&self) {
        count(&self.unreachable);
    }

    pub(crate) fn count_too_large(&self) {
        count(&self.too_large);
    }

    fn read(&self) -> Failures {
        Failures {
            full: read(&self.full),
            fragmented: read(&self.fragmented),
            quota: read(&self.quota),
            unreachable: read(&self.unreachable),
            too_large: read(&self.too_large),
        }
    }
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

pub(crate) fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl<P: Platform, M> BouncePool<P, M> {
    /// All counters. Takes the lock of each area in turn.
    pub fn statistics(&self) -> Statistics {
        let mut sum = Statistics {
            slots: self.capacity().slots,
            used_high: self.level.high(),
            failures: self.failures.read(),
            pool_bytes: self.first.bytes(),
            pool_bytes_high: self.first.bytes(),
            ..Statistics::default()
        };
        let mut areas = 0;
        self.each_pool(|pool| {
            let (probes, probes_max) = pool.slots.probes();
            let all = pool.slots.device_use(None);
            areas += pool.slots.area_count() as u64;
            sum.used += u64::from(pool.slots.used());
            sum.probes += probes;
            sum.probes_max = sum.probes_max.max(probes_max);
            sum.mapped += all.mapped;
            sum.unmapped += all.unmapped;
            sum.copied += all.copied;
            false
        });
        if let Some(growth) = self.growth.as_deref() {
            let gone = &growth.gone;
            sum.mapped += read(&gone.mapped);
            sum.unmapped += read(&gone.mapped);
            sum.copied += read(&gone.copied);
            sum.probes += read(&gone.probes);
            sum.pool_bytes = read(&growth.bytes.held);
            sum.pool_bytes_high = read(&growth.bytes.held_high);
            sum.transient_used = growth.reserve.slots.used();
            sum.transient_mapped = growth.reserve.slots.device_use(None).mapped;
            sum.grown = read(&growth.bytes.grown);
            sum.shrunk = read(&growth.bytes.shrunk);
            sum.growth_refused = read(&growth.bytes.refused);
            sum.quarantined_bytes = read(&growth.bytes.quarantined);
            areas = areas.max(read(&growth.bytes.areas_high));
        }
        sum.used_high_slack = 2 * u64::from(self.config.credit_batch) * areas;
        sum
    }

    /// What a device did. Takes the lock of each area in turn.
    pub fn device_statistics(&self, device: DeviceId) -> DeviceStatistics {
        let mut sum = DeviceStatistics::default();
        self.each_pool(|pool| {
            let one = pool.slots.device_use(Some(device.index()));
            sum.used += one.slots;
            sum.mapped += one.mapped;
            sum.unmapped += one.unmapped;
            sum.copied += one.copied;
            false
        });
        if let Some(account) = self.devices.get(device.index()) {
            sum.refused = read(&account.refused);
            sum.mapped += read(&account.gone_mapped);
            sum.unmapped += read(&account.gone_mapped);
            sum.copied += read(&account.gone_copied);
        }
        sum
    }

    /// Forgets the high water: it is what is in use now.
    pub fn reset_used_high(&self) {
        self.level.reset_high();
    }

    pub(crate) fn used_exactly(&self) -> u64 {
        let mut used = 0;
        self.each_pool(|pool| {
            used += u64::from(pool.slots.used());
            false
        });
        used
    }

    /// Slots in use, from above by at most the slack that [`Statistics`] names; one load.
    pub fn used(&self) -> u64 {
        self.level.drawn()
    }

    pub(crate) fn capacity(&self) -> Capacity {
        let first = u64::from(self.first.slots.slots());
        let Some(growth) = self.growth.as_deref() else {
            return Capacity {
                slots: first,
                regular_slots: first,
                max_slots: first,
            };
        };
        let room = growth.config.bytes_max.saturating_sub(self.first.bytes());
        let regular_slots = first + read(&growth.bytes.open_slots);
        Capacity {
            slots: regular_slots + u64::from(growth.reserve.slots.slots()),
            regular_slots,
            max_slots: first.max(self.shift.slots(room)),
        }
    }

    /// The longest free run in one area of the first pool, without locks.
    pub fn largest_free(&self) -> u32 {
        self.first
            .slots
            .hints()
            .map(Hint::largest)
            .max()
            .unwrap_or(0)
    }
}
