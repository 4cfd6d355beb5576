//! The smallest bounce pool that serves.

mod page;
mod report;
mod search;
mod text;

use crate::args::SizeSwiotlbArgs;
use crate::engine::{self, Engine, SLOT_BYTES, Setup};
use crate::exit::Outcome;
use crate::input::Source;
use crate::load::{ContextShare, Load};
use crate::load_args::LoadArgs;
use crate::output::{Closing, Confidence, Show, envelope};
use crate::progress::Progress;
use crate::quantity::{grouped, seconds, slots};
use crate::replay::EngineResult;

use report::{CurveEntry, EngineAnswer, HeldOut, Margin, Proof, Setting, SizeReport, Window};
use search::{Found, search};

/// Parts of the trace whose peaks are told apart.
const WINDOWS: usize = 8;

/// What to size.
pub struct Plan {
    sources: Vec<Source>,
    slots_max: u64,
    max_typed: u64,
    args: LoadArgs,
}

impl Plan {
    /// Checks what was typed.
    pub fn new(typed: SizeSwiotlbArgs) -> anyhow::Result<Self> {
        let sources: Vec<Source> = typed
            .traces
            .into_iter()
            .map(|t| Source::new(Some(t)))
            .collect();
        if sources
            .iter()
            .filter(|source| **source == Source::Stdin)
            .count()
            > 1
        {
            anyhow::bail!("standard input can be only one of the traces");
        }
        let slots_max = typed.max / SLOT_BYTES;
        if slots_max == 0 || slots_max > u64::from(u32::MAX) / 2 {
            anyhow::bail!("--max {}: expected 2 KiB to 4 TiB", typed.max);
        }
        Ok(Self {
            sources,
            slots_max,
            max_typed: typed.max,
            args: typed.load,
        })
    }

    /// Reads, searches, answers.
    pub fn run(&self, show: Show) -> anyhow::Result<(Vec<u8>, Outcome)> {
        let progress = Progress::new(self.args.quiet);
        let mut loads = Vec::new();
        for source in &self.sources {
            loads.push(Load::read(source, self.args.options(), |events| {
                progress.say(format!("{}: {events} events read", source.name()));
            })?);
        }
        let report = self.report(&loads, &progress)?;
        drop(progress);
        let closing = self.closing(&report);
        if let Some(path) = &self.args.html {
            crate::page::write(path, &page::render(&report, &closing))?;
        }
        let answer = match show {
            Show::Json => envelope("size swiotlb", &report, &closing)?,
            Show::Text(look) => text::render(&report, &closing, look).into_bytes(),
        };
        let refuted = report.first.answer.is_none() && loads.iter().all(Load::shows_lifetimes);
        let outcome = if refuted {
            Outcome::Refuted
        } else {
            Outcome::Answered
        };
        Ok((answer, outcome))
    }

    fn report(&self, loads: &[Load], progress: &Progress) -> anyhow::Result<SizeReport> {
        let first_load = &loads[0];
        let mut answers = Vec::new();
        let mut held_out = None;
        let mut windows = Vec::new();
        for engine in self.args.engines(first_load) {
            let setups = self.setups(loads, engine)?;
            let found = search(loads, &setups, self.slots_max, |slots| {
                progress.say(format!("{}: trying {slots} slots", engine.name()));
            });
            if held_out.is_none() {
                held_out = Some(self.held_out(loads, &setups));
                windows = peaks(loads, &setups);
            }
            answers.push(engine_answer(loads, &setups, &found));
        }
        let mut contexts = ContextShare::default();
        loads.iter().for_each(|load| contexts.add(&load.contexts));
        let first = answers.remove(0);
        Ok(SizeReport {
            trace: first_load.facts.clone(),
            traces: if loads.len() > 1 {
                loads.iter().map(|load| load.facts.clone()).collect()
            } else {
                Vec::new()
            },
            not_shown: not_shown(loads, &first, &windows),
            first,
            answers,
            contexts,
            held_out: held_out.unwrap_or_else(|| HeldOut::unknown("no engine was run")),
            windows,
            kernel: first_load.kernel.clone(),
        })
    }

    fn setups(&self, loads: &[Load], engine: Engine) -> anyhow::Result<Vec<Setup>> {
        loads
            .iter()
            .map(|load| {
                Setup::new(
                    load,
                    engine,
                    self.args.params.as_deref(),
                    self.args.params_only,
                )
            })
            .collect()
    }

    /// Sizes on the first half of the operations and tries the answer on the whole: what fails
    /// then, fails in the half that was held out.
    fn held_out(&self, loads: &[Load], setups: &[Setup]) -> HeldOut {
        if !loads.iter().all(Load::shows_lifetimes) {
            return HeldOut::unknown("the trace shows attempts only");
        }
        let halves: Vec<Load> = loads.iter().map(Load::first_half).collect();
        let found = search(&halves, setups, self.slots_max, |_| {});
        let Some(answer) = found.answer() else {
            return HeldOut::unknown("no setting serves the first half");
        };
        let whole = search::try_one(loads, setups, &answer.setup);
        let says = if whole.failed == 0 {
            format!(
                "{}, sized on the first half, also serve the second",
                slots(answer.slots())
            )
        } else {
            format!(
                "{}, sized on the first half, fail {} mappings of the second: the trace does not \
                 repeat itself, so neither may the next run",
                slots(answer.slots()),
                grouped(whole.failed)
            )
        };
        HeldOut {
            slots: Some(answer.slots()),
            failed: Some(whole.failed),
            says,
        }
    }

