//! What stands before an event's text: who, where, when, in which context.

use super::fields::{Expected, decimal};
use crate::{Context, Level};

/// The parts of a line, not yet interpreted.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Prefix<'a> {
    pub(crate) comm: &'a str,
    pub(crate) pid: u32,
    pub(crate) cpu: u32,
    pub(crate) context: Option<Context>,
    pub(crate) time_ns: u64,
    pub(crate) event: &'a str,
    pub(crate) text: &'a str,
}

const TASK: Expected = "task-pid [cpu] flags time: event";
const PERF_TASK: Expected = "task pid [cpu] time: event";

/// A line of tracefs' `trace` or `trace_pipe`, or of `trace-cmd report`:
/// `comm-pid [(tgid)] [cpu] [flags] seconds.fraction: event: text`.
pub(crate) fn ftrace(line: &str) -> Result<Prefix<'_>, Expected> {
    let (task, cpu, rest) = split_cpu(line).ok_or(TASK)?;
    // A thread group id stands in parentheses after the pid where the option is set.
    let task = match task.strip_suffix(')') {
        Some(grouped) => grouped.rsplit_once('(').ok_or(TASK)?.0.trim_end(),
        None => task,
    };
    // The name may hold '-' itself: the last one parts it from the pid.
    let (comm, pid) = task.rsplit_once('-').ok_or(TASK)?;
    let pid = pid.parse().map_err(|_| TASK)?;
    let (first, after) = split_space(rest).ok_or(TASK)?;
    let (context, time, after) = if first.ends_with(':') {
        (None, first, after)
    } else {
        let context = context(first).ok_or("context flags such as d..1.")?;
        let (time, after) = split_space(after).ok_or(TASK)?;
        (Some(context), time, after)
    };
    let (event, text) = event(after)?;
    Ok(Prefix {
        comm: comm.trim_start(),
        pid,
        cpu,
        context,
        time_ns: time_ns(time)?,
        event,
        text,
    })
}

/// A line of `perf script`: `comm pid[/tid] [cpu] seconds.fraction: [period] system:event: text`.
pub(crate) fn perf(line: &str) -> Result<Prefix<'_>, Expected> {
    let (task, cpu, rest) = split_cpu(line).ok_or(PERF_TASK)?;
    let (comm, ids) = task.rsplit_once(' ').ok_or(PERF_TASK)?;
    let tid = ids.rsplit_once('/').map_or(ids, |(_, tid)| tid);
    let (time, after) = split_space(rest).ok_or(PERF_TASK)?;
    // A period stands before the event where it was asked for.
    let after = match split_space(after) {
        Some((period, event)) if decimal(period).is_some() => event,
        _ => after,
    };
    let (event, text) = event(after)?;
    Ok(Prefix {
        comm: comm.trim(),
        pid: tid.parse().map_err(|_| PERF_TASK)?,
        cpu,
        context: None,
        time_ns: time_ns(time)?,
        event,
        text,
    })
}

/// Splits at ` [digits]` behind a number. A task's name may hold a bracket too, but not this.
fn split_cpu(line: &str) -> Option<(&str, u32, &str)> {
    let mut from = 0;
    while let Some(at) = line[from..].find(" [") {
        let open = from + at;
        let inside = &line[open + 2..];
        if let Some((digits, rest)) = inside.split_once(']') {
            if let Some(cpu) = decimal(digits).and_then(|cpu| u32::try_from(cpu).ok()) {
                let task = line[..open].trim_end();
                if task.ends_with(|c: char| c.is_ascii_digit() || c == ')') {
                    return Some((task, cpu, rest));
                }
            }
        }
        from = open + 2;
    }
    None
}

fn split_space(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_start_matches(' ');
    let end = text.find(' ')?;
    Some(text.split_at(end))
}

/// `seconds.fraction:`, or a count where the clock counts.
fn time_ns(text: &str) -> Result<u64, Expected> {
    const EXPECTED: Expected = "seconds.fraction: before the event";
    let text = text.strip_suffix(':').ok_or(EXPECTED)?;
    let Some((seconds, fraction)) = text.split_once('.') else {
        return decimal(text).ok_or(EXPECTED);
    };
    if fraction.len() > 9 {
        return Err(EXPECTED);
    }
    let digits = u32::try_from(fraction.len()).map_err(|_| EXPECTED)?;
    let fraction = decimal(fraction).ok_or(EXPECTED)? * 10u64.pow(9 - digits);
    decimal(seconds)
        .and_then(|seconds| seconds.checked_mul(1_000_000_000))
        .and_then(|ns| ns.checked_add(fraction))
        .ok_or(EXPECTED)
}

/// `event: text` or `system:event: text`.
fn event(text: &str) -> Result<(&str, &str), Expected> {
    const EXPECTED: Expected = "an event's name and a colon";
    let text = text.trim_start_matches(' ');
    let end = match text.find(": ") {
        Some(end) => end,
        // Nothing but the name.
        None => text.trim_end().strip_suffix(':').ok_or(EXPECTED)?.len(),
    };
    let (name, rest) = text.split_at(end);
    let name = name.rsplit_once(':').map_or(name, |(_, event)| event);
    if name.is_empty() || name.contains(' ') {
        return Err(EXPECTED);
    }
    Ok((name, rest[1..].trim_start_matches(' ')))
}

/// The four to six flag characters: interrupts, rescheduling, interrupt level, preemption and
/// migration depth, delay.
fn context(flags: &str) -> Option<Context> {
    let flags = flags.as_bytes();
    if !(4..=6).contains(&flags.len()) {
        return None;
    }
    let (irqs_off, bh_off) = match flags[0] {
        b'.' | b'X' => (false, false),
        b'd' => (true, false),
        b'b' => (false, true),
        b'D' => (true, true),
        _ => return None,
    };
    let level = match flags[2] {
        b'.' => Level::Task,
        b's' => Level::SoftIrq,
        b'h' | b'H' => Level::HardIrq,
        b'z' | b'Z' => Level::Nmi,
        _ => return None,
    };
    Some(Context {
        level,
        irqs_off,
        bh_off,
        preempt_depth: depth(flags[3])?,
        migrate_depth: match flags.get(4) {
            Some(&flag) => depth(flag)?,
            None => 0,
        },
    })
}

fn depth(flag: u8) -> Option<u8> {
    match flag {
        b'.' => Some(0),
        b'0'..=b'9' => Some(flag - b'0'),
        b'a'..=b'f' => Some(flag - b'a' + 10),
        _ => None,
    }
}
