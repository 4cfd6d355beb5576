//! One self-contained page: no script, no font, nothing fetched.

use std::path::Path;

use anyhow::Context as _;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::output::Closing;

const STYLE: &str = include_str!("style.css");

/// How the page opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Good,
    Bad,
    Unknown,
}

/// A number that stands out.
pub struct Tile {
    pub label: &'static str,
    pub value: String,
    pub note: String,
}

/// Lays out the whole page.
pub fn page(title: &str, body: &Markup, closing: &Closing) -> Vec<u8> {
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                main {
                    (body)
                    dl.closing {
                        dt { "setting" } dd { code { (closing.setting) } }
                        dt { "confidence" } dd { (closing.confidence.word()) }
                        dt { "why" } dd { (closing.why) }
                        dt { "reproduce" } dd { code { (closing.reproduce) } }
                    }
                }
            }
        }
    };
    markup.into_string().into_bytes()
}

/// Writes the page.
pub fn write(path: &Path, page: &[u8]) -> anyhow::Result<()> {
    std::fs::write(path, page).with_context(|| format!("{}: cannot write", path.display()))
}

/// The one sentence that answers.
pub fn verdict(kind: Verdict, sentence: &str) -> Markup {
    let class = match kind {
        Verdict::Good => "verdict good",
        Verdict::Bad => "verdict bad",
        Verdict::Unknown => "verdict unknown",
    };
    html! { p class=(class) { (sentence) } }
}

/// Numbers side by side.
pub fn tiles(tiles: &[Tile]) -> Markup {
    html! {
        div.tiles {
            @for tile in tiles {
                div.tile {
                    div.label { (tile.label) }
                    div.value { (tile.value) }
                    div.note { (tile.note) }
                }
            }
        }
    }
}

/// A chart under its heading.
pub fn figure(heading: &str, chart: &Markup, caption: &str) -> Markup {
    html! {
        h2 { (heading) }
        figure {
            (chart)
            @if !caption.is_empty() { figcaption { (caption) } }
        }
    }
}

/// A table from the same cells that the terminal shows. Columns without a head are drawings from
/// characters, for which the page has charts.
pub fn table(table: &crate::output::Table) -> Markup {
    let shown = table
        .heads()
        .iter()
        .take_while(|head| !head.is_empty())
        .count();
    html! {
        div.scroll {
            table {
                thead { tr { @for head in &table.heads()[..shown] { th { (head) } } } }
                tbody {
                    @for row in table.rows() {
                        tr {
                            @for cell in row.iter().take(shown) {
                                td class=[cell.class()] { (cell.text()) }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Remarks, if any.
pub fn notes(heading: &str, notes: &[String]) -> Markup {
    html! {
        @if !notes.is_empty() {
            h2 { (heading) }
            ul { @for note in notes { li { (note) } } }
        }
    }
}
