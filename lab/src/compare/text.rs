//! The answer of `compare` for people at a terminal.

use std::fmt::Write;

use super::cost::Time;
use super::mode::Mode;
use super::report::{Agreement, CompareReport, ModeResult, Rates};
use crate::output::{Cell, Closing, Look, Table, Tone};
use crate::quantity::{bytes, grouped};
use crate::replay::about;

/// Lays the answer out.
pub fn render(report: &CompareReport, closing: &Closing, look: Look) -> String {
    let mut text = about(&report.trace, look);
    let load = format!(
        "{} buffers mapped, {}, pages of {}",
        grouped(report.ios),
        bytes(report.bytes),
        bytes(report.granule)
    );
    text.push_str(&look.field("load", 8, Tone::Dim, &load));
    if let Some(agreement) = &report.agreement {
        text.push_str(&look.field("model", 8, Tone::Dim, &agreed(agreement)));
    }
    for (heading, table) in tables(report) {
        let _ = write!(
            text,
            "\n{}\n{}",
            look.paint(Tone::Strong, heading),
            table.render(look)
        );
    }
    let _ = writeln!(text, "\n{}", look.paint(Tone::Strong, "Constants"));
    for row in checks(report) {
        text.push_str(&look.item(2, "-", &row));
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
pub fn tables(report: &CompareReport) -> Vec<(&'static str, Table)> {
    vec![
        ("Per I/O", rates(report, |result| &result.per_io)),
        ("Per MiB", rates(report, |result| &result.per_mib)),
        ("What devices still reach, and time", costs(report)),
        ("What the time is made of", constants(report)),
    ]
}

fn name(result: &ModeResult) -> String {
    format!("{} {}", result.engine, result.mode.name())
}

fn rates(report: &CompareReport, of: fn(&ModeResult) -> &Rates) -> Table {
    let mut table = Table::new(&[
        "engine and mode",
        "IOVA ops",
        "cached",
        "stores",
        "commands",
        "syncs",
        "copied",
    ]);
    for result in &report.results {
        let rates = of(result);
        let hits = result.cache_hits_percent;
        table.row(vec![
            name(result).into(),
            decimal(rates.iova_operations).into(),
            hits.map_or_else(|| "-".to_owned(), |p| format!("{p:.1} %"))
                .into(),
            decimal(rates.table_stores).into(),
            decimal(rates.invalidations).into(),
            decimal(rates.syncs).into(),
            bytes(rates.bytes_copied.round() as u64).into(),
        ]);
    }
    table
}

fn costs(report: &CompareReport) -> Table {
    let mut table = Table::new(&[
        "engine and mode",
        "page us/IO",
        "page us/MiB",
        "withheld",
        "failed",
        "ns/IO added",
        "interval",
    ]);
    let exposed = |value: Option<f64>| match value {
        Some(value) if value > 0.0 => Cell::toned(decimal(value), Tone::Bad),
        Some(_) => Cell::toned("0", Tone::Good),
        None => "all memory".into(),
    };
    for result in &report.results {
        let time = result.time_per_io;
        table.row(vec![
            name(result).into(),
            exposed(result.per_io.exposed_page_us),
            exposed(result.per_mib.exposed_page_us),
            grouped(result.withheld_pages_max).into(),
            Cell::bad_unless_zero(result.totals.failed),
            time.map_or_else(|| "-".to_owned(), |t| nanos(t.ns)).into(),
            time.map_or_else(String::new, interval).into(),
        ]);
    }
    table
}

fn interval(time: Time) -> String {
    format!("[{}..{}]", nanos(time.low_ns), nanos(time.high_ns))
}

fn constants(report: &CompareReport) -> Table {
    let mut table = Table::new(&["for each", "ns", "interval"]);
    for constant in &report.constants {
        table.row(vec![
            constant.name.into(),
            format!("{:.2}", constant.ns).into(),
            format!("[{:.2}..{:.2}]", constant.low_ns, constant.high_ns).into(),
        ]);
    }
    table
}

/// Where the constants come from, and what they say about a row that they were not fitted on.
pub fn checks(report: &CompareReport) -> Vec<String> {
    let mut rows: Vec<String> = Vec::new();
    for constant in &report.constants {
        let named: Vec<&str> = report
            .constants
            .iter()
            .filter(|other| other.source == constant.source)
            .map(|other| other.name)
            .collect();
        if named.first() == Some(&constant.name) {
            rows.push(format!("{}: {}", named.join(", "), constant.source));
        }
    }
    rows.push(format!("checked on {}:", report.check.source));
    for row in &report.check.rows {
        let said = match row.predicted {
            Some(predicted) => format!(
                "predicted {predicted:.1} M a second [{:.1}..{:.1}], published {:.1}",
                row.low, row.high, row.published
            ),
            None => format!(
                "cannot be predicted, [{:.1}..{:.1}] M a second is wider than 25 % to either \
                 side; published {:.1}",
                row.low, row.high, row.published
            ),
        };
        rows.push(format!("{}: {said}; {}", row.mode.name(), row.reason));
    }
    rows
}

/// One line about the model.
pub fn agreed(agreement: &Agreement) -> String {
    let mut text = format!(
        "{} gives {} of {} recorded table operations ({} %)",
        agreement.engine,
        grouped(agreement.equal),
        grouped(agreement.recorded),
        agreement.percent.unwrap_or(0.0),
    );
    for reason in &agreement.reasons {
        let _ = write!(text, "; {}: {}", grouped(reason.count), reason.reason);
    }
    let addresses = &agreement.addresses;
    let _ = write!(
        text,
        "; {} of {} addresses, {} more depend on an order that the trace leaves open",
        grouped(addresses.equal),
        grouped(addresses.compared),
        grouped(addresses.open),
    );
    text
}

/// The cheapest modes that end a mapping with its unmap, by engine.
pub fn setting(report: &CompareReport) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut engines: Vec<&str> = report.results.iter().map(|r| r.engine).collect();
    engines.dedup();
    for engine in engines {
        if let Some(best) = cheapest(report, engine) {
            let params = best.mode.params().filter(|_| engine != "dmakit");
            parts.push(format!("{engine}: {}", params.unwrap_or(best.mode.name())));
        }
    }
    match parts.is_empty() {
        true => "none of these modes keeps devices from what was unmapped".to_owned(),
        false => parts.join("; "),
    }
}

fn cheapest<'a>(report: &'a CompareReport, engine: &str) -> Option<&'a ModeResult> {
    let ns = |result: &&ModeResult| result.time_per_io.map_or(f64::MAX, |time| time.ns);
    report
        .results
        .iter()
        .filter(|result| result.engine == engine && result.mode.ends_with_unmap())
        .min_by(|a, b| ns(a).total_cmp(&ns(b)))
}

