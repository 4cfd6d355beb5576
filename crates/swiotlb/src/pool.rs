//! Slots with memory behind them.

use alloc::sync::Arc;

use dmakit_addr::{Address, PhysAddr};
use dmakit_platform::{ConversionError, CpuId, Platform, Segment, Window};

use crate::config::Sharing;
use crate::hint::Hint;
use crate::layout::{Layout, Reach, SlotShift};
use crate::level::Level;
use crate::shared_area::Begin;
use crate::slot_pool::{AREA_SLOTS_MAX, AREAS_MAX};
use crate::{ConfigError, DeviceLimits, NoRun, Record, SlotPool, SlotPoolConfig};

/// One pool: the memory that it owns, and its slots.
pub(crate) struct Pool<P: Platform> {
    segment: Segment,
    pub(crate) reach: Reach,
    shift: SlotShift,
    pub(crate) slots: SlotPool<P>,
}

/// Shares `segment` with the host where that is wanted, and zeroes it then: what the host sees of
/// it before the first mapping is zeroes.
///
/// On failure the sharing state is unknown, and the segment, dropped, is lost to everybody.
pub(crate) fn share<P: Platform>(
    platform: &P,
    segment: Segment,
    sharing: Sharing,
) -> Result<Segment, ConversionError> {
    if sharing == Sharing::Shared {
        platform.share(segment.range())?;
        segment.window().fill(0);
    }
    Ok(segment)
}

/// Takes `segment` back from the host, and zeroes it: nothing of what was bounced goes with it.
pub(crate) fn unshare<P: Platform>(
    platform: &P,
    segment: Segment,
    sharing: Sharing,
) -> Result<Segment, ConversionError> {
    if sharing == Sharing::Shared {
        platform.unshare(segment.range())?;
    }
    segment.window().fill(0);
    Ok(segment)
}

/// How many slots a segment has; it must start where a page and a slot do.
pub(crate) fn slots_of(segment: &Segment, shift: SlotShift) -> Result<u32, ConfigError> {
    let start = segment.range().start();
    let count = segment.len() / shift.bytes();
    if !start.is_aligned(shift.bytes().max(dmakit_addr::PAGE_BYTES)) || count == 0 {
        return Err(ConfigError::Segment {
            start: start.raw(),
            len: segment.len(),
        });
    }
    match u32::try_from(count) {
        Ok(slots) if slots <= AREA_SLOTS_MAX * AREAS_MAX as u32 => Ok(slots),
        _ => Err(ConfigError::TooManySlots(count)),
    }
}

impl<P: Platform> Pool<P> {
    /// The pool of `segment`, which has been shared where it must be.
    pub(crate) fn new(
        segment: Segment,
        shift: SlotShift,
        config: &SlotPoolConfig,
        hints: Option<Arc<[Hint]>>,
        level: Arc<Level>,
    ) -> Self {
        let hints =
            hints.unwrap_or_else(|| (0..config.area_count()).map(|_| Hint::closed()).collect());
        Self {
            reach: Reach::of(segment.range()),
            segment,
            shift,
            slots: SlotPool::with_hints(config, hints, level),
        }
    }

    /// Takes slots: the first of them.
    #[inline]
    pub(crate) fn take(
        &self,
        layout: &Layout,
        limits: &DeviceLimits,
        cpu: CpuId,
        begin: Begin,
    ) -> Result<u32, NoRun> {
        let fit = layout.fit(self.shift, limits, &self.reach);
        self.slots.take_counted(&fit, cpu, begin)
    }

    /// Whether a device can reach any slot.
    pub(crate) fn is_reachable(&self, layout: &Layout, limits: &DeviceLimits) -> bool {
        layout.fit(self.shift, limits, &self.reach).limit > 0
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.segment.len()
    }

    /// Where slot `first` and `offset` bytes more are.
    #[inline]
    pub(crate) fn address(&self, first: u32, offset: u16) -> PhysAddr {
        PhysAddr::new(self.reach.first + self.shift.address(first) + u64::from(offset))
    }

    /// The slot of `address`, if it lies here.
    pub(crate) fn slot(&self, address: PhysAddr) -> Option<u32> {
        let offset = address.offset_from(self.segment.range().start())?;
        let slot = self.shift.slot(offset);
        (offset < self.segment.len() && slot < self.slots.slots()).then_some(slot)
    }

    /// The `len` bytes at `start`.
    #[inline]
    pub(crate) fn window(&self, start: PhysAddr, len: u64) -> Option<Window<'_>> {
        let offset = start.offset_from(self.segment.range().start())?;
        self.segment.window().slice(offset, len)
    }

    /// How many bytes a mapping has.
    pub(crate) fn mapped_len(&self, record: &Record) -> u64 {
        self.shift.address(record.slots) - u64::from(record.offset) - u64::from(record.tail)
    }

    pub(crate) fn into_segment(self) -> Segment {
        self.segment
    }
}
