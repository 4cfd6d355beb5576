//! The smallest contiguous areas that serve.

mod answer;
mod page;
mod report;
mod search;
mod text;

use dmakit_linux_model::cma::BLOCK_PAGES;

use super::{WINDOWS, arguments};
use crate::args::SizeCmaArgs;
use crate::engine::{Engine, claim_all, page_bytes};
use crate::exit::Outcome;
use crate::input::Source;
use crate::load::{BLOCK_BYTES, Claims, Load};
use crate::load_args::LoadArgs;
use crate::output::{Closing, Confidence, Show, envelope};
use crate::progress::Progress;
use crate::quantity::{grouped, seconds};

use report::{EngineAnswer, HeldOut, SizeReport, Window};
use search::{Claimed, search};

/// What to size.
pub struct Plan {
    sources: Vec<Source>,
    pages_max: u64,
    max_typed: u64,
    is_per_node: bool,
    args: LoadArgs,
}

impl Plan {
    /// Checks what was typed.
    pub fn new(typed: SizeCmaArgs) -> anyhow::Result<Self> {
        let sources = super::sources(typed.traces)?;
        let pages_max = typed.max / BLOCK_BYTES * BLOCK_PAGES;
        if pages_max == 0 || pages_max > 1 << 28 {
            anyhow::bail!("--max {}: expected 2 MiB to 1 TiB", typed.max);
        }
        if typed.load.params.is_some() || typed.load.params_only {
            anyhow::bail!("size cma finds cma= itself: --params and --params-only do not apply");
        }
        Ok(Self {
            sources,
            pages_max,
            max_typed: typed.max,
            is_per_node: typed.per_node,
            args: typed.load,
        })
    }

    /// Reads, searches, answers.
    pub fn run(&self, show: Show) -> anyhow::Result<(Vec<u8>, Outcome)> {
        let progress = Progress::new(self.args.quiet);
        let mut loads = Vec::new();
        for source in &self.sources {
            let mut load = Load::read(source, self.args.options(), |events| {
                progress.say(format!("{}: {events} events read", source.name()));
            })?;
            let asked = load.claims.take().filter(|c| !c.demand.calls.is_empty());
            let Some(claims) = asked else {
                anyhow::bail!(
                    "{}: no claim of contiguous memory in this trace; record the cma events, as \
                     `dmakit record` does",
                    source.shown()
                );
            };
            load.claims = Some(if self.is_per_node {
                claims.by_node()
            } else {
                claims
            });
            loads.push(load);
        }
        let report = self.report(&loads, &progress);
        drop(progress);
        let closing = self.closing(&report);
        if let Some(path) = &self.args.html {
            crate::page::write(path, &page::render(&report, &closing))?;
        }
        let answer = match show {
            Show::Json => envelope("size cma", &report, &closing)?,
            Show::Text(look) => text::render(&report, &closing, look).into_bytes(),
        };
        let outcome = match report.first.answer {
            Some(_) => Outcome::Answered,
            None => Outcome::Refuted,
        };
        Ok((answer, outcome))
    }

    fn report(&self, loads: &[Load], progress: &Progress) -> SizeReport {
        let claimed = claimed(loads);
        let mut held_out = None;
        let mut answers: Vec<EngineAnswer> = self
            .args
            .engines(&loads[0])
            .into_iter()
            .map(|engine| {
                let found = search(&claimed, engine, self.pages_max, |pages| {
                    progress.say(format!("{}: trying {pages} pages", engine.name()));
                });
                if held_out.is_none() {
                    held_out = Some(self.held_out(&claimed, engine));
                }
                answer::engine_answer(loads, &claimed, engine, &found)
            })
            .collect();
        let first = answers.remove(0);
        SizeReport {
            trace: loads[0].facts.clone(),
            traces: if loads.len() > 1 {
                loads.iter().map(|load| load.facts.clone()).collect()
            } else {
                Vec::new()
            },
            is_per_node: self.is_per_node,
            not_shown: not_shown(loads, self.is_per_node),
            windows: windows(&loads[0], &claimed[0]),
            held_out: held_out.unwrap_or_default(),
            first,
            answers,
        }
    }

