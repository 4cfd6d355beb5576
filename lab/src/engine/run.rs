//! One engine under one load.

use dmakit_linux_model as model;
use model::{Agreement, Bounce, Known, Order, ReplayConfig, ReplayReport, SwiotlbConfig};

use super::no_pool::NoPool;
use super::{Engine, Setup};
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

/// Runs it fully: with bounds, addresses and use over time.
pub fn run(load: &Load, setup: &Setup) -> Run {
    let likely = replay(load, setup, Order::Likely, true);
    let shows = load.shows_lifetimes();
    let bounds =
        shows.then(|| [Order::Least, Order::Most].map(|order| replay(load, setup, order, false)));
    let addresses = agreement(load, setup);
    Run {
        confidence: confidence(load, setup, &likely),
        unknown: unknown(load),
        notes: notes(load, setup, &likely),
        setup: setup.clone(),
        likely,
        bounds,
        addresses,
    }
}

/// Slots chosen against slots recorded; they can agree only where the setup is the recorded one.
fn agreement(load: &Load, setup: &Setup) -> Option<Agreement> {
    if !setup.is_recorded || !load.shows_lifetimes() {
        return None;
    }
    let pool = setup.config()?;
    let beginning = model::learn_beginning(&load.demand, &load.recorded, &pool, None)?;
    let config = config(setup, pool, Order::Likely, false);
    Some(model::agree(
        &load.demand,
        &load.recorded,
        &config,
        &beginning,
    ))
}

/// Runs it for the counts alone.
pub fn failures(load: &Load, setup: &Setup) -> Failures {
    let report = replay(load, setup, Order::Likely, false);
    Failures {
        mappings: report.mappings,
        failed: report.failed + report.failed_silent,
        high_water_slots: u64::from(report.high_water_slots),
        pool_slots_peak: u64::from(report.pool_slots_peak),
    }
}

fn replay(load: &Load, setup: &Setup, order: Order, samples: bool) -> ReplayReport {
    let Some(pool) = setup.config() else {
        let config = config(setup, NoPool::CONFIG, order, samples);
        return model::replay_on(NoPool::default(), &load.demand, &config);
    };
    model::replay(&load.demand, &config(setup, pool, order, samples))
}

fn config(setup: &Setup, pool: SwiotlbConfig, order: Order, samples: bool) -> ReplayConfig {
    ReplayConfig {
        bounce: setup.bounce,
        order,
        samples_max: if samples { BUCKETS } else { 0 },
        ..ReplayConfig::new(pool)
    }
}

impl Run {
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

fn confidence(load: &Load, setup: &Setup, report: &ReplayReport) -> Confidence {
    let extrapolates = !load.shows_lifetimes()
        || setup.bounce == Bounce::All
        || report.served_beyond_recording > 0;
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

fn notes(load: &Load, setup: &Setup, report: &ReplayReport) -> Vec<String> {
    let mut notes = Vec::new();
    if report.served_beyond_recording > 0 {
        notes.push(format!(
            "{} mappings that failed while recording are served here; how long they would have \
             lived is not in the trace, so they are released at once and the true need is higher",
            report.served_beyond_recording
        ));
    }
    if setup.bounce == Bounce::All && !load.has_bounces() {
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
        notes.push(
            "the devices reached all their buffers, directly or through an IOMMU, and bouncing \
             was not forced; add \
             --params swiotlb=force to see what forced bouncing would need"
                .to_owned(),
        );
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
