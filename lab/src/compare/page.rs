//! The answer of `compare` as a page.

use maud::{Markup, html};

use super::report::{CompareReport, ModeResult};
use super::text;
use crate::chart::{Bar, BarRow, bars};
use crate::output::Closing;
use crate::page::{self, Tile, Verdict};
use crate::quantity::{bytes, grouped};

const COLOURS: [&str; 4] = ["c0", "c1", "c2", "c3"];

/// Lays the page out.
pub fn render(report: &CompareReport, closing: &Closing) -> Vec<u8> {
    let body = html! {
        h1 { "What protection costs under " (report.trace.path) }
        p.sub {
            (report.trace.format)
            @if let Some(kernel) = &report.trace.kernel { ", Linux " (kernel) }
            @if let Some(line) = &report.trace.command_line { br; code { (line) } }
            br; (report.trace.fidelity())
        }
        (page::verdict(Verdict::Good, &closing.why))
        (page::tiles(&tiles(report)))
        (figure(report, "Modelled time added to an I/O, in ns", |result| {
            let time = result.time_per_io?;
            let shown = format!("{:.0} [{:.0}..{:.0}]", time.ns, time.low_ns, time.high_ns);
            Some((time.ns.round() as u64, shown))
        }))
        (figure(report, "Pages that a device still reaches after unmap, times microseconds, per I/O", |result| {
            let exposed = result.per_io.exposed_page_us?;
            Some((exposed.round() as u64, format!("{exposed:.1}")))
        }))
        @for (heading, table) in text::tables(report) {
            h2 { (heading) } (page::table(&table))
        }
        (page::notes("The constants and what they are worth", &text::checks(report)))
        (page::notes("What to know about these figures", &report.notes))
    };
    page::page(
        &format!("dmakit compare {}", report.trace.path),
        &body,
        closing,
    )
}

fn tiles(report: &CompareReport) -> Vec<Tile> {
    let mut tiles = vec![
        Tile {
            label: "buffers mapped",
            value: grouped(report.ios),
            note: format!(
                "{} in {:.1} s",
                bytes(report.bytes),
                report.trace.duration_s
            ),
        },
        Tile {
            label: "page of the IOMMU",
            value: bytes(report.granule),
            note: String::new(),
        },
    ];
    if let Some(agreement) = &report.agreement {
        tiles.push(Tile {
            label: "model and kernel agree",
            value: format!("{} %", agreement.percent.unwrap_or(0.0)),
            note: format!("of {} table operations", grouped(agreement.recorded)),
        });
    }
    tiles
}

/// Bars by mode, one for each engine.
fn figure(
    report: &CompareReport,
    heading: &str,
    of: impl Fn(&ModeResult) -> Option<(u64, String)>,
) -> Markup {
    let mut engines: Vec<&str> = report.results.iter().map(|r| r.engine).collect();
    engines.dedup();
    let mut modes: Vec<_> = report.results.iter().map(|result| result.mode).collect();
    modes.sort_unstable();
    modes.dedup();
    let bar = |result: &ModeResult| {
        let at = engines.iter().position(|engine| *engine == result.engine)?;
        let (value, shown) = of(result)?;
        Some(Bar {
            value,
            shown,
            class: COLOURS[at % COLOURS.len()],
        })
    };
    let rows: Vec<BarRow<'_>> = modes
        .iter()
        .map(|mode| BarRow {
            name: mode.name(),
            bars: report
                .results
                .iter()
                .filter(|result| result.mode == *mode)
                .filter_map(bar)
                .collect(),
            mark: None,
        })
        .filter(|row| !row.bars.is_empty())
        .collect();
    if rows.is_empty() {
        return html! {};
    }
    let chart = html! {
        (bars(heading, &rows))
        p.key {
            @for (engine, class) in engines.iter().zip(COLOURS) {
                span { i class=(format!("swatch {class}")) {} (engine) }
            }
        }
    };
    page::figure(heading, &chart, "")
}
