//! A machine without bounce memory.

use dmakit_linux_model::{
    BounceMemory, Counters, DeviceLimits, Engine, MapFailure, Request, Slots, SwiotlbConfig,
};

/// Refuses whatever must be bounced.
#[derive(Debug, Default)]
pub struct NoPool(Counters);

impl NoPool {
    /// What a replay is told of it.
    pub const CONFIG: SwiotlbConfig = SwiotlbConfig {
        engine: Engine::Linux6_12,
        slots: 0,
        areas: 0,
        page_bytes: 4096,
        start: 0,
        growth_run_ns: 0,
    };
}

impl BounceMemory for NoPool {
    fn map(&mut self, _: u64, _: &DeviceLimits, request: &Request) -> Result<Slots, MapFailure> {
        Err(MapFailure::Full {
            wanted: request
                .bytes
                .div_ceil(super::SLOT_BYTES)
                .min(u64::from(u32::MAX)) as u32,
            total: 0,
            used: 0,
        })
    }

    fn unmap(&mut self, _: &Slots) {}

    fn reset_high_water(&mut self) {}

    fn counters(&self) -> &Counters {
        &self.0
    }
}
