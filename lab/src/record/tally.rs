//! Which events a stream of trace text holds, counted as it passes.

use std::collections::BTreeMap;

/// The longest line that is looked at; of longer ones, scatterlists, the rest passes by.
const LINE_MAX: usize = 512;

/// Counts by event name.
#[derive(Debug, Default)]
pub struct Tally {
    /// Events, by name.
    pub events: BTreeMap<String, u64>,
    /// Events that the stream says were lost where it was read too late.
    pub lost: u64,
    /// Phases that the command marked.
    pub phases: u64,
    line: Vec<u8>,
}

impl Tally {
    /// The next bytes of the stream.
    pub fn note(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while let Some(at) = rest.iter().position(|byte| *byte == b'\n') {
            self.keep(&rest[..at]);
            let line = std::mem::take(&mut self.line);
            self.count(&String::from_utf8_lossy(&line));
            rest = &rest[at + 1..];
        }
        self.keep(rest);
    }

    /// All events together.
    pub fn total(&self) -> u64 {
        self.events.values().sum()
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = LINE_MAX.saturating_sub(self.line.len());
        self.line.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn count(&mut self, line: &str) {
        if let Some(lost) = lost(line) {
            self.lost += lost;
        } else if let Some((name, text)) = event(line) {
            let own = format!("PHASE_BEGIN {}", super::stream::PHASE);
            if text.starts_with("PHASE_BEGIN ") && text != own {
                self.phases += 1;
            }
            *self.events.entry(name.to_owned()).or_default() += 1;
        }
    }
}

/// `CPU:1 [LOST 1234 EVENTS]`.
fn lost(line: &str) -> Option<u64> {
    let rest = line.strip_prefix("CPU:")?;
    let (_, rest) = rest.split_once("[LOST ")?;
    rest.split_once(" EVENTS")?.0.trim().parse().ok()
}

/// The event's name, which follows the time, and its text. A task's name may hold colons, but none
/// of them follows a time.
fn event(line: &str) -> Option<(&str, &str)> {
    let mut from = 0;
    while let Some(colon) = line[from..].find(": ") {
        let at = from + colon;
        let word = line[..at].rsplit(' ').next().unwrap_or("");
        let is_time = word.contains('.')
            && word
                .bytes()
                .all(|byte| byte.is_ascii_digit() || byte == b'.');
        if is_time {
            let (name, text) = line[at + 2..].split_once(':')?;
            return Some((name, text.trim()));
        }
        from = at + 2;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = "\
    kworker/u8:1-31      [001] .N...     6.964866: swiotlb_bounced: dev_name: 0000:00:01.0 dma_mask=ffffffffffffffff dev_addr=3792000 size=4096 FORCE
CPU:1 [LOST 1234 EVENTS]
 a: 1.5b: c-7        [000] .....     7.000000: tracing_mark_write: PHASE_BEGIN read
              sh-153 [001] .....     7.100000: tracing_mark_write: PHASE_BEGIN recording
";

    #[test]
    fn events_are_counted_however_the_stream_is_cut() {
        for cut in [1, 7, 64, 4096] {
            let mut tally = Tally::default();
            LINES.as_bytes().chunks(cut).for_each(|b| tally.note(b));
            assert_eq!(tally.events["swiotlb_bounced"], 1, "{cut}");
            assert_eq!(tally.events["tracing_mark_write"], 2, "{cut}");
            assert_eq!((tally.lost, tally.phases), (1234, 1), "{cut}");
        }
    }
}
