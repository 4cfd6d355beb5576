//! What was recorded, for people.

use super::report::RecordReport;
use crate::output::{Cell, Closing, Look, Table, Tone};
use crate::quantity::{grouped, slots};

pub fn render(report: &RecordReport, closing: &Closing, look: Look) -> String {
    let mut text = String::new();
    let lost = match report.events_lost {
        0 => look.paint(Tone::Good, "no event lost"),
        lost => look.paint(Tone::Bad, &format!("{} events lost", grouped(lost))),
    };
    text.push_str(&format!(
        "{}: {} events, {lost}; {}\n",
        look.paint(Tone::Strong, &report.trace),
        grouped(report.events_total),
        report.ended
    ));
    text.push('\n');
    let mut table = Table::new(&["event", "count"]);
    for (name, count) in &report.events {
        table.row(vec![Cell::from(name.as_str()), Cell::from(grouped(*count))]);
    }
    if !table.is_empty() {
        text.push_str(&table.render(look));
        text.push('\n');
    }
    let (before, after) = (report.counters.before.pool(), report.counters.after.pool());
    if let (Some(size), Some(used)) = (after.nslabs, after.used) {
        let was = before.used.map_or_else(String::new, |was| {
            format!(", {} before the recording", grouped(was))
        });
        let value = format!("{}; {} used{was}", slots(size), grouped(used));
        text.push_str(&look.field("bounce pool", 14, Tone::Dim, &value));
    }
    if let Some(high) = after.used_hiwater {
        text.push_str(&look.field("its high water", 14, Tone::Dim, &slots(high)));
    }
    if !report.phases.is_empty() {
        text.push_str(&look.field("phases", 14, Tone::Dim, &report.phases.join(", ")));
    }
    text.push_str(&look.field("beside it", 14, Tone::Dim, &report.sidecar));
    for note in &report.notes {
        text.push_str(&look.item(2, "-", note));
    }
    text.push('\n');
    text.push_str(&closing.render(look));
    text
}
