//! Horizontal bars with their names in front and their numbers behind.

use maud::{Markup, html};

use super::axis::{Scale, px};

/// One bar.
pub struct Bar<'a> {
    pub value: u64,
    /// What stands behind it.
    pub shown: String,
    /// Class that colours it.
    pub class: &'a str,
}

/// Bars under one name.
pub struct BarRow<'a> {
    pub name: &'a str,
    pub bars: Vec<Bar<'a>>,
    /// A mark at a value that was measured elsewhere, and what it says.
    pub mark: Option<(u64, String)>,
}

const WIDTH: f64 = 960.0;
/// Pixels of a letter of a name, about.
const LETTER: f64 = 6.9;
const RIGHT: f64 = 190.0;
const BAR: f64 = 13.0;
const GAP: f64 = 10.0;

/// Draws the rows in order on one scale.
pub fn bars(what: &str, rows: &[BarRow<'_>]) -> Markup {
    let most = rows
        .iter()
        .flat_map(|row| {
            let marked = row.mark.as_ref().map(|(value, _)| *value);
            row.bars.iter().map(|bar| bar.value).chain(marked)
        })
        .max()
        .unwrap_or(0)
        .max(1);
    let letters = rows
        .iter()
        .map(|row| row.name.chars().count())
        .max()
        .unwrap_or(0);
    let name_px = (letters as f64 * LETTER + 14.0).clamp(110.0, 420.0);
    let x = Scale::new(0.0, most as f64, name_px, WIDTH - RIGHT);
    let heights: Vec<f64> = rows
        .iter()
        .map(|row| row.bars.len().max(1) as f64 * (BAR + 2.0) + GAP)
        .collect();
    let height: f64 = heights.iter().sum::<f64>() + GAP;
    let tops = heights.iter().scan(GAP, |at, height| {
        let top = *at;
        *at += height;
        Some(top)
    });
    html! {
        svg class="chart" viewBox=(format!("0 0 {WIDTH} {}", px(height))) role="img" aria-label=(what) {
            @for (row, top) in rows.iter().zip(tops) {
                @let deep = row.bars.len() as f64 * (BAR + 2.0);
                text class="name end" x=(px(name_px - 9.0)) y=(px(top + deep / 2.0 + 4.0)) { (row.name) }
                @for (number, bar) in row.bars.iter().enumerate() {
                    @let y = top + number as f64 * (BAR + 2.0);
                    @let width = (x.px(bar.value as f64) - name_px).max(if bar.value > 0 { 1.5 } else { 0.0 });
                    rect class=(format!("bar {}", bar.class)) x=(px(name_px)) y=(px(y)) rx="2"
                        width=(px(width)) height=(px(BAR)) {}
                    text class="value" x=(px(name_px + width + 6.0)) y=(px(y + BAR - 2.5)) { (bar.shown) }
                }
                @if let Some((value, said)) = &row.mark {
                    @let at = x.px(*value as f64);
                    path class="mark" d=(format!("M {} {} V {}", px(at), px(top - 3.0), px(top + deep + 1.0))) {
                        title { (said) }
                    }
                }
            }
        }
    }
}

/// One bar of parts that make a whole, with a legend below.
pub fn stacked(what: &str, parts: &[(String, u64)]) -> Markup {
    let whole: u64 = parts.iter().map(|(_, value)| value).sum();
    let x = Scale::new(0.0, whole.max(1) as f64, 0.0, WIDTH);
    let starts = parts.iter().scan(0, |at, (_, value)| {
        let start = *at;
        *at += value;
        Some(start)
    });
    html! {
        svg class="chart" viewBox=(format!("0 0 {WIDTH} 30")) role="img" aria-label=(what) {
            @for ((number, (name, value)), start) in parts.iter().enumerate().zip(starts) {
                @let left = x.px(start as f64);
                @let width = (x.px((start + value) as f64) - left - 1.0).max(0.0);
                rect class=(format!("bar c{number}")) x=(px(left)) y="3" height="24" rx="2" width=(px(width)) {
                    title { (name) ": " (crate::quantity::percent(*value, whole)) }
                }
            }
        }
        p.key {
            @for (number, (name, value)) in parts.iter().enumerate() {
                span {
                    i class=(format!("swatch c{number}")) {}
                    (name) " " b { (crate::quantity::percent(*value, whole)) }
                }
            }
        }
    }
}
