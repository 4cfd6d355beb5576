//! The answer of `run` for people at a terminal.

use std::fmt::Write;

use super::numa::{carving, per_node, pins, pressure};
use super::report::{Detail, RunReport, Translation};
use crate::output::{Cell, Closing, Look, Table, Tone};
use crate::quantity::{bytes, grouped, span};

/// Lays the answer out.
pub fn render(report: &RunReport, closing: &Closing, look: Look) -> String {
    let mut text = String::new();
    let program = match &report.program {
        Some(program) => format!(" ({program})"),
        None => String::new(),
    };
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "{} on {}{program}, seed {}",
        look.paint(Tone::Strong, &report.scenario),
        report.machine.word(),
        report.seed
    );
    text.push_str(&look.field("", 0, Tone::Dim, &report.shows));
    let (tone, word) = match report.held {
        true => (Tone::Good, "held"),
        false => (Tone::Bad, "does not hold"),
    };
    let _ = writeln!(text, "\n{}", look.paint(tone, word));
    text.push_str(&checks(report).render(look));
    for check in &report.checks {
        if let Some(failure) = &check.first_failure {
            text.push_str(&look.field(check.name.word(), 0, Tone::Bad, failure));
        }
    }
    text.push('\n');
    text.push_str(&counters(report).render(look));
    if let Some(detail) = &report.detail {
        text.push('\n');
        text.push_str(&shown(detail, look));
    }
    if let Some(translation) = &report.translation {
        text.push('\n');
        text.push_str(&walk(translation, look));
    }
    if !report.skipped.is_empty() {
        let _ = writeln!(text, "\n{}", look.paint(Tone::Strong, "not shown here"));
        for skipped in &report.skipped {
            let line = format!("{}: {}", skipped.what, skipped.why);
            text.push_str(&look.item(2, "-", &line));
        }
    }
    text.push('\n');
    text.push_str(&look.field("timing", 10, Tone::Dim, &timing(report)));
    text.push_str(&closing.render(look));
    text
}

fn shown(detail: &Detail, look: Look) -> String {
    match detail {
        Detail::Boot(boot) => carving::table(boot).render(look),
        Detail::Locality(locality) => per_node::shown(locality, look),
        Detail::Lending(lending) => pressure::shown(lending, look),
        Detail::Holding(holding) => pins::shown(holding, look),
    }
}

fn checks(report: &RunReport) -> Table {
    let mut table = Table::new(&["check", "tried", "failed"]);
    for check in &report.checks {
        table.row(vec![
            check.name.word().into(),
            grouped(check.tried).into(),
            Cell::bad_unless_zero(check.failed),
        ]);
    }
    table
}

fn counters(report: &RunReport) -> Table {
    let mut table = Table::new(&["counter", "value"]);
    let own = [
        ("DMA", bytes(report.dma_bytes)),
        ("faults", grouped(report.faults)),
        ("provoked faults", grouped(report.provoked_faults)),
    ];
    for (name, value) in own.into_iter().filter(|_| report.dma_bytes > 0) {
        table.row(vec![name.into(), value.into()]);
    }
    for (name, value) in &report.counters {
        let shown = match is_address(name) {
            true => format!("{value:#x}"),
            false => grouped(*value),
        };
        table.row(vec![name.replace('_', " ").into(), shown.into()]);
    }
    table
}

fn is_address(name: &str) -> bool {
    name.ends_with("_dma") || name.ends_with("_phys")
}

fn walk(translation: &Translation, look: Look) -> String {
    let mut text = String::new();
    let Translation {
        about,
        iova,
        steps,
        phys,
        bytes,
        origin,
    } = translation;
    let heading = look.paint(Tone::Strong, "one translation");
    let _ = writeln!(text, "{heading}\n  {about} IOVA {iova}");
    for step in steps {
        let kind = if step.is_leaf { "page" } else { "table" };
        let _ = writeln!(
            text,
            "  level {}  entry at {:<10}  {}  -> {kind} {}",
            step.level, step.at, step.entry, step.leads_to
        );
    }
    let _ = writeln!(text, "  physical {phys} holds {bytes}");
    if let Some(origin) = origin {
        let gap = " ".repeat(phys.chars().count());
        let _ = writeln!(text, "  the disk {gap} holds {origin}");
    }
    text
}

fn timing(report: &RunReport) -> String {
    let timing = &report.timing;
    let shown = |seconds: f64| span((seconds * 1e9) as u64);
    let start = match timing.start_s {
        Some(start) => format!(", {} of it until the machine was up", shown(start)),
        None => String::new(),
    };
    let rate = match timing.bytes_per_s {
        0 => String::new(),
        rate => format!("; {} a second", bytes(rate)),
    };
    format!("{}{start}{rate}", shown(timing.total_s))
}
