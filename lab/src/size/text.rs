//! The answer of `size swiotlb` for people at a terminal.

use std::fmt::Write;

use super::report::{EngineAnswer, SizeReport};
use crate::chart;
use crate::output::{Cell, Closing, Look, Table, Tone};
use crate::quantity::{bytes, grouped, percent, slots};
use crate::replay::about;

/// Lays the answer out.
pub fn render(report: &SizeReport, closing: &Closing, look: Look) -> String {
    let mut text = String::new();
    if report.traces.is_empty() {
        text.push_str(&about(&report.trace, look));
    }
    for trace in &report.traces {
        text.push_str(&about(trace, look));
    }
    for answer in std::iter::once(&report.first).chain(&report.answers) {
        text.push('\n');
        text.push_str(&one(answer, look));
    }
    for (heading, table) in tables(report) {
        if !table.is_empty() {
            let heading = look.paint(Tone::Strong, heading);
            let _ = write!(text, "\n{heading}\n{}", table.render(look));
        }
    }
    let _ = writeln!(
        text,
        "\n{}",
        look.paint(Tone::Strong, "what the trace cannot show")
    );
    text.push_str(&look.field("held out", 8, Tone::Dim, &report.held_out.says));
    for line in &report.not_shown {
        text.push_str(&look.field("", 8, Tone::Dim, line));
    }
    text.push('\n');
    text.push_str(&closing.render(look));
    text
}

fn one(answer: &EngineAnswer, look: Look) -> String {
    let mut text = String::new();
    let tone = if answer.answer.is_some() {
        Tone::Good
    } else {
        Tone::Bad
    };
    let _ = writeln!(
        text,
        "{}  {}",
        look.paint(Tone::Strong, answer.engine),
        look.paint(tone, &verdict(answer))
    );
    text.push_str(&proof(answer, look));
    if let Some(margin) = &answer.margin {
        let line = format!(
            "{}: {} ({} % headroom at the smallest)",
            margin.recommended.params, margin.rule, margin.headroom_percent
        );
        text.push_str(&look.field("margin", 7, Tone::Dim, &line));
    }
    if !answer.serving_below.is_empty() {
        let sizes: Vec<String> = answer.serving_below.iter().map(|s| grouped(*s)).collect();
        let line = format!(
            "{} slots happen to serve too, but a larger pool fails: not to be relied on",
            sizes.join(", ")
        );
        text.push_str(&look.field("below", 7, Tone::Dim, &line));
    }
    text.push_str(&curve(answer, look));
    for note in &answer.notes {
        text.push_str(&look.field("note", 7, Tone::Dim, note));
    }
    text
}

/// One sentence.
pub fn verdict(answer: &EngineAnswer) -> String {
    let Some(setting) = &answer.answer else {
        return answer.reason.clone().unwrap_or_default();
    };
    let nothing = answer
        .proof
        .as_ref()
        .is_some_and(|proof| proof.at.mappings == 0);
    if nothing {
        return format!("{}: nothing is bounced, any pool serves", setting.params);
    }
    format!(
        "{}: {} serve all, at most {} in use",
        setting.params,
        slots(setting.slots),
        grouped(setting.high_water_slots)
    )
}

fn proof(answer: &EngineAnswer, look: Look) -> String {
    let Some(proof) = &answer.proof else {
        return String::new();
    };
    let at = format!(
        "at {} slots {} of {} mappings fail",
        grouped(proof.at.slots),
        grouped(proof.at.failed),
        grouped(proof.at.mappings)
    );
    let below = match (&proof.below, &proof.below_reason) {
        (Some(below), _) => format!(
            "at {}, the next smaller, {} ({})",
            grouped(below.slots),
            grouped(below.failed),
            percent(below.failed, below.mappings)
        ),
        (None, Some(reason)) => reason.clone(),
        (None, None) => String::new(),
    };
    look.field("proof", 7, Tone::Dim, &format!("{at}; {below}"))
}

/// One line of blocks: how the failures fall with the size.
fn curve(answer: &EngineAnswer, look: Look) -> String {
    let failed: Vec<u64> = answer.curve.iter().map(|entry| entry.failed).collect();
    let (Some(first), Some(last)) = (answer.curve.first(), answer.curve.last()) else {
        return String::new();
    };
    let shape = chart::blocks(&failed, 40, 1).concat();
    let line = format!(
        "{} |{}| {} slots",
        grouped(first.slots),
        shape,
        grouped(last.slots)
    );
    look.field("failed", 7, Tone::Dim, &line)
}

/// The tables, the same here and on the page.
pub fn tables(report: &SizeReport) -> Vec<(&'static str, Table)> {
    vec![
        ("failures by size", sizes(report)),
        ("need by device", devices(report)),
        ("demand by context", contexts(report)),
    ]
}

/// Sizes from two below the answer to one above it, and the ends.
fn sizes(report: &SizeReport) -> Table {
    let mut table = Table::new(&["engine", "slots", "bytes", "failed", "share"]);
    for answer in std::iter::once(&report.first).chain(&report.answers) {
        let at = answer.answer.as_ref().map(|setting| setting.slots);
        let index = answer
            .curve
            .iter()
            .position(|entry| Some(entry.slots) == at);
        let index = index.unwrap_or(answer.curve.len().saturating_sub(1));
        for (number, entry) in answer.curve.iter().enumerate() {
            if number + 3 < index || number > index + 1 {
                continue;
            }
            let mark = if Some(entry.slots) == at {
                Some(Tone::Good)
            } else {
                None
            };
            let shown = grouped(entry.slots);
            table.row(vec![
                answer.engine.into(),
                mark.map_or_else(
                    || Cell::from(shown.clone()),
                    |tone| Cell::toned(&*shown, tone),
                ),
                bytes(entry.bytes).into(),
                Cell::bad_unless_zero(entry.failed),
                percent(entry.failed, entry.mappings).into(),
            ]);
        }
    }
    table
}

fn devices(report: &SizeReport) -> Table {
    let mut table = Table::new(&["device", "mappings", "own peak", "at the peak", "share"]);
    let whole: u64 = report
        .first
        .devices
        .iter()
        .filter_map(|d| d.slots_at_peak)
        .sum();
    for device in report
        .first
        .devices
        .iter()
        .filter(|device| device.mappings > 0)
    {
        let number = |value: Option<u64>| value.map_or_else(|| "?".to_owned(), grouped);
        table.row(vec![
            device.name.as_str().into(),
            grouped(device.mappings).into(),
            number(device.high_water_slots).into(),
            number(device.slots_at_peak).into(),
            percent(device.slots_at_peak.unwrap_or(0), whole).into(),
        ]);
    }
    table
}

fn contexts(report: &SizeReport) -> Table {
    let mut table = Table::new(&["context", "mappings", "bytes", "slots", "share"]);
    let whole: u64 = report
        .contexts
        .parts()
        .iter()
        .map(|(_, part)| part.slots)
        .sum();
    for (name, part) in report.contexts.parts() {
        if part.mappings > 0 {
            table.row(vec![
                name.into(),
                grouped(part.mappings).into(),
                bytes(part.bytes).into(),
                grouped(part.slots).into(),
                percent(part.slots, whole).into(),
            ]);
        }
    }
    table
}
