//! Our bounce pool on three kinds of memory, under one load.

use std::time::Duration;

use dmakit_linux_model as model;
use dmakit_platform::PoolMemory;
use dmakit_swiotlb::{GrowthConfig, Statistics};
use model::{
    BounceMemory, Counters, DeviceLimits, MapFailure, Order, ReplayReport, Request, Slots,
};

use super::SLOT_BYTES;
use super::bounce::{Bounce, UPKEEP_EVERY};
use super::lent_area::{LentArea, with_area};
use super::no_pool::NoPool;
use super::run::{GROWTH_LADDER, config};
use super::setup::{Memory, Setup};
use crate::load::Load;

/// Where the memory of a pool comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PoolKind {
    /// All of it is set aside from the beginning.
    Fixed,
    /// It begins small and takes from memory that others could use.
    Growing,
    /// It begins small and takes from a contiguous area, the rest of which is lent.
    Area,
}

impl PoolKind {
    /// All, in the order of the answer.
    pub const ALL: [Self; 3] = [Self::Fixed, Self::Growing, Self::Area];
}

/// What came of one kind.
pub struct PoolRun {
    pub kind: PoolKind,
    pub growth: Option<GrowthConfig>,
    pub report: ReplayReport,
    pub statistics: Statistics,
    pub use_over_time: UseOverTime,
    pub lending: Option<Lending>,
}

/// Bytes that nobody else can use.
#[derive(Clone, Copy, Default, Debug)]
pub struct UseOverTime {
    span_ns: u64,
    byte_ns: u128,
    lent_byte_ns: u128,
    lent_least: Option<u64>,
    /// At most.
    pub peak_bytes: u64,
}

/// What lending came to.
#[derive(Clone, Copy, Debug)]
pub struct Lending {
    /// Bytes that served movable memory, on average and at least.
    pub mean_bytes: u64,
    pub least_bytes: u64,
    pub moved_frames: u64,
    /// Claims for which memory moved, while nobody waited.
    pub ahead: u64,
    /// The same while a mapping or a growing pool waited.
    pub in_need: u64,
}

impl UseOverTime {
    /// On average.
    pub fn mean_bytes(&self) -> u64 {
        mean(self.byte_ns, self.span_ns).unwrap_or(self.peak_bytes)
    }

    fn note(&mut self, bytes: u64, lent: u64, for_ns: u64) {
        self.span_ns += for_ns;
        self.byte_ns += u128::from(bytes) * u128::from(for_ns);
        self.lent_byte_ns += u128::from(lent) * u128::from(for_ns);
        self.peak_bytes = self.peak_bytes.max(bytes);
        self.lent_least = Some(self.lent_least.map_or(lent, |least| least.min(lent)));
    }
}

fn mean(sum: u128, span: u64) -> Option<u64> {
    sum.checked_div(u128::from(span)).map(|mean| mean as u64)
}

impl PoolRun {
    /// Mappings that were not served.
    pub fn failed(&self) -> u64 {
        self.report.failed + self.report.failed_silent
    }
}

/// Runs `load` on a pool of `bytes`: whole page blocks, which pools that grow reach at most. Those
/// take the least step and reserve of a ladder that serve, else those that fail the least.
///
/// # Errors
/// Where the system has no memory for it.
pub fn run_pool(load: &Load, setup: &Setup, kind: PoolKind, bytes: u64) -> anyhow::Result<PoolRun> {
    // A machine that needs no pool gets one, to try it.
    let fixed = setup.with_slots(bytes / SLOT_BYTES);
    if kind == PoolKind::Fixed {
        let bounce = Bounce::fixed(fixed.slots(), fixed.areas())?;
        return replay(load, setup, kind, None, bounce, None);
    }
    let small = fixed.without_size();
    let mut best: Option<PoolRun> = None;
    for (step, reserve) in GROWTH_LADDER {
        let setup = small.with_growth(step, reserve);
        let Memory::Dmakit {
            slots,
            areas,
            growth: Some(growth),
        } = setup.memory()
        else {
            anyhow::bail!("only dmakit's own pools grow on an area");
        };
        if slots * SLOT_BYTES + reserve > bytes {
            break;
        }
        let growth = GrowthConfig {
            bytes_max: bytes,
            ..growth
        };
        let run = match kind {
            PoolKind::Area => with_area(bytes, growth.granule, |area| {
                let bounce = Bounce::growing_on(area.pool(), slots, areas, growth)?;
                area.lend();
                replay(load, &setup, kind, Some(growth), bounce, Some(area))
            }),
            _ => {
                let bounce = Bounce::growing(slots, areas, growth)?;
                replay(load, &setup, kind, Some(growth), bounce, None)
            }
        }?;
        let failed = run.failed();
        if best.as_ref().is_none_or(|best| failed < best.failed()) {
            best = Some(run);
        }
        if failed == 0 {
            break;
        }
    }
    best.ok_or_else(|| anyhow::anyhow!("{bytes} bytes hold no pool that grows"))
}

