//! What a caller may choose about reading.

use std::fmt;
use std::fs::File;
use std::path::Path;

use crate::reader::sniff;
use crate::text::detect;
use crate::{Compression, TraceError};

/// A format that carries trace events, or is known not to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Format {
    /// tracefs' `trace`, with its header.
    Trace,
    /// tracefs' `trace_pipe`, or `trace` without its header.
    TracePipe,
    /// `trace-cmd report`.
    TraceCmdReport,
    /// `trace.dat`, version 6 or 7.
    TraceDat,
    /// `perf script`.
    PerfScript,
    /// A kernel log: no trace, but worth telling from noise.
    KernelLog,
}

impl Format {
    /// Every format, in the order of their words.
    pub const ALL: [Self; 6] = [
        Self::Trace,
        Self::TracePipe,
        Self::TraceCmdReport,
        Self::TraceDat,
        Self::PerfScript,
        Self::KernelLog,
    ];

    /// The word that a command line uses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::TracePipe => "trace_pipe",
            Self::TraceCmdReport => "trace-cmd-report",
            Self::TraceDat => "trace.dat",
            Self::PerfScript => "perf-script",
            Self::KernelLog => "kernel-log",
        }
    }

    /// Which format the first bytes of decompressed content (a few KiB) are.
    ///
    /// # Errors
    /// [`TraceError::Empty`], [`TraceError::NotATrace`] for `perf.data`, and
    /// [`TraceError::Unrecognised`].
    pub fn detect(head: &[u8]) -> Result<Self, TraceError> {
        detect(head)
    }

    /// The format and packing of a file, from its beginning alone.
    ///
    /// # Errors
    /// As [`Format::detect`], and where the file or its archive cannot be read.
    pub fn of_file(path: &Path) -> Result<(Self, Compression), TraceError> {
        let file = File::open(path).map_err(TraceError::Io)?;
        let (source, compression) = sniff(file)?;
        Ok((source.format()?, compression))
    }

    /// The format of this word.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How to read.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The format, where the content must not decide.
    pub format: Option<Format>,
    /// Whether an input or archive that ends early is read as far as it goes (and marked in
    /// [`Fidelity::cut`](crate::Fidelity::cut)) instead of being an error.
    pub tolerate_truncation: bool,
    /// How many malformed records are skipped and counted before one is an error.
    pub malformed_max: u64,
    /// The most bytes that a line may have.
    pub line_bytes_max: usize,
    /// The most bytes of a compressed or piped `trace.dat` that are held in memory.
    pub image_bytes_max: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            format: None,
            tolerate_truncation: false,
            malformed_max: 0,
            line_bytes_max: 1 << 20,
            image_bytes_max: 1 << 30,
        }
    }
}
