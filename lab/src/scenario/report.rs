//! The answer of `run`, as JSON shows it.

use std::collections::BTreeMap;
use std::time::Duration;

use dmakit_sim::Figure;
use serde::Serialize;

use super::check::{Check, CheckName};
use super::machine::MachineName;
use super::numa::carving::Boot;
use super::numa::per_node::Locality;
use super::numa::pins::Holding;
use super::numa::pressure::Lending;
use super::page::Page;
use crate::output::Table;

/// The whole answer.
#[derive(Debug, Serialize)]
pub struct RunReport {
    pub scenario: String,
    pub shows: String,
    pub machine: MachineName,
    /// The program behind the machine, where it is not this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
    pub seed: u64,
    /// Whether every check held.
    pub held: bool,
    pub checks: Vec<Check>,
    pub skipped: Vec<Skipped>,
    /// Bytes that devices read and wrote through live mappings.
    pub dma_bytes: u64,
    /// Transfers through live mappings that left a record of a fault.
    pub faults: u64,
    /// Accesses to unmapped memory that were provoked, and faulted.
    pub provoked_faults: u64,
    pub counters: BTreeMap<&'static str, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub translation: Option<Translation>,
    /// What only this kind of scenario has to say.
    #[serde(flatten)]
    pub detail: Option<Detail>,
    /// The only part that differs from run to run.
    pub timing: Timing,
}

/// What one kind of scenario has to say beside its checks.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Detail {
    Boot(Boot),
    Locality(Locality),
    Lending(Lending),
    Holding(Holding),
}

impl Detail {
    /// The kernel parameters that this is about.
    pub fn setting(&self) -> &str {
        match self {
            Self::Boot(boot) => &boot.effective,
            Self::Locality(locality) => &locality.per_node.params,
            Self::Lending(lending) => &lending.params,
            Self::Holding(holding) => &holding.params,
        }
    }
}

/// A figure that virtual time goes by, and why it is believed.
#[derive(Clone, Debug, Serialize)]
pub struct FigureRow {
    pub what: String,
    pub distance: u8,
    pub ns: u64,
    /// `published`, `measured` or `assumed`.
    pub source: String,
    pub origin: &'static str,
}

impl FigureRow {
    pub fn of(figure: &Figure) -> Self {
        Self {
            what: figure.cost.to_string(),
            distance: figure.distance,
            ns: figure.ns,
            source: figure.source.to_string(),
            origin: figure.origin,
        }
    }

    /// For people.
    pub fn table(rows: &[Self]) -> Table {
        let mut table = Table::new(&["figure", "distance", "takes", "is"]);
        for row in rows {
            table.row(vec![
                row.what.as_str().into(),
                row.distance.to_string().into(),
                format!("{} ns", row.ns).into(),
                row.source.as_str().into(),
            ]);
        }
        table
    }
}

/// Something that this machine cannot show.
#[derive(Clone, Debug, Serialize)]
pub struct Skipped {
    pub what: String,
    pub why: String,
}

/// One address, and the entries that lead from it to memory.
#[derive(Clone, Debug, Serialize)]
pub struct Translation {
    /// What the device did there.
    pub about: String,
    pub iova: String,
    pub steps: Vec<Step>,
    pub phys: String,
    /// What memory holds there.
    pub bytes: String,
    /// What they were copied from holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
}

/// One entry of a table.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    pub level: u32,
    /// Where it lies.
    pub at: String,
    pub entry: String,
    /// Where it leads.
    pub leads_to: String,
    pub is_leaf: bool,
}

/// What the clock said.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Timing {
    pub total_s: f64,
    /// Until the machine was up, where it takes time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_s: Option<f64>,
    pub bytes_per_s: u64,
}

impl RunReport {
    /// A run in which nothing was tried yet.
    pub fn new(page: &Page, machine: MachineName, seed: u64) -> Self {
        Self {
            scenario: page.name.clone(),
            shows: page.shows.clone(),
            machine,
            program: None,
            seed,
            held: false,
            checks: page.checks.iter().copied().map(Check::new).collect(),
            skipped: Vec::new(),
            dma_bytes: 0,
            faults: 0,
            provoked_faults: 0,
            counters: BTreeMap::new(),
            translation: None,
            detail: None,
            timing: Timing::default(),
        }
    }

    /// Whether a property is asked for.
    pub fn asks(&self, name: CheckName) -> bool {
        self.checks.iter().any(|check| check.name == name)
    }

    /// One trial of a property, if it is asked for.
    pub fn trial(&mut self, name: CheckName, failure: Option<String>) {
        if let Some(check) = self.checks.iter_mut().find(|check| check.name == name) {
            check.trial(failure);
        }
    }

    /// Something that cannot be shown.
    pub fn skip(&mut self, what: impl Into<String>, why: impl Into<String>) {
        self.skipped.push(Skipped {
            what: what.into(),
            why: why.into(),
        });
    }

    /// Closes the books: what was never tried is skipped, and never held.
    pub fn finish(&mut self, total: Duration) {
        let (tried, untried) = std::mem::take(&mut self.checks)
            .into_iter()
            .partition(|check: &Check| check.tried > 0);
        self.checks = tried;
        for check in untried {
            self.skip(check.name.word(), "nothing in this run puts it to the test");
        }
        self.held = !self.checks.is_empty() && self.checks.iter().all(|check| check.held);
        self.timing.total_s = total.as_secs_f64();
        let driven = self.timing.total_s - self.timing.start_s.unwrap_or(0.0);
        self.timing.bytes_per_s = (self.dma_bytes as f64 / driven.max(1e-9)) as u64;
    }

    /// The first check that did not hold.
    pub fn first_failure(&self) -> Option<&Check> {
        self.checks.iter().find(|check| !check.held)
    }
}
