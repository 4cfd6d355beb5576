//! Claims of contiguous memory for people: sentences and tables, the same on the page.

use super::claims::{AreaResult, ClaimsResult};
use super::report::ReplayReport;
use crate::output::{Cell, Table};
use crate::quantity::{bytes, grouped, pages, percent};

/// Rows of a table of single claims.
const ROWS_MAX: usize = 12;

/// One sentence.
pub fn verdict(claims: &ClaimsResult) -> String {
    let asked: u64 = claims.areas.iter().map(|area| area.calls).sum();
    let at_most = claims
        .areas
        .iter()
        .map(|area| format!("{} of {}", pages(area.high_water_pages), area_name(area)))
        .collect::<Vec<_>>()
        .join(", ");
    if claims.failed == 0 {
        return format!(
            "All {} claims of contiguous memory served, at most {at_most} in use.",
            grouped(asked)
        );
    }
    format!(
        "{} of {} claims of contiguous memory failed ({}), {} of them although enough pages were \
         free; at most {at_most} in use.",
        grouped(claims.failed),
        grouped(asked),
        percent(claims.failed, asked),
        grouped(claims.failed_fragmented),
    )
}

/// How far the model's answers are the kernel's.
pub fn agreement(claims: &ClaimsResult) -> String {
    let share = claims
        .percent
        .map_or(String::new(), |percent| format!(" ({percent} %)"));
    if claims.compared == "served" {
        return format!(
            "{} of {} claims served or refused as the kernel did{share}",
            grouped(claims.agree),
            grouped(claims.calls)
        );
    }
    let mut text = format!(
        "{} of {} answers as the kernel gave them{share}",
        grouped(claims.agree),
        grouped(claims.calls)
    );
    let apart = claims.told + claims.unknowable.len() as u64 + claims.unfinished;
    if apart > 0 {
        text.push_str(&format!(
            "; of the others, {} told what was claimed before the recording, {} cannot be known, \
             {} have no end",
            grouped(claims.told),
            grouped(claims.unknowable.len() as u64),
            grouped(claims.unfinished)
        ));
    }
    if let Some(bitmaps) = claims.bitmaps.as_ref().filter(|b| b.compared > 0) {
        text.push_str(&format!(
            "; {} of {} lists of free runs in the kernel's log equal to the page",
            grouped(bitmaps.equal),
            grouped(bitmaps.compared)
        ));
    }
    text
}

/// The areas with their sizes.
pub fn areas_line(claims: &ClaimsResult) -> String {
    let area = |area: &AreaResult| {
        let how = match area.place {
            "addresses" => ", size and place inferred from the addresses",
            _ => "",
        };
        format!("{} ({}{how})", area_name(area), bytes(area.bytes))
    };
    let areas: Vec<String> = claims.areas.iter().map(area).collect();
    areas.join(", ")
}

/// The oldest kernels record no name.
fn area_name(area: &AreaResult) -> &str {
    named(&area.name)
}

fn named(name: &str) -> &str {
    if name.is_empty() { "(unnamed)" } else { name }
}

/// The tables.
pub fn tables(report: &ReplayReport) -> Vec<(&'static str, Table)> {
    vec![
        ("contiguous areas (pages)", areas(report)),
        ("claims by phase (pages in use at most)", phases(report)),
        ("claims by client (pages)", clients(report)),
        ("claims that failed", failures(report)),
        ("answers that differ from the kernel's", differences(report)),
    ]
}

fn each(report: &ReplayReport) -> impl Iterator<Item = (&'static str, &ClaimsResult)> {
    let results = report.results.iter();
    results.filter_map(|result| Some((result.engine, result.cma.as_ref()?)))
}

fn areas(report: &ReplayReport) -> Table {
    let mut table = Table::new(&[
        "area",
        "engine",
        "pages",
        "claims",
        "failed",
        "fragmented",
        "high water",
        "longest free, least",
    ]);
    for (engine, claims) in each(report) {
        for area in &claims.areas {
            table.row(vec![
                area_name(area).into(),
                engine.into(),
                grouped(area.pages).into(),
                grouped(area.calls).into(),
                Cell::bad_unless_zero(area.failed),
                Cell::bad_unless_zero(area.failed_fragmented),
                grouped(area.high_water_pages).into(),
                grouped(area.longest_free_min_pages).into(),
            ]);
        }
    }
    table
}

fn phases(report: &ReplayReport) -> Table {
    let mut heads = vec!["phase"];
    for (engine, _) in each(report) {
        heads.extend([engine, "failed"]);
    }
    let mut table = Table::new(&heads);
    let first = each(report).next();
    let count = first.map_or(0, |(_, claims)| claims.phases.len());
    for index in 0..count {
        let mut row: Vec<Cell> = Vec::new();
        for (_, claims) in each(report) {
            let Some(phase) = claims.phases.get(index) else {
                continue;
            };
            if row.is_empty() {
                let letter = super::text::letter(index);
                row.push(format!("{letter} {}", phase.name).into());
            }
            row.push(grouped(phase.high_water_pages).into());
            row.push(Cell::bad_unless_zero(phase.failed));
        }
        table.row(row);
    }
    table
}

fn clients(report: &ReplayReport) -> Table {
    let mut table = Table::new(&[
        "client",
        "engine",
        "claims",
        "failed",
        "own peak",
        "at the peak",
    ]);
    for (engine, claims) in each(report) {
        for client in &claims.clients {
            let name = if client.is_device {
                client.name.clone()
            } else {
                format!("task {}", client.name)
            };
            table.row(vec![
                name.into(),
                engine.into(),
                grouped(client.calls).into(),
                Cell::bad_unless_zero(client.failed),
                grouped(client.high_water_pages).into(),
                grouped(client.pages_at_peak).into(),
            ]);
        }
    }
    table
}

fn failures(report: &ReplayReport) -> Table {
    let mut table = Table::new(&[
        "engine",
        "at s",
        "area",
        "pages",
        "free",
        "longest run",
        "the kernel",
    ]);
    for (engine, claims) in each(report) {
        for failed in claims.failures.iter().take(ROWS_MAX) {
            table.row(vec![
                engine.into(),
                format!("{:.3}", failed.time_s).into(),
                named(&failed.area).into(),
                grouped(failed.pages).into(),
                grouped(failed.free_pages).into(),
                grouped(failed.longest_free_pages).into(),
                if failed.kernel_failed {
                    "too"
                } else {
                    "served"
                }
                .into(),
            ]);
        }
        more(&mut table, engine, claims.failures.len());
    }
    table
}

fn differences(report: &ReplayReport) -> Table {
    let mut table = Table::new(&["engine", "call", "pages", "kernel", "here", "because"]);
    for (engine, claims) in each(report) {
        for differs in claims.disagree.iter().take(ROWS_MAX) {
            table.row(vec![
                engine.into(),
                grouped(u64::from(differs.call)).into(),
                grouped(differs.pages).into(),
                differs.kernel.as_str().into(),
                differs.model.as_str().into(),
                differs.reason.into(),
            ]);
        }
        more(&mut table, engine, claims.disagree.len());
    }
    table
}

/// Says how many rows are left out.
fn more(table: &mut Table, engine: &'static str, rows: usize) {
    if rows > ROWS_MAX {
        let mut cells: Vec<Cell> = vec![engine.into(), format!("{} more", rows - ROWS_MAX).into()];
        cells.resize_with(table.heads().len(), || "".into());
        table.row(cells);
    }
}
