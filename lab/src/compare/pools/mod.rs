//! Where the memory of our bounce pool comes from: set aside, grown, or lent meanwhile.

mod page;
mod report;
mod text;

use anyhow::Context as _;

use crate::engine::{AREA_GRAIN, Engine, PoolKind, Setup, notes, run_pool};
use crate::exit::Outcome;
use crate::input::Source;
use crate::load::Load;
use crate::load_args::LoadArgs;
use crate::output::{Closing, Show, envelope};
use crate::progress::Progress;
use report::{PoolResult, PoolsReport};

/// The largest pool: all of it must be below 4 GiB.
const BYTES_MAX: u64 = 1 << 30;

/// Pools of which size, under what.
pub struct Plan {
    source: Source,
    bytes: u64,
    args: LoadArgs,
}

impl Plan {
    /// Checks what was typed.
    ///
    /// # Errors
    /// A size that is none, or engines that are not ours.
    pub fn new(source: Source, bytes: u64, args: LoadArgs) -> anyhow::Result<Self> {
        anyhow::ensure!(
            (1..=BYTES_MAX).contains(&bytes),
            "--pools: expected 1 byte to 1G"
        );
        anyhow::ensure!(
            args.engine.iter().all(|engine| *engine == Engine::Dmakit),
            "--pools: compares pools of the engine dmakit alone"
        );
        Ok(Self {
            source,
            bytes,
            args,
        })
    }

    /// Reads, runs, answers.
    ///
    /// # Errors
    /// What the readers refuse, a trace that does not show when mappings end, no memory.
    pub fn run(&self, show: Show) -> anyhow::Result<(Vec<u8>, Outcome)> {
        let progress = Progress::new(self.args.quiet);
        let load = Load::read(&self.source, self.args.options(), |events| {
            progress.say(format!("{events} events read"));
        })?;
        anyhow::ensure!(
            load.shows_lifetimes(),
            "{}: shows attempts only, neither whether a mapping succeeded nor when it ended, so \
             pools cannot be compared; record the dma events (6.12 and later)",
            self.source.shown()
        );
        let params = self.args.params.as_deref();
        let setup = Setup::new(&load, Engine::Dmakit, params, self.args.params_only)?;
        let bytes = self.bytes.next_multiple_of(AREA_GRAIN);
        let mut results = Vec::new();
        let mut known = None;
        for kind in PoolKind::ALL {
            progress.say(format!("replaying on a pool: {kind:?}"));
            let run = run_pool(&load, &setup, kind, bytes)?;
            results.push(PoolResult::new(&load, &setup, &run));
            known = Some(notes(&load, &setup, &run.report));
        }
        drop(progress);
        let mut notes = known.context("a pool")?;
        notes.extend(text::assumed());
        let report = PoolsReport {
            trace: load.facts,
            pool_bytes: bytes,
            results,
            notes,
        };
        let closing = self.closing(&report);
        if let Some(path) = &self.args.html {
            crate::page::write(path, &page::render(&report, &closing))?;
        }
        let answer = match show {
            Show::Json => envelope("compare", &report, &closing)?,
            Show::Text(look) => text::render(&report, &closing, look).into_bytes(),
        };
        let outcome = match report.results.iter().any(|result| result.failed > 0) {
            true => Outcome::Refuted,
            false => Outcome::Answered,
        };
        Ok((answer, outcome))
    }

    fn closing(&self, report: &PoolsReport) -> Closing {
        Closing {
            setting: text::setting(report),
            confidence: report.confidence(),
            why: text::why(report),
            reproduce: format!(
                "dmakit compare {} --pools {}{}",
                self.source.argument(),
                self.bytes,
                self.args.reproduce()
            ),
        }
    }
}
