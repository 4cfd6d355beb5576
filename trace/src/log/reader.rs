//! Lines of a log, cleaned, one at a time.

use std::io::{self, BufRead};

/// Longest line read. A printk record is at most a few KiB and journald joins
/// at most 48 KiB, so more is not a kernel log.
pub const LINE_BYTES_MAX: usize = 64 * 1024;

/// One line without escape codes, mail quotes and line end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Counted from 1.
    pub number: u64,
    /// The line, cleaned.
    pub text: String,
}

/// Why reading stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The input could not be read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Too large a share of the bytes read so far cannot stand in text.
    #[error("line {line}: binary data ({odd} of {bytes} bytes are no text), expected log text")]
    Binary {
        /// Where the share was passed.
        line: u64,
        /// Bytes that are no text.
        odd: u64,
        /// All bytes read.
        bytes: u64,
    },
    /// A line longer than [`LINE_BYTES_MAX`].
    #[error("line {line}: longer than {LINE_BYTES_MAX} bytes, expected log text")]
    LongLine {
        /// The line.
        line: u64,
    },
}

impl Error {
    /// The line at which reading stopped, if the input is to blame.
    pub fn line(&self) -> Option<u64> {
        match self {
            Self::Io(_) => None,
            Self::Binary { line, .. } | Self::LongLine { line } => Some(*line),
        }
    }
}

/// Streams the lines of a log in memory bounded by [`LINE_BYTES_MAX`].
///
/// A serial console may garble some bytes: they become U+FFFD. Input of which
/// more than an eighth is garbled is refused as binary. After an error the
/// iterator is finished.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    number: u64,
    bytes: u64,
    odd: u64,
    finished: bool,
}

impl<R: BufRead> Reader<R> {
    /// Reads from the input's present position.
    pub fn new(input: R) -> Self {
        Self {
            input,
            number: 0,
            bytes: 0,
            odd: 0,
            finished: false,
        }
    }

    /// Bytes read so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read(&mut self) -> Result<Option<Line>, Error> {
        let mut raw = Vec::new();
        let more = read_line(&mut self.input, &mut raw)?;
        self.number += 1;
        if raw.len() > LINE_BYTES_MAX {
            return Err(Error::LongLine { line: self.number });
        }
        if raw.is_empty() && !more {
            self.judge(1)?;
            return Ok(None);
        }
        let (text, odd) = clean(&raw);
        self.bytes += raw.len() as u64 + u64::from(more);
        self.odd += odd;
        self.judge(64)?;
        Ok(Some(Line {
            number: self.number,
            text,
        }))
    }

    fn judge(&self, least: u64) -> Result<(), Error> {
        if self.odd >= least && self.odd.saturating_mul(8) > self.bytes {
            return Err(Error::Binary {
                line: self.number,
                odd: self.odd,
                bytes: self.bytes,
            });
        }
        Ok(())
    }
}

impl<R: BufRead> Iterator for Reader<R> {
    type Item = Result<Line, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.finished {
            return None;
        }
        let item = self.read().transpose();
        self.finished = !matches!(item, Some(Ok(_)));
        item
    }
}

/// Reads up to a newline, which is not kept, or one byte past the longest
/// line. Says whether a newline was met.
fn read_line<R: BufRead>(input: &mut R, raw: &mut Vec<u8>) -> io::Result<bool> {
    loop {
        let buffer = match input.fill_buf() {
            Ok(buffer) => buffer,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        if buffer.is_empty() {
            return Ok(false);
        }
        let room = LINE_BYTES_MAX + 1 - raw.len();
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let taken = end.unwrap_or(buffer.len()).min(room);
        raw.extend_from_slice(buffer.get(..taken).unwrap_or_default());
        if raw.len() > LINE_BYTES_MAX {
            return Ok(false);
        }
        input.consume(end.map_or(taken, |end| end + 1));
        if end.is_some() {
            return Ok(true);
        }
    }
}

/// Removes what a console adds, and counts bytes that are no text.
fn clean(raw: &[u8]) -> (String, u64) {
    let decoded = String::from_utf8_lossy(raw);
    let mut text = String::with_capacity(decoded.len());
    let mut odd = 0;
    let mut letters = decoded.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '\u{1b}' => skip_escape(&mut letters),
            '\t' | '\u{a0}' => text.push(' '),
            '\r' => {}
            '\u{feff}' | '\u{7}' => {}
            // Overstrike: the console rubbed the letter out.
            '\u{8}' => {
                text.pop();
            }
            '\u{fffd}' => {
                odd += 1;
                text.push(letter);
            }
            _ if letter.is_control() => {
                odd += 1;
                text.push('\u{fffd}');
            }
            _ => text.push(letter),
        }
    }
    let start = quoted_by(&text);
    text.drain(..start);
    text.truncate(text.trim_end().len());
    (text, odd)
}

/// Skips a CSI or OSC sequence, or a two-letter escape.
fn skip_escape(letters: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    match letters.next() {
        Some('[') => {
            for letter in letters.by_ref() {
                if ('@'..='~').contains(&letter) {
                    break;
                }
            }
        }
        Some(']') => {
            while let Some(letter) = letters.next() {
                if letter == '\u{7}' {
                    break;
                }
                if letter == '\u{1b}' {
                    letters.next();
                    break;
                }
            }
        }
        _ => {}
    }
}

/// Bytes of mail quotation (`> >> `) before the text.
fn quoted_by(text: &str) -> usize {
    let mut end = 0;
    for (at, letter) in text.char_indices() {
        match letter {
            '>' => end = at + 1,
            ' ' => {}
            _ => break,
        }
    }
    // A line that only begins with blanks keeps them.
    if end > 0 && text[end..].starts_with(' ') {
        end += 1;
    }
    end
}
