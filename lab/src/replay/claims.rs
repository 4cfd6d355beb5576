//! What one engine did with claims of contiguous memory, as JSON shows it.

use dmakit_linux_model::cma::{
    self, AreaReport, Call, Disagreement, Outcome, Place, PlaceSource, Report,
};
use serde::Serialize;

use super::report::BUCKETS;
use crate::engine::{Engine, Setup, claim_all, page_bytes, resized};
use crate::load::{Claims, Load};
use crate::output::Confidence;
use crate::quantity;

/// Claims of one engine.
#[derive(Debug, Serialize)]
pub struct ClaimsResult {
    /// Claims compared with the kernel's answers.
    pub calls: u64,
    /// Those answered alike.
    pub agree: u64,
    pub percent: Option<f64>,
    /// What is compared: `answers` (the same page or the same error), or, where the areas or the
    /// search are not the kernel's, `served` (whether or not).
    pub compared: &'static str,
    pub disagree: Vec<Difference>,
    /// Claims whose answer told of memory claimed before the recording.
    pub told: u64,
    /// Claims whose answer cannot be known from the recording.
    pub unknowable: Vec<Difference>,
    /// Claims without an end in the recording.
    pub unfinished: u64,
    /// Free runs that the kernel printed when a claim failed, against the model's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bitmaps: Option<BitmapResult>,
    /// Claims not served.
    pub failed: u64,
    /// Those of them for which enough pages were free in all.
    pub failed_fragmented: u64,
    /// Claims served that the recorded kernel refused; released at once.
    pub served_beyond_recording: u64,
    /// Ranges that the kernel found busy and passed over.
    pub busy_retries: u64,
    pub high_water_bytes: u64,
    pub confidence: Confidence,
    pub areas: Vec<AreaResult>,
    pub phases: Vec<ClaimPhase>,
    pub clients: Vec<ClientResult>,
    pub failures: Vec<FailedClaim>,
}

/// A claim answered otherwise.
#[derive(Debug, Serialize)]
pub struct Difference {
    /// Its number in the trace, from 0.
    pub call: u32,
    pub kernel: String,
    pub model: String,
    pub reason: &'static str,
    pub area: String,
    pub pages: u64,
    pub align_order: u32,
    pub time_s: f64,
}

/// Free runs.
#[derive(Debug, Serialize)]
pub struct BitmapResult {
    pub compared: u64,
    pub equal: u64,
    /// Equal but for pages of which nothing shows whether they were claimed before.
    pub equal_where_known: u64,
    pub differ: Vec<u32>,
}

/// One area.
#[derive(Debug, Serialize)]
pub struct AreaResult {
    pub name: String,
    pub node: Option<u32>,
    pub base_pfn: u64,
    pub pages: u64,
    pub bytes: u64,
    /// How place and size are known: `log`, `addresses` or `setting`.
    pub place: &'static str,
    pub calls: u64,
    pub failed: u64,
    pub failed_fragmented: u64,
    pub high_water_pages: u64,
    /// The longest free run at its shortest.
    pub longest_free_min_pages: u64,
    pub occupancy: AreaOccupancy,
}

/// Use over time, in equal steps.
#[derive(Debug, Serialize)]
pub struct AreaOccupancy {
    pub begin_s: f64,
    pub step_s: f64,
    /// The most of each step.
    pub used_pages: Vec<u64>,
    /// The longest free run at its shortest in each step.
    pub longest_free_pages: Vec<u64>,
    /// What was free in all then.
    pub free_pages: Vec<u64>,
}

/// One phase of the workload.
#[derive(Debug, Serialize)]
pub struct ClaimPhase {
    pub name: String,
    pub begin_s: f64,
    pub end_s: f64,
    pub calls: u64,
    pub failed: u64,
    pub high_water_pages: u64,
}

/// One client: a device, or the task where no device is known.
#[derive(Clone, Debug, Serialize)]
pub struct ClientResult {
    pub name: String,
    pub is_device: bool,
    pub calls: u64,
    pub failed: u64,
    pub high_water_pages: u64,
    /// What it held when all areas together were fullest.
    pub pages_at_peak: u64,
}

/// A claim that was not served.
#[derive(Debug, Serialize)]
pub struct FailedClaim {
    pub call: u32,
    pub time_s: f64,
    pub area: String,
    pub client: String,
    pub pages: u64,
    pub align_order: u32,
    pub free_pages: u64,
    pub longest_free_pages: u64,
    /// Whether the recorded kernel failed too.
    pub kernel_failed: bool,
}

