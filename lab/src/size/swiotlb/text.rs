//! The answer of `size swiotlb` for people at a terminal.

use std::fmt::Write;

use super::report::{EngineAnswer, SizeReport};
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
    if let Some(growing) = &answer.growing {
        let line = format!(
            "{} begins with {}, grows by {}, peaks at {} and ends with {}: {} fail; memory is \
             back {} s after a burst",
            growing.params,
            bytes(growing.start_slots * crate::engine::SLOT_BYTES),
            bytes(growing.step_bytes),
            bytes(growing.pool_bytes_peak),
            bytes(growing.pool_bytes_end),
            grouped(growing.failed),
            growing.back_within_s
        );
        text.push_str(&look.field("growing", 7, Tone::Dim, &line));
    }
    if !answer.serving_below.is_empty() {
        let sizes: Vec<String> = answer.serving_below.iter().map(|s| grouped(*s)).collect();
        let line = format!(
            "{} slots happen to serve too, but a larger pool fails: not to be relied on",
            sizes.join(", ")
        );
        text.push_str(&look.field("below", 7, Tone::Dim, &line));
    }
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

/// The tables, the same here and on the page.
pub fn tables(report: &SizeReport) -> Vec<(&'static str, Table)> {
    vec![
        ("failures by size", sizes(report)),
        ("need by device", devices(report)),
        ("demand by context", contexts(report)),
    ]
}

/// Sizes up to one above the answer.
fn sizes(report: &SizeReport) -> Table {
    let mut table = Table::new(&["engine", "slots", "bytes", "failed", "share", ""]);
    for answer in std::iter::once(&report.first).chain(&report.answers) {
        let at = answer.answer.as_ref().map(|setting| setting.slots);
        let index = answer
            .curve
            .iter()
            .position(|entry| Some(entry.slots) == at);
        let shown = index.map_or(answer.curve.len(), |index| index + 2);
        let most = answer
            .curve
            .iter()
            .map(|entry| entry.failed)
            .max()
            .unwrap_or(0);
        for entry in answer
            .curve
            .iter()
            .take(shown)
            .rev()
            .take(SIZES_SHOWN)
            .rev()
        {
            let slots = grouped(entry.slots);
            table.row(vec![
                answer.engine.into(),
                if Some(entry.slots) == at {
                    Cell::toned(slots, Tone::Good)
                } else {
                    slots.into()
                },
                bytes(entry.bytes).into(),
                Cell::bad_unless_zero(entry.failed),
                percent(entry.failed, entry.mappings).into(),
                bar(entry.failed, most).into(),
            ]);
        }
    }
    table
}

/// Sizes per engine that the table shows.
const SIZES_SHOWN: usize = 8;
const BAR: u64 = 20;

/// A bar that is never empty unless the value is 0, padded to stand left.
fn bar(value: u64, most: u64) -> String {
    let filled = (value * BAR).div_ceil(most.max(1)) as usize;
    let gap = BAR as usize - filled;
    format!("{}{}", "\u{2588}".repeat(filled), " ".repeat(gap))
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
