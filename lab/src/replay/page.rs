//! The answer of `replay` as a page.

use maud::{Markup, html};

use super::claims_page;
use super::report::{EngineResult, ReplayReport};
use super::text;
use crate::chart::{Band, Bar, BarRow, Series, Words, bars, occupancy};
use crate::output::Closing;
use crate::page::{self, Tile, Verdict};
use crate::quantity::{bytes, grouped, slots};

const IN_USE: Words = Words {
    unit: "slots",
    what: "in use",
    dashed: "its pool",
};
const COLOURS: [&str; 4] = ["c0", "c1", "c2", "c3"];

/// Lays the page out.
pub fn render(report: &ReplayReport, closing: &Closing) -> Vec<u8> {
    let body = html! {
        h1 {
            @if report.is_about_bounces() { "Bounce buffers" } @else { "Contiguous memory" }
            " under " (report.trace.path)
        }
        p.sub {
            (report.trace.format)
            @if let Some(kernel) = &report.trace.kernel { ", Linux " (kernel) }
            @if let Some(line) = &report.trace.command_line { br; code { (line) } }
            br; (report.trace.fidelity())
        }
        @for result in &report.results {
            (page::verdict(kind(result), &format!("{}: {}", result.engine, text::why(report, result))))
        }
        @if report.is_about_bounces() {
            (page::tiles(&tiles(report)))
            (timeline(report))
            (phases(report))
            (devices(report))
        }
        (claims_page::render(report))
        @for (heading, table) in text::tables(report) {
            @if !table.is_empty() { h2 { (heading) } (page::table(&table)) }
        }
        (page::notes("What to know about these figures", &remarks(report)))
    };
    page::page(
        &format!("dmakit replay {}", report.trace.path),
        &body,
        closing,
    )
}

fn kind(result: &EngineResult) -> Verdict {
    match result.failed {
        Some(0) if result.has_failures() => Verdict::Bad,
        Some(0) => Verdict::Good,
        Some(_) => Verdict::Bad,
        None => Verdict::Unknown,
    }
}

fn tiles(report: &ReplayReport) -> Vec<Tile> {
    let Some(first) = report.results.first() else {
        return Vec::new();
    };
    let mut tiles = vec![Tile {
        label: "mappings",
        value: grouped(first.mappings),
        note: format!("in {:.1} s", report.trace.duration_s),
    }];
    if let Some(high) = first.high_water_slots {
        tiles.push(Tile {
            label: "high water",
            value: grouped(high),
            note: format!("slots, {}", bytes(high * crate::engine::SLOT_BYTES)),
        });
    }
    if let Some(failed) = first.failed {
        tiles.push(Tile {
            label: "failed",
            value: grouped(failed),
            note: format!(
                "{} without any event",
                grouped(first.failed_silent.unwrap_or(0))
            ),
        });
    }
    tiles.push(Tile {
        label: "pool",
        value: bytes(first.pool.bytes),
        note: format!("{}, {} areas", slots(first.pool.slots), first.pool.areas),
    });
    if let Some(copied) = first.bytes_copied {
        tiles.push(Tile {
            label: "copied",
            value: bytes(copied),
            note: "to and from the pool".to_owned(),
        });
    }
    tiles
}

fn timeline(report: &ReplayReport) -> Markup {
    let Some(first) = report
        .results
        .iter()
        .find(|r| !r.occupancy.used_slots.is_empty())
    else {
        return html! {};
    };
    let bands: Vec<Band<'_>> = first
        .phases
        .iter()
        .map(|phase| Band {
            name: &phase.name,
            begin_s: phase.begin_s,
            end_s: phase.end_s,
        })
        .collect();
    let series: Vec<Series<'_>> = report
        .results
        .iter()
        .map(|result| Series {
            name: result.engine,
            used: &result.occupancy.used_slots,
            pool: &result.occupancy.pool_slots,
        })
        .collect();
    let end_s = first.occupancy.step_s * first.occupancy.used_slots.len() as f64;
    page::figure(
        "Slots in use over time",
        &occupancy(0.0, end_s, &bands, &series, IN_USE),
        "",
    )
}

fn phases(report: &ReplayReport) -> Markup {
    let Some(first) = report
        .results
        .first()
        .filter(|r| r.high_water_slots.is_some())
    else {
        return html! {};
    };
    let rows: Vec<BarRow<'_>> = first
        .phases
        .iter()
        .enumerate()
        .map(|(index, phase)| {
            let kernel = report
                .kernel
                .phases
                .get(index)
                .and_then(|k| k.high_water_slots);
            BarRow {
                name: &phase.name,
                bars: report
                    .results
                    .iter()
                    .zip(COLOURS)
                    .filter_map(|(result, class)| {
                        let phase = result.phases.get(index)?;
                        let value = phase.high_water_slots?;
                        Some(Bar {
                            value,
                            shown: shown(value, phase.high_water_interval, phase.failed),
                            class,
                        })
                    })
                    .collect(),
                mark: kernel.map(|value| (value, format!("the kernel counted {}", grouped(value)))),
            }
        })
        .collect();
    if rows.is_empty() {
        return html! {};
    }
    let has_kernel = rows.iter().any(|row| row.mark.is_some());
    let chart = html! {
        (bars("high water by phase", &rows))
        p.key {
            @for (result, class) in report.results.iter().zip(COLOURS) {
                span { i class=(format!("swatch {class}")) {} (result.engine) }
            }
            @if has_kernel { span { i class="swatch mark" {} "the recorded kernel's own counter" } }
        }
    };
    page::figure("High water by phase", &chart, "")
}

fn shown(value: u64, interval: Option<[u64; 2]>, failed: Option<u64>) -> String {
    let mut text = grouped(value);
    if let Some([low, high]) = interval {
        text.push_str(&format!(" [{}..{}]", grouped(low), grouped(high)));
    }
    match failed {
        Some(0) | None => {}
        Some(failed) => text.push_str(&format!(", {} failed", grouped(failed))),
    }
    text
}

fn devices(report: &ReplayReport) -> Markup {
    let Some(first) = report
        .results
        .first()
        .filter(|r| r.high_water_slots.is_some())
    else {
        return html! {};
    };
    let rows: Vec<BarRow<'_>> = first
        .devices
        .iter()
        .filter(|device| device.mappings > 0)
        .map(|device| BarRow {
            name: &device.name,
            bars: vec![Bar {
                value: device.high_water_slots.unwrap_or(0),
                shown: format!(
                    "{} slots, {} mappings",
                    grouped(device.high_water_slots.unwrap_or(0)),
                    grouped(device.mappings)
                ),
                class: "c0",
            }],
            mark: None,
        })
        .collect();
    if rows.len() < 2 {
        return html! {};
    }
    let heading = format!("Peak by device ({})", first.engine);
    page::figure(&heading, &bars("peak by device", &rows), "")
}

fn remarks(report: &ReplayReport) -> Vec<String> {
    if !report.is_about_bounces() {
        return Vec::new();
    }
    report
        .results
        .iter()
        .flat_map(|result| {
            let pool = format!("{}: {}", result.engine, text::pool(result));
            let addresses = result.addresses.as_ref().map(text::agreement);
            let own = result.unknown.iter().chain(&result.notes).cloned();
            let own = addresses.into_iter().chain(own);
            std::iter::once(pool).chain(own.map(|note| format!("{}: {note}", result.engine)))
        })
        .collect()
}
