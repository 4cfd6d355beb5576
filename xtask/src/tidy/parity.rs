//! The parity list: no row gets lost, and each state is one that readers know.

use super::finding::{Finding, Report};
use super::tree::SourceFile;

pub(super) const PATH: &str = "docs/parity.md";

/// Rows per section, in the order of the page. A new row raises its number here.
pub(super) const ROWS: &[usize] = &[27, 27, 17, 27, 8, 13, 14, 19, 8, 18, 11];

const COLUMNS: usize = 5;
const STATES: &[&str] = &["works", "in progress", "not yet", "makes no sense here"];
const EVIDENCE: &[&str] = &["—", "model", "sim", "QEMU", "kernel"];

/// Checks the page by its sections (`## `) and their tables.
pub(super) fn check(file: &SourceFile, rows: &[usize], findings: &mut Vec<Finding>) {
    let mut report = Report::new(findings, &file.path, "parity");
    let mut counts: Vec<usize> = Vec::new();
    // Head and ruler of a table come before its rows.
    let mut to_skip = 0;
    for (index, line) in file.text.lines().enumerate() {
        if line.starts_with("## ") {
            counts.push(0);
            to_skip = 2;
        } else if line.starts_with('|') && to_skip > 0 {
            to_skip -= 1;
        } else if line.starts_with('|') {
            if let Some(count) = counts.last_mut() {
                *count += 1;
                if let Err(message) = check_row(line) {
                    report.error(index + 1, message);
                }
            }
        }
    }
    counts.retain(|count| *count > 0);
    if counts != rows {
        report.error(
            0,
            format!("rows per section are {counts:?}, they were {rows:?}"),
        );
    }
}

fn check_row(line: &str) -> Result<(), String> {
    let cells: Vec<&str> = line
        .trim()
        .trim_matches('|')
        .split('|')
        .map(str::trim)
        .collect();
    if cells.len() != COLUMNS {
        return Err(format!("{} cells, not {COLUMNS}", cells.len()));
    }
    let (state, evidence, note) = (cells[2], cells[3], cells[4]);
    if !STATES.contains(&state) {
        return Err(format!(
            "`{state}` is no state; there are {}",
            STATES.join(", ")
        ));
    }
    if let Some(unknown) = evidence.split(", ").find(|one| !EVIDENCE.contains(one)) {
        return Err(format!(
            "`{unknown}` is no evidence; there are {}",
            EVIDENCE.join(", ")
        ));
    }
    if state == "works" && evidence == "—" {
        return Err("what works has evidence".to_owned());
    }
    if state == "makes no sense here" && note.is_empty() {
        return Err("what makes no sense here says why".to_owned());
    }
    Ok(())
}
