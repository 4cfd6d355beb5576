//! One engine under one load.

use dmakit_linux_model as model;
use dmakit_platform::PoolMemory;
use model::{
    Agreement, Bounce as Bounced, Demand, Known, Order, ReplayConfig, ReplayReport, SwiotlbConfig,
};

use super::Engine;
use super::bounce::Bounce;
use super::no_pool::NoPool;
use super::setup::{Memory, Setup};
use crate::load::Load;
use crate::output::Confidence;
use crate::replay::BUCKETS;

/// What came of it.
pub struct Run {
    pub setup: Setup,
    pub likely: ReplayReport,
    /// The same with the releases as early, and as late, as the trace allows.
    bounds: Option<[ReplayReport; 2]>,
    pub addresses: Option<Agreement>,
    pub confidence: Confidence,
    pub unknown: Vec<String>,
    pub notes: Vec<String>,
}

/// How many mappings fail, and nothing else: what a search needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Failures {
    pub mappings: u64,
    pub failed: u64,
    pub high_water_slots: u64,
    pub pool_slots_peak: u64,
}

/// Runs it with bounds and use over time.
pub fn run(load: &Load, setup: &Setup) -> anyhow::Result<Run> {
    let setup = &with_enough_growth(load, setup)?;
    let likely = replay(load, setup, Order::Likely, true)?;
    let shows = load.shows_lifetimes();
    let bounds = if shows {
        let least = replay(load, setup, Order::Least, false)?;
        Some([least, replay(load, setup, Order::Most, false)?])
    } else {
        None
    };
    Ok(Run {
        confidence: confidence(load, setup, &likely),
        unknown: unknown(load),
        notes: notes(load, setup, &likely),
        setup: setup.clone(),
        likely,
        bounds,
        addresses: None,
    })
}

/// A pool that grows, with the least step and reserve of a ladder that serve the load. Growth comes
/// a while after it was asked for; what a burst maps meanwhile must find room in the reserve.
fn with_enough_growth(load: &Load, setup: &Setup) -> anyhow::Result<Setup> {
    if setup.growth().is_none() || !load.shows_lifetimes() {
        return Ok(setup.clone());
    }
    let mut last = setup.clone();
    for (step, reserve) in GROWTH_LADDER {
        last = setup.with_growth(step, reserve);
        if failures(load, &last)?.failed == 0 {
            break;
        }
    }
    Ok(last)
}

/// Steps and reserves in bytes.
pub(super) const GROWTH_LADDER: [(u64, u64); 9] = [
    (128 << 10, 128 << 10),
    (128 << 10, 512 << 10),
    (512 << 10, 512 << 10),
    (512 << 10, 2 << 20),
    (2 << 20, 2 << 20),
    (2 << 20, 8 << 20),
    (8 << 20, 8 << 20),
    (8 << 20, 32 << 20),
    (32 << 20, 32 << 20),
];

/// Slots chosen against slots recorded; they can agree only where the setup is the recorded one.
fn agreement(load: &Load, setup: &Setup) -> Option<Agreement> {
    if !setup.is_recorded || !load.shows_lifetimes() {
        return None;
    }
    let Memory::Linux(pool) = setup.memory() else {
        return None;
    };
    let beginning = model::learn_beginning(
        &load.demand,
        &load.recorded,
        &pool,
        load.recorded_machine
            .as_ref()
            .and_then(|machine| machine.pool_start),
    )?;
    let config = config(setup, pool, Order::Likely, false);
    Some(model::agree(
        &load.demand,
        &load.recorded,
        &config,
        &beginning,
    ))
}

/// Runs it for the counts alone.
pub fn failures(load: &Load, setup: &Setup) -> anyhow::Result<Failures> {
    let report = replay(load, setup, Order::Likely, false)?;
    Ok(Failures {
        mappings: report.mappings,
        failed: report.failed + report.failed_silent,
        high_water_slots: u64::from(report.high_water_slots),
        pool_slots_peak: u64::from(report.pool_slots_peak),
    })
}

fn replay(load: &Load, setup: &Setup, order: Order, samples: bool) -> anyhow::Result<ReplayReport> {
    let named = |pool| config(setup, pool, order, samples);
    let demand = &load.demand;
    Ok(match setup.memory() {
        Memory::None => model::replay_on(NoPool::default(), demand, &named(NoPool::CONFIG)),
        Memory::Linux(pool) => model::replay(demand, &named(pool)),
        Memory::Dmakit {
            slots,
            areas,
            growth: None,
        } => ours(Bounce::fixed(slots, areas)?, demand, &named(NoPool::CONFIG)),
        Memory::Dmakit {
            slots,
            areas,
            growth: Some(growth),
        } => ours(
            Bounce::growing(slots, areas, growth)?,
            demand,
            &named(NoPool::CONFIG),
        ),
    })
}