fn replay<M: PoolMemory>(
    load: &Load,
    setup: &Setup,
    kind: PoolKind,
    growth: Option<GrowthConfig>,
    bounce: Bounce<M>,
    area: Option<&LentArea<'_>>,
) -> anyhow::Result<PoolRun> {
    let mut watched = Watched {
        bounce,
        area,
        now_ns: None,
        reclaim_at_ns: 0,
        in_need: 0,
        use_over_time: UseOverTime::default(),
    };
    let config = config(setup, NoPool::CONFIG, Order::Likely, false);
    let report = model::replay_on(&mut watched, &load.demand, &config);
    let over_time = watched.use_over_time;
    let lending = area.map(|area| {
        let claims = area.statistics();
        Lending {
            mean_bytes: mean(over_time.lent_byte_ns, over_time.span_ns).unwrap_or(0),
            least_bytes: over_time.lent_least.unwrap_or(0),
            moved_frames: claims.moved_frames,
            ahead: claims.moving_claims - watched.in_need,
            in_need: watched.in_need,
        }
    });
    Ok(PoolRun {
        kind,
        growth,
        report,
        statistics: watched.bounce.statistics(),
        use_over_time: over_time,
        lending,
    })
}

/// A pool whose memory is looked at all the time.
struct Watched<'a, 'm, M> {
    bounce: Bounce<M>,
    area: Option<&'a LentArea<'m>>,
    now_ns: Option<u64>,
    reclaim_at_ns: u64,
    in_need: u64,
    use_over_time: UseOverTime,
}

/// Looks at least so often; pools shrink while nothing is mapped.
const LOOK_EVERY: Duration = Duration::from_millis(10);

impl<M: PoolMemory> Watched<'_, '_, M> {
    /// What is set aside, and what of the area serves others.
    fn bytes(&self) -> (u64, u64) {
        let pools = u64::from(self.bounce.counters().pool_slots) * SLOT_BYTES;
        match self.area {
            Some(area) => (pools + area.ready_bytes(), area.lent_bytes()),
            None => (pools, 0),
        }
    }

    /// Claims for which memory moved, so far.
    fn moving_claims(&self) -> u64 {
        self.area.map_or(0, |area| area.statistics().moving_claims)
    }

    fn step(&mut self, now_ns: u64) {
        let moving = self.moving_claims();
        self.bounce.advance(now_ns);
        self.in_need += self.moving_claims() - moving;
        if let Some(area) = self.area {
            if self.reclaim_at_ns <= now_ns {
                area.reclaim();
                self.reclaim_at_ns = now_ns + UPKEEP_EVERY.as_nanos() as u64;
            }
            area.lend();
        }
    }
}

impl<M: PoolMemory> BounceMemory for Watched<'_, '_, M> {
    fn advance(&mut self, now_ns: u64) {
        let mut at_ns = self.now_ns.unwrap_or(now_ns);
        loop {
            let next_ns = now_ns.min(at_ns + LOOK_EVERY.as_nanos() as u64).max(at_ns);
            let (bytes, lent) = self.bytes();
            self.use_over_time.note(bytes, lent, next_ns - at_ns);
            self.step(next_ns);
            at_ns = next_ns;
            if at_ns >= now_ns {
                break;
            }
        }
        self.now_ns = Some(at_ns);
        let (bytes, lent) = self.bytes();
        self.use_over_time.note(bytes, lent, 0);
    }

    fn map(
        &mut self,
        now_ns: u64,
        device: &DeviceLimits,
        request: &Request,
    ) -> Result<Slots, MapFailure> {
        let moving = self.moving_claims();
        let mapped = self.bounce.map(now_ns, device, request);
        self.in_need += self.moving_claims() - moving;
        mapped
    }

    fn unmap(&mut self, slots: &Slots) {
        self.bounce.unmap(slots);
    }

    fn reset_high_water(&mut self) {
        self.bounce.reset_high_water();
    }

    fn counters(&self) -> &Counters {
        self.bounce.counters()
    }
}
