//! What bounce buffers must suit, and who they are counted to.

use core::fmt;

use dmakit_addr::{AlignMask, BoundaryMask, DmaMask};

use crate::sync::{AtomicU64, Ordering};

/// A device's number in a pool, from [`BouncePool::attach`](crate::BouncePool::attach).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DeviceId(u16);

impl DeviceId {
    pub(crate) fn new(index: u16) -> Self {
        Self(index)
    }

    /// Its number, from 0.
    #[inline]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    #[inline]
    pub(crate) fn raw(self) -> u16 {
        self.0
    }
}

/// Whether a device may see stale bytes of its own original, and be believed about lengths.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trust {
    /// Slots begin with the original's bytes, whatever the direction, so that a short write of the
    /// device leaves the rest of the buffer as it was.
    Trusted,
    /// Slots begin with zeroes unless the device is to read them, and only what was validated is
    /// copied back.
    Untrusted,
}

/// What a device can address. Plain data: what matters later is recorded at map, so these may
/// change while mappings live.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeviceLimits {
    /// The highest device address.
    pub mask: DmaMask,
    /// The boundary that one mapping must not cross, in device addresses.
    pub boundary: BoundaryMask,
    /// Low address bits that a bounce buffer must share with its original; at most 64 KiB - 1.
    pub min_align: AlignMask,
    /// What must be added to a physical address, wrapping, to get the device's.
    pub dma_offset: u64,
    /// Whether the device is trusted.
    pub trust: Trust,
}

impl Default for DeviceLimits {
    fn default() -> Self {
        Self {
            mask: DmaMask::ALL,
            boundary: BoundaryMask::NONE,
            min_align: AlignMask::NONE,
            dma_offset: 0,
            trust: Trust::Trusted,
        }
    }
}

/// Shared words of one attached device.
pub(crate) struct DeviceAccount {
    attached: AtomicU64,
    /// [`u64::MAX`] for no limit, in which case nothing is charged.
    quota: AtomicU64,
    charged: AtomicU64,
    pub(crate) refused: AtomicU64,
    /// What it did in pools that are gone.
    pub(crate) gone_mapped: AtomicU64,
    pub(crate) gone_copied: AtomicU64,
}

impl DeviceAccount {
    pub(crate) fn new() -> Self {
        Self {
            attached: AtomicU64::new(0),
            quota: AtomicU64::new(u64::MAX),
            charged: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            gone_mapped: AtomicU64::new(0),
            gone_copied: AtomicU64::new(0),
        }
    }

    pub(crate) fn attach(&self, quota: Option<u32>) -> bool {
        let (free, taken) = (Ordering::Acquire, Ordering::Relaxed);
        let attached = self.attached.compare_exchange(0, 1, free, taken).is_ok();
        if attached {
            self.quota
                .store(quota.map_or(u64::MAX, u64::from), Ordering::Relaxed);
        }
        attached
    }

    pub(crate) fn detach(&self) {
        self.attached.store(0, Ordering::Release);
    }

    #[inline]
    pub(crate) fn is_attached(&self) -> bool {
        self.attached.load(Ordering::Relaxed) != 0
    }

    /// Charges `slots` where the device has a quota; says whether it did.
    #[inline]
    pub(crate) fn charge(&self, slots: u32) -> Result<bool, QuotaExceeded> {
        let quota = self.quota.load(Ordering::Relaxed);
        if quota == u64::MAX {
            return Ok(false);
        }
        self.charge_against(quota, slots).map(|()| true)
    }

    fn charge_against(&self, quota: u64, slots: u32) -> Result<(), QuotaExceeded> {
        let add = |charged: u64| {
            let sum = charged + u64::from(slots);
            (sum <= quota).then_some(sum)
        };
        let relaxed = Ordering::Relaxed;
        match self.charged.fetch_update(relaxed, relaxed, add) {
            Ok(_) => Ok(()),
            Err(charged) => {
                self.refused.fetch_add(1, relaxed);
                Err(QuotaExceeded {
                    slots,
                    charged,
                    quota,
                })
            }
        }
    }

    pub(crate) fn refund(&self, slots: u32) {
        self.charged.fetch_sub(u64::from(slots), Ordering::Relaxed);
    }
}

/// A device's quota does not allow for a mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QuotaExceeded {
    /// How many slots the mapping needs.
    pub slots: u32,
    /// How many the device holds.
    pub charged: u64,
    /// How many it may hold.
    pub quota: u64,
}

impl fmt::Display for QuotaExceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} slots asked, {} held, {} allowed by the device's quota",
            self.slots, self.charged, self.quota
        )
    }
}

impl core::error::Error for QuotaExceeded {}

/// Why a device could not be attached or detached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AttachError {
    /// The pool was made for this many devices.
    TooMany(u16),
    /// The device still holds slots.
    Busy {
        /// How many.
        slots: u32,
    },
    /// No such device is attached.
    Unknown(DeviceId),
}

impl fmt::Display for AttachError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooMany(devices) => write!(f, "the pool was made for {devices} devices"),
            Self::Busy { slots } => write!(f, "the device still holds {slots} slots"),
            Self::Unknown(id) => write!(f, "no device number {} is attached", id.index()),
        }
    }
}

impl core::error::Error for AttachError {}
