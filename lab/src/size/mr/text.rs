//! The answer of `size mr`, at a terminal and as a page.

use std::fmt::Write;

use maud::html;

use super::MrReport;
use crate::output::{Closing, Look, Table, Tone};
use crate::page::{self, Verdict};
use crate::quantity::{bytes, grouped};

/// Lays the answer out.
pub fn render(report: &MrReport, closing: &Closing, look: Look) -> String {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{}: {} of memory, {} bits of addresses, {} % of them in use",
        look.paint(Tone::Strong, "memory region"),
        size(report.bytes),
        report.iova_bits,
        report.fill_percent
    );
    for (heading, table) in tables(report) {
        let _ = write!(
            text,
            "\n{}\n{}",
            look.paint(Tone::Strong, heading),
            table.render(look)
        );
    }
    text.push('\n');
    for note in &report.notes {
        text.push_str(&look.item(2, "-", note));
    }
    text.push('\n');
    text.push_str(&closing.render(look));
    text
}

/// The same as a page.
pub fn page(report: &MrReport, closing: &Closing) -> Vec<u8> {
    let body = html! {
        h1 { "A memory region of " (size(report.bytes)) }
        (page::verdict(Verdict::Good, &closing.why))
        @for (heading, table) in tables(report) {
            h2 { (heading) } (page::table(&table))
        }
        (page::notes("What to know about these figures", &report.notes))
    };
    page::page("dmakit size mr", &body, closing)
}

fn tables(report: &MrReport) -> [(&'static str, Table); 2] {
    let mut device = Table::new(&[
        "aligned pieces of",
        "entries",
        "on the device",
        "saved",
        "chance",
        "odd neighbours",
        "tries",
    ]);
    for way in &report.device {
        device.row(vec![
            bytes(way.piece_bytes).into(),
            grouped(way.entries).into(),
            format!("{} B", grouped(way.mapping_bytes)).into(),
            format!("{} B", grouped(way.saved_bytes)).into(),
            chance(way.chance_percent).into(),
            chance(way.chance_percent_any).into(),
            grouped(way.tries).into(),
        ]);
    }
    let mut iommu = Table::new(&["leaves of", "leaves", "tables"]);
    for leaves in &report.iommu {
        iommu.row(vec![
            bytes(leaves.leaf_bytes).into(),
            grouped(leaves.leaves).into(),
            bytes(leaves.table_bytes).into(),
        ]);
    }
    [
        ("Translations that the device keeps", device),
        ("What the IOMMU holds for it", iommu),
    ]
}

fn chance(percent: Option<f64>) -> String {
    percent.map_or_else(|| "-".to_owned(), |percent| format!("{percent:.2} %"))
}

/// Exact and short.
fn size(number: u64) -> String {
    format!("{} B ({})", grouped(number), bytes(number))
}

/// The trade in one sentence.
pub fn why(report: &MrReport) -> String {
    let (Some(first), Some(whole)) = (report.device.first(), report.device.last()) else {
        return String::new();
    };
    let mut text = format!(
        "as one block the device keeps {} B instead of {} B; {} of {} tries had such a block among \
         neighbours of powers of two, {} among neighbours of any length",
        grouped(whole.mapping_bytes),
        grouped(first.mapping_bytes),
        chance(whole.chance_percent),
        grouped(whole.tries),
        chance(whole.chance_percent_any)
    );
    if let (Some(most), Some(least)) = (report.iommu.first(), report.iommu.last()) {
        let _ = write!(
            text,
            "; the IOMMU holds {} to {} of tables for it either way",
            bytes(least.table_bytes),
            bytes(most.table_bytes)
        );
    }
    text
}
