//! The answer of `compare --pools` as a page.

use maud::html;

use super::report::PoolsReport;
use super::text;
use crate::output::Closing;
use crate::page::{self, Verdict};

/// Lays the page out.
pub fn render(report: &PoolsReport, closing: &Closing) -> Vec<u8> {
    let has_failed = report.results.iter().any(|result| result.failed > 0);
    let verdict = if has_failed {
        Verdict::Bad
    } else {
        Verdict::Good
    };
    let body = html! {
        h1 { "Memory of bounce pools under " (report.trace.path) }
        p.sub {
            (report.trace.format)
            @if let Some(kernel) = &report.trace.kernel { ", Linux " (kernel) }
            br; (report.trace.fidelity())
        }
        (page::verdict(verdict, &closing.why))
        @for (heading, table) in text::tables(report) {
            h2 { (heading) } (page::table(&table))
        }
        (page::notes("What to know about these figures", &report.notes))
    };
    page::page(
        &format!("dmakit compare {}", report.trace.path),
        &body,
        closing,
    )
}
