//! The answer of `replay` for people at a terminal.

use std::fmt::Write;

use super::claims::ClaimsResult;
use super::claims_text;
use super::report::{AddressAgreement, EngineResult, ReplayReport};
use crate::chart;
use crate::load::TraceFacts;
use crate::output::{Cell, Closing, Look, Table, Tone};
use crate::quantity::{bytes, grouped, percent, slots};

const PLOT_ROWS: usize = 5;

/// Lays the answer out.
pub fn render(report: &ReplayReport, closing: &Closing, look: Look) -> String {
    let mut text = String::new();
    text.push_str(&about(&report.trace, look));
    for result in &report.results {
        text.push('\n');
        text.push_str(&one(report, result, look));
    }
    for (heading, table) in tables(report) {
        if !table.is_empty() {
            let _ = write!(
                text,
                "\n{}\n{}",
                look.paint(Tone::Strong, heading),
                table.render(look)
            );
        }
    }
    text.push('\n');
    text.push_str(&closing.render(look));
    text
}

/// What was read, and what it lacks.
pub fn about(trace: &TraceFacts, look: Look) -> String {
    let mut text = String::new();
    let kernel = trace
        .kernel
        .as_deref()
        .map_or(String::new(), |k| format!(", Linux {k}"));
    let _ = writeln!(
        text,
        "{}: {}{kernel}, {} events in {:.1} s",
        look.paint(Tone::Strong, &trace.path),
        trace.format,
        grouped(trace.events),
        trace.duration_s,
    );
    if let Some(line) = &trace.command_line {
        text.push_str(&look.field("booted", 8, Tone::Dim, line));
    }
    let fidelity = trace.fidelity();
    let tone = if trace.is_whole() {
        Tone::Dim
    } else {
        Tone::Warning
    };
    text.push_str(&look.field("fidelity", 8, tone, &fidelity));
    text
}

fn one(report: &ReplayReport, result: &EngineResult, look: Look) -> String {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{}  {}",
        look.paint(Tone::Strong, result.engine),
        result.params
    );
    if report.is_about_bounces() {
        let tone = match result.failed {
            Some(0) => Tone::Good,
            Some(_) => Tone::Bad,
            None => Tone::Warning,
        };
        let _ = writeln!(text, "  {}", look.paint(tone, &verdict(result)));
        text.push_str(&look.field("pool", 9, Tone::Dim, &pool(result)));
    }
    if let Some(addresses) = &result.addresses {
        text.push_str(&look.field("addresses", 9, Tone::Dim, &agreement(addresses)));
    }
    if let Some(claims) = &result.cma {
        text.push_str(&contiguous(report, claims, look));
    }
    for unknown in &result.unknown {
        text.push_str(&look.field("unknown", 9, Tone::Warning, unknown));
    }
    text.push_str(&plot(result, look));
    if report.is_about_bounces() {
        for note in &result.notes {
            text.push_str(&look.field("note", 9, Tone::Dim, note));
        }
    }
    text
}

fn contiguous(report: &ReplayReport, claims: &ClaimsResult, look: Look) -> String {
    let tone = if claims.failed == 0 {
        Tone::Good
    } else {
        Tone::Bad
    };
    let mut text = look.item(0, " ", &claims_text::verdict(claims));
    text = look.paint(tone, text.trim_end()) + "\n";
    text.push_str(&look.field("areas", 10, Tone::Dim, &claims_text::areas_line(claims)));
    text.push_str(&look.field("agreement", 10, Tone::Dim, &claims_text::agreement(claims)));
    text.push_str(&look.field("confidence", 10, Tone::Dim, claims.confidence.word()));
    for area in claims.areas.iter().filter(|area| area.high_water_pages > 0) {
        let phases: Vec<f64> = if report.is_about_bounces() {
            Vec::new()
        } else {
            claims.phases.iter().map(|phase| phase.begin_s).collect()
        };
        let step_s = area.occupancy.step_s;
        text.push_str(&blocks(&area.occupancy.used_pages, step_s, &phases, look));
    }
    text
}

