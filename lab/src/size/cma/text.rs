//! The answer of `size cma` for people at a terminal.

use std::fmt::Write;

use super::report::{AreaAnswer, EngineAnswer, SizeReport};
use crate::output::{Cell, Closing, Look, Table, Tone};
use crate::quantity::{bytes, grouped, pages, percent};
use crate::replay::about;

/// Sizes per area that the table shows.
const SIZES_SHOWN: usize = 8;

/// Lays the answer out.
pub fn render(report: &SizeReport, closing: &Closing, look: Look) -> String {
    let mut text = String::new();
    if report.traces.is_empty() {
        text.push_str(&about(&report.trace, look));
    }
    for trace in &report.traces {
        text.push_str(&about(trace, look));
    }
    for answer in report.all() {
        text.push('\n');
        text.push_str(&one(answer, look));
    }
    for (heading, table) in tables(report) {
        if !table.is_empty() {
            let heading = look.paint(Tone::Strong, heading);
            let _ = write!(text, "\n{heading}\n{}", table.render(look));
        }
    }
    let heading = look.paint(Tone::Strong, "what the trace cannot show");
    let _ = writeln!(text, "\n{heading}");
    text.push_str(&look.field("held out", 8, Tone::Dim, &report.held_out.says));
    for line in &report.not_shown {
        text.push_str(&look.field("", 8, Tone::Dim, line));
    }
    text.push('\n');
    text.push_str(&closing.render(look));
    text
}

impl SizeReport {
    /// Every engine's answer.
    pub fn all(&self) -> impl Iterator<Item = &EngineAnswer> {
        std::iter::once(&self.first).chain(&self.answers)
    }
}

fn one(answer: &EngineAnswer, look: Look) -> String {
    let tone = if answer.answer.is_some() {
        Tone::Good
    } else {
        Tone::Bad
    };
    let mut text = format!(
        "{}  {}\n",
        look.paint(Tone::Strong, answer.engine),
        look.paint(tone, &verdict(answer))
    );
    for area in &answer.areas {
        text.push_str(&look.field("proof", 7, Tone::Dim, &proof(area)));
        if !area.serving_below.is_empty() {
            let sizes: Vec<String> = area.serving_below.iter().map(|s| grouped(*s)).collect();
            let line = format!(
                "{}: {} pages happen to serve too, but a larger area fails: not to be relied on",
                area.shown(),
                sizes.join(", ")
            );
            text.push_str(&look.field("below", 7, Tone::Dim, &line));
        }
    }
    if let Some(margin) = &answer.margin {
        let line = format!("{}: {}", margin.params, margin.rule);
        text.push_str(&look.field("margin", 7, Tone::Dim, &line));
    }
    for note in &answer.notes {
        text.push_str(&look.field("note", 7, Tone::Dim, note));
    }
    text
}

/// One sentence.
pub fn verdict(answer: &EngineAnswer) -> String {
    match &answer.answer {
        Some(setting) => format!(
            "{}: {} serve all, at most {} in use",
            setting.params,
            pages(setting.pages),
            grouped(setting.high_water_pages)
        ),
        None => answer.reason.clone().unwrap_or_default(),
    }
}

impl AreaAnswer {
    /// The oldest kernels record no name.
    pub fn shown(&self) -> &str {
        if self.name.is_empty() {
            "(unnamed)"
        } else {
            &self.name
        }
    }
}

fn proof(area: &AreaAnswer) -> String {
    let Some(proof) = &area.proof else {
        return area.reason.clone().unwrap_or_default();
    };
    let at = format!(
        "{}: at {} pages {} of {} claims fail",
        area.shown(),
        grouped(proof.at.pages),
        grouped(proof.at.failed),
        grouped(proof.at.calls)
    );
    let below = match (&proof.below, &proof.below_reason) {
        (Some(below), _) => format!(
            "at {}, the next smaller, {} ({})",
            grouped(below.pages),
            grouped(below.failed),
            percent(below.failed, below.calls)
        ),
        (None, reason) => reason.clone().unwrap_or_default(),
    };
    format!("{at}; {below}")
}

/// The tables, the same here and on the page.
pub fn tables(report: &SizeReport) -> Vec<(&'static str, Table)> {
    vec![
        ("failures by size", sizes(report)),
        ("need by client (pages)", clients(report)),
        ("in use by part of the trace", windows(report)),
    ]
}

/// Sizes up to one above the answer.
fn sizes(report: &SizeReport) -> Table {
    let mut table = Table::new(&["area", "engine", "pages", "bytes", "failed", "share"]);
    for answer in report.all() {
        for area in &answer.areas {
            let at = area.answer.map(|setting| setting.pages);
            let place = area.curve.iter().position(|entry| Some(entry.pages) == at);
            let shown = place.map_or(area.curve.len(), |place| place + 2);
            let skipped = shown.saturating_sub(SIZES_SHOWN);
            for entry in area.curve.iter().take(shown).skip(skipped) {
                let size = grouped(entry.pages);
                table.row(vec![
                    area.shown().into(),
                    answer.engine.into(),
                    if Some(entry.pages) == at {
                        Cell::toned(size, Tone::Good)
                    } else {
                        size.into()
                    },
                    bytes(entry.bytes).into(),
                    Cell::bad_unless_zero(entry.failed),
                    percent(entry.failed, entry.calls).into(),
                ]);
            }
        }
    }
    table
}

fn clients(report: &SizeReport) -> Table {
    let mut table = Table::new(&["client", "claims", "own peak", "at the peak", "share"]);
    let clients = &report.first.clients;
    let whole: u64 = clients.iter().map(|client| client.pages_at_peak).sum();
    for client in clients {
        let name = if client.is_device {
            client.name.clone()
        } else {
            format!("task {}", client.name)
        };
        table.row(vec![
            name.into(),
            grouped(client.calls).into(),
            grouped(client.high_water_pages).into(),
            grouped(client.pages_at_peak).into(),
            percent(client.pages_at_peak, whole).into(),
        ]);
    }
    table
}

fn windows(report: &SizeReport) -> Table {
    let mut table = Table::new(&["from s", "to s", "at most"]);
    for window in &report.windows {
        table.row(vec![
            format!("{:.1}", window.begin_s).into(),
            format!("{:.1}", window.end_s).into(),
            bytes(window.high_water_bytes).into(),
        ]);
    }
    table
}
