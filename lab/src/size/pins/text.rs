//! The answer of `size pins` for people at a terminal.

use std::fmt::Write;

use super::report::{MEMLOCK_DEFAULT_BYTES, Owner, PinReport, TracePins, VFIO_ENTRIES_DEFAULT};
use crate::output::{Closing, Look, Table, Tone};
use crate::quantity::{bytes, grouped};

/// Lays the answer out.
pub fn render(report: &PinReport, closing: &Closing, look: Look) -> String {
    let mut text = String::new();
    for trace in &report.traces {
        let kernel = trace.kernel.as_deref();
        let kernel = kernel.map_or(String::new(), |kernel| format!(", Linux {kernel}"));
        let _ = writeln!(
            text,
            "{}{kernel}, {} mappings, {} without an end, {} events lost",
            look.paint(Tone::Strong, &trace.path),
            grouped(trace.mappings),
            grouped(trace.open_at_end),
            grouped(trace.lost),
        );
        for line in sentences(report, trace) {
            text.push_str(&look.item(2, "-", &line));
        }
    }
    for (heading, table) in tables(report) {
        let heading = look.paint(Tone::Strong, heading);
        let _ = write!(text, "\n{heading}\n{}", table.render(look));
    }
    let heading = look.paint(Tone::Strong, "what the trace cannot show");
    let _ = writeln!(text, "\n{heading}");
    for line in &report.not_shown {
        text.push_str(&look.item(2, "-", line));
    }
    text.push('\n');
    text.push_str(&closing.render(look));
    text
}

/// What each trace comes to.
pub fn sentences(report: &PinReport, trace: &TracePins) -> Vec<String> {
    let Owner {
        all, long, migrate, ..
    } = &trace.whole;
    let mut lines = vec![
        format!(
            "{} mappings live {} s or longer and hold {} at most ({} where each mapping is charged \
             for itself)",
            grouped(long.mappings),
            report.longer_than_s,
            bytes(long.peak_bytes),
            bytes(long.peak_each_bytes)
        ),
        format!(
            "devices hold {} at once at most, in {} mappings; the longest lives {:.3} s",
            bytes(all.peak_bytes),
            grouped(all.mappings_at_once),
            all.longest_s
        ),
    ];
    if trace.knows_areas {
        lines.push(format!(
            "{} of the long ones begin in a contiguous area: {} are moved out before they are \
             pinned",
            grouped(migrate.out_of_areas_mappings),
            bytes(migrate.out_of_areas_bytes)
        ));
    }
    lines.push(format!(
        "moving instead of pinning: {} copied to empty all that is held long, {} with short \
         mappings too",
        bytes(migrate.all_once_bytes),
        bytes(migrate.under_devices_bytes)
    ));
    if all.mappings_at_once > VFIO_ENTRIES_DEFAULT {
        lines.push(format!(
            "more than the {} mappings of a VFIO container (vfio_iommu_type1.dma_entry_limit)",
            grouped(VFIO_ENTRIES_DEFAULT)
        ));
    }
    lines
}

/// The most that any trace needs.
fn limit(report: &PinReport) -> (u64, u64) {
    let traces = report.traces.iter();
    traces.fold((0, 0), |(once, each), trace| {
        let whole = &trace.whole;
        (
            once.max(whole.limit_bytes),
            each.max(whole.limit_each_bytes),
        )
    })
}

/// What to set.
pub fn setting(report: &PinReport) -> String {
    match limit(report).1 {
        each if each <= MEMLOCK_DEFAULT_BYTES => format!(
            "the default limit of {} suffices",
            bytes(MEMLOCK_DEFAULT_BYTES)
        ),
        each => format!("ulimit -l {} (KiB of locked memory)", each.div_ceil(1024)),
    }
}

/// One sentence.
pub fn verdict(report: &PinReport) -> String {
    let (once, each) = limit(report);
    if each == 0 {
        return format!(
            "No mapping lives {} s: nothing here is pinned for long.",
            report.longer_than_s
        );
    }
    let than = if each > MEMLOCK_DEFAULT_BYTES {
        "more than"
    } else {
        "within"
    };
    format!(
        "Mappings of {} s or longer hold {} at most, {} with each charged for itself: {than} the \
         default limit of {}.",
        report.longer_than_s,
        bytes(once),
        bytes(each),
        bytes(MEMLOCK_DEFAULT_BYTES)
    )
}

/// The tables, the same here and on the page.
pub fn tables(report: &PinReport) -> Vec<(&'static str, Table)> {
    let mut limits = Table::new(&[
        "owner",
        "mappings",
        "long",
        "longest s",
        "limit, frames once",
        "each mapping",
        "out of areas",
        "under it",
    ]);
    for trace in &report.traces {
        for owner in trace.owners.iter().chain([&trace.whole]) {
            // Machines name their devices alike.
            let name = if report.traces.len() > 1 {
                format!("{} {}", trace.path, owner.name)
            } else {
                owner.name.clone()
            };
            limits.row(vec![
                name.into(),
                grouped(owner.all.mappings).into(),
                grouped(owner.long.mappings).into(),
                format!("{:.3}", owner.all.longest_s).into(),
                bytes(owner.limit_bytes).into(),
                bytes(owner.limit_each_bytes).into(),
                bytes(owner.migrate.out_of_areas_bytes).into(),
                bytes(owner.migrate.under_devices_bytes).into(),
            ]);
        }
    }
    vec![("limits by owner", limits)]
}
