//! Share of failed requests against size.

use maud::{Markup, html};

use super::axis::{Scale, px, ticks};
use crate::quantity;

/// One size that was tried.
pub struct CurvePoint {
    pub size: u64,
    pub failed: u64,
    pub requests: u64,
}

/// What sizes and requests are.
#[derive(Clone, Copy)]
pub struct CurveWords {
    /// The unit of sizes, in the plural.
    pub unit: &'static str,
    pub unit_bytes: u64,
    /// What has a size.
    pub of: &'static str,
    pub requests: &'static str,
}

/// One engine's curve, sizes ascending, and its answer.
pub struct Curve<'a> {
    pub name: &'a str,
    pub points: &'a [CurvePoint],
    pub answer: Option<u64>,
}

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 34.0;
const TOP: f64 = 26.0;
const BOTTOM: f64 = 46.0;

/// Draws the curves on a logarithmic axis of sizes.
pub fn curve(curves: &[Curve<'_>], words: CurveWords) -> Markup {
    let sizes = || {
        curves
            .iter()
            .flat_map(|c| c.points.iter().map(|p| p.size.max(1)))
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
    let at = |size: u64| x.px((size.max(1) as f64).log2());
    html! {
        svg class="chart" viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img"
            aria-label=(format!("share of failed {} by size", words.requests)) {
            @for tick in ticks(0.0, top, 4) {
                line class="grid" x1=(px(LEFT)) x2=(px(WIDTH - RIGHT)) y1=(px(y.px(tick))) y2=(px(y.px(tick))) {}
                text class="tick end" x=(px(LEFT - 7.0)) y=(px(y.px(tick) + 4.0)) { (super::axis::label(tick)) " %" }
            }
            @for power in from as u32..=to as u32 {
                text class="tick mid" x=(px(x.px(f64::from(power)))) y=(px(HEIGHT - BOTTOM + 16.0)) {
                    (quantity::grouped(1 << power))
                }
                text class="tick mid faint" x=(px(x.px(f64::from(power)))) y=(px(HEIGHT - BOTTOM + 29.0)) {
                    (quantity::bytes((1 << power) * words.unit_bytes))
                }
            }
            text class="tick end" x=(px(WIDTH - RIGHT)) y=(px(HEIGHT - 3.0)) { (words.unit) " in the " (words.of) }
            text class="tick" x="0" y=(px(TOP - 10.0)) { "failed" }
            @for (number, c) in curves.iter().enumerate() {
                path class=(format!("line c{number}")) d=(path_of(c.points, at, y)) {}
                @for point in c.points {
                    circle class=(if point.failed == 0 { "point good" } else { "point bad" })
                        cx=(px(at(point.size))) cy=(px(y.px(share(point)))) r="3.6" {
                        title {
                            (c.name) ", " (quantity::grouped(point.size)) " " (words.unit) ": " (quantity::grouped(point.failed))
                            " of " (quantity::grouped(point.requests)) " " (words.requests) " failed"
                        }
                    }
                }
                @if let Some(size) = c.answer {
                    line class=(format!("answer c{number}")) x1=(px(at(size))) x2=(px(at(size))) y1=(px(TOP)) y2=(px(HEIGHT - BOTTOM)) {}
                    text class="value mid" x=(px(at(size).clamp(LEFT + 30.0, WIDTH - RIGHT - 30.0)))
                        y=(px(TOP - 4.0 - 11.0 * number as f64)) { (quantity::grouped(size)) }
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
    if point.requests == 0 {
        return 0.0;
    }
    point.failed as f64 * 100.0 / point.requests as f64
}

fn path_of(points: &[CurvePoint], at: impl Fn(u64) -> f64, y: Scale) -> String {
    points
        .iter()
        .enumerate()
        .map(|(number, point)| {
            let command = if number == 0 { "M" } else { "L" };
            format!(
                "{command} {} {}",
                px(at(point.size)),
                px(y.px(share(point)))
            )
        })
        .collect::<Vec<_>>()
        .join(" ")
}
