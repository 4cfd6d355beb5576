//! What pins a load needs, and what it would cost to migrate instead.

mod page;
mod report;
mod text;
mod usage;

use std::time::Duration;

use anyhow::Context as _;
use dmakit_linux_model::cma::Log;
use dmakit_trace::{Sidecar, Trace};

use super::arguments;
use crate::args::SizePinsArgs;
use crate::exit::Outcome;
use crate::input::Source;
use crate::load_args::LoadArgs;
use crate::output::{Closing, Confidence, Show, envelope};
use crate::progress::Progress;

use report::{PinReport, TracePins};
use usage::Usage;

/// What to look at.
pub struct Plan {
    sources: Vec<Source>,
    longer_than: Duration,
    args: LoadArgs,
}

impl Plan {
    /// Checks what was typed.
    pub fn new(typed: SizePinsArgs) -> anyhow::Result<Self> {
        if typed.load.params.is_some() || typed.load.params_only || !typed.load.engine.is_empty() {
            anyhow::bail!(
                "size pins runs no engine: --engine, --params and --params-only do not apply"
            );
        }
        Ok(Self {
            sources: super::sources(typed.traces)?,
            longer_than: typed.longer_than,
            args: typed.load,
        })
    }

    /// Reads and answers.
    pub fn run(&self, show: Show) -> anyhow::Result<(Vec<u8>, Outcome)> {
        let progress = Progress::new(self.args.quiet);
        let mut traces = Vec::new();
        for source in &self.sources {
            progress.say(format!("reading {}", source.name()));
            traces.push(self.read(source)?);
        }
        drop(progress);
        let report = PinReport::new(traces, self.longer_than);
        let closing = self.closing(&report);
        if let Some(path) = &self.args.html {
            crate::page::write(path, &page::render(&report, &closing))?;
        }
        let answer = match show {
            Show::Json => envelope("size pins", &report, &closing)?,
            Show::Text(look) => text::render(&report, &closing, look).into_bytes(),
        };
        Ok((answer, Outcome::Answered))
    }

    fn read(&self, source: &Source) -> anyhow::Result<TracePins> {
        let shown = || source.shown();
        let sidecar = match source {
            Source::File(path) => Sidecar::beside(path).with_context(shown)?,
            Source::Stdin => None,
        };
        let options = self.args.options();
        let trace = match source {
            Source::File(path) => Trace::open(path, options),
            Source::Stdin => Trace::from_reader(std::io::stdin(), options),
        }
        .with_context(shown)?;
        let areas = sidecar
            .as_ref()
            .map_or_else(Vec::new, |s| Log::new(s).ranges);
        let mut ops = trace.ops();
        let mut usage = Usage::new(self.longer_than, &areas);
        for op in &mut ops {
            usage.push(op.with_context(shown)?);
        }
        let fidelity = ops.fidelity();
        let pins = usage.finish();
        if pins.mappings == 0 {
            anyhow::bail!(
                "{}: no streaming mapping in this trace, so nothing to pin; record the dma events \
                 (Linux 6.12 and later), as `dmakit record` does",
                source.shown()
            );
        }
        let kernel = sidecar.and_then(|sidecar| sidecar.capture.kernel);
        Ok(TracePins::new(source.name(), kernel, &fidelity, pins))
    }

    fn closing(&self, report: &PinReport) -> Closing {
        let longer = if self.longer_than == Duration::from_secs(1) {
            String::new()
        } else {
            format!(" --longer-than {}ms", self.longer_than.as_millis())
        };
        Closing {
            setting: text::setting(report),
            confidence: Confidence::Extrapolated,
            why: text::verdict(report),
            reproduce: format!(
                "dmakit size pins {}{longer}{}",
                arguments(&self.sources),
                self.args.reproduce()
            ),
        }
    }
}
