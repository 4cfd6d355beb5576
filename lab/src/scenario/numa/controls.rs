//! What tests of the judgements share: each is given something wrong, as a check that cannot fail
//! proves nothing.

use crate::scenario::builtin;
use crate::scenario::check::CheckName;
use crate::scenario::machine::MachineName;
use crate::scenario::page::Page;
use crate::scenario::report::RunReport;

pub const SEED: u64 = 1;

/// A page that ships with the program.
pub fn page(name: &str) -> Page {
    builtin::named(name).unwrap().unwrap()
}

pub fn report(page: &Page) -> RunReport {
    RunReport::new(page, MachineName::Sim, SEED)
}

/// How often a property failed; it was tried.
pub fn failures(report: &RunReport, name: CheckName) -> u64 {
    let mut checks = report.checks.iter();
    let check = checks.find(|check| check.name == name).unwrap();
    assert!(check.tried > 0, "{} was not tried", name.word());
    check.failed
}
