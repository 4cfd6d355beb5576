//! The answer of `size swiotlb` as a page.

use maud::{Markup, html};

use super::report::{EngineAnswer, SizeReport};
use super::text;
use crate::chart::{Bar, BarRow, Curve, CurvePoint, bars, curve, stacked};
use crate::output::Closing;
use crate::page::{self, Tile, Verdict};
use crate::quantity::{bytes, grouped, percent};

/// How far above the answer the curve is drawn: nothing happens there.
const SEEN_ABOVE: u64 = 4;

/// Lays the page out.
pub fn render(report: &SizeReport, closing: &Closing) -> Vec<u8> {
    let names = names(report);
    let body = html! {
        h1 { "How large a bounce pool for " (names) "?" }
        p.sub {
            @for trace in std::iter::once(&report.trace).take(usize::from(report.traces.is_empty())).chain(&report.traces) {
                (trace.path) ": " (trace.format)
                @if let Some(kernel) = &trace.kernel { ", Linux " (kernel) }
                ", " (trace.fidelity())
                @if let Some(line) = &trace.command_line { br; code { (line) } }
                br;
            }
        }
        @for answer in std::iter::once(&report.first).chain(&report.answers) {
            (page::verdict(kind(answer), &format!("{}: {}", answer.engine, text::verdict(answer))))
        }
        @if let Some(setting) = &report.first.answer {
            p { "For the boot line: " span.boot { code { (setting.params) } } }
        }
        (page::tiles(&tiles(report)))
        (failure_curve(report))
        (sizes(report))
        (contexts(report))
        (devices(report))
        @for (heading, table) in text::tables(report) {
            @if !table.is_empty() { h2 { (heading) } (page::table(&table)) }
        }
        (page::notes("What the trace cannot show", &limits(report)))
    };
    page::page(&format!("dmakit size swiotlb {names}"), &body, closing)
}

fn names(report: &SizeReport) -> String {
    if report.traces.is_empty() {
        return report.trace.path.clone();
    }
    let names: Vec<&str> = report
        .traces
        .iter()
        .map(|trace| trace.path.as_str())
        .collect();
    names.join(", ")
}

fn kind(answer: &EngineAnswer) -> Verdict {
    match (&answer.answer, answer.curve.is_empty()) {
        (Some(_), _) => Verdict::Good,
        (None, false) => Verdict::Bad,
        (None, true) => Verdict::Unknown,
    }
}

fn tiles(report: &SizeReport) -> Vec<Tile> {
    let mut tiles = Vec::new();
    if let (Some(answer), Some(proof)) = (&report.first.answer, &report.first.proof) {
        tiles.push(Tile {
            label: "smallest that serves",
            value: bytes(answer.bytes),
            note: format!("{} slots, {} areas", grouped(answer.slots), answer.areas),
        });
        tiles.push(Tile {
            label: "most in use",
            value: grouped(answer.high_water_slots),
            note: format!("of {} slots", grouped(answer.slots)),
        });
        tiles.push(Tile {
            label: "failures at it",
            value: grouped(proof.at.failed),
            note: format!("of {} mappings", grouped(proof.at.mappings)),
        });
        tiles.push(match &proof.below {
            Some(below) => Tile {
                label: "failures just below",
                value: grouped(below.failed),
                note: format!("at {} slots", grouped(below.slots)),
            },
            None => Tile {
                label: "just below",
                value: "nothing".to_owned(),
                note: proof.below_reason.clone().unwrap_or_default(),
            },
        });
    }
    if let Some(margin) = &report.first.margin {
        tiles.push(Tile {
            label: "with margin",
            value: bytes(margin.recommended.bytes),
            note: margin.recommended.params.clone(),
        });
    }
    tiles
}

fn failure_curve(report: &SizeReport) -> Markup {
    let points: Vec<Vec<CurvePoint>> = std::iter::once(&report.first)
        .chain(&report.answers)
        .map(|answer| {
            let point = |entry: &super::report::CurveEntry| CurvePoint {
                slots: entry.slots,
                failed: entry.failed,
                mappings: entry.mappings,
            };
            let seen = answer
                .answer
                .as_ref()
                .map_or(u64::MAX, |s| s.slots * SEEN_ABOVE);
            answer
                .curve
                .iter()
                .filter(|entry| entry.slots <= seen)
                .map(point)
                .collect()
        })
        .collect();
    let curves: Vec<Curve<'_>> = std::iter::once(&report.first)
        .chain(&report.answers)
        .zip(&points)
        .filter(|(_, points)| !points.is_empty())
        .map(|(answer, points)| Curve {
            name: answer.engine,
            points,
            answer_slots: answer.answer.as_ref().map(|setting| setting.slots),
        })
        .collect();
    if curves.is_empty() {
        return html! {};
    }
    page::figure("Failed mappings by pool size", &curve(&curves), "")
}

/// Memory of each engine's answer.
fn sizes(report: &SizeReport) -> Markup {
    let rows: Vec<BarRow<'_>> = std::iter::once(&report.first)
        .chain(&report.answers)
        .zip(["c0", "c1", "c2", "c3"])
        .filter_map(|(answer, class)| {
            let setting = answer.answer.as_ref()?;
            Some(BarRow {
                name: answer.engine,
                bars: vec![Bar {
                    value: setting.pool_bytes_peak,
                    shown: format!("{} at most", bytes(setting.pool_bytes_peak)),
                    class,
                }],
                mark: None,
            })
        })
        .collect();
    if rows.len() < 2 {
        return html! {};
    }
    page::figure(
        "Memory held at each engine's smallest setting",
        &bars("memory held", &rows),
        "",
    )
}

fn contexts(report: &SizeReport) -> Markup {
    let parts: Vec<(String, u64)> = report
        .contexts
        .parts()
        .into_iter()
        .filter(|(_, part)| part.mappings > 0)
        .map(|(name, part)| (name.to_owned(), part.slots))
        .collect();
    if parts.is_empty() {
        return html! {};
    }
    page::figure(
        "Who asks: demand in slots by context",
        &stacked("demand by context", &parts),
        "Only a sleepable caller can wait for memory to be freed or grown.",
    )
}

fn devices(report: &SizeReport) -> Markup {
    let whole: u64 = report
        .first
        .devices
        .iter()
        .filter_map(|d| d.slots_at_peak)
        .sum();
    let rows: Vec<BarRow<'_>> = report
        .first
        .devices
        .iter()
        .filter(|device| device.mappings > 0)
        .map(|device| {
            let held = device.slots_at_peak.unwrap_or(0);
            BarRow {
                name: &device.name,
                bars: vec![Bar {
                    value: held,
                    shown: format!("{} slots, {}", grouped(held), percent(held, whole)),
                    class: "c0",
                }],
                mark: None,
            }
        })
        .collect();
    if rows.len() < 2 {
        return html! {};
    }
    page::figure(
        "Slots held when the pool was fullest, by device",
        &bars("by device", &rows),
        "",
    )
}

fn limits(report: &SizeReport) -> Vec<String> {
    let mut lines = vec![report.held_out.says.clone()];
    lines.extend(report.not_shown.iter().cloned());
    for answer in std::iter::once(&report.first).chain(&report.answers) {
        lines.extend(
            answer
                .notes
                .iter()
                .map(|note| format!("{}: {note}", answer.engine)),
        );
    }
    lines
}
