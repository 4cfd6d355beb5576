//! What every run with programs has to show at its end.

use dmakit_phys::{Account, DeviceMappings};
use dmakit_sim::Machine;

use super::system::Movable;
use crate::scenario::check::CheckName;
use crate::scenario::report::RunReport;

/// No program has found a byte that it did not write.
pub fn data<D: DeviceMappings + Sync>(memory: &Movable<D>, report: &mut RunReport) {
    let programs = memory.movers().programs();
    programs.check();
    let damage = programs.uses().damage.map(|damage| damage.to_string());
    report.trial(CheckName::Data, damage);
}

/// As many frames are free as before, nothing is charged, and the machine saw none of its rules
/// broken.
pub fn end<D: DeviceMappings + Sync>(
    machine: &Machine,
    memory: &Movable<D>,
    free_before: u64,
    account: &Account,
    report: &mut RunReport,
) {
    let free = memory.allocator().free_frames();
    let (left, charged) = (
        i128::from(free_before) - i128::from(free),
        account.charged(),
    );
    let failure = (left != 0 || charged != 0)
        .then(|| format!("{left} frames in use and {charged} charged are left"));
    report.trial(CheckName::AllReturned, failure);
    let violations = machine.check().err();
    report.trial(
        CheckName::NoViolations,
        violations.map(|violations| violations.to_string()),
    );
}
