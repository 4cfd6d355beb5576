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
mod traced;

use std::io::{self, BufRead};

use dmakit_trace::log;

use crate::args::Format;
use crate::exit::Outcome;
use crate::input::Source;
use crate::output::{Show, envelope};
use evidence::Evidence;
use report::Report;

/// How a `trace.dat` begins.
const TRACE_DAT: &[u8] = b"\x17\x08\x44tracing";

/// Reads the source and answers.
///
/// # Errors
/// Input that cannot be read, is empty or is no text.
pub fn command(
    source: &Source,
    format: Option<Format>,
    show: Show,
) -> anyhow::Result<(Vec<u8>, Outcome)> {
    let name = source.name();
    let mut input = log::unpacked(source.open()?).map_err(|error| unreadable(&name, &error))?;
    let start = input
        .fill_buf()
        .map_err(|error| unreadable(&name, &error))?;
    if start.is_empty() {
        anyhow::bail!("{name}: empty, expected a kernel log, a debugfs snapshot or a trace");
    }
    let format = format.unwrap_or_else(|| sniff(start));
    let evidence = match format {
        Format::Trace => {
            traced::evidence(input).map_err(|error| anyhow::anyhow!("{name}: {error}"))?
        }
        Format::Log | Format::Debugfs => {
            Evidence::read(input).map_err(|error| refused(&name, &error))?
        }
    };
    let (findings, notices) = rules::conclude(&evidence);
    let report = Report::new(source, format_name(format), &evidence, findings, notices);
    let closing = report.closing(source);
    let answer = match show {
        Show::Json => envelope("diagnose", &report, &closing)?,
        Show::Text(look) => report.render(look, &closing).into_bytes(),
    };
    Ok((answer, Outcome::Answered))
}

/// Where and why a log is refused.
fn refused(name: &str, error: &log::Error) -> anyhow::Error {
    if let log::Error::Io(error) = error {
        return unreadable(name, error);
    }
    // The message begins with the line, which stands behind the name here.
    let text = error.to_string();
    let reason = text
        .split_once(": ")
        .map_or(text.as_str(), |(_, reason)| reason);
    anyhow::anyhow!("{name}:{}: {reason}", error.line().unwrap_or(0))
}

/// One plain sentence of what a decompressor or the system says.
fn unreadable(name: &str, error: &io::Error) -> anyhow::Error {
    let text = error.to_string();
    if error.kind() == io::ErrorKind::UnexpectedEof || text.contains("UnexpectedEof") {
        return anyhow::anyhow!("{name}: cut short, expected a whole gzip or zstd file");
    }
    anyhow::anyhow!("{name}: cannot read: {text}")
}

/// Tells the formats apart by what only they contain.
fn sniff(start: &[u8]) -> Format {
    let text = String::from_utf8_lossy(start);
    if start.starts_with(TRACE_DAT) {
        return Format::Trace;
    }
    let is_trace = |line: &str| {
        line.starts_with("# tracer:")
            || line.contains("swiotlb_bounced: dev_name:")
            || line.contains("cma_alloc_finish: name=")
            || (line.contains("dma_map_") && line.contains(" dir="))
    };
    let is_counter = |line: &str| {
        (line.contains("io_tlb_") || line.contains("/debug/cma/")) && !line.contains(' ')
    };
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
