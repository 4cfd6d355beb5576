//! Why a mapping or allocation failed, from what the machine printed.
//!
//! Lines become typed evidence (`recognise`), evidence becomes findings
//! (`rules`), findings are ranked and shown (`report`).

mod cause;
mod event;
mod evidence;
mod finding;
mod recognise;
mod report;
mod rules;
#[cfg(test)]
mod tests;

use std::io::{BufRead, BufReader};

use anyhow::Context;

use crate::args::Format;
use crate::exit::Outcome;
use crate::input::Source;
use crate::output::{Show, envelope};
use evidence::Evidence;
use report::Report;

/// Reads the source and answers.
///
/// # Errors
/// Input that cannot be read, is empty or is no text.
pub fn command(
    source: &Source,
    format: Option<Format>,
    show: Show,
) -> anyhow::Result<(Vec<u8>, Outcome)> {
    let mut input = BufReader::new(source.open()?);
    let name = source.name();
    let start = input
        .fill_buf()
        .with_context(|| format!("{name}: cannot read"))?;
    if start.is_empty() {
        anyhow::bail!("{name}: empty, expected a kernel log, a debugfs snapshot or a trace");
    }
    let format = format.unwrap_or_else(|| sniff(start));
    let evidence = Evidence::read(input).map_err(|error| match error.line() {
        Some(line) => anyhow::anyhow!("{name}:{line}: {}", reason(&error)),
        None => anyhow::Error::new(error).context(format!("{name}: cannot read")),
    })?;
    let (findings, notices) = rules::conclude(&evidence);
    let report = Report::new(source, format_name(format), &evidence, findings, notices);
    let closing = report.closing(source);
    let answer = match show {
        Show::Json => envelope("diagnose", &report, &closing)?,
        Show::Text(look) => report.render(look, &closing).into_bytes(),
    };
    Ok((answer, Outcome::Answered))
}

/// The message without the line number that is said before it.
fn reason(error: &dmakit_trace::log::Error) -> String {
    let text = error.to_string();
    text.split_once(": ")
        .map_or(text.clone(), |(_, rest)| rest.to_owned())
}

/// Tells the formats apart by what only they contain.
fn sniff(start: &[u8]) -> Format {
    let text = String::from_utf8_lossy(start);
    let is_trace = |line: &str| {
        line.starts_with("# tracer:")
            || ((line.contains(" dma_map_")
                || line.contains(" swiotlb_bounced:")
                || line.contains(" cma_alloc_"))
                && line.contains("] "))
    };
    let is_counter = |line: &str| line.contains("io_tlb_") && !line.contains(' ');
    if text.lines().take(200).any(is_trace) {
        Format::Trace
    } else if text.lines().take(50).any(is_counter) {
        Format::Debugfs
    } else {
        Format::Log
    }
}

fn format_name(format: Format) -> &'static str {
    match format {
        Format::Log => "kernel log",
        Format::Debugfs => "debugfs snapshot",
        Format::Trace => "trace",
    }
}
