//! Areas under their locks: one pool's slots.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;

use dmakit_platform::{CpuId, IrqMutex, Platform};

use crate::hint::Hint;
use crate::level::Level;
use crate::shared_area::{AreaState, Begin, DeviceUse, SharedArea};
use crate::{Area, Fit, NoRun, Record};

/// The greatest number of areas of a pool.
pub const AREAS_MAX: usize = 64;

/// The fewest slots of an area, unless the pool itself has fewer.
pub const AREA_SLOTS_MIN: u32 = 128;

/// The most slots of an area.
pub const AREA_SLOTS_MAX: u32 = 1 << 20;

/// The slots of a pool, in areas: bookkeeping shared by all CPUs, without memory.
///
/// A CPU starts at the area of its number and steals from the others in turn; those that are known
/// to hold no run long enough are passed over without touching their locks. A request that fits no
/// area takes the areas that it spans, in order.
///
/// Everything here may be called in hard interrupts.
pub struct SlotPool<P: Platform> {
    slots: u32,
    area_shift: u32,
    pub(crate) areas: Box<[SharedArea<P>]>,
    pub(crate) hints: Arc<[Hint]>,
    pub(crate) level: Arc<Level>,
    batch: u32,
}

/// Sizes of a [`SlotPool`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlotPoolConfig {
    /// How many slots.
    pub slots: u32,
    /// How many areas are wished for. There may be fewer: an area's size is a power of two, from
    /// [`AREA_SLOTS_MIN`] to [`AREA_SLOTS_MAX`], but for the last, which takes what is left.
    pub areas: u32,
    /// How many devices are counted apart.
    pub devices: u16,
    /// Slots by which an area's credit runs ahead of its use; 0 counts exactly, at the price of a
    /// counter that every CPU writes at every mapping.
    pub credit_batch: u32,
}

impl SlotPoolConfig {
    /// Slots of an area.
    pub fn area_slots(&self) -> u32 {
        let areas = self.areas.clamp(1, AREAS_MAX as u32);
        self.slots
            .div_ceil(areas)
            .next_power_of_two()
            .clamp(AREA_SLOTS_MIN, AREA_SLOTS_MAX)
    }

    /// How many areas there will be.
    pub fn area_count(&self) -> usize {
        self.slots
            .div_ceil(self.area_slots())
            .clamp(1, AREAS_MAX as u32) as usize
    }
}

impl<P: Platform> SlotPool<P> {
    /// A pool of free slots, at most [`AREAS_MAX`] areas of [`AREA_SLOTS_MAX`]. Allocates.
    pub fn new(config: &SlotPoolConfig) -> Self {
        let hints = (0..config.area_count()).map(|_| Hint::closed()).collect();
        Self::with_hints(config, hints, Arc::new(Level::new()))
    }

    pub(crate) fn with_hints(
        config: &SlotPoolConfig,
        hints: Arc<[Hint]>,
        level: Arc<Level>,
    ) -> Self {
        let area_slots = config.area_slots();
        let count = config.area_count().min(hints.len());
        let slots = config.slots.min(area_slots.saturating_mul(count as u32));
        let areas = (0..count as u32)
            .map(|index| {
                let area = Area::new((slots - index * area_slots).min(area_slots));
                hints[index as usize].publish(&area);
                SharedArea(IrqMutex::<P, _>::new(AreaState {
                    area,
                    closed: false,
                    credit: 0,
                    devices: vec![DeviceUse::default(); usize::from(config.devices).max(1)]
                        .into_boxed_slice(),
                }))
            })
            .collect();
        Self {
            slots,
            area_shift: area_slots.trailing_zeros(),
            areas,
            hints,
            level,
            batch: config.credit_batch,
        }
    }

    /// How many slots there are.
    #[inline]
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// How many areas there are.
    pub fn area_count(&self) -> usize {
        self.areas.len()
    }

    /// How many slots are taken; of no single moment while others map.
    pub fn used(&self) -> u32 {
        self.areas
            .iter()
            .map(|shared| shared.0.lock().area.used())
            .sum()
    }

    /// The longest free run that lies in one area, as far as is known without locks.
    pub fn largest(&self) -> u32 {
        self.hints().map(Hint::largest).max().unwrap_or(0)
    }

