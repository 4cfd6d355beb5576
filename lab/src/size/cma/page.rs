//! The answer of `size cma` as a page.

use maud::{Markup, html};

use super::report::{AreaAnswer, EngineAnswer, SizeReport};
use super::text;
use crate::chart::{Bar, BarRow, Curve, CurvePoint, CurveWords, bars, curve};
use crate::output::Closing;
use crate::page::{self, Tile, Verdict};
use crate::quantity::{bytes, grouped, percent};
use crate::replay::{AreaLine, area_charts};

const WORDS: CurveWords = CurveWords {
    unit: "pages",
    unit_bytes: dmakit_addr::PAGE_BYTES,
    of: "area",
    requests: "claims",
};

/// Lays the page out.
pub fn render(report: &SizeReport, closing: &Closing) -> Vec<u8> {
    let one = std::slice::from_ref(&report.trace);
    let traces = if report.traces.is_empty() {
        one
    } else {
        &report.traces
    };
    let names: Vec<&str> = traces.iter().map(|trace| trace.path.as_str()).collect();
    let names = names.join(", ");
    let body = html! {
        h1 { "How large contiguous areas for " (names) "?" }
        p.sub {
            @for trace in traces {
                (trace.path) ": " (trace.format)
                @if let Some(kernel) = &trace.kernel { ", Linux " (kernel) }
                ", " (trace.fidelity())
                @if let Some(line) = &trace.command_line { br; code { (line) } }
                br;
            }
        }
        @for answer in report.all() {
            (page::verdict(kind(answer), &format!("{}: {}", answer.engine, text::verdict(answer))))
        }
        @if let Some(setting) = &report.first.answer {
            p { "For the boot line: " span.boot { code { (setting.params) } } }
        }
        (page::tiles(&tiles(report)))
        @for index in 0..report.first.areas.len() { (failure_curve(report, index)) }
        @for index in 0..report.first.over_time.len() {
            (area_charts(&lines(report, index), &[]))
        }
        (clients(report))
        @for (heading, table) in text::tables(report) {
            @if !table.is_empty() { h2 { (heading) } (page::table(&table)) }
        }
        (page::notes("What the trace cannot show", &limits(report)))
    };
    page::page(&format!("dmakit size cma {names}"), &body, closing)
}

fn kind(answer: &EngineAnswer) -> Verdict {
    match &answer.answer {
        Some(_) => Verdict::Good,
        None => Verdict::Bad,
    }
}

fn tiles(report: &SizeReport) -> Vec<Tile> {
    let mut tiles = Vec::new();
    if let Some(answer) = &report.first.answer {
        tiles.push(Tile {
            label: "smallest that serves",
            value: bytes(answer.bytes),
            note: answer.params.clone(),
        });
        tiles.push(Tile {
            label: "most in use",
            value: grouped(answer.high_water_pages),
            note: format!("of {} pages", grouped(answer.pages)),
        });
    }
    if let Some(proof) = &report.first.proof {
        tiles.push(Tile {
            label: "failures at it",
            value: grouped(proof.at.failed),
            note: format!("of {} claims", grouped(proof.at.calls)),
        });
        if let Some(below) = &proof.below {
            tiles.push(Tile {
                label: "failures just below",
                value: grouped(below.failed),
                note: format!("at {} pages", grouped(below.pages)),
            });
        }
    }
    if let Some(margin) = &report.first.margin {
        tiles.push(Tile {
            label: "with margin",
            value: bytes(margin.bytes),
            note: margin.params.clone(),
        });
    }
    tiles
}

fn failure_curve(report: &SizeReport, index: usize) -> Markup {
    let areas: Vec<(&str, &AreaAnswer)> = report
        .all()
        .filter_map(|answer| Some((answer.engine, answer.areas.get(index)?)))
        .collect();
    let points: Vec<Vec<CurvePoint>> = areas
        .iter()
        .map(|(_, area)| {
            let point = |entry: &super::report::CurveEntry| CurvePoint {
                size: entry.pages,
                failed: entry.failed,
                requests: entry.calls,
            };
            area.curve
                .iter()
                .filter(|e| e.pages > 0)
                .map(point)
                .collect()
        })
        .collect();
    let curves: Vec<Curve<'_>> = areas
        .iter()
        .zip(&points)
        .map(|((engine, area), points)| Curve {
            name: engine,
            points,
            answer: area.answer.map(|setting| setting.pages),
        })
        .collect();
    let Some((_, first)) = areas.first() else {
        return html! {};
    };
    let heading = format!("{}: failed claims by size", first.shown());
    page::figure(&heading, &curve(&curves, WORDS), "")
}

fn lines(report: &SizeReport, index: usize) -> Vec<AreaLine<'_>> {
    report
        .all()
        .filter_map(|answer| {
            Some(AreaLine {
                engine: answer.engine,
                area: answer.over_time.get(index)?,
            })
        })
        .collect()
}

fn clients(report: &SizeReport) -> Markup {
    let clients = &report.first.clients;
    let whole: u64 = clients.iter().map(|client| client.pages_at_peak).sum();
    let rows: Vec<BarRow<'_>> = clients
        .iter()
        .map(|client| BarRow {
            name: &client.name,
            bars: vec![Bar {
                value: client.pages_at_peak,
                shown: format!(
                    "{} pages, {}",
                    grouped(client.pages_at_peak),
                    percent(client.pages_at_peak, whole)
                ),
                class: "c0",
            }],
            mark: None,
        })
        .collect();
    if rows.len() < 2 {
        return html! {};
    }
    let heading = "Pages held when the areas were fullest, by client";
    page::figure(heading, &bars("by client", &rows), "")
}

fn limits(report: &SizeReport) -> Vec<String> {
    let mut lines = vec![report.held_out.says.clone()];
    lines.extend(report.not_shown.iter().cloned());
    for answer in report.all() {
        let notes = answer.notes.iter();
        lines.extend(notes.map(|note| format!("{}: {note}", answer.engine)));
    }
    lines
}
