//! Lines of bounded length.

use std::io::{self, BufRead};

use super::fill;
use crate::{Position, TraceError};

/// Lines of a stream, one buffer for all: memory is bounded by the longest line allowed.
pub(crate) struct Lines<R> {
    source: R,
    line: Vec<u8>,
    number: u64,
    limit_bytes: usize,
}

/// What came after the previous line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Next {
    /// A line that ended with a line feed.
    Line,
    /// The last line, without one.
    Unterminated,
    /// Nothing.
    End,
}

impl<R: BufRead> Lines<R> {
    pub(crate) fn new(source: R, limit_bytes: usize) -> Self {
        Self {
            source,
            line: Vec::new(),
            number: 0,
            limit_bytes,
        }
    }

    /// The line read last, without its end.
    pub(crate) fn line(&self) -> &[u8] {
        &self.line
    }

    /// Where it stands.
    pub(crate) fn position(&self) -> Position {
        Position::Line(self.number)
    }

    /// Reads the next line.
    pub(crate) fn advance(&mut self) -> Result<Next, TraceError> {
        self.line.clear();
        loop {
            let available = match fill(&mut self.source) {
                Ok(available) => available,
                Err(error) => return Err(self.input_error(error)),
            };
            if available.is_empty() {
                if self.line.is_empty() {
                    return Ok(Next::End);
                }
                self.number += 1;
                return Ok(Next::Unterminated);
            }
            let (part, used, whole) = match memchr(available) {
                Some(at) => (&available[..at], at + 1, true),
                None => (available, available.len(), false),
            };
            if self.line.len() + part.len() > self.limit_bytes {
                return Err(TraceError::LineTooLong {
                    line: self.number + 1,
                    limit_bytes: self.limit_bytes,
                });
            }
            self.line.extend_from_slice(part);
            self.source.consume(used);
            if whole {
                self.number += 1;
                if self.line.last() == Some(&b'\r') {
                    self.line.pop();
                }
                return Ok(Next::Line);
            }
        }
    }

    fn input_error(&self, error: io::Error) -> TraceError {
        input_error(error, self.position())
    }
}

/// An error of the input below as one of the trace, with where reading stood.
pub(crate) fn input_error(error: io::Error, after: Position) -> TraceError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => TraceError::Cut {
            after,
            what: "its archive",
        },
        io::ErrorKind::InvalidData => TraceError::Archive {
            after,
            reason: crate::error::excerpt(&error.to_string()),
        },
        _ => TraceError::Io(error),
    }
}

/// The first line feed.
fn memchr(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|&b| b == b'\n')
}
