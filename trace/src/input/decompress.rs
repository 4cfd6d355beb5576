//! Plain, gzip and zstd, recognised by their first bytes.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// What a trace was packed in.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Compression {
    /// Nothing.
    Plain,
    /// gzip, one member or several.
    Gzip,
    /// zstd, one frame or several.
    Zstd,
}

impl Compression {
    /// What the first bytes of a file say; four decide.
    pub fn detect(head: &[u8]) -> Self {
        match head {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            // A frame to be skipped, as parallel compressors write first.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::Plain,
        }
    }

    /// The usual word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }
}

/// The bytes inside, whatever they were packed in.
///
/// An archive that ends early gives [`io::ErrorKind::UnexpectedEof`], a damaged one
/// [`io::ErrorKind::InvalidData`]; every byte before that has been given out.
pub(crate) enum Decompress<R: BufRead> {
    Plain(R),
    Gzip(MultiGzDecoder<NoteEnd<R>>),
    Zstd(Box<ZstdFrames<R>>),
}

impl<R: BufRead> Decompress<R> {
    pub(crate) fn new(mut source: R) -> io::Result<(Self, Compression)> {
        let compression = Compression::detect(fill(&mut source)?);
        let source = match compression {
            Compression::Plain => Self::Plain(source),
            Compression::Gzip => Self::Gzip(MultiGzDecoder::new(NoteEnd::new(source))),
            Compression::Zstd => Self::Zstd(Box::new(ZstdFrames::new(source))),
        };
        Ok((source, compression))
    }
}

/// What stands in the buffer, filled if it was empty, an interrupted read tried again.
pub(crate) fn fill<R: BufRead>(source: &mut R) -> io::Result<&[u8]> {
    loop {
        match source.fill_buf() {
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    source.fill_buf()
}

impl<R: BufRead> Read for Decompress<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(source) => source.read(out),
            Self::Gzip(decoder) => decoder.read(out).map_err(|error| {
                let at_end = decoder.get_ref().at_end;
                archive_error(at_end, error)
            }),
            Self::Zstd(frames) => frames.read(out),
        }
    }
}

fn archive_error(
    at_end: bool,
    error: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> io::Error {
    let kind = if at_end {
        io::ErrorKind::UnexpectedEof
    } else {
        io::ErrorKind::InvalidData
    };
    io::Error::new(kind, error)
}

/// Remembers that a reader wanted more than there was: what tells a cut archive from a damaged one.
pub(crate) struct NoteEnd<R> {
    source: R,
    at_end: bool,
}

impl<R> NoteEnd<R> {
    fn new(source: R) -> Self {
        Self {
            source,
            at_end: false,
        }
    }
}

impl<R: Read> Read for NoteEnd<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(out)?;
        self.at_end |= read == 0 && !out.is_empty();
        Ok(read)
    }
}

impl<R: BufRead> BufRead for NoteEnd<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let buffer = self.source.fill_buf()?;
        self.at_end |= buffer.is_empty();
        Ok(buffer)
    }

    fn consume(&mut self, amount: usize) {
        self.source.consume(amount);
    }
}

/// zstd frame after frame. Windows above 100 MiB are refused by the decoder.
pub(crate) struct ZstdFrames<R: BufRead> {
    source: NoteEnd<R>,
    // Kept from frame to frame for its buffers.
    decoder: FrameDecoder,
    inside: bool,
}

impl<R: BufRead> ZstdFrames<R> {
    fn new(source: R) -> Self {
        Self {
            source: NoteEnd::new(source),
            decoder: FrameDecoder::new(),
            inside: false,
        }
    }

    /// Opens the next frame, skipping those that say so; false at the end of the input.
    fn open(&mut self) -> io::Result<bool> {
        loop {
            if fill(&mut self.source)?.is_empty() {
                return Ok(false);
            }
            match self.decoder.init(&mut self.source) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let length = u64::from(length);
                    let mut frame = self.source.by_ref().take(length);
                    if io::copy(&mut frame, &mut io::sink())? < length {
                        return Err(archive_error(true, "a skipped frame is incomplete"));
                    }
                }
                Err(error) => return Err(archive_error(self.source.at_end, error)),
            }
        }
    }

    fn check_sum(&self) -> io::Result<()> {
        let stored = self.decoder.get_checksum_from_data();
        if stored.is_some() && stored != self.decoder.get_calculated_checksum() {
            return Err(archive_error(false, "checksum mismatch"));
        }
        Ok(())
    }
}

impl<R: BufRead> Read for ZstdFrames<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        loop {
            if !self.inside && !self.open()? {
                return Ok(0);
            }
            self.inside = true;
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                let wanted = BlockDecodingStrategy::UptoBytes(out.len());
                if let Err(error) = self.decoder.decode_blocks(&mut self.source, wanted) {
                    return Err(archive_error(self.source.at_end, error));
                }
            }
            let read = self.decoder.read(out)?;
            if read > 0 {
                return Ok(read);
            }
            self.check_sum()?;
            self.inside = false;
        }
    }
}

/// How much is read at once.
pub(crate) const BUFFER_BYTES: usize = 1 << 17;

/// The decompressed bytes of `source`, buffered.
pub(crate) type Unpacked = BufReader<Decompress<BufReader<Box<dyn Read + Send>>>>;

pub(crate) fn unpack(source: Box<dyn Read + Send>) -> io::Result<(Unpacked, Compression)> {
    let (inner, compression) = Decompress::new(BufReader::with_capacity(BUFFER_BYTES, source))?;
    Ok((BufReader::with_capacity(BUFFER_BYTES, inner), compression))
}
