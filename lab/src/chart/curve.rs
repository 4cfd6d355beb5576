//! Share of failed mappings against pool size.

use maud::{Markup, html};

use super::axis::{Scale, px, ticks};
use crate::quantity;

/// One size that was tried.
pub struct CurvePoint {
    pub slots: u64,
    pub failed: u64,
    pub mappings: u64,
}

/// One engine's curve, sizes ascending, and its answer.
pub struct Curve<'a> {
    pub name: &'a str,
    pub points: &'a [CurvePoint],
    pub answer_slots: Option<u64>,
}

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 34.0;
const TOP: f64 = 26.0;
const BOTTOM: f64 = 46.0;

/// Draws the curves on a logarithmic axis of sizes.
pub fn curve(curves: &[Curve<'_>]) -> Markup {
    let sizes = || {
        curves
            .iter()
            .flat_map(|c| c.points.iter().map(|p| p.slots.max(1)))
    };
    let (Some(least), Some(most)) = (sizes().min(), sizes().max()) else {
        return html! {};
    };
    let from = (least as f64).log2().floor();
    let to = (most as f64).log2().ceil().max(from + 1.0);
    let top = curves
        .iter()
        .flat_map(|c| c.points.iter().map(share))
        .fold(0.0, f64::max)
        .max(1.0)
        * 1.08;
    let x = Scale::new(from, to, LEFT, WIDTH - RIGHT);
    let y = Scale::new(0.0, top, HEIGHT - BOTTOM, TOP);
    let at = |slots: u64| x.px((slots.max(1) as f64).log2());
    html! {
        svg class="chart" viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img"
            aria-label="share of failed mappings by pool size" {
            @for tick in ticks(0.0, top, 4) {
                line class="grid" x1=(px(LEFT)) x2=(px(WIDTH - RIGHT)) y1=(px(y.px(tick))) y2=(px(y.px(tick))) {}
                text class="tick end" x=(px(LEFT - 7.0)) y=(px(y.px(tick) + 4.0)) { (super::axis::label(tick)) " %" }
            }
            @for power in from as u32..=to as u32 {
                text class="tick mid" x=(px(x.px(f64::from(power)))) y=(px(HEIGHT - BOTTOM + 16.0)) {
                    (quantity::grouped(1 << power))
                }
                text class="tick mid faint" x=(px(x.px(f64::from(power)))) y=(px(HEIGHT - BOTTOM + 29.0)) {
                    (quantity::bytes((1 << power) * crate::engine::SLOT_BYTES))
                }
            }
            text class="tick end" x=(px(WIDTH - RIGHT)) y=(px(HEIGHT - 3.0)) { "slots in the pool" }
            text class="tick" x="0" y=(px(TOP - 10.0)) { "failed" }
            @for (number, c) in curves.iter().enumerate() {
                path class=(format!("line c{number}")) d=(path_of(c.points, at, y)) {}
                @for point in c.points {
                    circle class=(if point.failed == 0 { "point good" } else { "point bad" })
                        cx=(px(at(point.slots))) cy=(px(y.px(share(point)))) r="3.6" {
                        title {
                            (c.name) ", " (quantity::slots(point.slots)) ": " (quantity::grouped(point.failed))
                            " of " (quantity::grouped(point.mappings)) " mappings failed"
                        }
                    }
                }
                @if let Some(slots) = c.answer_slots {
                    line class=(format!("answer c{number}")) x1=(px(at(slots))) x2=(px(at(slots))) y1=(px(TOP)) y2=(px(HEIGHT - BOTTOM)) {}
                    text class="value mid" x=(px(at(slots).clamp(LEFT + 30.0, WIDTH - RIGHT - 30.0)))
                        y=(px(TOP - 4.0 - 11.0 * number as f64)) { (quantity::grouped(slots)) }
                }
            }
        }
        p.key {
            @for (number, c) in curves.iter().enumerate() {
                span { i class=(format!("swatch c{number}")) {} (c.name) }
            }
            span { i class="dot bad" {} "fails" }
            span { i class="dot good" {} "serves all" }
        }
    }
}

/// Per cent.
fn share(point: &CurvePoint) -> f64 {
    if point.mappings == 0 {
        return 0.0;
    }
    point.failed as f64 * 100.0 / point.mappings as f64
}

fn path_of(points: &[CurvePoint], at: impl Fn(u64) -> f64, y: Scale) -> String {
    points
        .iter()
        .enumerate()
        .map(|(number, point)| {
            let command = if number == 0 { "M" } else { "L" };
            format!(
                "{command} {} {}",
                px(at(point.slots)),
                px(y.px(share(point)))
            )
        })
        .collect::<Vec<_>>()
        .join(" ")
}
