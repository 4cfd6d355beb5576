//! The answer of `compare --pools` for people at a terminal.

use std::fmt::Write;

use super::report::{PoolResult, PoolsReport};
use crate::engine::PoolKind;
use crate::output::{Cell, Closing, Look, Table, Tone};
use crate::quantity::{bytes, grouped};
use crate::replay::about;

/// Lays the answer out.
pub fn render(report: &PoolsReport, closing: &Closing, look: Look) -> String {
    let mut text = about(&report.trace, look);
    text.push_str(&look.field("pool", 8, Tone::Dim, &bytes(report.pool_bytes)));
    for (heading, table) in tables(report) {
        let _ = write!(
            text,
            "\n{}\n{}",
            look.paint(Tone::Strong, heading),
            table.render(look)
        );
    }
    let _ = writeln!(text, "\n{}", look.paint(Tone::Strong, "What to know"));
    for note in &report.notes {
        text.push_str(&look.item(2, "-", note));
    }
    text.push('\n');
    text.push_str(&closing.render(look));
    text
}

/// Tables that the page shows too.
pub fn tables(report: &PoolsReport) -> Vec<(&'static str, Table)> {
    vec![
        ("Memory and failures", memory(report)),
        ("Growth and reclaim", upkeep(report)),
    ]
}

fn name(kind: PoolKind) -> &'static str {
    match kind {
        PoolKind::Fixed => "fixed",
        PoolKind::Growing => "growing",
        PoolKind::Area => "area",
    }
}

fn memory(report: &PoolsReport) -> Table {
    let mut table = Table::new(&[
        "pool", "peak", "mean", "movable", "at least", "mappings", "failed", "copied",
    ]);
    for result in &report.results {
        let lent = |of: fn(&super::report::LendingResult) -> u64| {
            let lending = result.lending.as_ref();
            Cell::from(lending.map_or_else(|| "-".to_owned(), |lending| bytes(of(lending))))
        };
        table.row(vec![
            name(result.pool).into(),
            bytes(result.set_aside_peak_bytes).into(),
            bytes(result.set_aside_mean_bytes).into(),
            lent(|lending| lending.movable_mean_bytes),
            lent(|lending| lending.movable_least_bytes),
            grouped(result.mappings).into(),
            Cell::bad_unless_zero(result.failed),
            bytes(result.bytes_copied).into(),
        ]);
    }
    table
}

fn upkeep(report: &PoolsReport) -> Table {
    let mut table = Table::new(&[
        "pool",
        "step",
        "reserve",
        "grown",
        "shrunk",
        "refused",
        "frames moved",
        "reclaims ahead",
        "in need",
    ]);
    let dash = || Cell::from("-");
    for result in &report.results {
        let size = |of: Option<u64>| of.map_or_else(dash, |size| bytes(size).into());
        let lending = result.lending.as_ref();
        table.row(vec![
            name(result.pool).into(),
            size(result.step_bytes),
            size(result.reserve_bytes),
            grouped(result.growth_steps).into(),
            grouped(result.shrink_steps).into(),
            grouped(result.growth_refused).into(),
            lending.map_or_else(dash, |lending| grouped(lending.moved_frames).into()),
            lending.map_or_else(dash, |lending| grouped(lending.reclaims_ahead).into()),
            lending.map_or_else(dash, |lending| {
                Cell::bad_unless_zero(lending.reclaims_in_need)
            }),
        ]);
    }
    table
}

/// What stands behind the figures, whatever the load.
pub fn assumed() -> Vec<String> {
    vec![
        "peak and mean are what nothing else can use: pools, and pieces kept ready for them; mean \
         is over the time from the first to the last operation"
            .to_owned(),
        "movable memory is assumed to want all that is lent at once, in single pages, and to find \
         room elsewhere when it has to move; nothing in the area is pinned"
            .to_owned(),
        "a piece of one step is kept ready when the other was taken; upkeep comes every 200 us, \
         takes no time, and how long a move takes is not known, so there are counts only"
            .to_owned(),
        "a pool that grows takes the least step and reserve of a ladder that serve the load; \
         where none does, those with the fewest failures"
            .to_owned(),
    ]
}

/// What to set.
pub fn setting(report: &PoolsReport) -> String {
    let size = bytes(report.pool_bytes);
    let Some(area) = report.of(PoolKind::Area) else {
        return String::new();
    };
    if area.failed > 0 {
        return format!("an area of {size} is too small for the pool");
    }
    format!(
        "an area of {size}, pools that grow by {} with a reserve of {}, 1 to 2 steps kept ready",
        bytes(area.step_bytes.unwrap_or(0)),
        bytes(area.reserve_bytes.unwrap_or(0)),
    )
}

/// The trade in one sentence for each pool.
pub fn why(report: &PoolsReport) -> String {
    let parts: Vec<String> = report.results.iter().map(one).collect();
    format!(
        "{}; movable memory is assumed to want all that is lent, and moves are counted, not timed",
        parts.join("; ")
    )
}

fn one(result: &PoolResult) -> String {
    let served = match result.failed {
        0 => "serves all".to_owned(),
        failed => format!("fails {} of", grouped(failed)),
    };
    let mut text = format!(
        "{} {served} {} mappings with {} set aside on average",
        name(result.pool),
        grouped(result.mappings),
        bytes(result.set_aside_mean_bytes),
    );
    if let Some(lending) = &result.lending {
        let _ = write!(
            text,
            " while {} served movable memory, for {} frames moved ahead of need and {} claims in \
             need",
            bytes(lending.movable_mean_bytes),
            grouped(lending.moved_frames),
            grouped(lending.reclaims_in_need),
        );
    }
    text
}
