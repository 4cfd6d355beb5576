//! Brings up a machine with the stack and drives it.

mod board;
mod builtin;
mod cache;
mod check;
mod disk;
mod edu;
mod machine;
mod numa;
mod page;
mod params;
mod report;
mod text;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;

use crate::args::RunArgs;
use crate::exit::Outcome;
use crate::input::quoted;
use crate::output::{Closing, Confidence, Show, envelope};
use crate::progress::Progress;

pub use machine::MachineName;

use page::{Mode, Page, Workload};
use report::RunReport;

/// Bytes of a page, at most.
const PAGE_MAX: u64 = 1 << 20;

/// What to run.
pub enum Plan {
    /// Name the built-in scenarios.
    List,
    /// Print the page of one.
    Print(&'static str),
    /// Run one.
    One(Box<One>),
}

/// One scenario on one machine.
pub struct One {
    page: Page,
    /// The word that names it, as typed without its folder.
    word: Option<String>,
    machine: MachineName,
    qemu: Option<PathBuf>,
    seed: u64,
    quiet: bool,
}

impl Plan {
    /// Checks what was typed, and that the machine can do it.
    pub fn new(typed: RunArgs) -> anyhow::Result<Self> {
        if typed.list {
            return Ok(Self::List);
        }
        let page = match &typed.scenario {
            Some(word) if typed.page => {
                let text = builtin::text(word)?;
                return Ok(Self::Print(text.ok_or_else(|| unknown(word))?));
            }
            Some(word) => find(word)?,
            None => builtin::default_on(typed.machine)?,
        };
        page.runs_on(typed.machine)?;
        let word = typed.scenario.as_deref().map(base_name);
        Ok(Self::One(Box::new(One {
            page,
            word,
            machine: typed.machine,
            qemu: typed.qemu,
            seed: typed.seed,
            quiet: typed.quiet,
        })))
    }

    /// Runs, answers.
    pub fn run(&self, show: Show) -> anyhow::Result<(Vec<u8>, Outcome)> {
        match self {
            Self::List => Ok((builtin::list(show)?, Outcome::Answered)),
            Self::Print(text) => Ok((text.as_bytes().to_vec(), Outcome::Answered)),
            Self::One(one) => one.run(show),
        }
    }
}

impl One {
    fn run(&self, show: Show) -> anyhow::Result<(Vec<u8>, Outcome)> {
        let progress = Progress::new(self.quiet);
        let start = Instant::now();
        let name = || self.word.as_ref().unwrap_or(&self.page.name).clone();
        let mut report = self.drive(&progress).with_context(name)?;
        report.finish(start.elapsed());
        drop(progress);
        let closing = self.closing(&report);
        let outcome = match report.held {
            true => Outcome::Answered,
            false => Outcome::Refuted,
        };
        let answer = match show {
            Show::Json => envelope("run", &report, &closing)?,
            Show::Text(look) => text::render(&report, &closing, look).into_bytes(),
        };
        Ok((answer, outcome))
    }

    fn drive(&self, progress: &Progress) -> anyhow::Result<RunReport> {
        let mut report = RunReport::new(&self.page, self.machine, self.seed);
        match &self.page.workload {
            Workload::Cache(table) => cache::run(table, self.seed, &mut report, progress)?,
            Workload::Disk(table) => {
                let place = self.place();
                disk::run(&place, table, self.seed, &mut report, progress)?;
            }
            Workload::Coherent(table) => {
                numa::per_node::run(&self.page, table, self.seed, &mut report, progress)?;
            }
            Workload::Pins(table) => {
                numa::pins::run(&self.page, table, self.seed, &mut report, progress)?;
            }
            Workload::Pressure(table) => {
                numa::pressure::run(&self.page, table, self.seed, &mut report, progress)?;
            }
            Workload::Carving(table) => {
                numa::carving::run(&self.page, table, self.seed, &mut report)?;
            }
            Workload::Edu(table) => {
                let place = self.place();
                edu::run(&place, table, self.seed, &mut report, progress)?;
            }
        }
        Ok(report)
    }

    fn place(&self) -> board::Place {
        board::Place::new(&self.page, self.machine, self.qemu.as_deref())
    }

    fn closing(&self, report: &RunReport) -> Closing {
        let (confidence, witness) = match self.machine {
            MachineName::Sim => (Confidence::Modelled, "a model of this project's own"),
            _ => (
                Confidence::Validated,
                "device models that this project did not write",
            ),
        };
        let setting = match (&report.detail, &self.page.workload, self.page.mode()) {
            (Some(detail), ..) => detail.setting(),
            (None, Workload::Cache(_), _) => "none: this is how the stack always works",
            (None, _, Mode::Strict | Mode::Batched) => "iommu.strict=1",
            (None, _, Mode::Lazy) => "iommu.strict=0",
            (None, _, Mode::Passthrough) => "iommu.passthrough=1",
            (None, _, Mode::Bounce) => "iommu.passthrough=1 swiotlb=force",
        };
        let why = match report.first_failure() {
            None => format!("Every check held on {witness}."),
            Some(check) => format!("'{}' does not hold on {witness}.", check.name.word()),
        };
        let word = self.word.as_deref().unwrap_or(&self.page.name);
        let qemu = match &self.qemu {
            Some(path) => format!(" --qemu {}", quoted(&base_name(&path.to_string_lossy()))),
            None => String::new(),
        };
        let reproduce = format!(
            "dmakit run {} --machine {}{qemu} --seed {}",
            quoted(word),
            self.machine.word(),
            self.seed
        );
        Closing {
            setting: setting.to_owned(),
            confidence,
            why,
            reproduce,
        }
    }
}

/// The scenario that a word means: a built-in one, else a file.
fn find(word: &str) -> anyhow::Result<Page> {
    if let Some(page) = builtin::named(word)? {
        return Ok(page);
    }
    let path = Path::new(word);
    if !path.exists() && !word.contains(['/', '.']) {
        return Err(unknown(word));
    }
    let text = read(path).with_context(|| format!("{word}: cannot read"))?;
    Page::parse(&text).with_context(|| word.to_owned())
}

/// The text of a page.
fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let file = File::open(path)?;
    file.take(PAGE_MAX + 1).read_to_string(&mut text)?;
    match text.len() as u64 > PAGE_MAX {
        false => Ok(text),
        true => Err(io::Error::other(
            "more than a mebibyte, expected a page of TOML",
        )),
    }
}

fn unknown(word: &str) -> anyhow::Error {
    anyhow::anyhow!(
        "no scenario '{word}', expected a file or one of {}",
        builtin::names().join(", ")
    )
}

fn base_name(word: &str) -> String {
    let name = Path::new(word).file_name();
    name.map_or_else(
        || word.to_owned(),
        |name| name.to_string_lossy().into_owned(),
    )
}