    /// All probes of all searches, and the most of one.
    pub fn probes(&self) -> (u64, u32) {
        let each = self
            .areas
            .iter()
            .map(|shared| shared.0.lock().area.probes());
        each.fold((0, 0), |(sum, max), (all, most)| (sum + all, max.max(most)))
    }

    /// Bytes of bookkeeping.
    pub fn metadata_bytes(&self) -> usize {
        let areas = self.areas.iter().map(|shared| {
            let state = shared.0.lock();
            // The area's own size is part of the shared area's.
            state.area.metadata_bytes() - size_of::<Area>() + size_of_val(&*state.devices)
        });
        size_of::<Self>()
            + areas.sum::<usize>()
            + size_of_val(&*self.areas)
            + size_of_val(&*self.hints)
    }

    /// Takes a run that fits for `cpu`: its first slot. `record` is kept until
    /// [`give_back`](Self::give_back); its `slots` is what the fit asks for.
    ///
    /// Looks at one word of each area, and searches those whose word admits the request.
    ///
    /// # Errors
    /// [`NoRun`] where no run fits, not even across areas; nothing has changed then.
    #[inline]
    pub fn take(&self, fit: &Fit, cpu: CpuId, record: Record) -> Result<u32, NoRun> {
        self.take_counted(fit, cpu, Begin { record, copied: 0 })
    }

    #[inline]
    pub(crate) fn take_counted(&self, fit: &Fit, cpu: CpuId, begin: Begin) -> Result<u32, NoRun> {
        let index = home(cpu, self.areas.len());
        if self.hints[index].largest() >= fit.slots {
            if let Some(at) = self.take_in(index, fit, &begin) {
                return Ok(at);
            }
        }
        self.steal(index, fit, &begin)
    }

    /// Tries the areas after that of `home`, in turn, then the seams between them.
    #[inline(never)]
    fn steal(&self, home: usize, fit: &Fit, begin: &Begin) -> Result<u32, NoRun> {
        let count = self.areas.len();
        let mut index = home;
        for _ in 1..count {
            index = if index + 1 == count { 0 } else { index + 1 };
            if self.hints[index].largest() >= fit.slots {
                if let Some(at) = self.take_in(index, fit, begin) {
                    return Ok(at);
                }
            }
        }
        if count > 1 {
            self.take_spanning(fit, begin)
        } else {
            Err(self.no_run(fit))
        }
    }

    #[cold]
    pub(crate) fn no_run(&self, fit: &Fit) -> NoRun {
        NoRun {
            slots: fit.slots,
            largest: self.largest(),
        }
    }

    #[inline(never)]
    fn take_in(&self, index: usize, fit: &Fit, begin: &Begin) -> Option<u32> {
        let first = (index as u32) << self.area_shift;
        let mut state = self.areas[index].0.lock();
        if state.closed {
            return None;
        }
        let at = state.area.take_from(fit, first).ok()?;
        state.area.set_record(at, begin.record);
        self.enter(&mut state, index);
        state.begin(begin);
        Some(first + at)
    }

    /// Shows and counts what a take has changed.
    #[inline]
    pub(crate) fn enter(&self, state: &mut AreaState, index: usize) {
        self.hints[index].publish(&state.area);
        let used = state.area.used();
        self.level.rise(&mut state.credit, used, self.batch);
    }

    /// The record of the mapping whose first slot is `first`.
    #[inline]
    pub fn record(&self, first: u32) -> Option<Record> {
        let (index, at) = self.split(first)?;
        self.areas[index].0.lock().area.record(at)
    }

    /// Gives back the mapping whose first slot is `first`, and its record, with `copied` bytes to
    /// its account; `None` where no mapping begins there.
    #[inline]
    pub fn give_back(&self, first: u32, copied: u64) -> Option<Record> {
        let (index, at) = self.split(first)?;
        let mut state = self.areas[index].0.lock();
        let record = state.area.take_record(at)?;
        let here = record.slots.min(state.area.slots() - at);
        state.end(&record, copied);
        self.free(&mut state, index, at, here);
        drop(state);
        if here < record.slots {
            self.give_back_rest(index, record.slots - here);
        }
        Some(record)
    }