/// The trade in one sentence for each engine.
pub fn why(report: &CompareReport) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut engines: Vec<&str> = report.results.iter().map(|r| r.engine).collect();
    engines.dedup();
    for engine in engines {
        let of = |mode: Mode| {
            let found = |r: &&ModeResult| r.engine == engine && r.mode == mode;
            report.results.iter().find(found)
        };
        let Some(best) = cheapest(report, engine) else {
            continue;
        };
        let time = |result: &ModeResult| result.time_per_io.map_or(0.0, |time| time.ns);
        let mut part = format!(
            "{engine} {} ends a mapping with its unmap for {} ns and {} syncs an I/O",
            best.mode.name(),
            nanos(time(best)),
            decimal(best.per_io.syncs),
        );
        if let Some(lazy) = of(Mode::Lazy) {
            let _ = write!(
                part,
                ", lazy leaves {} page us open for {} ns",
                decimal(lazy.per_io.exposed_page_us.unwrap_or(0.0)),
                nanos(time(lazy)),
            );
        }
        parts.push(part);
    }
    match parts.is_empty() {
        true => "neither strict nor batched was asked for".to_owned(),
        false => parts.join("; "),
    }
}

fn nanos(ns: f64) -> String {
    grouped(ns.round() as u64)
}

/// Two decimals up to a hundred, none above.
fn decimal(value: f64) -> String {
    match value {
        0.0 => "0".to_owned(),
        ..0.005 => "<0.01".to_owned(),
        ..100.0 => format!("{value:.2}"),
        _ => grouped(value.round() as u64),
    }
}
