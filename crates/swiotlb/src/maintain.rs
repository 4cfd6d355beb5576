//! What is done where one may sleep: growing, draining, giving back.

use alloc::sync::Arc;

use dmakit_addr::PAGE_BYTES;
use dmakit_platform::{Instant, Platform, PoolMemory, Segment, SegmentRequest};

use crate::config::ConfigError;
use crate::growth::{GROWN_AREAS, Growth, Upkeep};
use crate::pool::{self, Pool};
use crate::statistics::{count, read};
use crate::sync::Ordering;
use crate::{BouncePool, GrowthConfig, SlotPoolConfig};

/// What a call of [`BouncePool::maintain`] did.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Maintained {
    /// Bytes of pools added.
    pub grown_bytes: u64,
    /// Bytes of pools given back.
    pub shrunk_bytes: u64,
    /// Pools that take no mapping any more but still have some, or are still looked at.
    pub draining: u32,
    /// The budget ran out before the work.
    pub has_more: bool,
    /// When to come again, where nobody asks for growth before.
    pub next: Option<Instant>,
}

impl<P: Platform, M: PoolMemory> BouncePool<P, M> {
    /// The parts of a set that grows.
    pub(crate) fn make_growth(
        &self,
        config: GrowthConfig,
        provider: M,
    ) -> Result<Growth<P, M>, ConfigError> {
        let granule = config.granule;
        let least = PAGE_BYTES.max(self.shift.bytes());
        if !granule.is_power_of_two() || granule < least || granule > config.step {
            return Err(ConfigError::Granule(granule));
        }
        let request = SegmentRequest {
            len: config.reserve.max(1).next_multiple_of(granule),
            align: granule,
            node: config.node,
            limit: config.limit,
        };
        let segment = provider
            .allocate_pool(&request)
            .map_err(ConfigError::Reserve)?;
        let segment = pool::share(&self.platform, segment, self.config.sharing)
            .map_err(ConfigError::Sharing)?;
        let slots = self.grown_slots(&segment, 1)?;
        let reserve = Pool::new(segment, self.shift, &slots, None, self.level.clone());
        let held = self.first.bytes() + reserve.bytes();
        Ok(Growth::new(provider, config, self.shift, reserve, held))
    }

    fn grown_slots(&self, segment: &Segment, areas: u32) -> Result<SlotPoolConfig, ConfigError> {
        Ok(SlotPoolConfig {
            slots: pool::slots_of(segment, self.shift)?,
            areas: areas.min(self.config.areas),
            devices: self.config.devices,
            credit_batch: self.config.credit_batch,
        })
    }

    /// Grows where it was asked for, and gives back what has not been needed for a while.
    ///
    /// The low-water rule: time is cut into windows of `shrink_after`. At the end of each, grown
    /// pools without which a quarter more than the window's high water would still fit are drained,
    /// the newest first; a draining pool takes no mapping and goes when its last one ends. A burst
    /// therefore leaves memory behind for at most two windows, and as long as its mappings live.
    ///
    /// At most `budget` pools are added or given back. May sleep. If another CPU is at it, nothing
    /// is done.
    pub fn maintain(&self, now: Instant, budget: u32) -> Maintained {
        let mut done = Maintained::default();
        let Some(growth) = self.growth.as_deref() else {
            return done;
        };
        let Some(mut upkeep) = growth.upkeep.try_lock() else {
            done.has_more = true;
            return done;
        };
        let mut budget = budget;
        self.turn_window(growth, &mut upkeep, now);
        self.retire(growth, &mut upkeep);
        self.give_back_retired(growth, &mut upkeep, &mut budget, &mut done);
        self.grow(growth, &mut upkeep, &mut budget, &mut done);
        done.draining = upkeep.draining.count_ones() + upkeep.retired.len() as u32;
        done.has_more |= growth.wanted.is_raised();
        done.next = upkeep
            .window_start
            .map(|start| start.saturating_add(growth.config.shrink_after));
        done
    }

