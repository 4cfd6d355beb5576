//! The qtest protocol: one line a command, one line an answer.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// The longest that QEMU may take for one answer.
pub(crate) const ANSWER_MAX: Duration = Duration::from_secs(20);

/// Writes in flight before their answers are read: enough to hide the round trip, few enough that
/// the answers fit the socket's buffer.
const POSTED_MAX: usize = 256;

/// Why a command got no good answer.
#[derive(Debug)]
pub(crate) enum Trouble {
    Io(io::Error),
    Closed,
    Refused(String),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// A connection on which writes are posted: their answers are read before the next read.
pub(crate) struct Qtest {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
    out: Vec<u8>,
    posted: usize,
    line: String,
}

impl Qtest {
    pub(crate) fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        stream.set_write_timeout(Some(ANSWER_MAX))?;
        let writer = stream.try_clone()?;
        let reader = BufReader::new(stream);
        Ok(Self {
            reader,
            writer,
            out: Vec::new(),
            posted: 0,
            line: String::new(),
        })
    }

    /// Reads `width` (`b`, `w`, `l`, `q`) at a physical address, after all posted writes.
    pub(crate) fn read(&mut self, width: char, address: u64) -> Result<u64, Trouble> {
        self.send(format_args!("read{width} {address:#x}\n"))?;
        self.flush()?;
        self.collect()?;
        let answer = self.answer()?;
        let number = answer.trim_start_matches("0x");
        u64::from_str_radix(number, 16).map_err(|_| Trouble::Refused(answer.to_owned()))
    }

    /// Writes `width` at a physical address. It takes effect before anything later; that it did is
    /// known after the next read.
    pub(crate) fn write(&mut self, width: char, address: u64, value: u64) -> Result<(), Trouble> {
        self.send(format_args!("write{width} {address:#x} {value:#x}\n"))?;
        self.posted += 1;
        if self.posted >= POSTED_MAX {
            self.flush()?;
            self.collect()?;
        }
        Ok(())
    }

    /// Sends what was posted, without waiting for answers.
    pub(crate) fn flush(&mut self) -> Result<(), Trouble> {
        if !self.out.is_empty() {
            self.writer.write_all(&self.out)?;
            self.out.clear();
        }
        Ok(())
    }

    /// Sends one command and waits for its answer.
    pub(crate) fn command(&mut self, command: &str) -> Result<String, Trouble> {
        self.send(format_args!("{command}\n"))?;
        self.flush()?;
        self.collect()?;
        self.answer().map(str::to_owned)
    }

    fn send(&mut self, command: std::fmt::Arguments<'_>) -> Result<(), Trouble> {
        Ok(self.out.write_fmt(command)?)
    }

    /// Reads the answers of all posted writes.
    fn collect(&mut self) -> Result<(), Trouble> {
        while self.posted > 0 {
            self.posted -= 1;
            self.answer()?;
        }
        Ok(())
    }

    /// The next answer's text after `OK`. Lines about interrupts come in between.
    fn answer(&mut self) -> Result<&str, Trouble> {
        loop {
            self.line.clear();
            if self.reader.read_line(&mut self.line)? == 0 {
                return Err(Trouble::Closed);
            }
            if !self.line.starts_with("IRQ") {
                break;
            }
        }
        match self.line.trim_end().strip_prefix("OK") {
            Some(rest) => Ok(rest.trim_start()),
            None => Err(Trouble::Refused(self.line.trim_end().to_owned())),
        }
    }
}
