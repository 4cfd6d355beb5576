//! The smallest bounce pool that serves.

mod answer;
mod limits;
mod page;
mod report;
mod search;
mod text;

use crate::args::SizeSwiotlbArgs;
use crate::engine::{Engine, SLOT_BYTES, Setup};
use crate::exit::Outcome;
use crate::input::Source;
use crate::load::{ContextShare, Load};
use crate::load_args::LoadArgs;
use crate::output::{Closing, Show, envelope};
use crate::progress::Progress;

use report::SizeReport;
use search::search;

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
            })?;
            if held_out.is_none() {
                held_out = Some(limits::held_out(loads, &setups, self.slots_max)?);
                windows = limits::windows(loads, &setups)?;
            }
            answers.push(answer::engine_answer(loads, &setups, &found)?);
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
            not_shown: limits::not_shown(loads, &first, &windows),
            first,
            answers,
            contexts,
            held_out: held_out.unwrap_or_else(|| limits::unknown("no engine was run")),
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
