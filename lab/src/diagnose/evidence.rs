//! Everything recognised in an input, in order.

use std::collections::VecDeque;
use std::io::BufRead;

use dmakit_trace::log::{self, Line, Prefix, Reader};

use super::event::Event;
use super::recognise::Table;

/// A wrapped message is put together from at most so many lines.
const JOINED_LINES: usize = 3;

/// More recognised lines than this are counted only, so that a log of any
/// length is read in bounded memory.
const SEEN_MAX: usize = 20_000;

/// One recognised line.
#[derive(Clone, Debug)]
pub struct Seen {
    pub line: u64,
    /// Since boot, where the line says it.
    pub seconds: Option<f64>,
    pub text: String,
    pub device: Option<String>,
    pub event: Event,
}

/// What was read.
#[derive(Debug, Default)]
pub struct Evidence {
    pub seen: Vec<Seen>,
    pub lines: u64,
    pub bytes: u64,
    /// Recognised, but past the number kept.
    pub surplus: u64,
}

impl Evidence {
    /// Reads a whole log.
    ///
    /// # Errors
    /// What [`Reader`] refuses.
    pub fn read<R: BufRead>(input: R) -> Result<Self, log::Error> {
        let table = Table::new();
        let mut evidence = Self::default();
        let mut reader = Reader::new(input);
        let mut window: VecDeque<Line> = VecDeque::with_capacity(JOINED_LINES);
        loop {
            while window.len() < JOINED_LINES {
                match reader.next() {
                    Some(line) => window.push_back(line?),
                    None => break,
                }
            }
            let Some(first) = window.front() else { break };
            evidence.lines = first.number;
            evidence.examine(&table, &window);
            window.pop_front();
        }
        evidence.bytes = reader.bytes();
        Ok(evidence)
    }

    fn examine(&mut self, table: &Table, window: &VecDeque<Line>) {
        let Some(first) = window.front() else { return };
        let interesting = table.may_match(&first.text)
            || window.get(1).is_some_and(|next| {
                // The words a recogniser looks for may be broken in two.
                let (last, first) = (last_words(&first.text), first_words(&next.text));
                match last.strip_suffix('=') {
                    Some(last) => table.may_match(&format!("{last}{first}")),
                    None => table.may_match(&format!("{last} {first}")),
                }
            });
        if !interesting {
            return;
        }
        let (prefix, message) = log::split(&first.text);
        let joined = joined(&prefix, message, window);
        // A mail may have encoded the line and broken it anywhere.
        let text = decoded(message, window).unwrap_or(joined);
        let found = table.recognise(&text, message.len());
        let Some((event, device)) = found else {
            return;
        };
        self.keep(Seen {
            line: first.number,
            seconds: prefix.seconds,
            text: message.to_owned(),
            device,
            event,
        });
    }

    /// Keeps a recognised line, if there is still room.
    fn keep(&mut self, seen: Seen) {
        if self.seen.len() < SEEN_MAX {
            self.seen.push(seen);
        } else {
            self.surplus += 1;
        }
    }

    /// Keeps what another reader recognised.
    pub fn keep_all(&mut self, seen: impl IntoIterator<Item = Seen>) {
        for seen in seen {
            self.keep(seen);
        }
    }

    /// Puts the events into the order of their lines, which the look-ups
    /// around a line need.
    pub fn sort(&mut self) {
        self.seen.sort_by_key(|seen| seen.line);
    }

    /// All events of one kind, as `pick` sees them.
    pub fn all<'a, T>(&'a self, pick: impl Fn(&'a Event) -> Option<T> + 'a) -> Vec<(&'a Seen, T)> {
        self.seen
            .iter()
            .filter_map(|seen| pick(&seen.event).map(|value| (seen, value)))
            .collect()
    }

    /// The first event of one kind.
    pub fn first<'a, T>(
        &'a self,
        pick: impl Fn(&'a Event) -> Option<T> + 'a,
    ) -> Option<(&'a Seen, T)> {
        self.seen
            .iter()
            .find_map(|seen| pick(&seen.event).map(|value| (seen, value)))
    }

    /// The events on the lines after the one at `seen`, up to `lines` later.
    pub fn after(&self, seen: &Seen, lines: u64) -> &[Seen] {
        self.between(seen.line.saturating_add(1), seen.line.saturating_add(lines))
    }

    /// The events on the lines around the one at `seen`, itself included.
    pub fn around(&self, seen: &Seen, before: u64, after: u64) -> &[Seen] {
        self.between(
            seen.line.saturating_sub(before),
            seen.line.saturating_add(after),
        )
    }

    /// O(log n): events are in the order of their lines.
    fn between(&self, first: u64, last: u64) -> &[Seen] {
        let from = self.seen.partition_point(|s| s.line < first);
        let to = self.seen.partition_point(|s| s.line <= last);
        self.seen.get(from..to).unwrap_or_default()
    }
}

/// The message and the lines that may continue it: those without a prefix of
/// their own.
fn joined(prefix: &Prefix, message: &str, window: &VecDeque<Line>) -> String {
    let mut text = message.to_owned();
    for next in window.iter().skip(1) {
        let (own, rest) = log::split(&next.text);
        if own.is_present || rest.is_empty() {
            break;
        }
        // Indented and aligned dumps are lines of their own.
        if prefix.is_present && rest.starts_with("------") {
            break;
        }
        text.push(' ');
        text.push_str(rest);
    }
    text
}

/// The message as it was before a mail program made it quoted-printable: `=`
/// at a line's end continues it, `=3D` is `=`, `=20` and `=C2=A0` are blanks.
/// None if it does not look so.
fn decoded(message: &str, window: &VecDeque<Line>) -> Option<String> {
    if !message.ends_with('=')
        && !message.contains("=3D")
        && !message.ends_with("=20")
        && !message.contains("=C2=A0")
    {
        return None;
    }
    let mut text = String::new();
    let mut rest = message;
    let mut next = window.iter().skip(1);
    loop {
        let (piece, is_continued) = match rest.strip_suffix('=') {
            Some(piece) => (piece, true),
            None => (rest, rest.ends_with("=20")),
        };
        text.push_str(piece);
        match next.next() {
            Some(line) if is_continued => rest = &line.text,
            _ => break,
        }
    }
    let plain = text
        .replace("=C2=A0", " ")
        .replace("=20", " ")
        .replace("=3D", "=");
    Some(plain)
}

fn last_words(text: &str) -> &str {
    let from = text.len().saturating_sub(60);
    let from = (from..text.len()).find(|at| text.is_char_boundary(*at));
    from.and_then(|at| text.get(at..)).unwrap_or_default()
}

fn first_words(text: &str) -> &str {
    let (_, rest) = log::split(text);
    let to = (0..=rest.len().min(60))
        .rev()
        .find(|at| rest.is_char_boundary(*at));
    to.and_then(|at| rest.get(..at)).unwrap_or_default()
}