    fn closing(&self, report: &SizeReport) -> Closing {
        let names: Vec<String> = self.sources.iter().map(Source::argument).collect();
        let max = if self.max_typed == 1 << 30 {
            String::new()
        } else {
            format!(" --max {}", self.max_typed)
        };
        Closing {
            setting: setting_line(report),
            confidence: report.first.confidence,
            why: text::verdict(&report.first),
            reproduce: format!(
                "dmakit size swiotlb {}{}{max}",
                names.join(" "),
                self.args.reproduce()
            ),
        }
    }
}

impl HeldOut {
    fn unknown(why: &str) -> Self {
        Self {
            slots: None,
            failed: None,
            says: why.to_owned(),
        }
    }
}

fn setting_line(report: &SizeReport) -> String {
    match (&report.first.answer, &report.first.margin) {
        (Some(answer), Some(margin)) if margin.recommended.slots > answer.slots => {
            format!(
                "{} (with margin {})",
                answer.params, margin.recommended.params
            )
        }
        (Some(answer), _) => answer.params.clone(),
        (None, _) => "none".to_owned(),
    }
}

fn engine_answer(loads: &[Load], setups: &[Setup], found: &Found) -> EngineAnswer {
    let engine = setups[0].engine.name();
    let known = loads.iter().all(Load::shows_lifetimes);
    let base = EngineAnswer {
        engine,
        answer: None,
        reason: None,
        proof: None,
        serving_below: Vec::new(),
        margin: None,
        curve: Vec::new(),
        confidence: Confidence::Extrapolated,
        devices: Vec::new(),
        notes: Vec::new(),
    };
    if !known {
        return EngineAnswer {
            reason: Some(
                "the trace shows attempts only: without lifetimes no size can be proved".to_owned(),
            ),
            ..base
        };
    }
    let curve = found.tried.iter().map(CurveEntry::new).collect();
    let Some(answer) = found.answer() else {
        return EngineAnswer {
            reason: Some(no_answer(found)),
            curve,
            ..base
        };
    };
    let results: Vec<EngineResult> = loads
        .iter()
        .zip(setups)
        .map(|(load, setup)| {
            let setup = setup.with_slots(answer.slots());
            EngineResult::new(load, &engine::run(load, &setup))
        })
        .collect();
    EngineAnswer {
        answer: Some(Setting::new(answer)),
        proof: Proof::new(found),
        serving_below: found.serving_below().map(search::Tried::slots).collect(),
        margin: Margin::new(found),
        curve,
        confidence: confidence(&results),
        notes: results
            .iter()
            .flat_map(|result| result.notes.clone())
            .collect(),
        devices: results
            .into_iter()
            .flat_map(|result| result.devices)
            .collect(),
        ..base
    }
}

/// As weak as the weakest.
fn confidence(results: &[EngineResult]) -> Confidence {
    let rank = |confidence: Confidence| match confidence {
        Confidence::Exact => 0,
        Confidence::Validated => 1,
        Confidence::Modelled => 2,
        Confidence::Extrapolated => 3,
    };
    results
        .iter()
        .map(|result| result.confidence)
        .max_by_key(|confidence| rank(*confidence))
        .unwrap_or(Confidence::Modelled)
}

fn no_answer(found: &Found) -> String {
    match found.tried.last() {
        Some(last) => format!(
            "no pool up to {} serves: {} of {} mappings still fail",
            slots(last.slots()),
            grouped(last.failed),
            grouped(last.mappings)
        ),
        None => "--max is below the smallest pool".to_owned(),
    }
}

/// High water of equal parts of the first trace, in a pool that serves all.
fn peaks(loads: &[Load], setups: &[Setup]) -> Vec<Window> {
    let (Some(load), Some(setup)) = (loads.first(), setups.first()) else {
        return Vec::new();
    };
    if !load.shows_lifetimes() {
        return Vec::new();
    }
    let result = EngineResult::new(load, &engine::run(load, setup));
    let used = &result.occupancy.used_slots;
    let span_ns = load.end_ns - load.begin_ns;
    let at = |part: usize| seconds(span_ns * part as u64 / WINDOWS as u64);
    (0..WINDOWS)
        .map(|part| {
            let range = part * used.len() / WINDOWS..(part + 1) * used.len() / WINDOWS;
            Window {
                begin_s: at(part),
                end_s: at(part + 1),
                high_water_slots: used[range].iter().copied().max().unwrap_or(0),
            }
        })
        .collect()
}

fn not_shown(loads: &[Load], first: &EngineAnswer, windows: &[Window]) -> Vec<String> {
    let mut lines = Vec::new();
    let most = windows
        .iter()
        .map(|w| w.high_water_slots)
        .max()
        .unwrap_or(0);
    let reached = windows
        .iter()
        .filter(|w| w.high_water_slots * 10 >= most * 9)
        .count();
    if most > 0 {
        lines.push(format!(
            "of {WINDOWS} equal parts of the trace {reached} come within a tenth of the peak; \
             {WINDOWS} parts say nothing about what happens more rarely than once in {WINDOWS}: \
             too short to claim this size for a rarer peak"
        ));
    }
    let failed: u64 = loads
        .iter()
        .map(|load| load.facts.recorded_failed + load.facts.recorded_failed_silent)
        .sum();
    if failed > 0 {
        lines.push(format!(
            "{} mappings failed while recording, so the load was held back by its own pool and \
             {} is a lower bound: record again with a larger pool",
            grouped(failed),
            first
                .answer
                .as_ref()
                .map_or("the answer".to_owned(), |a| a.params.clone())
        ));
    }
    for load in loads {
        if !load.facts.is_whole() {
            lines.push(format!("{}: {}", load.facts.path, load.facts.fidelity()));
        }
    }
    lines.push(
        "mappings made before the recording began and never unmapped in it are not seen".to_owned(),
    );
    lines
}
