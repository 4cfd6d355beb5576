//! Counts and times for people.

use super::BenchReport;
use super::against::{Comparison, Verdict};
use super::timed::TimedRow;
use crate::output::{Cell, Closing, Look, Table, Tone};
use crate::quantity::grouped;

pub fn render(report: &BenchReport, closing: &Closing, look: Look) -> String {
    let mut text = String::new();
    let mut section = |title: &str, table: &Table| {
        if !table.is_empty() {
            text.push_str(&format!("{}\n", look.paint(Tone::Strong, title)));
            text.push_str(&table.render(look));
            text.push('\n');
        }
    };
    let mut counted = Table::new(&["counted", "count", "bound"]);
    for row in &report.rows {
        let tone = if row.count > row.bound {
            Tone::Bad
        } else {
            Tone::Good
        };
        counted.row(vec![
            Cell::from(row.row.as_str()),
            Cell::toned(grouped(row.count), tone),
            Cell::from(grouped(row.bound)),
        ]);
    }
    section("counted: the same on every machine", &counted);
    if let Some(timing) = &report.timing {
        section("timed: nanoseconds for an operation", &times(&timing.rows));
        section(
            "compared with the other program: all intervals hold together 19 times of 20",
            &comparisons(&timing.against),
        );
        if timing.rows.iter().any(|row| row.incumbent.is_some()) {
            let source = format!("Linux: {}", timing.incumbent_source);
            text.push_str(&look.item(2, "-", &source));
        }
        for note in &timing.notes {
            text.push_str(&look.item(2, "-", note));
        }
        text.push('\n');
    }
    text.push_str(&closing.render(look));
    text
}

/// Nanoseconds, with a tenth where that is worth reading.
fn time(ns: f64) -> String {
    match ns < 100.0 {
        true => format!("{ns:.1}"),
        false => grouped(ns.round() as u64),
    }
}

/// How many times as much, and of how many times as little one part.
fn ratio(ratio: f64) -> String {
    match ratio < 0.095 && ratio > 0.0 {
        true => format!("1/{}", grouped((1.0 / ratio).round() as u64)),
        false => format!("{ratio:.2}x"),
    }
}

fn times(rows: &[TimedRow]) -> Table {
    let mut table = Table::new(&[
        "timed", "least", "median", "most", "of floor", "Linux", "of Linux",
    ]);
    for row in rows {
        let floor = row.floor.as_ref();
        table.row(vec![
            Cell::from(row.row.as_str()),
            Cell::from(time(row.ns.min)),
            Cell::from(time(row.ns.median)),
            Cell::from(time(row.ns.max)),
            Cell::from(floor.map_or_else(String::new, |floor| ratio(floor.ratio))),
            Cell::from(row.incumbent.map_or_else(String::new, |f| time(f.min))),
            // Not as it is rounded for programs: what is a hundred thousandth is worth reading.
            Cell::from(
                row.incumbent
                    .map_or_else(String::new, |f| ratio(row.ns.min / f.min)),
            ),
        ]);
    }
    table
}

fn comparisons(rows: &[Comparison]) -> Table {
    let percent = |effect: f64| format!("{:+.1} %", effect * 100.0);
    let mut table = Table::new(&["row", "effect", "from", "to", "detectable", "verdict"]);
    for row in rows {
        let tone = match row.verdict {
            Verdict::Faster => Tone::Good,
            Verdict::Slower => Tone::Bad,
            Verdict::NotResolvable => Tone::Dim,
        };
        table.row(vec![
            Cell::from(row.row.as_str()),
            Cell::from(percent(row.effect)),
            Cell::from(percent(row.interval[0])),
            Cell::from(percent(row.interval[1])),
            Cell::from(percent(row.smallest_detectable)),
            Cell::toned(row.verdict.word(), tone),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_ratios_keep_what_is_worth_reading() {
        assert_eq!(
            [time(7.04), time(99.94), time(121_330.4)],
            ["7.0", "99.9", "121,330"]
        );
        assert_eq!(
            [ratio(1.276), ratio(0.095), ratio(0.000_08)],
            ["1.28x", "0.10x", "1/12,500"]
        );
        assert_eq!(ratio(0.0), "0.00x");
    }
}
