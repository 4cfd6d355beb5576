//! What bounce buffers, contiguous areas, device addresses, page tables and invalidation cost on this machine, counted
//! and timed.

mod against;
mod areas;
mod args;
#[path = "../../../crates/cma/benches/claims.rs"]
mod claims;
mod counted;
mod cpu;
mod incumbent;
#[path = "../../../crates/smmuv3/benches/instant.rs"]
mod instant;
#[path = "../../../crates/smmuv3/benches/translation.rs"]
mod mapping;
#[path = "../../../crates/iova/benches/mix.rs"]
mod mix;
#[path = "../../../crates/io-pgtable/benches/pages.rs"]
mod pages;
#[path = "../../../crates/iova/benches/passes.rs"]
mod passes;
#[path = "../../../crates/swiotlb/benches/sequences.rs"]
mod sequences;
mod student;
#[path = "../../../crates/swiotlb/benches/subjects.rs"]
mod subjects;
mod text;
mod timed;
mod translation;

use std::path::Path;

use anyhow::{Context, bail};
use dmakit_platform::CpuId;
use dmakit_platform::host::HostPlatform;
use serde::Serialize;

use crate::exit::Outcome;
use crate::input::quoted;
use crate::output::{Closing, Confidence, Show, envelope};
use crate::progress::Progress;

use against::Comparison;
pub use args::BenchArgs;
use counted::CountedRow;
use timed::{TimedRow, Timer};

/// What to measure.
pub struct Plan {
    args: BenchArgs,
}

/// The answer.
#[derive(Debug, Serialize)]
struct BenchReport {
    /// Counted: the same on every machine and in every run.
    rows: Vec<CountedRow>,
    /// Timed: of this machine and this run.
    #[serde(skip_serializing_if = "Option::is_none")]
    timing: Option<Timing>,
}

#[derive(Debug, Serialize)]
struct Timing {
    /// Whether the system let this program stay on CPU 0.
    pinned: bool,
    /// What the times are of: time that other programs took does not count.
    clock: &'static str,
    /// Where the incumbent's figures come from.
    incumbent_source: &'static str,
    rows: Vec<TimedRow>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    against: Vec<Comparison>,
    notes: Vec<String>,
}

/// Whether a filter may mean rows of this kind.
fn is_of(filter: &str, kind: &str) -> bool {
    filter.is_empty() || filter.starts_with(kind)
}

impl Plan {
    /// Checks what was typed.
    pub fn new(args: BenchArgs) -> anyhow::Result<Self> {
        if let Some(other) = &args.against {
            if !other.is_file() {
                bail!("--against {}: no such program", other.display());
            }
        }
        Ok(Self { args })
    }

    /// Measures and answers.
    pub fn run(&self, show: Show) -> anyhow::Result<(Vec<u8>, Outcome)> {
        let progress = Progress::new(false);
        let tell = |what: &str| progress.say(what.to_owned());
        let rows = counted::rows(&|row| self.wants(row));
        let timing = match (&self.args.against, self.args.counted) {
            (_, true) => None,
            (Some(other), _) => Some(self.compare(other, &tell)?),
            (None, false) => Some(self.time(&tell)),
        };
        let is_empty = timing
            .as_ref()
            .is_none_or(|timing| timing.rows.is_empty() && timing.against.is_empty());
        if rows.is_empty() && is_empty {
            let filter = self.args.filter.as_deref().unwrap_or("");
            bail!("no row's name holds '{filter}'; `dmakit bench` without --filter names all");
        }
        drop(progress);
        let report = BenchReport { rows, timing };
        let closing = self.closing(&report);
        let answer = match show {
            Show::Json => envelope("bench", &report, &closing)?,
            Show::Text(look) => text::render(&report, &closing, look).into_bytes(),
        };
        Ok((answer, Outcome::Answered))
    }

    fn wants(&self, row: &str) -> bool {
        let filter = self.args.filter.as_deref().unwrap_or("");
        row.contains(filter)
    }

    /// Whether a row is wanted, or is the floor of one that may be.
    fn wants_timed(&self, row: &str) -> bool {
        row.starts_with("floor/") && !self.args.counted && self.needs_floor(row) || self.wants(row)
    }