impl ClaimsResult {
    /// Replays the claims of a load, if it has any.
    ///
    /// # Errors
    /// A size in the setting that the kernel would misread.
    pub fn new(load: &Load, setup: &Setup) -> anyhow::Result<Option<Self>> {
        let Some(claims) = &load.claims else {
            return Ok(None);
        };
        let booted = dmakit_linux_model::CommandLine::parse(load.command_line());
        let places = resized(claims, &booted, setup.command_line())?;
        let report = claim_all(claims, setup.engine, &places, BUCKETS);
        let is_recorded = places == claims.places && setup.engine != Engine::Dmakit;
        let (mut result, agreement) = (
            Self::base(load, claims, &places, &report),
            &claims.agreement,
        );
        if is_recorded {
            result.calls = agreement.calls;
            result.agree = agreement.agree;
            result.compared = "answers";
            result.disagree = differences(load, claims, &agreement.disagree);
            result.unknowable = differences(load, claims, &agreement.unknowable);
            result.told = agreement.told;
            result.bitmaps = Some(BitmapResult {
                compared: agreement.bitmaps.compared,
                equal: agreement.bitmaps.equal,
                equal_where_known: agreement.bitmaps.equal_where_known,
                differ: agreement.bitmaps.differ.clone(),
            });
            let is_whole = places.iter().all(|place| place.source == PlaceSource::Log);
            if is_whole && load.recorded_engine() == Some(setup.engine) {
                result.confidence = Confidence::Validated;
            }
        } else {
            let other = match (setup.engine, places == claims.places) {
                (Engine::Dmakit, true) => Other::Search,
                (Engine::Dmakit, false) => Other::Both,
                (Engine::Linux(_), _) => Other::Size,
            };
            result.compare_served(load, claims, other, &report);
        }
        // Hundredths, so that the decimal printed is short.
        result.percent = (result.agree * 10_000)
            .checked_div(result.calls)
            .map(|hundredths| hundredths as f64 / 100.0);
        Ok(Some(result))
    }

    fn base(load: &Load, claims: &Claims, places: &[Place], report: &Report) -> Self {
        let sum = |of: fn(&AreaReport) -> u64| report.areas.iter().map(of).sum();
        let busy = claims.demand.calls.iter().map(|call| u64::from(call.busy));
        Self {
            calls: 0,
            agree: 0,
            percent: None,
            compared: "served",
            disagree: Vec::new(),
            told: 0,
            unknowable: Vec::new(),
            unfinished: claims.agreement.unfinished,
            bitmaps: None,
            failed: sum(|area| area.counts.failed),
            failed_fragmented: sum(|area| area.failed_fragmented),
            served_beyond_recording: sum(|area| area.served_beyond_recording),
            busy_retries: busy.sum(),
            high_water_bytes: page_bytes(sum(|area| area.counts.high_water_pages)),
            confidence: Confidence::Modelled,
            areas: areas(load, claims, places, report),
            phases: phases(load, claims, report),
            clients: clients(claims, report),
            failures: failures(load, claims, report),
        }
    }

    fn compare_served(&mut self, load: &Load, claims: &Claims, other: Other, report: &Report) {
        let mut failed = report.failed.iter().map(|failed| failed.call).peekable();
        for (index, (call, outcome)) in claims
            .demand
            .calls
            .iter()
            .zip(&claims.recorded.outcomes)
            .enumerate()
        {
            let fails = failed.next_if_eq(&(index as u32)).is_some();
            let Some(kernel) = outcome else {
                continue;
            };
            self.calls += 1;
            if matches!(kernel, Outcome::At(_)) != fails {
                self.agree += 1;
                continue;
            }
            let difference = difference(load, claims, index as u32, call);
            self.disagree.push(Difference {
                kernel: shown(*kernel),
                model: if fails { "not served" } else { "served" }.to_owned(),
                reason: other.reason(fails),
                ..difference
            });
        }
    }
}

/// What is not as it was when the trace was recorded.
#[derive(Clone, Copy)]
enum Other {
    /// Which free run a claim gets.
    Search,
    /// How large the areas are.
    Size,
    Both,
}

impl Other {
    fn reason(self, fails: bool) -> &'static str {
        match (self, fails) {
            (Self::Search, true) => "another search left no run as long",
            (Self::Search, false) => "another search left a run as long",
            (Self::Size, true) => "no run of an area of this size is as long",
            (Self::Size, false) => "an area of this size has a run as long",
            (Self::Both, true) => "another search, in an area of another size, left no run as long",
            (Self::Both, false) => "another search, in an area of another size, left a run as long",
        }
    }
}

fn difference(load: &Load, claims: &Claims, index: u32, call: &Call) -> Difference {
    Difference {
        call: index,
        kernel: String::new(),
        model: String::new(),
        reason: "",
        area: claims.demand.areas[call.area as usize].clone(),
        pages: call.wish.pages,
        align_order: call.wish.align_order,
        time_s: since(load, call.at_ns),
    }
}

fn differences(load: &Load, claims: &Claims, list: &[Disagreement]) -> Vec<Difference> {
    list.iter()
        .map(|entry| Difference {
            kernel: shown(entry.kernel),
            model: shown(entry.model),
            reason: entry.reason.says(),
            ..difference(
                load,
                claims,
                entry.call,
                &claims.demand.calls[entry.call as usize],
            )
        })
        .collect()
}

