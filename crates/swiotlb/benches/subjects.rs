//! What the sequences drive here: a pool's slots alone, and bounce buffers with both copies.
#![allow(dead_code, reason = "each user drives the subjects that it needs")]

use dmakit_addr::{FromDevice, PhysAddr, PhysRange};
use dmakit_platform::CpuId;
use dmakit_platform::host::{HostPlatform, HostRam};
use dmakit_swiotlb::{
    BounceBuffer, BounceConfig, BouncePool, DeviceId, DeviceLimits, Fit, MapRequest, Record,
    SlotPool, SlotPoolConfig,
};

use super::sequences::{Sequence, Subject};

/// Search and bookkeeping alone: the slots of a pool.
pub struct Slots<'a> {
    pool: &'a SlotPool<HostPlatform>,
    cpu: CpuId,
}

impl Subject for Slots<'_> {
    type Mapping = u32;

    #[inline]
    fn map(&mut self, _op: u32, size: u32) -> Option<u32> {
        // A page or more starts at a page.
        let align = if size >= 4096 { 2 } else { 1 };
        let fit = Fit::aligned(size.div_ceil(2048), align);
        let record = Record {
            slots: fit.slots,
            offset: 0,
            tail: (fit.slots * 2048 - size) as u16,
            device: 0,
            flags: 0,
        };
        self.pool.take(&fit, self.cpu, record).ok()
    }

    #[inline]
    fn unmap(&mut self, mapping: u32) {
        self.pool.give_back(mapping, 0);
    }
}

pub fn pool(slots: u32, areas: u32) -> SlotPool<HostPlatform> {
    SlotPool::new(&SlotPoolConfig {
        slots,
        areas,
        devices: 8,
        credit_batch: 64,
    })
}

pub fn slots(pool: &SlotPool<HostPlatform>, cpu: u32) -> Sequence<Slots<'_>> {
    Sequence::new(Slots {
        pool,
        cpu: CpuId::new(cpu),
    })
}

/// Everything: layout, accounts, search, tokens, and a copy each way.
pub struct Buffers<'a> {
    set: &'a BouncePool<HostPlatform>,
    device: DeviceId,
    limits: DeviceLimits,
    memory: Vec<u8>,
}

impl Subject for Buffers<'_> {
    type Mapping = (BounceBuffer<FromDevice>, u64);

    #[inline]
    fn map(&mut self, op: u32, size: u32) -> Option<Self::Mapping> {
        let offset = u64::from(op % 64) * u64::from(size + 128);
        let request = MapRequest {
            offset,
            ..MapRequest::whole(PhysAddr::new(0x1_0000_0000 + offset), u64::from(size))
        };
        let mapped = self
            .set
            .map(self.device, &self.limits, &self.memory[..], &request);
        mapped.ok().map(|buffer| (buffer, offset))
    }

    #[inline]
    fn unmap(&mut self, mapping: Self::Mapping) {
        // The mapping is of this set.
        let _ = self.set.unmap(mapping.0, &mut self.memory[..]);
    }
}

/// A pool of 64 MiB in memory that has been touched.
pub fn set(areas: u32) -> BouncePool<HostPlatform> {
    let range = PhysRange::new(PhysAddr::new(0x7000_0000), 64 << 20);
    let ranges = [range.unwrap_or_else(|error| panic!("{error}"))];
    let (_, mut segments) = HostRam::new(&ranges).unwrap_or_else(|error| panic!("{error}"));
    let segment = segments.remove(0);
    segment.window().fill(1);
    let config = BounceConfig {
        areas,
        ..BounceConfig::default()
    };
    BouncePool::new(HostPlatform::new(2), segment, &config)
        .unwrap_or_else(|error| panic!("{error}"))
}

pub fn buffers(set: &BouncePool<HostPlatform>, size: u32) -> Sequence<Buffers<'_>> {
    let device = set.attach(None).unwrap_or_else(|error| panic!("{error}"));
    let limits = DeviceLimits {
        boundary: dmakit_addr::BoundaryMask::new(0xffff_ffff).unwrap_or_default(),
        ..DeviceLimits::default()
    };
    Sequence::new(Buffers {
        set,
        device,
        limits,
        memory: vec![7; 64 * (size as usize + 128)],
    })
}
