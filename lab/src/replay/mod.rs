//! What a configuration does under a recorded load.

mod claims;
mod claims_text;
mod page;
mod report;
mod text;

use dmakit_trace::Options;

use crate::args::ReplayArgs;
use crate::engine::{self, Engine, Setup};
use crate::exit::Outcome;
use crate::input::Source;
use crate::load::Load;
use crate::load_args::LoadArgs;
use crate::output::{Closing, Confidence, Show, envelope};
use crate::progress::Progress;

pub use claims::{ClaimsResult, ClientResult};
pub use report::{BUCKETS, DeviceResult, EngineResult, GrowthFacts, PoolFacts, ReplayReport};
pub use text::about;

/// What to replay.
pub struct Plan {
    source: Source,
    args: LoadArgs,
}

impl Plan {
    /// Checks what was typed.
    pub fn new(typed: ReplayArgs) -> anyhow::Result<Self> {
        Ok(Self {
            source: Source::new(Some(typed.trace)),
            args: typed.load,
        })
    }

    /// Reads, runs, answers.
    pub fn run(&self, show: Show) -> anyhow::Result<(Vec<u8>, Outcome)> {
        let progress = Progress::new(self.args.quiet);
        let load = Load::read(&self.source, self.args.options(), |events| {
            progress.say(format!("{events} events read"));
        })?;
        let mut results = Vec::new();
        for engine in self.args.engines(&load) {
            progress.say(format!("replaying on {}", engine.name()));
            let setup = Setup::new(
                &load,
                engine,
                self.args.params.as_deref(),
                self.args.params_only,
            )?;
            let mut run = engine::run(&load, &setup)?;
            run.compare_addresses(&load);
            let mut result = EngineResult::new(&load, &run);
            result.cma = ClaimsResult::new(&load, &setup)?;
            results.push(result);
        }
        drop(progress);
        let report = ReplayReport {
            trace: load.facts.clone(),
            results,
            kernel: load.kernel.clone(),
        };
        let closing = self.closing(&report);
        if let Some(path) = &self.args.html {
            crate::page::write(path, &page::render(&report, &closing))?;
        }
        let answer = match show {
            Show::Json => envelope("replay", &report, &closing)?,
            Show::Text(look) => text::render(&report, &closing, look).into_bytes(),
        };
        let outcome = if report.results.iter().any(EngineResult::has_failures) {
            Outcome::Refuted
        } else {
            Outcome::Answered
        };
        Ok((answer, outcome))
    }

    fn closing(&self, report: &ReplayReport) -> Closing {
        let first = report.results.first();
        Closing {
            setting: first.map_or_else(String::new, |result| result.params.clone()),
            confidence: first.map_or(Confidence::Exact, |result| match &result.cma {
                Some(claims) if !report.is_about_bounces() => claims.confidence,
                _ => result.confidence,
            }),
            why: first.map_or_else(String::new, |result| text::why(report, result)),
            reproduce: format!(
                "dmakit replay {}{}",
                self.source.argument(),
                self.args.reproduce()
            ),
        }
    }
}

impl LoadArgs {
    /// How to read traces.
    pub fn options(&self) -> Options {
        Options {
            format: self.format.map(|format| format.0),
            tolerate_truncation: self.tolerate_truncation,
            malformed_max: self.tolerate_malformed,
            ..Options::default()
        }
    }

    /// The engines asked for; else the trace's own kernel, then ours.
    pub fn engines(&self, load: &Load) -> Vec<Engine> {
        if self.engine.is_empty() {
            vec![load.own_engine(), Engine::Dmakit]
        } else {
            self.engine.clone()
        }
    }

    /// The options that matter to the answer, as typed.
    pub fn reproduce(&self) -> String {
        use crate::input::quoted;
        let mut text = String::new();
        for engine in &self.engine {
            text.push_str(&format!(" --engine {}", engine.name()));
        }
        if let Some(params) = &self.params {
            text.push_str(&format!(" --params {}", quoted(params)));
        }
        if self.params_only {
            text.push_str(" --params-only");
        }
        if let Some(format) = self.format {
            text.push_str(&format!(" --format {}", format.0.name()));
        }
        if self.tolerate_truncation {
            text.push_str(" --tolerate-truncation");
        }
        if self.tolerate_malformed > 0 {
            text.push_str(&format!(
                " --tolerate-malformed {}",
                self.tolerate_malformed
            ));
        }
        text
    }
}
