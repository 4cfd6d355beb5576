//! Claims of contiguous memory on the page.

use maud::{Markup, html};

use super::claims::{AreaResult, ClaimsResult};
use super::claims_text;
use super::report::ReplayReport;
use crate::chart::{Band, Series, Words, occupancy};
use crate::page::{self, Tile};
use crate::quantity::{bytes, grouped};

/// One engine's use of an area.
pub struct AreaLine<'a> {
    pub engine: &'a str,
    pub area: &'a AreaResult,
}

/// Tiles and charts; nothing without claims.
pub fn render(report: &ReplayReport) -> Markup {
    let all: Vec<(&str, &ClaimsResult)> = report
        .results
        .iter()
        .filter_map(|result| Some((result.engine, result.cma.as_ref()?)))
        .collect();
    let Some((_, first)) = all.first() else {
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
    let lines = |index: usize| {
        all.iter()
            .filter_map(|(engine, claims)| {
                let area = claims.areas.get(index)?;
                Some(AreaLine { engine, area })
            })
            .collect::<Vec<_>>()
    };
    html! {
        (page::tiles(&tiles(first)))
        @for index in 0..first.areas.len() { (area_charts(&lines(index), &bands)) }
        ul { @for (engine, claims) in &all { li { (engine) ": " (claims_text::agreement(claims)) } } }
    }
}

fn tiles(claims: &ClaimsResult) -> Vec<Tile> {
    let asked: u64 = claims.areas.iter().map(|area| area.calls).sum();
    vec![
        Tile {
            label: "claims",
            value: grouped(asked),
            note: format!("{} ranges found busy", grouped(claims.busy_retries)),
        },
        Tile {
            label: "claims failed",
            value: grouped(claims.failed),
            note: format!("{} for want of a run", grouped(claims.failed_fragmented)),
        },
        Tile {
            label: "most in use",
            value: bytes(claims.high_water_bytes),
            note: claims_text::areas_line(claims),
        },
        Tile {
            label: "answers alike",
            value: format!("{} of {}", grouped(claims.agree), grouped(claims.calls)),
            note: "model and recorded kernel".to_owned(),
        },
    ]
}

/// Use and fragmentation of one area over time, all engines in one chart each.
pub fn area_charts(lines: &[AreaLine<'_>], bands: &[Band<'_>]) -> Markup {
    let Some(AreaLine { area, .. }) = lines.first() else {
        return html! {};
    };
    if area.high_water_pages == 0 {
        return html! {};
    }
    let sizes: Vec<Vec<u64>> = lines
        .iter()
        .map(|line| vec![line.area.pages; line.area.occupancy.used_pages.len()])
        .collect();
    let used: Vec<Series<'_>> = lines
        .iter()
        .zip(&sizes)
        .map(|(line, size)| Series {
            name: line.engine,
            used: &line.area.occupancy.used_pages,
            pool: size,
        })
        .collect();
    let free: Vec<Series<'_>> = lines
        .iter()
        .map(|line| Series {
            name: line.engine,
            used: &line.area.occupancy.longest_free_pages,
            pool: &line.area.occupancy.free_pages,
        })
        .collect();
    let end_s = area.occupancy.step_s * area.occupancy.used_pages.len() as f64;
    let name = if area.name.is_empty() {
        "(unnamed)"
    } else {
        &area.name
    };
    html! {
        (page::figure(
            &format!("{name}: pages in use over time"),
            &occupancy(0.0, end_s, bands, &used, USED),
            "",
        ))
        (page::figure(
            &format!("{name}: fragmentation over time"),
            &occupancy(0.0, end_s, bands, &free, FREE),
            "The longest run of free pages at its shortest. A claim longer than that fails although the \
             pages under the dashed line are free.",
        ))
    }
}

const USED: Words = Words {
    unit: "pages",
    what: "in use",
    dashed: "the area",
};
const FREE: Words = Words {
    unit: "pages",
    what: "in the longest free run",
    dashed: "all that is free",
};