    /// At the end of a window, drains what was not needed in it.
    fn turn_window(&self, growth: &Growth<P, M>, upkeep: &mut Upkeep<P>, now: Instant) {
        let start = *upkeep.window_start.get_or_insert(now);
        if now.saturating_since(start) < growth.config.shrink_after {
            return;
        }
        upkeep.window_start = Some(now);
        // Idle credit is no use: it must not keep memory.
        self.each_pool(|pool| {
            pool.slots.return_credit();
            false
        });
        let high = self.level.turn_window();
        let needed = high + high / 4;
        let mut capacity = u64::from(self.first.slots.slots()) + read(&growth.bytes.open_slots);
        for index in (0..growth.places.len()).rev() {
            if growth.open.load(Ordering::Relaxed) >> index & 1 == 0 {
                continue;
            }
            let Some(pool) = growth.places[index].get() else {
                continue;
            };
            let slots = u64::from(pool.slots.slots());
            if capacity - slots >= needed {
                capacity -= slots;
                growth.open.fetch_and(!(1 << index), Ordering::AcqRel);
                growth.bytes.open_slots.fetch_sub(slots, Ordering::Relaxed);
                pool.slots.close();
                upkeep.draining |= 1 << index;
            }
        }
    }

    /// Takes empty draining pools out of their places.
    fn retire(&self, growth: &Growth<P, M>, upkeep: &mut Upkeep<P>) {
        for (index, place) in growth.places.iter().enumerate() {
            if upkeep.draining >> index & 1 == 0 {
                continue;
            }
            // Closed areas only empty: once nothing is used, nothing will be.
            let is_empty = place.get().is_none_or(|pool| pool.slots.used() == 0);
            if !is_empty {
                continue;
            }
            upkeep.draining &= !(1 << index);
            if let Some(pool) = place.take() {
                growth.index.remove(pool.reach.first, pool.reach.last);
                self.remember(growth, &pool);
                upkeep.retired.push(pool);
            }
        }
    }

    /// Gives back those retired pools that nobody looks at any more.
    fn give_back_retired(
        &self,
        growth: &Growth<P, M>,
        upkeep: &mut Upkeep<P>,
        budget: &mut u32,
        done: &mut Maintained,
    ) {
        let mut kept = 0;
        while kept < upkeep.retired.len() {
            if *budget == 0 {
                done.has_more = true;
                return;
            }
            let pool = upkeep.retired.swap_remove(kept);
            match Arc::try_unwrap(pool) {
                Ok(pool) => {
                    *budget -= 1;
                    done.shrunk_bytes += self.give_back_pool(growth, pool);
                }
                Err(pool) => {
                    upkeep.retired.push(pool);
                    let last = upkeep.retired.len() - 1;
                    upkeep.retired.swap(kept, last);
                    kept += 1;
                }
            }
        }
    }

    fn give_back_pool(&self, growth: &Growth<P, M>, pool: Pool<P>) -> u64 {
        let bytes = pool.bytes();
        growth.bytes.held.fetch_sub(bytes, Ordering::Relaxed);
        match pool::unshare(&self.platform, pool.into_segment(), self.config.sharing) {
            Ok(segment) => {
                growth.provider.free_pool(segment);
                count(&growth.bytes.shrunk);
                bytes
            }
            Err(_) => {
                growth.bytes.quarantined.fetch_add(bytes, Ordering::Relaxed);
                0
            }
        }
    }

    /// Keeps the counters of a pool that goes; it is empty, so they are final.
    fn remember(&self, growth: &Growth<P, M>, pool: &Pool<P>) {
        pool.slots.return_credit();
        let relaxed = Ordering::Relaxed;
        let all = pool.slots.device_use(None);
        growth.gone.mapped.fetch_add(all.mapped, relaxed);
        growth.gone.copied.fetch_add(all.copied, relaxed);
        growth.gone.probes.fetch_add(pool.slots.probes().0, relaxed);
        for (index, device) in self.devices.iter().enumerate() {
            let one = pool.slots.device_use(Some(index));
            device.gone_mapped.fetch_add(one.mapped, relaxed);
            device.gone_copied.fetch_add(one.copied, relaxed);
        }
    }

    /// Serves the request for growth, if there is one: by a pool that was to go, else by memory.
    fn grow(
        &self,
        growth: &Growth<P, M>,
        upkeep: &mut Upkeep<P>,
        budget: &mut u32,
        done: &mut Maintained,
    ) {
        if *budget == 0 {
            return;
        }
        let wanted = growth.wanted.take();
        if wanted == 0 || self.has_room(growth, wanted) || self.reopen(growth, upkeep, wanted) {
            return;
        }
        *budget -= 1;
        match self.allocate(growth, wanted) {
            Some(segment) => done.grown_bytes += self.publish(growth, upkeep, segment),
            None => count(&growth.bytes.refused),
        }
    }

