//! The pools of a machine, taken together.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt;
use core::ops::Deref;

use dmakit_addr::DirectionType;
use dmakit_platform::{Platform, PoolMemory, Segment};

use crate::buffer::{FIRST, GROWN, RESERVE};
use crate::device::DeviceAccount;
use crate::growth::{Growth, NoGrowth};
use crate::layout::SlotShift;
use crate::level::Level;
use crate::pool::{self, Pool};
use crate::statistics::FailureCounts;
use crate::throttle::Throttle;
use crate::{
    AttachError, BounceBuffer, BounceConfig, ConfigError, DeviceId, GrowthConfig, SlotPoolConfig,
};

/// The record's flags: the direction, in two bits.
pub(crate) const DIRECTION: u16 = 3;
/// The slots are charged to the device's quota.
pub(crate) const CHARGED: u16 = 4;
/// The mapping is known by its address alone.
pub(crate) const BY_ADDRESS: u16 = 8;
/// Coherent memory.
pub(crate) const COHERENT: u16 = 16;

/// Bounce buffers for devices that cannot, or must not, reach a buffer itself.
///
/// There is a first pool, which stays; with a [`GrowthConfig`] others come and go by
/// [`maintain`](Self::maintain), and a reserve serves what cannot wait for that. What is mapped is
/// copied to slots; padding before and after is zeroed, so that no slot shows another mapping's
/// bytes.
///
/// `map`, `unmap` and the syncs may be called in hard interrupts, on any CPU; none waits for more
/// than the locks of areas. `maintain` may sleep.
pub struct BouncePool<P: Platform, M = NoGrowth> {
    pub(crate) platform: P,
    pub(crate) shift: SlotShift,
    pub(crate) first: Pool<P>,
    pub(crate) growth: Option<Box<Growth<P, M>>>,
    pub(crate) level: Arc<Level>,
    pub(crate) devices: Box<[DeviceAccount]>,
    pub(crate) failures: FailureCounts,
    pub(crate) throttle: Throttle,
    pub(crate) config: BounceConfig,
}

/// A mapping of another set of pools, given back as it was.
pub struct ForeignBuffer<D>(pub BounceBuffer<D>);

impl<D: DirectionType> fmt::Debug for ForeignBuffer<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ForeignBuffer").field(&self.0).finish()
    }
}

impl<D> fmt::Display for ForeignBuffer<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the mapping at {} is not of these pools", self.0.start)
    }
}

impl<D: DirectionType> core::error::Error for ForeignBuffer<D> {}

/// A pool, held for as long as one looks at it.
pub(crate) enum PoolRef<'a, P: Platform> {
    Fixed(&'a Pool<P>),
    Grown(Arc<Pool<P>>),
}

impl<P: Platform> Deref for PoolRef<'_, P> {
    type Target = Pool<P>;

    #[inline]
    fn deref(&self) -> &Pool<P> {
        match self {
            Self::Fixed(pool) => pool,
            Self::Grown(pool) => pool,
        }
    }
}

impl<P: Platform> BouncePool<P> {
    /// One pool in `segment`, which never grows. May sleep; allocates.
    ///
    /// # Errors
    /// [`ConfigError`]; the segment is lost then.
    pub fn new(platform: P, segment: Segment, config: &BounceConfig) -> Result<Self, ConfigError> {
        Self::make(platform, segment, config)
    }
}

impl<P: Platform, M: PoolMemory> BouncePool<P, M> {
    /// A first pool in `segment`, and growth from `provider`. May sleep; allocates.
    ///
    /// # Errors
    /// [`ConfigError`]; the segment is lost then.
    pub fn growing(
        platform: P,
        segment: Segment,
        config: &BounceConfig,
        growth: GrowthConfig,
        provider: M,
    ) -> Result<Self, ConfigError> {
        let mut set = Self::make(platform, segment, config)?;
        set.growth = Some(Box::new(set.make_growth(growth, provider)?));
        Ok(set)
    }
}

