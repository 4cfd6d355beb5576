//! Why a trace could not be read.

use std::fmt;
use std::io;

/// Where in its input something stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Position {
    /// A line of text, counted from 1.
    Line(u64),
    /// A part of a binary trace: its byte offset in the (decompressed) file.
    Offset(u64),
    /// An event of a binary trace: its byte offset in the decompressed pages of one CPU.
    Page {
        /// The CPU.
        cpu: u32,
        /// The offset.
        offset: u64,
    },
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(line) => write!(f, "line {line}"),
            Self::Offset(offset) => write!(f, "byte offset {offset:#x}"),
            Self::Page { cpu, offset } => write!(f, "byte offset {offset:#x} of CPU {cpu}"),
        }
    }
}

/// One record that is not what it should be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Malformed {
    /// Where it stands.
    pub position: Position,
    /// What was expected there.
    pub expected: &'static str,
    /// What stood there instead, shortened and with control characters replaced.
    pub found: Box<str>,
}

impl Malformed {
    pub(crate) fn new(position: Position, expected: &'static str, found: &str) -> Self {
        Self {
            position,
            expected,
            found: excerpt(found),
        }
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            position,
            expected,
            found,
        } = self;
        write!(f, "{position}: expected {expected}, found \"{found}\"")
    }
}

/// Why a trace could not be read. Each prints as one line: what, where, and what was expected.
#[derive(Debug)]
#[non_exhaustive]
pub enum TraceError {
    /// There are no bytes.
    Empty,
    /// No format that is known; with the beginning of what was found.
    Unrecognised {
        /// The first bytes, made printable.
        found: Box<str>,
    },
    /// A format that is known, but holds no trace events.
    NotATrace {
        /// What it is.
        found: &'static str,
    },
    /// More malformed records than the options tolerate; this is the first one beyond.
    Malformed(Malformed),
    /// A line longer than the options allow.
    LineTooLong {
        /// The line, counted from 1.
        line: u64,
        /// The most bytes that a line may have.
        limit_bytes: usize,
    },
    /// The input ends inside a record or inside its archive.
    Cut {
        /// Where the last whole record ended.
        after: Position,
        /// What is incomplete.
        what: &'static str,
    },
    /// The archive around the trace is damaged.
    Archive {
        /// Where the last whole record ended.
        after: Position,
        /// What the decompressor says.
        reason: Box<str>,
    },
    /// A binary trace that must be held in memory (it came compressed or through a pipe) is larger
    /// than the options allow.
    TooLarge {
        /// The most bytes that may be held.
        limit_bytes: u64,
    },
    /// Something that the format allows and this reader does not do.
    Unsupported {
        /// What it is.
        what: Box<str>,
    },
    /// The operating system refused.
    Io(io::Error),
}

impl fmt::Display for TraceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "the input is empty; expected a trace"),
            Self::Unrecognised { found } => write!(
                f,
                "unrecognised format at line 1: expected ftrace text, trace.dat or perf script \
                 output, found \"{found}\""
            ),
            Self::NotATrace { found } => write!(
                f,
                "the input is {found}; expected ftrace text, trace.dat or perf script output"
            ),
            Self::Malformed(malformed) => malformed.fmt(f),
            Self::LineTooLong { line, limit_bytes } => {
                write!(
                    f,
                    "line {line}: expected at most {limit_bytes} bytes in a line"
                )
            }
            Self::Cut { after, what } => write!(
                f,
                "the input ends inside {what} after {after}; expected it whole"
            ),
            Self::Archive { after, reason } => {
                write!(f, "the archive is damaged after {after}: {reason}")
            }
            Self::TooLarge { limit_bytes } => write!(
                f,
                "a compressed or piped trace.dat is held in memory, at most {limit_bytes} bytes: \
                 decompress it to a file first"
            ),
            Self::Unsupported { what } => write!(f, "not supported: {what}"),
            Self::Io(_) => f.write_str("cannot read"),
        }
    }
}

impl std::error::Error for TraceError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}

/// At most 60 characters of `text`, on one line, printable.
pub(crate) fn excerpt(text: &str) -> Box<str> {
    const CHARACTERS: usize = 60;
    let mut out: String = text
        .chars()
        .take(CHARACTERS)
        .map(|c| if c.is_control() { '.' } else { c })
        .collect();
    if text.chars().nth(CHARACTERS).is_some() {
        out.push('…');
    }
    out.into_boxed_str()
}
