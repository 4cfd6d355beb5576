//! The way in: any trace, as events in order.

use std::fs::File;
use std::io::{self, BufRead, Cursor, Read};
use std::path::Path;

use crate::dat::{DatReader, Image};
use crate::input::{Compression, Unpacked, fill, input_error, unpack};
use crate::pairing::{Ops, PairOptions};
use crate::text::{DAT_MAGIC, TextReader, detect};
use crate::{Event, Fidelity, Format, Options, Position, TraceError};

/// A trace being read: an iterator of events in the order of the trace.
///
/// Memory does not grow with the length of a text; a `trace.dat` needs one page per CPU when it is a
/// plain file, and its whole size (bounded by [`Options::image_bytes_max`]) when it comes compressed
/// or through a pipe. After an error the iterator ends.
pub struct Trace {
    format: Format,
    compression: Compression,
    reader: Reader,
    failed: bool,
    /// Whether the archive around a binary trace was cut.
    cut: bool,
}

enum Reader {
    Text(Box<TextReader<Sniffed>>),
    Dat(Box<DatReader>),
}

impl Trace {
    /// Opens a file.
    ///
    /// # Errors
    /// [`TraceError`], also where the content is recognised as something that is no trace.
    pub fn open(path: &Path, options: Options) -> Result<Self, TraceError> {
        let mut file = File::open(path).map_err(TraceError::Io)?;
        let mut head = Vec::new();
        file.by_ref()
            .take(DAT_MAGIC.len() as u64)
            .read_to_end(&mut head)
            .map_err(TraceError::Io)?;
        let chosen = options.format.unwrap_or(Format::TraceDat);
        if chosen == Format::TraceDat && head == DAT_MAGIC {
            // A plain file is read where it lies.
            let image = Image::of_file(file).map_err(TraceError::Io)?;
            return Self::from_image(image, Compression::Plain, options);
        }
        Self::from_reader(Cursor::new(head).chain(file), options)
    }

    fn from_image(
        image: Image,
        compression: Compression,
        options: Options,
    ) -> Result<Self, TraceError> {
        Ok(Self {
            format: Format::TraceDat,
            compression,
            reader: Reader::Dat(Box::new(DatReader::new(image, options)?)),
            failed: false,
            cut: false,
        })
    }

    /// Reads bytes in memory.
    ///
    /// # Errors
    /// As [`Trace::open`].
    pub fn from_bytes(bytes: Vec<u8>, options: Options) -> Result<Self, TraceError> {
        Self::from_reader(Cursor::new(bytes), options)
    }

    /// Reads a stream.
    ///
    /// # Errors
    /// As [`Trace::open`].
    pub fn from_reader(
        source: impl Read + Send + 'static,
        options: Options,
    ) -> Result<Self, TraceError> {
        let (sniffed, compression) = sniff(source)?;
        if sniffed.head.is_empty() {
            return Err(sniffed.error.map_or(TraceError::Empty, at_start));
        }
        let format = match options.format {
            Some(format) => format,
            None => sniffed.format()?,
        };
        let reader = match format {
            Format::KernelLog => {
                return Err(TraceError::NotATrace {
                    found: "a kernel log",
                });
            }
            Format::TraceDat => {
                let (bytes, cut) = sniffed.into_bytes(options)?;
                let mut trace = Self::from_image(Image::of_bytes(bytes), compression, options)?;
                trace.cut = cut;
                return Ok(trace);
            }
            _ => Reader::Text(Box::new(TextReader::new(sniffed, format, options))),
        };
        Ok(Self {
            format,
            compression,
            reader,
            failed: false,
            cut: false,
        })
    }

    /// The format, recognised or given.
    pub fn format(&self) -> Format {
        self.format
    }

    /// What the trace was packed in.
    pub fn compression(&self) -> Compression {
        self.compression
    }

    /// The operations behind the events, with the usual [`PairOptions`].
    pub fn ops(self) -> Ops<Self> {
        Ops::new(self, PairOptions::default())
    }

    /// What is known to be missing so far; complete once the iterator has ended.
    pub fn fidelity(&self) -> Fidelity {
        let mut fidelity = match &self.reader {
            Reader::Text(reader) => reader.fidelity(),
            Reader::Dat(reader) => reader.fidelity(),
        };
        fidelity.cut |= self.cut;
        fidelity
    }
}

impl Iterator for Trace {
    type Item = Result<Event, TraceError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let read = match &mut self.reader {
            Reader::Text(reader) => reader.read(),
            Reader::Dat(reader) => reader.read(),
        };
        self.failed = !matches!(read, Ok(Some(_)));
        read.transpose()
    }
}

fn at_start(error: io::Error) -> TraceError {
    input_error(error, Position::Line(0))
}

/// Decompresses a stream and looks at its beginning.
pub(crate) fn sniff(
    source: impl Read + Send + 'static,
) -> Result<(Sniffed, Compression), TraceError> {
    let (source, compression) = unpack(Box::new(source)).map_err(at_start)?;
    Ok((Sniffed::new(source), compression))
}

/// A stream whose beginning has been looked at.
pub(crate) struct Sniffed {
    head: Vec<u8>,
    used: usize,
    // What ended the look, given out again where it belongs.
    error: Option<io::Error>,
    failed: bool,
    rest: Unpacked,
}

impl Sniffed {
    const HEAD_BYTES: usize = 16 << 10;

    pub(crate) fn format(&self) -> Result<Format, TraceError> {
        detect(&self.head)
    }

    fn new(mut rest: Unpacked) -> Self {
        let mut head = Vec::new();
        let mut error = None;
        while head.len() < Self::HEAD_BYTES {
            match fill(&mut rest) {
                Ok([]) => break,
                Ok(bytes) => {
                    let taken = bytes.len();
                    head.extend_from_slice(bytes);
                    rest.consume(taken);
                }
                Err(failed) => {
                    error = Some(failed);
                    break;
                }
            }
        }
        Self {
            head,
            used: 0,
            error,
            failed: false,
            rest,
        }
    }
}

impl Sniffed {
    /// Everything, within the options' bound, and whether the archive was cut, where tolerated.
    fn into_bytes(self, options: Options) -> Result<(Vec<u8>, bool), TraceError> {
        let limit_bytes = options.image_bytes_max;
        let mut bytes = Vec::new();
        let mut cut = false;
        let read = self
            .take(limit_bytes.saturating_add(1))
            .read_to_end(&mut bytes);
        if let Err(error) = read {
            cut = error.kind() == io::ErrorKind::UnexpectedEof;
            if !(cut && options.tolerate_truncation) {
                return Err(input_error(error, Position::Offset(bytes.len() as u64)));
            }
        }
        if bytes.len() as u64 > limit_bytes {
            return Err(TraceError::TooLarge { limit_bytes });
        }
        Ok((bytes, cut))
    }
}

impl Read for Sniffed {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let taken = available.len().min(out.len());
        out[..taken].copy_from_slice(&available[..taken]);
        self.consume(taken);
        Ok(taken)
    }
}

impl BufRead for Sniffed {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.used < self.head.len() {
            return Ok(&self.head[self.used..]);
        }
        if let Some(error) = self.error.take() {
            self.failed = true;
            return Err(error);
        }
        if self.failed {
            return Ok(&[]);
        }
        self.rest.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        if self.used < self.head.len() {
            self.used += amount;
        } else if !self.failed {
            self.rest.consume(amount);
        }
    }
}
