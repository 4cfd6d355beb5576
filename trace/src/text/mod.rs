//! Trace events as text: tracefs, `trace-cmd report`, `perf script`.

mod body;
mod detect;
mod fields;
mod other;
mod prefix;
mod raw_fields;
#[cfg(test)]
mod tests;
mod two_step;

use std::io::BufRead;

pub(crate) use body::{Vocabulary, mapped};
pub(crate) use detect::{DAT_MAGIC, detect};
pub(crate) use fields::{Expected, decimal};
pub(crate) use other::marker;

use fields::hex;

use crate::error::Malformed;
use crate::input::{Lines, Next};
use crate::{Event, Fidelity, Format, Options, Position, Task, TraceError};
use prefix::Prefix;

/// Events of a text, line by line.
pub(crate) struct TextReader<R> {
    lines: Lines<R>,
    words: Vocabulary,
    perf: bool,
    options: Options,
    index: u64,
}

/// What a line that is no event says.
enum Aside {
    Nothing,
    Lost(Option<u64>),
    Overwritten(u64),
}

impl<R: BufRead> TextReader<R> {
    pub(crate) fn new(source: R, format: Format, options: Options) -> Self {
        Self {
            lines: Lines::new(source, options.line_bytes_max),
            words: Vocabulary::default(),
            perf: format == Format::PerfScript,
            options,
            index: 0,
        }
    }

    pub(crate) fn fidelity(&self) -> Fidelity {
        self.words.fidelity
    }

    /// The next event; `None` at the end.
    pub(crate) fn read(&mut self) -> Result<Option<Event>, TraceError> {
        loop {
            let next = match self.lines.advance() {
                Err(TraceError::Cut { .. }) if self.options.tolerate_truncation => {
                    self.words.fidelity.cut = true;
                    return Ok(None);
                }
                other => other?,
            };
            if next == Next::End {
                return Ok(None);
            }
            match self.event() {
                Ok(Some(event)) => {
                    self.index += 1;
                    self.words.fidelity.events = self.index;
                    return Ok(Some(event));
                }
                Ok(None) => {}
                Err(malformed) => self.malformed(malformed, next)?,
            }
        }
    }

    fn malformed(&mut self, malformed: Malformed, next: Next) -> Result<(), TraceError> {
        if next == Next::Unterminated {
            // Every writer ends its lines: this one was cut.
            if !self.options.tolerate_truncation {
                return Err(TraceError::Cut {
                    after: previous(malformed.position),
                    what: "a line",
                });
            }
            self.words.fidelity.cut = true;
            return Ok(());
        }
        if self.words.fidelity.malformed >= self.options.malformed_max {
            return Err(TraceError::Malformed(malformed));
        }
        self.words.fidelity.malformed += 1;
        Ok(())
    }

    /// The event on the present line, or `None` where it is an aside.
    fn event(&mut self) -> Result<Option<Event>, Malformed> {
        let position = self.lines.position();
        let lossy;
        let line = match std::str::from_utf8(self.lines.line()) {
            Ok(line) => line,
            // A task may call itself anything.
            Err(_) => {
                lossy = String::from_utf8_lossy(self.lines.line());
                &lossy
            }
        };
        let parsed = if self.perf {
            prefix::perf(line)
        } else {
            prefix::ftrace(line)
        };
        let prefix = match parsed {
            Ok(prefix) => prefix,
            Err(expected) => {
                let aside = aside(line, self.perf)
                    .ok_or_else(|| Malformed::new(position, expected, line))?;
                note(&mut self.words.fidelity, &aside);
                return Ok(None);
            }
        };
        event(&prefix, &mut self.words, self.index, position)
            .map(Some)
            .map_err(|expected| Malformed::new(position, expected, prefix.text))
    }
}

fn event(
    prefix: &Prefix<'_>,
    words: &mut Vocabulary,
    index: u64,
    position: Position,
) -> Result<Event, &'static str> {
    let body = body::parse(prefix.event, prefix.text, words)?;
    Ok(Event {
        index,
        position,
        time_ns: prefix.time_ns,
        cpu: prefix.cpu,
        task: Task {
            comm: words.name(prefix.comm),
            pid: prefix.pid,
        },
        context: prefix.context,
        body,
    })
}

fn previous(position: Position) -> Position {
    match position {
        Position::Line(line) => Position::Line(line.saturating_sub(1)),
        Position::Offset(_) | Position::Page { .. } => position,
    }
}

fn note(fidelity: &mut Fidelity, aside: &Aside) {
    match aside {
        Aside::Nothing => {}
        Aside::Lost(Some(events)) => {
            fidelity.lost_marked = fidelity.lost_marked.saturating_add(*events);
        }
        Aside::Lost(None) => fidelity.lost_unnumbered += 1,
        Aside::Overwritten(events) => {
            fidelity.overwritten = fidelity.overwritten.saturating_add(*events);
        }
    }
}

/// Lines that the formats have beside events; `None` for anything else.
fn aside(line: &str, perf: bool) -> Option<Aside> {
    let text = line.trim();
    if let Some(header) = text.strip_prefix('#') {
        let header = header.trim_start();
        let counts = header.strip_prefix("entries-in-buffer/entries-written:");
        return Some(counts.map_or(Aside::Nothing, overwritten));
    }
    if text.is_empty() || text.starts_with("=> ") {
        return Some(Aside::Nothing);
    }
    if text == "[LINE TOO BIG]" {
        // The kernel's own line buffer did not hold the event.
        return Some(Aside::Lost(Some(1)));
    }
    if let Some(rest) = text.strip_prefix("CPU:") {
        let (_, lost) = rest.split_once(" [")?;
        if let Some(lost) = lost.strip_prefix("LOST ") {
            let (count, _) = lost.split_once(" EVENTS]")?;
            return Some(Aside::Lost(decimal(count)));
        }
        let (count, _) = lost.split_once("EVENTS DROPPED]")?;
        return Some(Aside::Lost(decimal(count.trim())));
    }
    if perf {
        if let Some((_, record)) = text.split_once(": PERF_RECORD_") {
            // Its own records, printed on request.
            let lost = record.starts_with("LOST");
            let count = record.rsplit(' ').next().and_then(decimal);
            return Some(if lost {
                Aside::Lost(count)
            } else {
                Aside::Nothing
            });
        }
        // A call chain below its event.
        let address = text.split(' ').next()?;
        let chain = line.starts_with(['\t', ' ']) && address.len() >= 8;
        return (chain && hex(address).is_some()).then_some(Aside::Nothing);
    }
    let known = ["cpus=", "version = ", "trace-cmd: "]
        .iter()
        .any(|start| text.starts_with(start));
    known.then_some(Aside::Nothing)
}

/// ` in-buffer/written   #P:n`.
fn overwritten(counts: &str) -> Aside {
    let pair = counts.split_whitespace().next();
    let lost = pair.and_then(|pair| {
        let (held, written) = pair.split_once('/')?;
        Some(decimal(written)?.saturating_sub(decimal(held)?))
    });
    lost.map_or(Aside::Nothing, Aside::Overwritten)
}