/// What the pool itself counts is taken from it.
fn ours<M: PoolMemory>(
    mut pool: Bounce<M>,
    demand: &Demand,
    config: &ReplayConfig,
) -> ReplayReport {
    let mut report = model::replay_on(&mut pool, demand, config);
    let statistics = pool.statistics();
    report.slots_probed = statistics.probes;
    report.transient_pools = statistics.transient_mapped;
    report
}

pub(super) fn config(
    setup: &Setup,
    pool: SwiotlbConfig,
    order: Order,
    samples: bool,
) -> ReplayConfig {
    ReplayConfig {
        bounce: setup.bounce,
        order,
        samples_max: if samples { BUCKETS } else { 0 },
        ..ReplayConfig::new(pool)
    }
}

impl Run {
    /// Compares the slots chosen with those recorded, by a replay of its own.
    pub fn compare_addresses(&mut self, load: &Load) {
        self.addresses = agreement(load, &self.setup);
    }

    /// What the order that the trace leaves open does to the high water; nothing where it does
    /// nothing.
    pub fn high_water_interval(&self) -> Option<[u64; 2]> {
        self.interval(|report| u64::from(report.high_water_slots))
    }

    /// The same for one phase.
    pub fn phase_interval(&self, index: usize) -> Option<[u64; 2]> {
        self.interval(|report| {
            report
                .phases
                .get(index)
                .map_or(0, |phase| u64::from(phase.high_water_slots))
        })
    }

    fn interval(&self, of: impl Fn(&ReplayReport) -> u64) -> Option<[u64; 2]> {
        let [least, most] = self.bounds.as_ref()?;
        let all = [of(least), of(&self.likely), of(most)];
        let low = all.into_iter().min()?;
        let high = all.into_iter().max()?;
        (low < high).then_some([low, high])
    }
}

/// How well a run is known.
pub fn confidence(load: &Load, setup: &Setup, report: &ReplayReport) -> Confidence {
    // A few attempts more or less do not change what a load is.
    let other_load = report.served_beyond_recording * 100 > report.mappings;
    let extrapolates = !load.shows_lifetimes() || setup.bounce == Bounced::All || other_load;
    if extrapolates {
        return Confidence::Extrapolated;
    }
    match setup.engine {
        Engine::Linux(_) if setup.is_recorded && load.demand.known == Known::Lifetimes => {
            Confidence::Validated
        }
        _ => Confidence::Modelled,
    }
}

fn unknown(load: &Load) -> Vec<String> {
    if load.shows_lifetimes() {
        return Vec::new();
    }
    vec![
        "This trace shows attempts only (`swiotlb_bounced`): neither whether a mapping succeeded \
         nor when it ended. So use, high water and failures cannot be known; only demand can."
            .to_owned(),
        "Record the dma events (6.12 and later) or probes on the allocator to know them."
            .to_owned(),
    ]
}

/// What to know about a run.
pub fn notes(load: &Load, setup: &Setup, report: &ReplayReport) -> Vec<String> {
    let mut notes = Vec::new();
    if report.served_beyond_recording > 0 {
        notes.push(format!(
            "{} mappings that failed while recording are served here; how long they would have \
             lived is not in the trace, so they are released at once and the true need is higher",
            report.served_beyond_recording
        ));
    }
    if setup.bounce == Bounced::All && !load.has_bounces() && report.mappings > 0 {
        notes.push(
            "nothing was bounced while recording: this is what forced bouncing would need for \
             the same streaming mappings"
                .to_owned(),
        );
        if load.split > 0 {
            notes.push(format!(
                "{} mappings longer than a pool of Linux serves are split, as drivers do that ask \
                 for the limit",
                load.split
            ));
        }
    }
    if report.mappings == 0 {
        notes.push(if load.demand.is_translated {
            "the devices are behind an IOMMU, which reaches all memory; swiotlb=force does not \
             apply to them"
                .to_owned()
        } else {
            "the devices reached all their buffers and bouncing was not forced; add --params \
             swiotlb=force to see what forced bouncing would need"
                .to_owned()
        });
    }
    if report.too_long > 0 {
        notes.push(format!(
            "{} mappings are longer than {} bytes, which no pool of this engine serves",
            report.too_long,
            model::MAPPING_BYTES_MAX
        ));
    }
    notes
}