fn shown(outcome: Outcome) -> String {
    match outcome {
        Outcome::At(pfn) => format!("pfn {pfn:#x}"),
        Outcome::Failed(Some(error)) => format!("error {error}"),
        Outcome::Failed(None) => "failed".to_owned(),
    }
}

fn since(load: &Load, at_ns: u64) -> f64 {
    quantity::seconds(at_ns.saturating_sub(load.begin_ns))
}

/// The areas of a replay.
pub fn areas(load: &Load, claims: &Claims, places: &[Place], report: &Report) -> Vec<AreaResult> {
    let recorded = claims.places.iter();
    let names = claims.demand.areas.iter().zip(places.iter().zip(recorded));
    names
        .zip(&report.areas)
        .map(|((name, (place, recorded)), report)| AreaResult {
            name: name.clone(),
            node: place.node,
            base_pfn: place.base,
            pages: place.pages,
            bytes: page_bytes(place.pages),
            place: match place.source {
                _ if place.pages != recorded.pages => "setting",
                PlaceSource::Log => "log",
                PlaceSource::Addresses => "addresses",
            },
            calls: report.counts.calls,
            failed: report.counts.failed,
            failed_fragmented: report.failed_fragmented,
            high_water_pages: report.counts.high_water_pages,
            longest_free_min_pages: report.longest_free_min,
            occupancy: occupancy(load, report, place.pages),
        })
        .collect()
}

/// Spreads the samples, which skip empty steps, over all steps.
fn occupancy(load: &Load, report: &AreaReport, pages: u64) -> AreaOccupancy {
    let span_ns = (load.end_ns - load.begin_ns).max(1);
    let step_ns = span_ns.div_ceil(BUCKETS as u64).max(1);
    let mut result = AreaOccupancy {
        begin_s: 0.0,
        step_s: quantity::seconds(step_ns),
        used_pages: Vec::with_capacity(BUCKETS),
        longest_free_pages: Vec::with_capacity(BUCKETS),
        free_pages: Vec::with_capacity(BUCKETS),
    };
    let mut samples = report.samples.iter().peekable();
    let first = report.samples.first();
    let mut last = first.map_or((0, pages, pages), |s| {
        (s.used_pages, s.longest_free, s.free_pages)
    });
    for bucket in 0..span_ns.div_ceil(step_ns) {
        let until = load.begin_ns + (bucket + 1) * step_ns;
        let mut now: Option<(u64, u64, u64)> = None;
        while let Some(sample) = samples.next_if(|sample| sample.at_ns < until) {
            last = (sample.used_pages, sample.longest_free, sample.free_pages);
            now = Some(match now {
                Some((used, longest, _)) if sample.longest_free < longest => (
                    used.max(sample.used_pages),
                    sample.longest_free,
                    sample.free_pages,
                ),
                Some((used, longest, free)) => (used.max(sample.used_pages), longest, free),
                None => last,
            });
        }
        let (used, longest, free) = now.unwrap_or(last);
        result.used_pages.push(used);
        result.longest_free_pages.push(longest);
        result.free_pages.push(free);
    }
    result
}

fn phases(load: &Load, claims: &Claims, report: &Report) -> Vec<ClaimPhase> {
    let phase = |(phase, counts): (&cma::Phase, &cma::Counts)| ClaimPhase {
        name: phase.name.clone(),
        begin_s: since(load, phase.begin_ns),
        end_s: since(load, phase.end_ns.min(load.end_ns)),
        calls: counts.calls,
        failed: counts.failed,
        high_water_pages: counts.high_water_pages,
    };
    let phases = claims.demand.phases.iter();
    phases.zip(&report.phases).map(phase).collect()
}

/// Those who claimed.
pub fn clients(claims: &Claims, report: &Report) -> Vec<ClientResult> {
    let clients = claims.demand.clients.iter().zip(&report.clients);
    clients
        .filter(|(_, report)| report.counts.calls > 0)
        .map(|(client, report)| ClientResult {
            name: client.name.clone(),
            is_device: client.is_device,
            calls: report.counts.calls,
            failed: report.counts.failed,
            high_water_pages: report.counts.high_water_pages,
            pages_at_peak: report.pages_at_peak,
        })
        .collect()
}

fn failures(load: &Load, claims: &Claims, report: &Report) -> Vec<FailedClaim> {
    let failed = |failed: &cma::Failed| {
        let call = &claims.demand.calls[failed.call as usize];
        let outcome = claims.recorded.outcomes[failed.call as usize];
        FailedClaim {
            call: failed.call,
            time_s: since(load, call.at_ns),
            area: claims.demand.areas[call.area as usize].clone(),
            client: claims.demand.clients[call.client as usize].name.clone(),
            pages: call.wish.pages,
            align_order: call.wish.align_order,
            free_pages: failed.free_pages,
            longest_free_pages: failed.longest_free,
            kernel_failed: matches!(outcome, Some(Outcome::Failed(_))),
        }
    };
    report.failed.iter().map(failed).collect()
}
