//! Use over time, phases shaded, what there is as lines.

use maud::{Markup, html};

use super::axis::{Scale, label, px, ticks};

/// A phase of the workload.
pub struct Band<'a> {
    pub name: &'a str,
    pub begin_s: f64,
    pub end_s: f64,
}

/// One engine's use. All series share the same buckets.
pub struct Series<'a> {
    pub name: &'a str,
    pub used: &'a [u64],
    pub pool: &'a [u64],
}

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 30.0;
const BOTTOM: f64 = 34.0;
/// A pool line this much above the use would flatten it; it is named instead.
const POOL_IN_SIGHT: u64 = 3;

/// What is drawn: the unit, what of it, and what the dashed line is.
#[derive(Clone, Copy)]
pub struct Words {
    pub unit: &'static str,
    pub what: &'static str,
    pub dashed: &'static str,
}

/// Draws from `begin_s` to `end_s`.
pub fn occupancy(
    begin_s: f64,
    end_s: f64,
    bands: &[Band<'_>],
    series: &[Series<'_>],
    words: Words,
) -> Markup {
    let peak = greatest(series.iter().map(|s| s.used)).max(1);
    let pool_of = |s: &Series<'_>| greatest(std::iter::once(s.pool));
    let in_sight = |s: &Series<'_>| pool_of(s) <= peak.saturating_mul(POOL_IN_SIGHT);
    let top = series
        .iter()
        .filter(|s| in_sight(s))
        .map(pool_of)
        .chain([peak])
        .max()
        .unwrap_or(peak) as f64
        * 1.06;
    let x = Scale::new(begin_s, end_s, LEFT, WIDTH - RIGHT);
    let y = Scale::new(0.0, top, HEIGHT - BOTTOM, TOP);
    let step = (end_s - begin_s) / series.first().map_or(1, |s| s.used.len().max(1)) as f64;
    html! {
        svg class="chart" viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img"
            aria-label=(format!("{} {} over time", words.unit, words.what)) {
            (shaded(bands, x))
            (grid(x, y, begin_s, end_s, top, words.unit))
            @for (number, s) in series.iter().enumerate() {
                @let points = steps(s.used, begin_s, step, x, y);
                path class=(format!("area c{number}"))
                    d=(format!("{points} L {} {} L {} {} Z", px(x.px(end_s)), px(y.px(0.0)), px(x.px(begin_s)), px(y.px(0.0)))) {}
                path class=(format!("line c{number}")) d=(points) {
                    title { (s.name) ": at most " (label(greatest(std::iter::once(s.used)) as f64)) " " (words.unit) " " (words.what) }
                }
                @if in_sight(s) && !s.pool.is_empty() {
                    path class=(format!("pool c{number}")) d=(steps(s.pool, begin_s, step, x, y)) {
                        title { (s.name) ": " (words.dashed) " of " (label(pool_of(s) as f64)) " " (words.unit) }
                    }
                }
            }
        }
        p.key {
            @for (number, s) in series.iter().enumerate() {
                span {
                    i class=(format!("swatch c{number}")) {}
                    (s.name)
                    @if in_sight(s) { " (dashed: " (words.dashed) ")" }
                    @else { " (" (words.dashed) " of " (label(pool_of(s) as f64)) " " (words.unit) " is far above)" }
                }
            }
        }
    }
}

fn greatest<'a>(lists: impl Iterator<Item = &'a [u64]>) -> u64 {
    lists.flatten().copied().max().unwrap_or(0)
}

fn shaded(bands: &[Band<'_>], x: Scale) -> Markup {
    html! {
        @for (number, band) in bands.iter().enumerate() {
            @let left = x.px(band.begin_s);
            @let width = (x.px(band.end_s) - left).max(1.0);
            rect class=(if number % 2 == 0 { "band even" } else { "band odd" })
                x=(px(left)) y=(px(TOP)) width=(px(width)) height=(px(HEIGHT - BOTTOM - TOP)) {
                title { (band.name) }
            }
            // Two rows of names, so that short neighbours do not overlap.
            @if width > 18.0 {
                text class="band-name" x=(px(left + width / 2.0))
                    y=(px(if number % 2 == 0 { TOP - 17.0 } else { TOP - 5.0 })) { (band.name) }
            }
        }
    }
}

fn grid(x: Scale, y: Scale, begin_s: f64, end_s: f64, top: f64, unit: &str) -> Markup {
    html! {
        @for tick in ticks(0.0, top, 4) {
            line class="grid" x1=(px(LEFT)) x2=(px(WIDTH - RIGHT)) y1=(px(y.px(tick))) y2=(px(y.px(tick))) {}
            text class="tick end" x=(px(LEFT - 7.0)) y=(px(y.px(tick) + 4.0)) { (label(tick)) }
        }
        @for tick in ticks(0.0, end_s - begin_s, 8) {
            text class="tick mid" x=(px(x.px(begin_s + tick))) y=(px(HEIGHT - BOTTOM + 16.0)) { (label(tick)) }
        }
        text class="tick end" x=(px(WIDTH - RIGHT)) y=(px(HEIGHT - 4.0)) { "seconds since the first event" }
        text class="tick" x="0" y=(px(TOP - 8.0)) { (unit) }
    }
}

/// A staircase: a bucket's value holds over the bucket.
fn steps(values: &[u64], begin_s: f64, step: f64, x: Scale, y: Scale) -> String {
    let mut path = String::new();
    let mut before = None;
    for (number, value) in values.iter().enumerate() {
        let left = px(x.px(begin_s + number as f64 * step));
        let height = px(y.px(*value as f64));
        let command = if before.is_none() { "M" } else { "H" };
        if before.is_none() {
            path.push_str(&format!("{command} {left} {height}"));
        } else if before != Some(*value) {
            path.push_str(&format!(" {command} {left} V {height}"));
        }
        before = Some(*value);
    }
    let right = px(x.px(begin_s + values.len() as f64 * step));
    path.push_str(&format!(" H {right}"));
    path
}