    /// Whether a request has become moot: there is a run, and the headroom, by now.
    fn has_room(&self, growth: &Growth<P, M>, wanted: u32) -> bool {
        let mut largest = self.first.slots.largest();
        let open = growth.open.load(Ordering::Relaxed);
        for (index, place) in growth.places.iter().enumerate() {
            if (open >> index) & 1 != 0 {
                largest = place
                    .get()
                    .map_or(largest, |pool| largest.max(pool.slots.largest()));
            }
        }
        largest >= wanted && !growth.is_short(&self.first, &self.level)
    }

    /// Opens a draining pool that has a run of `wanted` slots.
    fn reopen(&self, growth: &Growth<P, M>, upkeep: &mut Upkeep<P>, wanted: u32) -> bool {
        for (index, place) in growth.places.iter().enumerate() {
            if upkeep.draining >> index & 1 == 0 {
                continue;
            }
            let Some(pool) = place.get() else {
                continue;
            };
            pool.slots.open();
            if pool.slots.largest() < wanted {
                pool.slots.close();
                continue;
            }
            upkeep.draining &= !(1 << index);
            self.open(growth, index, &pool);
            return true;
        }
        false
    }

    /// Memory for at least `wanted` slots: a step if there is that much, else less by halves.
    fn allocate(&self, growth: &Growth<P, M>, wanted: u32) -> Option<Segment> {
        let config = &growth.config;
        let granule = config.granule;
        let least = self
            .shift
            .address(wanted)
            .checked_next_multiple_of(granule)?;
        let room = config.bytes_max.saturating_sub(read(&growth.bytes.held));
        let room = room - room % granule;
        if least > room {
            return None;
        }
        let mut len = least.max(config.step - config.step % granule).min(room);
        loop {
            let request = SegmentRequest {
                len,
                align: granule,
                node: config.node,
                limit: config.limit,
            };
            if let Ok(segment) = growth.provider.allocate_pool(&request) {
                return Some(segment);
            }
            if len == least {
                return None;
            }
            len = (len / 2).next_multiple_of(granule).max(least);
        }
    }

    /// Makes a pool of `segment` and lets mappings in: how many bytes were added.
    fn publish(&self, growth: &Growth<P, M>, upkeep: &mut Upkeep<P>, segment: Segment) -> u64 {
        let taken = growth.open.load(Ordering::Relaxed) | upkeep.draining;
        let index = (!taken).trailing_zeros() as usize;
        let slots = self.grown_slots(&segment, GROWN_AREAS);
        let (Some(place), Ok(slots)) = (growth.places.get(index), slots) else {
            growth.provider.free_pool(segment);
            count(&growth.bytes.refused);
            return 0;
        };
        let bytes = segment.len();
        let Ok(segment) = pool::share(&self.platform, segment, self.config.sharing) else {
            growth.bytes.quarantined.fetch_add(bytes, Ordering::Relaxed);
            return 0;
        };
        let hints = Some(place.hints.clone());
        let pool = Pool::new(segment, self.shift, &slots, hints, self.level.clone());
        let pool = Arc::new(pool);
        growth
            .index
            .insert(pool.reach.first, pool.reach.last, index);
        place.put(pool.clone());
        let held = growth.bytes.held.fetch_add(bytes, Ordering::Relaxed) + bytes;
        growth.bytes.held_high.fetch_max(held, Ordering::Relaxed);
        count(&growth.bytes.grown);
        self.open(growth, index, &pool);
        self.note_areas(growth);
        bytes
    }

    fn open(&self, growth: &Growth<P, M>, index: usize, pool: &Pool<P>) {
        let slots = u64::from(pool.slots.slots());
        growth.bytes.open_slots.fetch_add(slots, Ordering::Relaxed);
        growth.open.fetch_or(1 << index, Ordering::Release);
    }

    fn note_areas(&self, growth: &Growth<P, M>) {
        let mut areas = 0;
        self.each_pool(|pool| {
            areas += pool.slots.area_count() as u64;
            false
        });
        growth.bytes.areas_high.fetch_max(areas, Ordering::Relaxed);
    }
}
