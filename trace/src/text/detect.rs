//! Which format the first bytes are.

use super::prefix;
use crate::error::excerpt;
use crate::{Format, TraceError};

/// How a `trace.dat` begins.
pub(crate) const DAT_MAGIC: &[u8] = b"\x17\x08\x44tracing";

/// See [`Format::detect`].
pub(crate) fn detect(head: &[u8]) -> Result<Format, TraceError> {
    if head.is_empty() {
        return Err(TraceError::Empty);
    }
    if head.starts_with(DAT_MAGIC) {
        return Ok(Format::TraceDat);
    }
    if head.starts_with(b"PERFILE2") {
        return Err(TraceError::NotATrace {
            found: "a perf.data file (perf script makes text of it)",
        });
    }
    let text = String::from_utf8_lossy(head);
    let mut lines = text.lines().filter(|line| !line.trim().is_empty());
    let first = lines.clone().next().unwrap_or("");
    if first.starts_with("# tracer:") {
        return Ok(Format::Trace);
    }
    if first.starts_with("cpus=") || first.starts_with("version = ") {
        return Ok(Format::TraceCmdReport);
    }
    lines
        .find_map(line_format)
        .ok_or_else(|| TraceError::Unrecognised {
            found: excerpt(first),
        })
}

fn line_format(line: &str) -> Option<Format> {
    if let Ok(prefix) = prefix::ftrace(line) {
        // tracefs always prints the flags.
        return Some(match prefix.context {
            Some(_) => Format::TracePipe,
            None => Format::TraceCmdReport,
        });
    }
    if prefix::perf(line).is_ok() {
        return Some(Format::PerfScript);
    }
    is_kernel_log(line).then_some(Format::KernelLog)
}

/// `[   12.345678] …`, with or without a level or a syslog prefix, or `[Mon Jan …] …`.
fn is_kernel_log(line: &str) -> bool {
    if line.contains(" kernel: ") {
        return true;
    }
    let line = match line.strip_prefix('<') {
        Some(level) => level.split_once('>').map_or("", |(_, rest)| rest),
        None => line,
    };
    let Some((stamp, _)) = line.strip_prefix('[').and_then(|r| r.split_once(']')) else {
        return false;
    };
    let stamp = stamp.trim();
    let seconds = stamp.split_once('.').is_some_and(|(s, f)| {
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        digits(s) && digits(f)
    });
    let weekday = ["Mon ", "Tue ", "Wed ", "Thu ", "Fri ", "Sat ", "Sun "];
    seconds || weekday.iter().any(|day| stamp.starts_with(day))
}
