//! Claims of contiguous memory that programs borrow, while everybody wants memory.

use dmakit_addr::{PAGE_BYTES, PfnRange};
use dmakit_cma::InactiveAreas;
use dmakit_phys::{Account, AttachedRam, MigrationCause};
use dmakit_platform::Platform;
use dmakit_sim::{Cost, NoDevices, Pressure, PressureConfig, Programs, Rng};
use serde::Serialize;

use super::claims::Claims;
use super::system::{SEGMENTS, System, default_area, fits};
use super::{board, judge, lend, per_node, windows};
use crate::output::{Look, Table};
use crate::progress::Progress;
use crate::quantity::{grouped, span};
use crate::scenario::check::CheckName;
use crate::scenario::page::{GateWord, Page, PressureTable};
use crate::scenario::params;
use crate::scenario::report::{Detail, FigureRow, RunReport};

/// What claims cost, by how much was lent.
#[derive(Clone, Debug, Serialize)]
pub struct Lending {
    pub params: String,
    pub rows: Vec<Row>,
    pub figures: Vec<FigureRow>,
}

/// One run.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Percent of the area that programs had when the claims began.
    pub lent: u64,
    pub served: u64,
    pub refused: u64,
    pub frames_claimed: u64,
    pub frames_moved: u64,
    /// The least that could have moved, by a look at every frame.
    pub frames_least: u64,
    /// Modelled: what the copies took, for each claim that was served.
    pub copy_ns: u64,
    /// Pages that were moved for other reasons than claims.
    pub moved_by_others: u64,
    /// Uses of pages that had to wait for a move.
    pub waits: u64,
}

/// Claims that are out at once, at most.
const OUT_MAX: usize = 6;

pub fn run(
    page: &Page,
    table: &PressureTable,
    seed: u64,
    report: &mut RunReport,
    progress: &Progress,
) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for &lent in &table.lent {
        progress.say(format!("{lent} % lent"));
        let open = table.gate == GateWord::Open;
        rows.push(one(page, table, lent, open, seed, report)?);
    }
    control(page, table, seed, report)?;
    let sum = |of: fn(&Row) -> u64| rows.iter().map(of).sum();
    report
        .counters
        .insert("claims_served", sum(|row| row.served));
    report
        .counters
        .insert("claims_refused", sum(|row| row.refused));
    report
        .counters
        .insert("frames_moved", sum(|row| row.frames_moved));
    let machine = board::machine(page, seed)?;
    report.detail = Some(Detail::Lending(Lending {
        params: params::written(&page.areas),
        rows,
        figures: per_node::figures(&machine, Cost::CopyFrame),
    }));
    Ok(())
}

/// With the gate closed to claims, what is lent does not come back: somebody has to notice.
fn control(
    page: &Page,
    table: &PressureTable,
    seed: u64,
    report: &mut RunReport,
) -> anyhow::Result<()> {
    if !report.asks(CheckName::Control) {
        return Ok(());
    }
    let mut apart = RunReport::new(page, report.machine, seed);
    one(page, table, 10, false, seed, &mut apart)?;
    let claims = apart
        .checks
        .iter()
        .find(|check| check.name == CheckName::Claims);
    let noticed = claims.is_none_or(|claims| claims.failed > 0);
    report.trial(
        CheckName::Control,
        (!noticed).then(|| "no claim failed though nothing may move".to_owned()),
    );
    Ok(())
}

fn one(
    page: &Page,
    table: &PressureTable,
    lent: u64,
    open: bool,
    seed: u64,
    report: &mut RunReport,
) -> anyhow::Result<Row> {
    let system = System::boot(page, &page.areas, seed)?;
    let memory = &system.memory;
    let (areas, _) = InactiveAreas::new(system.reserved).activate(memory);
    let area = default_area(&areas)?;
    let ram = AttachedRam::new(
        system.machine.clone(),
        memory.allocator(),
        system.ram,
        SEGMENTS,
    );
    let free_before = memory.allocator().free_frames();
    let mut rng = Rng::derived(seed, 0x9e0 + lent);
    let ranges: Vec<PfnRange> = areas.ranges(area).to_vec();
    fits("pressure.claim", table.claim[1], &ranges)?;
    lend::lend(memory, &ranges, lent, 4, &mut rng)?;
    let mover = memory.movers();
    mover.refuse(table.busy);
    if !open {
        mover.close(MigrationCause::Claim);
    }
    let mut claims = Claims::new(&areas, &ram, area);
    let mut others = Pressure::new(others(&ranges), seed);
    let (mut copy_ns, mut frames_claimed) = (0, 0);
    for index in 0..table.claims {
        (0..table.steps).for_each(|_| others.step(memory));
        let (before, served) = (system.machine.now(), claims.counts.served);
        let frames = step(table, &mut claims, mover.programs(), &mut rng, report)?;
        if claims.counts.served > served {
            copy_ns += system.machine.now().saturating_since(before).as_nanos() as u64;
            frames_claimed += frames;
        }
        if index % 64 == 63 {
            mover.programs().check();
        }
        if !open && claims.counts.refused > 0 {
            // Before it gives up, a claim asks about every page that there is: one is enough.
            break;
        }
    }
    claims.release_all(report)?;
    judge::data(memory, report);
    judge_gate(mover.past_the_gate(), report);
    let counts = claims.counts;
    judge_moves(counts.moved, counts.least, lent, report);
    let waits = mover.programs().uses().waited;
    others.leave(memory);
    let account = Account::new(0);
    judge::end(&system.machine, memory, free_before, &account, report);
    let moved = |cause| memory.migrations(cause).frames;
    let causes = MigrationCause::ALL.into_iter();
    Ok(Row {
        lent,
        served: counts.served,
        refused: counts.refused,
        frames_claimed,
        frames_moved: counts.moved,
        frames_least: counts.least,
        copy_ns: copy_ns / counts.served.max(1),
        moved_by_others: causes.map(moved).sum::<u64>() - moved(MigrationCause::Claim),
        waits,
    })
}