/// What the closing lines give as the reason.
pub fn why(report: &ReplayReport, result: &EngineResult) -> String {
    match &result.cma {
        Some(claims) if report.is_about_bounces() => {
            format!("{} {}", verdict(result), claims_text::verdict(claims))
        }
        Some(claims) => claims_text::verdict(claims),
        None => verdict(result),
    }
}

/// One sentence.
pub fn verdict(result: &EngineResult) -> String {
    let (Some(failed), Some(high)) = (result.failed, result.high_water_slots) else {
        return format!(
            "{} attempts; failures and use cannot be known from this trace.",
            grouped(result.mappings)
        );
    };
    if result.mappings == 0 {
        return "Nothing is bounced.".to_owned();
    }
    let at_most = format!(
        "at most {} in use, pool at most {}",
        slots(high),
        bytes(result.pool_bytes_peak.unwrap_or(0))
    );
    if failed == 0 {
        return format!(
            "All {} mappings served, {at_most}.",
            grouped(result.mappings)
        );
    }
    format!(
        "{} of {} mappings failed ({}), {} of them without any event; {at_most}.",
        grouped(failed),
        grouped(result.mappings),
        percent(failed, result.mappings),
        grouped(result.failed_silent.unwrap_or(0)),
    )
}

/// The pool and where its size comes from.
pub fn pool(result: &EngineResult) -> String {
    let pool = &result.pool;
    let mut text = match (pool.slots, &pool.growth) {
        (0, _) => String::new(),
        (some, None) => format!("{}, {} areas", slots(some), pool.areas),
        (some, Some(growth)) => format!(
            "begins with {}, {} areas, grows by {}, reserve {}",
            slots(some),
            pool.areas,
            bytes(growth.step_bytes),
            bytes(growth.reserve_bytes)
        ),
    };
    if !pool.reasons.is_empty() {
        let gap = if text.is_empty() { "" } else { "; " };
        text.push_str(&format!("{gap}{}", pool.reasons.join("; ")));
    }
    text
}

/// How far the model's slots are the kernel's.
pub fn agreement(addresses: &AddressAgreement) -> String {
    format!(
        "{} of {} slots as the kernel chose them{}; of {} more the order of operations, and so the \
         slot, cannot be known from the trace",
        grouped(addresses.equal),
        grouped(addresses.knowable),
        addresses
            .percent
            .map_or(String::new(), |percent| format!(" ({percent} %)")),
        grouped(addresses.unknowable)
    )
}

fn plot(result: &EngineResult, look: Look) -> String {
    let phases: Vec<f64> = result.phases.iter().map(|phase| phase.begin_s).collect();
    let occupancy = &result.occupancy;
    blocks(&occupancy.used_slots, occupancy.step_s, &phases, look)
}

/// Use over time, with letters where phases begin.
fn blocks(used: &[u64], step_s: f64, phases: &[f64], look: Look) -> String {
    let Some(most) = used.iter().max().copied().filter(|most| *most > 0) else {
        return String::new();
    };
    let top = grouped(most);
    let gutter = top.chars().count();
    let columns = look.width().saturating_sub(gutter + 6).clamp(20, 72);
    let rows = chart::blocks(used, columns, PLOT_ROWS);
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        let label = if number == 0 { top.as_str() } else { "" };
        let _ = writeln!(text, "  {label:>gutter$} \u{2502}{}", row.trim_end());
    }
    let end_s = step_s * used.len() as f64;
    let rule = "\u{2500}".repeat(columns);
    let _ = writeln!(text, "  {:>gutter$} \u{2514}{rule}", 0);
    let mut ruler: Vec<char> = vec![' '; columns];
    for (number, begin_s) in phases.iter().enumerate() {
        let place = (begin_s / end_s.max(1e-9) * columns as f64) as usize;
        if let Some(spot) = ruler.get_mut(place) {
            *spot = letter(number);
        }
    }
    let ruler: String = ruler.into_iter().collect();
    let span = format!("{end_s:.1} s");
    let _ = writeln!(text, "  {:>gutter$}  {} {span}", "", ruler.trim_end());
    text
}