    /// Sizes on the first half of the operations and tries the answer on the whole.
    fn held_out(&self, claimed: &[Claimed<'_>], engine: Engine) -> HeldOut {
        let halves: Vec<Claims> = claimed.iter().map(|c| c.claims.first_half()).collect();
        let halves: Vec<Claimed<'_>> = halves.iter().map(|claims| Claimed { claims }).collect();
        let found = search(&halves, engine, self.pages_max, |_| {});
        let sizes: Option<Vec<u64>> = found
            .iter()
            .map(|area| area.found.answer().map(|tried| tried.pages))
            .collect();
        let Some(sizes) = sizes else {
            return HeldOut {
                says: "no setting serves the first half".to_owned(),
                ..HeldOut::default()
            };
        };
        let names: Vec<&str> = found.iter().map(|area| area.name.as_str()).collect();
        let size_of = |name: &str| {
            let place = names.iter().position(|known| *known == name);
            place.map_or(self.pages_max, |place| sizes[place])
        };
        let failed: u64 = claimed
            .iter()
            .map(|one| {
                let report = claim_all(one.claims, engine, &one.places(size_of), 0);
                report.failed.len() as u64
            })
            .sum();
        let pages: u64 = sizes.iter().sum();
        let sized = crate::quantity::pages(pages);
        HeldOut {
            pages: Some(pages),
            failed: Some(failed),
            says: if failed == 0 {
                format!("what the first half needs, {sized}, also serves the second")
            } else {
                format!(
                    "what the first half needs, {sized}, fails {} claims of the second: the trace \
                     does not repeat itself, so neither may the next run",
                    grouped(failed)
                )
            },
        }
    }

    fn closing(&self, report: &SizeReport) -> Closing {
        let max = if self.max_typed == 1 << 30 {
            String::new()
        } else {
            format!(" --max {}", self.max_typed)
        };
        let per_node = if self.is_per_node { " --per-node" } else { "" };
        let setting = match (&report.first.answer, &report.first.margin) {
            (Some(answer), Some(margin)) if margin.params != answer.params => {
                format!("{} (with margin {})", answer.params, margin.params)
            }
            (Some(answer), _) => answer.params.clone(),
            (None, _) => "none".to_owned(),
        };
        Closing {
            setting,
            confidence: report.first.confidence,
            why: text::verdict(&report.first),
            reproduce: format!(
                "dmakit size cma {}{per_node}{}{max}",
                arguments(&self.sources),
                self.args.reproduce()
            ),
        }
    }
}

fn claimed(loads: &[Load]) -> Vec<Claimed<'_>> {
    let claims = loads.iter().filter_map(|load| load.claims.as_ref());
    claims.map(|claims| Claimed { claims }).collect()
}

/// High water of equal parts of the first trace, on the areas that it was taken on.
fn windows(load: &Load, claimed: &Claimed<'_>) -> Vec<Window> {
    let claims = claimed.claims;
    let engine = load.own_engine();
    let report = claim_all(claims, engine, &claims.places, crate::replay::BUCKETS);
    let areas = crate::replay::areas(load, claims, &claims.places, &report);
    let span_ns = load.end_ns - load.begin_ns;
    let at = |part: usize| seconds(span_ns * part as u64 / WINDOWS as u64);
    let steps = areas
        .first()
        .map_or(0, |area| area.occupancy.used_pages.len());
    let used = |step: usize| -> u64 {
        let of = |area: &crate::replay::AreaResult| area.occupancy.used_pages.get(step).copied();
        areas.iter().filter_map(of).sum()
    };
    (0..WINDOWS)
        .map(|part| Window {
            begin_s: at(part),
            end_s: at(part + 1),
            high_water_bytes: page_bytes(
                (part * steps / WINDOWS..(part + 1) * steps / WINDOWS)
                    .map(used)
                    .max()
                    .unwrap_or(0),
            ),
        })
        .collect()
}

fn not_shown(loads: &[Load], is_per_node: bool) -> Vec<String> {
    let mut lines = Vec::new();
    let all = || loads.iter().filter_map(|load| load.claims.as_ref());
    let failed: u64 = all().map(Claims::recorded_failed).sum();
    if failed > 0 {
        lines.push(format!(
            "{} claims failed while recording; how long they would have lived is not in the trace, \
             so they are released at once and the true need is higher",
            grouped(failed)
        ));
    }
    let held: usize = all().map(|claims| claims.agreement.held_before.len()).sum();
    if held > 0 {
        lines.push(format!(
            "{} pages were claimed before the recording and never given back in it, as far as \
             answers told: they are part of the need",
            grouped(held as u64)
        ));
    }
    if is_per_node && all().all(|claims| claims.all_nodes.is_empty()) {
        lines.push(
            "no device's node is known (there is no sidecar that says it), so all claims stay with \
             the default area"
                .to_owned(),
        );
    }
    for load in loads.iter().filter(|load| !load.facts.is_whole()) {
        lines.push(format!("{}: {}", load.facts.path, load.facts.fidelity()));
    }
    lines.push(
        "whether pages that borrow the area can be moved out in time: a larger area does not cure \
         a pinned page"
            .to_owned(),
    );
    lines.push(
        "claims made before the recording began and neither given back nor told by an answer in it"
            .to_owned(),
    );
    lines
}

/// The weakest that claims of these loads allow.
fn confidence(loads: &[Load], engine: Engine) -> Confidence {
    let refused = loads.iter().filter_map(|load| load.claims.as_ref());
    if refused.map(Claims::recorded_failed).sum::<u64>() > 0 {
        return Confidence::Extrapolated;
    }
    let is_own = |load: &Load| load.recorded_engine() == Some(engine);
    match engine {
        Engine::Linux(_) if loads.iter().all(is_own) => Confidence::Validated,
        _ => Confidence::Modelled,
    }
}
