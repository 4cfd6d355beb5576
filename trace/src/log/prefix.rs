//! What stands before a message.

use std::sync::OnceLock;

use regex_lite::Regex;

/// What the prefix of a line said.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prefix {
    /// Syslog level 0 (emergency) to 7 (debug).
    pub level: Option<u8>,
    /// Seconds since boot, where the line has them.
    pub seconds: Option<f64>,
    /// Whether anything stood before the message. A line without a prefix in
    /// a log with prefixes continues the line before it.
    pub is_present: bool,
}

/// Longer stacks of prefixes do not occur; this bounds the work per line.
const PREFIXES_MAX: usize = 8;

/// Prefixes by shape, each anchored at the start. `level` and `seconds` are
/// read where they are captured.
const SHAPES: &[&str] = &[
    // <4> and <12>
    r"^\s*<(?P<level>\d{1,3})>",
    // kern  :warn  :
    r"^\s*(?:kern|user|daemon)\s*:(?P<word>[a-z]+)\s*: ?",
    // [   12.345678] [  +0.000012] [12.345678,4]
    r"^\s*\[\s*\+?(?P<seconds>\d+\.\d{1,9})(?:,\d+)?\] ?",
    // [ T1947] [    C0] [T123@cpu1]
    r"^\s*\[\s*[TC]\d+(?:@\S+)?\] ?",
    // [2:   Binder:714_1:  744] [0:      swapper/0:    1]
    r"^\s*\[\s*\d+:\s*[^\]\[]{1,32}:\s*\d+\] ?",
    // [Tue Jul 29 14:38:52 2025] [Jul29 14:38]
    r"^\s*\[(?:[^\W\d]{2,5}\.? )?[^\W\d]{3,5}\.? ?\d{1,2} \d\d:\d\d(?::\d\d(?:\.\d+)?)?(?: \d{4})?\] ?",
    // [2025-07-29 14:38:52.123] [14:38:52.123]
    r"^\s*\[(?:\d{4}-\d\d-\d\d[T ])?\d\d:\d\d:\d\d(?:[.,]\d+)?\S{0,6}\] ?",
    // 2025-07-29T14:38:52.123456+02:00 host kernel:
    r"^\s*\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)? ?(?:[^\s:\[]+ kernel(?:\[\d+\])?: ?)?",
    // juil. 29 14:38:52 host kernel: in any locale, and 29 Jul 14:38:52
    r"^\s*(?:[^\s\d:\[\]]{2,12} {1,2}\d{1,2}|\d{1,2} [^\s\d:]{2,12})(?: \d{4})? \d\d:\d\d:\d\d(?:[.,]\d+)? (?:[^\s:\[]+ )?(?:kernel(?:\[\d+\])?: ?)?",
    // 07-29 14:38:52.000     0     0 W (logcat)
    r"^\s*\d\d-\d\d \d\d:\d\d:\d\d\.\d+ +\d+ +\d+ [VDIWEF] ",
    // 14:38:52.123
    r"^\s*\d\d:\d\d:\d\d(?:[.,]\d+)? ",
    // host kernel: and kernel:
    r"^\s*(?:[\w.-]+ )?kernel(?:\[\d+\])?: ",
    // 74626.583369:
    r"^\s*(?P<seconds>\d{1,9}\.\d{6}): ",
];

fn shapes() -> &'static [Regex] {
    static COMPILED: OnceLock<Vec<Regex>> = OnceLock::new();
    // A pattern that does not compile is left out; the tests compile all.
    COMPILED.get_or_init(|| SHAPES.iter().filter_map(|s| Regex::new(s).ok()).collect())
}

/// Splits a cleaned line into its prefix and its message. Never fails: a line
/// of no known shape is all message.
pub fn split(text: &str) -> (Prefix, &str) {
    let mut prefix = Prefix::default();
    let mut rest = text;
    for _ in 0..PREFIXES_MAX {
        let Some(found) = shapes().iter().find_map(|shape| shape.captures(rest)) else {
            break;
        };
        let end = found.get(0).map_or(0, |whole| whole.end());
        if end == 0 {
            break;
        }
        prefix.is_present = true;
        if let Some(level) = found
            .name("level")
            .and_then(|m| m.as_str().parse::<u16>().ok())
        {
            prefix.level = Some((level % 8) as u8);
        }
        if let Some(word) = found.name("word") {
            prefix.level = level_word(word.as_str());
        }
        if let Some(seconds) = found.name("seconds") {
            prefix.seconds = seconds.as_str().parse().ok();
        }
        rest = rest.get(end..).unwrap_or_default();
    }
    (prefix, rest.trim_start())
}

fn level_word(word: &str) -> Option<u8> {
    let words = [
        "emerg", "alert", "crit", "err", "warn", "notice", "info", "debug",
    ];
    words
        .iter()
        .position(|w| *w == word)
        .and_then(|at| u8::try_from(at).ok())
}

#[cfg(test)]
pub(super) fn shape_errors() -> Vec<String> {
    SHAPES
        .iter()
        .filter_map(|s| Regex::new(s).err().map(|e| format!("{s}: {e}")))
        .collect()
}