    fn needs_floor(&self, floor: &str) -> bool {
        let filter = self.args.filter.as_deref().unwrap_or("");
        let kind = floor.split('/').nth(1).unwrap_or("");
        let size = floor.rsplit('/').next().unwrap_or("");
        match kind {
            "lock-pair" => !["copies", "tables", "commands"]
                .iter()
                .any(|other| filter.starts_with(other)),
            "touches" => is_of(filter, "iova"),
            "checked-stores" | "stores" => is_of(filter, "tables"),
            "commands" => is_of(filter, "commands"),
            _ => {
                filter.starts_with("copies")
                    && (filter.split('/').nth(2).is_none_or(|wanted| wanted == size))
            }
        }
    }

    fn time(&self, tell: &dyn Fn(&str)) -> Timing {
        // Once this thread stays on one CPU, that is all the system says there are.
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let pinned = cpu::pin(0);
        HostPlatform::bind_thread(CpuId::new(0));
        let mut timer = Timer {
            wants: &|row| self.wants_timed(row),
            cpus,
            divisor: if self.args.quick { 10 } else { 1 },
            tell,
            rows: Vec::new(),
        };
        timer.run();
        // Floors alone are no answer to a filter that nothing else matched.
        let mut rows = timer.rows;
        if !rows.iter().any(|row| self.wants(&row.row)) {
            rows.clear();
        }
        Timing {
            pinned,
            clock: "thread CPU time",
            incumbent_source: incumbent::SOURCE,
            rows,
            against: Vec::new(),
            notes: self.notes(pinned),
        }
    }

    fn compare(&self, other: &Path, tell: &dyn Fn(&str)) -> anyhow::Result<Timing> {
        let this = std::env::current_exe().context("this program cannot find itself")?;
        let mut options = Vec::new();
        if let Some(filter) = &self.args.filter {
            options.extend(["--filter".to_owned(), filter.clone()]);
        }
        if self.args.quick {
            options.push("--quick".to_owned());
        }
        let against = against::compare(&this, other, &options, self.args.pairs, tell)?;
        let notes = self.notes(true);
        Ok(Timing {
            pinned: true,
            clock: "thread CPU time",
            incumbent_source: incumbent::SOURCE,
            rows: Vec::new(),
            against,
            notes,
        })
    }

    fn notes(&self, pinned: bool) -> Vec<String> {
        let mut notes = Vec::new();
        if cfg!(debug_assertions) {
            notes.push("this program was built with debug assertions: its times say nothing; build with --release".to_owned());
        }
        if !pinned {
            notes.push("the system did not let this program stay on CPU 0".to_owned());
        }
        if self.args.quick {
            notes.push("--quick: a tenth of the operations".to_owned());
        }
        notes
    }

    fn closing(&self, report: &BenchReport) -> Closing {
        let beyond = report.rows.iter().filter(|row| row.count > row.bound);
        const TIMES: &str = "times hold for this machine and this run";
        let (confidence, times) = match &report.timing {
            Some(_) => (Confidence::Extrapolated, format!("; {TIMES}")),
            None => (Confidence::Exact, String::new()),
        };
        let why = match beyond.count() {
            0 if report.rows.is_empty() => TIMES.to_owned(),
            0 => format!(
                "all {} counted rows keep their bounds{times}",
                report.rows.len()
            ),
            count => format!(
                "{count} of {} counted rows exceed their bounds{times}",
                report.rows.len()
            ),
        };
        let mut reproduce = "dmakit bench".to_owned();
        if let Some(filter) = &self.args.filter {
            reproduce.push_str(&format!(" --filter {}", quoted(filter)));
        }
        if self.args.counted {
            reproduce.push_str(" --counted");
        }
        if self.args.quick {
            reproduce.push_str(" --quick");
        }
        if let Some(other) = &self.args.against {
            let name = crate::input::Source::File(other.clone()).argument();
            reproduce.push_str(&format!(" --against {name} --pairs {}", self.args.pairs));
        }
        Closing {
            setting: "none: this measures".to_owned(),
            confidence,
            why,
            reproduce,
        }
    }
}