    /// The parts of a mapping in the areas after `index`.
    #[cold]
    fn give_back_rest(&self, index: usize, slots: u32) {
        let mut left = slots;
        for (index, shared) in self.areas.iter().enumerate().skip(index + 1) {
            if left == 0 {
                return;
            }
            let mut state = shared.0.lock();
            let here = left.min(state.area.slots());
            self.free(&mut state, index, 0, here);
            left -= here;
        }
    }

    #[inline]
    fn free(&self, state: &mut AreaState, index: usize, at: u32, slots: u32) {
        state.area.give_back(at, slots);
        if !state.closed {
            self.hints[index].publish(&state.area);
        }
        let used = state.area.used();
        self.level.fall(&mut state.credit, used, self.batch);
    }

    /// Adds `copied` bytes to the account of the mapping whose first slot is `first`.
    pub(crate) fn count_copied(&self, first: u32, copied: u64) {
        if let Some((index, at)) = self.split(first) {
            let mut state = self.areas[index].0.lock();
            if let Some(record) = state.area.record(at) {
                state.device(&record).copied += copied;
            }
        }
    }

    /// Changes the flags of the mapping whose first slot is `first`, if `change` says so: the record
    /// as it was.
    pub(crate) fn change_flags(
        &self,
        first: u32,
        change: impl FnOnce(&Record) -> Option<u16>,
    ) -> Option<Record> {
        let (index, at) = self.split(first)?;
        let mut state = self.areas[index].0.lock();
        let record = state.area.record(at)?;
        let flags = change(&record)?;
        state.area.set_record(at, Record { flags, ..record });
        Some(record)
    }

    /// Sums over the areas: what a device has and had; all devices for `None`.
    pub(crate) fn device_use(&self, device: Option<usize>) -> DeviceUse {
        let mut sum = DeviceUse::default();
        for shared in &self.areas {
            let state = shared.0.lock();
            let rows = state.devices.iter().enumerate();
            for (_, row) in rows.filter(|(index, _)| device.is_none_or(|device| device == *index)) {
                sum.slots += row.slots;
                sum.mapped += row.mapped;
                sum.unmapped += row.unmapped;
                sum.copied += row.copied;
            }
        }
        sum
    }

    /// Hands idle credit back.
    pub(crate) fn return_credit(&self) {
        for shared in &self.areas {
            let mut state = shared.0.lock();
            let used = state.area.used();
            self.level.settle(&mut state.credit, used);
        }
    }

    /// From now on, no area takes a new mapping.
    pub(crate) fn close(&self) {
        for (shared, hint) in self.areas.iter().zip(self.hints.iter()) {
            shared.0.lock().closed = true;
            hint.close();
        }
    }

    /// Undoes [`close`](Self::close).
    pub(crate) fn open(&self) {
        for (shared, hint) in self.areas.iter().zip(self.hints.iter()) {
            let mut state = shared.0.lock();
            state.closed = false;
            hint.publish(&state.area);
        }
    }

    /// The area that `slot` lies in, and its number there.
    #[inline]
    fn split(&self, slot: u32) -> Option<(usize, u32)> {
        let index = (slot >> self.area_shift) as usize;
        let at = slot & ((1 << self.area_shift) - 1);
        (slot < self.slots).then_some((index, at))
    }

    pub(crate) fn area_shift(&self) -> u32 {
        self.area_shift
    }

    pub(crate) fn hints(&self) -> impl Iterator<Item = &Hint> {
        self.hints.iter().take(self.areas.len())
    }

    /// The first slot of the mapping that `slot` may belong to, wherever it began.
    pub(crate) fn mapping_at(&self, slot: u32) -> Option<u32> {
        let (mut index, mut at) = self.split(slot)?;
        loop {
            let state = self.areas[index].0.lock();
            if let Some(first) = state.area.mapping_at(at) {
                return Some(((index as u32) << self.area_shift) + first);
            }
            drop(state);
            index = index.checked_sub(1)?;
            at = (1 << self.area_shift) - 1;
        }
    }
}

#[inline]
fn home(cpu: CpuId, count: usize) -> usize {
    let cpu = cpu.index();
    if cpu < count { cpu } else { cpu % count }
}
