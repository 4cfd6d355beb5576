//! The answer of `size pins` as a page.

use maud::html;

use super::report::PinReport;
use super::text;
use crate::chart::{Bar, BarRow, bars};
use crate::output::Closing;
use crate::page::{self, Verdict};
use crate::quantity::bytes;

/// Lays the page out.
pub fn render(report: &PinReport, closing: &Closing) -> Vec<u8> {
    let rows: Vec<BarRow<'_>> = report
        .traces
        .iter()
        .flat_map(|trace| &trace.owners)
        .map(|owner| {
            let bar = |value: u64, what: &str, class| Bar {
                value,
                shown: format!("{} {what}", bytes(value)),
                class,
            };
            BarRow {
                name: &owner.name,
                bars: vec![
                    bar(owner.long.peak_bytes, "held long", "c0"),
                    bar(owner.all.peak_bytes, "under the device", "c1"),
                ],
                mark: None,
            }
        })
        .collect();
    let body = html! {
        h1 { "Pins of this load" }
        (page::verdict(Verdict::Unknown, &text::verdict(report)))
        @for trace in &report.traces {
            h2 { (trace.path) }
            ul { @for line in text::sentences(report, trace) { li { (line) } } }
        }
        (page::figure("Most bytes held at once, each frame once", &bars("bytes held", &rows), ""))
        @for (heading, table) in text::tables(report) {
            h2 { (heading) } (page::table(&table))
        }
        (page::notes("What the trace cannot show", &report.not_shown))
    };
    page::page("dmakit size pins", &body, closing)
}
