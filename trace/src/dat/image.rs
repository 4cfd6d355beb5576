//! The bytes of a `trace.dat`: a file, or a bounded copy in memory.

use std::fs::File;
use std::io::{self, Cursor, Read, Seek, SeekFrom};

use crate::{Position, TraceError};

/// A file, or what a pipe or an archive gave.
pub(crate) enum Image {
    File { file: File, len: u64 },
    Memory(Cursor<Vec<u8>>),
}

impl Image {
    pub(crate) fn of_file(mut file: File) -> io::Result<Self> {
        let len = file.seek(SeekFrom::End(0))?;
        Ok(Self::File { file, len })
    }

    pub(crate) fn of_bytes(bytes: Vec<u8>) -> Self {
        Self::Memory(Cursor::new(bytes))
    }

    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::File { len, .. } => *len,
            Self::Memory(bytes) => bytes.get_ref().len() as u64,
        }
    }

    /// The `len` bytes at `offset`.
    ///
    /// # Errors
    /// [`TraceError::Cut`] where the file ends before them: nothing is allocated then, whatever a
    /// damaged length says.
    pub(crate) fn read(
        &mut self,
        offset: u64,
        len: u64,
        what: &'static str,
    ) -> Result<Vec<u8>, TraceError> {
        let cut = TraceError::Cut {
            after: Position::Offset(offset.min(self.len())),
            what,
        };
        let Some(size) = usize::try_from(len).ok() else {
            return Err(cut);
        };
        if offset.checked_add(len).is_none_or(|end| end > self.len()) {
            return Err(cut);
        }
        let mut bytes = vec![0; size];
        let read = match self {
            Self::File { file, .. } => file
                .seek(SeekFrom::Start(offset))
                .and_then(|_| file.read_exact(&mut bytes)),
            Self::Memory(memory) => {
                memory.set_position(offset);
                memory.read_exact(&mut bytes)
            }
        };
        match read {
            Ok(()) => Ok(bytes),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(cut),
            Err(error) => Err(TraceError::Io(error)),
        }
    }
}

/// The byte order of the traced machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Endian {
    Little,
    Big,
}

impl Endian {
    /// The number that up to eight bytes make.
    pub(crate) fn number(self, bytes: &[u8]) -> u64 {
        let join = |number: u64, &byte: &u8| number << 8 | u64::from(byte);
        match self {
            Self::Little => bytes.iter().rev().fold(0, join),
            Self::Big => bytes.iter().fold(0, join),
        }
    }

    /// The number at `offset`, or `None` where the bytes end.
    pub(crate) fn at(self, bytes: &[u8], offset: usize, width: usize) -> Option<u64> {
        let end = offset.checked_add(width)?;
        bytes.get(offset..end).map(|bytes| self.number(bytes))
    }
}

/// Part of the header, read from left to right.
pub(crate) struct Parts<'a> {
    bytes: &'a [u8],
    used: usize,
    endian: Endian,
    /// Where the part stands in the file, for errors.
    at: u64,
    what: &'static str,
}

impl<'a> Parts<'a> {
    pub(crate) fn new(bytes: &'a [u8], endian: Endian, at: u64, what: &'static str) -> Self {
        Self {
            bytes,
            used: 0,
            endian,
            at,
            what,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.used == self.bytes.len()
    }

    pub(crate) fn left(&self) -> usize {
        self.bytes.len() - self.used
    }

    pub(crate) fn used(&self) -> usize {
        self.used
    }

    fn short(&self) -> TraceError {
        TraceError::Cut {
            after: Position::Offset(self.at),
            what: self.what,
        }
    }

    pub(crate) fn take(&mut self, len: u64) -> Result<&'a [u8], TraceError> {
        let end = usize::try_from(len)
            .ok()
            .and_then(|len| self.used.checked_add(len));
        let taken = end.and_then(|end| self.bytes.get(self.used..end));
        let taken = taken.ok_or_else(|| self.short())?;
        self.used += taken.len();
        Ok(taken)
    }

    pub(crate) fn number(&mut self, width: u64) -> Result<u64, TraceError> {
        let endian = self.endian;
        self.take(width).map(|bytes| endian.number(bytes))
    }

    pub(crate) fn small(&mut self) -> Result<u32, TraceError> {
        // Four bytes always fit.
        self.number(4).map(|n| (n & u64::from(u32::MAX)) as u32)
    }

    /// A string up to its zero byte.
    pub(crate) fn string(&mut self) -> Result<&'a str, TraceError> {
        let rest = &self.bytes[self.used..];
        let end = rest.iter().position(|&byte| byte == 0);
        let text = end.and_then(|end| std::str::from_utf8(&rest[..end]).ok());
        let text = text.ok_or_else(|| self.short())?;
        self.used += text.len() + 1;
        Ok(text)
    }
}