/// Phases are lettered, so that the plot can name them.
pub(super) fn letter(number: usize) -> char {
    char::from_u32('a' as u32 + number as u32)
        .filter(char::is_ascii_lowercase)
        .unwrap_or('*')
}

/// The tables, the same here and on the page.
pub fn tables(report: &ReplayReport) -> Vec<(&'static str, Table)> {
    let mut tables = Vec::new();
    if report.is_about_bounces() {
        tables.extend([
            ("engines", engines(report)),
            ("phases (slots in use at most)", phases(report)),
            ("devices", devices(report)),
        ]);
    }
    tables.extend(claims_text::tables(report));
    tables
}

fn number(value: Option<u64>) -> Cell {
    value.map_or_else(|| Cell::from("?"), |value| Cell::from(grouped(value)))
}

fn failures(value: Option<u64>) -> Cell {
    value.map_or_else(|| Cell::from("?"), Cell::bad_unless_zero)
}

fn size(value: Option<u64>) -> Cell {
    value.map_or_else(|| Cell::from("?"), |value| Cell::from(bytes(value)))
}

fn engines(report: &ReplayReport) -> Table {
    let mut table = Table::new(&[
        "engine",
        "mappings",
        "failed",
        "silent",
        "high water",
        "pool peak",
        "copied",
        "probed",
        "confidence",
    ]);
    for result in &report.results {
        table.row(vec![
            result.engine.into(),
            grouped(result.mappings).into(),
            failures(result.failed),
            failures(result.failed_silent),
            number(result.high_water_slots),
            size(result.pool_bytes_peak),
            size(result.bytes_copied),
            number(result.slots_probed),
            result.confidence.word().into(),
        ]);
    }
    table
}

/// One row per phase: the kernel's own counter beside each engine's figure.
fn phases(report: &ReplayReport) -> Table {
    let mut heads = vec!["phase", "kernel"];
    for result in &report.results {
        heads.push(result.engine);
        heads.push("failed");
    }
    let mut table = Table::new(&heads);
    let count = report
        .results
        .first()
        .map_or(0, |result| result.phases.len());
    for index in 0..count {
        let mut row: Vec<Cell> = Vec::new();
        for result in &report.results {
            let Some(phase) = result.phases.get(index) else {
                continue;
            };
            if row.is_empty() {
                row.push(format!("{} {}", letter(index), phase.name).into());
                let kernel = report.kernel.phases.get(index);
                row.push(
                    kernel
                        .and_then(|k| k.high_water_slots)
                        .map_or_else(|| "-".to_owned(), grouped)
                        .into(),
                );
            }
            row.push(high_water(
                phase.high_water_slots,
                phase.high_water_interval,
            ));
            row.push(failures(phase.failed));
        }
        table.row(row);
    }
    table
}

fn high_water(value: Option<u64>, interval: Option<[u64; 2]>) -> Cell {
    match (value, interval) {
        (Some(value), Some([low, high])) => {
            format!("{} [{}..{}]", grouped(value), grouped(low), grouped(high)).into()
        }
        (value, _) => number(value),
    }
}

fn devices(report: &ReplayReport) -> Table {
    let mut table = Table::new(&[
        "device",
        "engine",
        "mappings",
        "failed",
        "own peak",
        "at the peak",
    ]);
    for result in &report.results {
        for device in &result.devices {
            table.row(vec![
                device.name.as_str().into(),
                result.engine.into(),
                grouped(device.mappings).into(),
                failures(device.failed),
                number(device.high_water_slots),
                number(device.slots_at_peak),
            ]);
        }
    }
    table
}
