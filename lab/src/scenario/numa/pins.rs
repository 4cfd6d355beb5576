//! An area whose frames a device's driver pins, leases, or leaves alone.

mod device;

use std::collections::BTreeSet;
use std::sync::Arc;

use dmakit_addr::{PAGE_BYTES, PfnRange};
use dmakit_cma::InactiveAreas;
use dmakit_phys::{Account, AttachedRam};
use dmakit_sim::{PageId, Rng};
use serde::Serialize;

use super::claims::Claims;
use super::shared::Shared;
use super::system::{SEGMENTS, System, default_area, fits};
use super::{judge, lend, windows};
use crate::output::{Cell, Look, Table};
use crate::progress::Progress;
use crate::quantity::grouped;
use crate::scenario::check::CheckName;
use crate::scenario::page::{HoldWord, Page, PinsTable};
use crate::scenario::params;
use crate::scenario::report::{Detail, RunReport};
use device::Sharer;

/// What claims and the device met, by how the device's pages are held.
#[derive(Clone, Debug, Serialize)]
pub struct Holding {
    pub params: String,
    pub rows: Vec<Row>,
}

/// One run.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub by: HoldWord,
    /// Percent of the area that the device's pages had when they were to be held.
    pub percent: u64,
    pub served: u64,
    pub refused: u64,
    pub frames_moved: u64,
    /// Pages that left the area when they were pinned.
    pub left_the_area: u64,
    /// Leases that claims called in.
    pub recalled: u64,
    pub device_writes: u64,
    /// I/O page faults.
    pub device_faults: u64,
}

pub fn run(
    page: &Page,
    table: &PinsTable,
    seed: u64,
    report: &mut RunReport,
    progress: &Progress,
) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for &by in &table.by {
        for &percent in &table.percent {
            progress.say(format!("{} on {percent} % of the area", by.word()));
            rows.push(one(page, table, by, percent, seed, report)?);
        }
    }
    let faults = |by| {
        let rows = rows.iter().filter(move |row: &&Row| row.by == by);
        rows.map(|row| row.device_faults).sum::<u64>()
    };
    if table.by.contains(&HoldWord::Nothing) {
        let failure = (faults(HoldWord::Nothing) == 0)
            .then(|| "a device whose pages nobody holds met no fault".to_owned());
        report.trial(CheckName::Control, failure);
    }
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
    report
        .counters
        .insert("leases_recalled", sum(|row| row.recalled));
    report.faults = sum(|row| row.device_faults);
    report.detail = Some(Detail::Holding(Holding {
        params: params::written(&page.areas),
        rows,
    }));
    Ok(())
}

/// Memory for the queues and tables of the device's SMMU.
const TABLE_BYTES: u64 = 8 << 20;

