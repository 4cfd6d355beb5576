//! The answer of `size its` for people at a terminal.

use std::fmt::Write;

use super::report::{ItsReport, Shape};
use crate::output::{Cell, Closing, Look, Table, Tone};
use crate::quantity::{bytes, grouped, percent};

pub fn render(report: &ItsReport, closing: &Closing, look: Look) -> String {
    let mut text = String::new();
    let its = format!(
        "GITS_TYPER {}: {} bits of device IDs, {} of event IDs",
        report.typer, report.device_bits, report.event_bits
    );
    text.push_str(&look.field("ITS", 9, Tone::Dim, &its));
    let asked = format!(
        "{} device IDs, entries of {} B, ITS pages of {}",
        grouped(report.devices),
        report.entry_bytes,
        bytes(report.its_page_bytes)
    );
    text.push_str(&look.field("table", 9, Tone::Dim, &asked));
    text.push_str(&look.field("allocator", 9, Tone::Dim, &allocator(report)));
    let heading = look.paint(Tone::Strong, "device table");
    let _ = write!(text, "\n{heading}\n{}", shapes(report).render(look));
    text.push('\n');
    text.push_str(&closing.render(look));
    text
}

fn allocator(report: &ItsReport) -> String {
    let allocator = &report.allocator;
    let run = format!(
        "{} << {} = {} at most",
        bytes(allocator.page_bytes),
        allocator.max_order,
        bytes(allocator.run_bytes_max)
    );
    match allocator.ids_lost {
        0 => format!("{run}: a flat table fits"),
        lost => format!(
            "{run}: a flat table keeps {} IDs, {} ({}) are lost",
            grouped(allocator.ids),
            grouped(lost),
            percent(lost, report.devices)
        ),
    }
}

fn shapes(report: &ItsReport) -> Table {
    let mut table = Table::new(&["levels", "contiguous", "ITS pages", "in full", "IDs"]);
    for shape in std::iter::once(&report.flat).chain(&report.two_level) {
        table.row(row(shape, report.devices));
    }
    table
}

fn row(shape: &Shape, devices: u64) -> Vec<Cell> {
    let name = match shape.levels {
        1 => "flat",
        _ => "two",
    };
    let ids = grouped(shape.ids);
    vec![
        name.into(),
        bytes(shape.bytes).into(),
        grouped(shape.its_pages).into(),
        bytes(shape.bytes_in_full).into(),
        match shape.ids == devices {
            true => ids.into(),
            false => Cell::toned(ids, Tone::Bad),
        },
    ]
}

/// What to set.
pub fn setting(report: &ItsReport) -> String {
    match (report.levels, &report.reservation) {
        (None, _) => "none".to_owned(),
        (Some(_), Some(parameter)) => parameter.clone(),
        (Some(2), None) => "two levels, no reservation".to_owned(),
        (Some(_), None) => "flat, no reservation".to_owned(),
    }
}

/// The arithmetic in one sentence.
pub fn why(report: &ItsReport, flat_reservation: &str) -> String {
    let flat = format!(
        "{} IDs x {} B = {}",
        grouped(report.devices),
        report.entry_bytes,
        bytes(report.devices.saturating_mul(report.entry_bytes))
    );
    let run = bytes(report.allocator.run_bytes_max);
    match (report.levels, &report.reservation, &report.two_level) {
        (None, _, two) => format!(
            "{flat}; the register can say 256 ITS pages of {}: {} IDs at most",
            bytes(report.its_page_bytes),
            grouped(two.as_ref().map_or(report.flat.ids, |two| two.ids))
        ),
        (Some(2), _, Some(two)) => format!(
            "{flat}, more than the page allocator's {run}; a first level takes {}, and {} more \
             for each page of IDs in use. Flat would take {flat_reservation}",
            bytes(two.bytes),
            bytes(report.its_page_bytes),
        ),
        (Some(_), Some(_), _) => format!(
            "{flat}, more than the page allocator's {run}, from contiguous memory of the ITS's \
             node before there is any device. Linux takes none for it, and keeps {} IDs",
            grouped(report.allocator.ids)
        ),
        (Some(_), None, _) => format!("{flat}, within the page allocator's {run}"),
    }
}