impl<P: Platform, M> BouncePool<P, M> {
    fn make(platform: P, segment: Segment, config: &BounceConfig) -> Result<Self, ConfigError> {
        let shift = SlotShift::of_bytes(config.slot_bytes)
            .ok_or(ConfigError::SlotBytes(config.slot_bytes))?;
        let slots = pool::slots_of(&segment, shift)?;
        let segment =
            pool::share(&platform, segment, config.sharing).map_err(ConfigError::Sharing)?;
        let level = Arc::new(Level::new());
        let slots = SlotPoolConfig {
            slots,
            areas: config.areas,
            devices: config.devices,
            credit_batch: config.credit_batch,
        };
        Ok(Self {
            platform,
            shift,
            first: Pool::new(segment, shift, &slots, None, level.clone()),
            growth: None,
            level,
            devices: (0..config.devices.max(1))
                .map(|_| DeviceAccount::new())
                .collect(),
            failures: FailureCounts::new(),
            throttle: Throttle::new(),
            config: *config,
        })
    }

    /// What the pools were made with.
    pub fn config(&self) -> &BounceConfig {
        &self.config
    }

    /// Attaches a device that may hold at most `quota` slots, padding included; without a quota it
    /// is not charged, which saves a counter that all CPUs write.
    ///
    /// # Errors
    /// [`AttachError::TooMany`].
    pub fn attach(&self, quota: Option<u32>) -> Result<DeviceId, AttachError> {
        let index = self.devices.iter().position(|device| device.attach(quota));
        match index.and_then(|index| u16::try_from(index).ok()) {
            Some(index) => Ok(DeviceId::new(index)),
            None => Err(AttachError::TooMany(self.config.devices)),
        }
    }

    /// Detaches a device. Nobody may be mapping for it.
    ///
    /// # Errors
    /// [`AttachError::Busy`] where it still holds slots: what was leaked is seen here.
    pub fn detach(&self, device: DeviceId) -> Result<(), AttachError> {
        let account = self.account(device).ok_or(AttachError::Unknown(device))?;
        let slots = self.device_statistics(device).used;
        if slots > 0 {
            return Err(AttachError::Busy { slots });
        }
        account.detach();
        Ok(())
    }

    #[inline]
    pub(crate) fn account(&self, device: DeviceId) -> Option<&DeviceAccount> {
        let account = self.devices.get(device.index())?;
        account.is_attached().then_some(account)
    }

    /// The pool of a mapping, if it is one of these.
    #[inline]
    pub(crate) fn pool_of<D>(&self, buffer: &BounceBuffer<D>) -> Option<PoolRef<'_, P>> {
        let pool = self.pool(buffer.pool)?;
        pool.window(buffer.start, buffer.len)
            .is_some()
            .then_some(pool)
    }

    #[inline]
    pub(crate) fn pool(&self, number: u16) -> Option<PoolRef<'_, P>> {
        if number == FIRST {
            return Some(PoolRef::Fixed(&self.first));
        }
        let growth = self.growth.as_deref()?;
        if number == RESERVE {
            return Some(PoolRef::Fixed(&growth.reserve));
        }
        let place = growth.places.get(usize::from(number - GROWN))?;
        place.get().map(PoolRef::Grown)
    }

    /// Shows every pool to `visit` until it says that it has seen enough; whether it did.
    pub(crate) fn each_pool(&self, mut visit: impl FnMut(&Pool<P>) -> bool) -> bool {
        if visit(&self.first) {
            return true;
        }
        self.growth.as_deref().is_some_and(|growth| {
            visit(&growth.reserve)
                || growth
                    .places
                    .iter()
                    .filter_map(|place| place.get())
                    .any(|pool| visit(&pool))
        })
    }
}

impl<P: Platform, M> fmt::Debug for BouncePool<P, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BouncePool")
            .field("capacity", &self.capacity())
            .field("used", &self.level.drawn())
            .finish_non_exhaustive()
    }
}