fn one(
    page: &Page,
    table: &PinsTable,
    by: HoldWord,
    percent: u64,
    seed: u64,
    report: &mut RunReport,
) -> anyhow::Result<Row> {
    let system = System::boot_with_tables(page, &page.areas, seed, TABLE_BYTES, Shared::new)?;
    let memory = &system.memory;
    let (areas, _) = InactiveAreas::new(system.reserved).activate(memory);
    let area = default_area(&areas)?;
    let ram = AttachedRam::new(
        system.machine.clone(),
        memory.allocator(),
        system.ram,
        SEGMENTS,
    );
    let ranges: Vec<PfnRange> = areas.ranges(area).to_vec();
    fits("pins.claim", table.claim, &ranges)?;
    let mut rng = Rng::derived(seed, 0x9135 + percent);
    let free_before = memory.allocator().free_frames();
    let inside = lend::lend(memory, &ranges, 100, 16, &mut rng)?;
    let programs = memory.movers().programs().clone();
    let held = inside.len() as u64 * percent / 100;
    let chosen: Vec<PageId> = inside.into_iter().take(held as usize).collect();
    let account = Arc::new(Account::new(u64::MAX));
    let mut sharer = Sharer::new(memory, by, table.rests, account.clone(), seed)?;
    let left_the_area = sharer.share(&chosen, &ranges)?;
    let mut claims = Claims::new(&areas, &ram, area);
    let frames = table.claim.0 / PAGE_BYTES;
    // Claims are aligned to the power of two in their size, as Linux has it.
    let windows: u64 = ranges.iter().map(|range| range.len() / frames).sum();
    for _ in 0..windows {
        sharer.begin_writes(table.writes)?;
        let short: BTreeSet<PageId> = sharer.in_the_way();
        let seen = windows::Frames::look(&ranges, &programs, |frame, page| {
            claims.has(frame) || page.is_some_and(|page| short.contains(&page))
        });
        claims.claim(frames, frames.ilog2(), &seen, &mut rng, report)?;
        sharer.end_writes()?;
        sharer.hold_again()?;
        programs.run(16);
        judge_pins(&ranges, sharer.long_term(), report);
    }
    judge::data(memory, report);
    claims.release_all(report)?;
    let counts = claims.counts;
    let row = Row {
        by,
        percent,
        served: counts.served,
        refused: counts.refused,
        frames_moved: counts.moved,
        left_the_area,
        recalled: sharer.recalled(),
        device_writes: sharer.writes,
        device_faults: sharer.faults,
    };
    if by != HoldWord::Nothing {
        let failure = (row.device_faults > 0)
            .then(|| format!("{} faults with {}", row.device_faults, by.word()));
        report.trial(CheckName::NoDeviceFaults, failure);
    }
    report.dma_bytes += sharer.written_bytes;
    sharer.leave();
    give_everything_back(memory);
    judge::end(&system.machine, memory, free_before, &account, report);
    Ok(row)
}

/// No long-term pin is in an area.
fn judge_pins(
    ranges: &[PfnRange],
    mut pinned: impl Iterator<Item = PfnRange>,
    report: &mut RunReport,
) {
    let inside = pinned.find(|pinned| ranges.iter().any(|range| range.overlaps(pinned)));
    report.trial(
        CheckName::PinsOutside,
        inside.map(|pinned| format!("{pinned} is pinned in the area")),
    );
}

fn give_everything_back(memory: &super::system::Movable<Shared>) {
    let programs = memory.movers().programs();
    while let Some(page) = programs.page(0) {
        let Some(frames) = programs.remove(page) else {
            return;
        };
        if memory.allocator().free(frames).is_err() {
            return;
        }
    }
}

/// For people.
pub fn shown(holding: &Holding, look: Look) -> String {
    let mut table = Table::new(&[
        "held by",
        "of the area",
        "served",
        "refused",
        "moved",
        "recalled",
        "writes",
        "I/O faults",
    ]);
    for row in &holding.rows {
        let faults = match row.by {
            HoldWord::Nothing => Cell::from(grouped(row.device_faults)),
            _ => Cell::bad_unless_zero(row.device_faults),
        };
        table.row(vec![
            row.by.word().into(),
            format!("{} %", row.percent).into(),
            grouped(row.served).into(),
            grouped(row.refused).into(),
            grouped(row.frames_moved).into(),
            grouped(row.recalled).into(),
            grouped(row.device_writes).into(),
            faults,
        ]);
    }
    table.render(look)
}

#[cfg(test)]
mod tests {
    use dmakit_addr::Pfn;

    use super::*;
    use crate::scenario::numa::controls;

    #[test]
    fn a_pin_that_reaches_into_the_area_is_noticed() {
        let range = |start, len| PfnRange::new(Pfn::new(start), len).unwrap();
        let mut report = controls::report(&controls::page("pins-versus-cma"));
        let area = [range(0x100, 0x100), range(0x400, 0x100)];
        let beside = [range(0xff, 1), range(0x200, 0x200), range(0x500, 1)];
        judge_pins(&area, beside.into_iter(), &mut report);
        assert_eq!(controls::failures(&report, CheckName::PinsOutside), 0);
        judge_pins(&area, [range(0x3ff, 2)].into_iter(), &mut report);
        assert_eq!(controls::failures(&report, CheckName::PinsOutside), 1);
    }
}