/// A claim of random size and alignment, after the return of another, if it is time for that; says
/// how many frames it was for.
fn step(
    table: &PressureTable,
    claims: &mut Claims<'_, NoDevices>,
    programs: &Programs,
    rng: &mut Rng,
    report: &mut RunReport,
) -> anyhow::Result<u64> {
    if claims.out() >= OUT_MAX || (claims.out() > 0 && rng.below(3) == 0) {
        claims.release(rng.below(claims.out() as u64) as usize, report)?;
    }
    let seen = windows::Frames::look(claims.ranges(), programs, |frame, _| claims.has(frame));
    let [smallest, largest] = table.claim.map(|size| size.0 / PAGE_BYTES);
    let frames = smallest + rng.below(largest - smallest + 1);
    let align_order = rng.below(u64::from(frames.ilog2()) + 1) as u32;
    claims.claim(frames, align_order, &seen, rng, report)?;
    Ok(frames)
}

/// Everybody else: they take no memory that stays, and leave room to move to.
fn others(ranges: &[PfnRange]) -> PressureConfig {
    let area: u64 = ranges.iter().map(PfnRange::len).sum();
    PressureConfig {
        free_min: 2 * area,
        unmovable_max: area,
        holds_max: 0,
        order_max: 0,
    }
}

fn judge_gate(past: u64, report: &mut RunReport) {
    let failure = (past > 0).then(|| format!("{past} migrations went past the gate"));
    report.trial(CheckName::Gate, failure);
}

/// Within a tenth of the least.
fn judge_moves(moved: u64, least: u64, lent: u64, report: &mut RunReport) {
    let failure = (moved * 10 > least * 11).then(|| {
        format!(
            "{} frames moved at {lent} % lent, {} would do",
            grouped(moved),
            grouped(least)
        )
    });
    report.trial(CheckName::FewMoves, failure);
}

/// For people.
pub fn shown(lending: &Lending, look: Look) -> String {
    let mut table = Table::new(&[
        "lent",
        "served",
        "refused",
        "frames",
        "moved",
        "least",
        "a claim's copies",
    ]);
    for row in &lending.rows {
        table.row(vec![
            format!("{} %", row.lent).into(),
            grouped(row.served).into(),
            grouped(row.refused).into(),
            grouped(row.frames_claimed).into(),
            grouped(row.frames_moved).into(),
            grouped(row.frames_least).into(),
            span(row.copy_ns).into(),
        ]);
    }
    let figures = FigureRow::table(&lending.figures);
    format!("{}\n{}", table.render(look), figures.render(look))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::numa::controls;

    #[test]
    fn a_migration_that_did_not_ask_is_noticed() {
        let mut report = controls::report(&controls::page("movable-pressure"));
        judge_gate(0, &mut report);
        assert_eq!(controls::failures(&report, CheckName::Gate), 0);
        judge_gate(1, &mut report);
        assert_eq!(controls::failures(&report, CheckName::Gate), 1);
    }

    #[test]
    fn a_claim_that_moves_more_than_a_tenth_above_the_least_is_noticed() {
        let mut report = controls::report(&controls::page("movable-pressure"));
        judge_moves(110, 100, 50, &mut report);
        assert_eq!(controls::failures(&report, CheckName::FewMoves), 0);
        judge_moves(111, 100, 50, &mut report);
        assert_eq!(controls::failures(&report, CheckName::FewMoves), 1);
    }
}
