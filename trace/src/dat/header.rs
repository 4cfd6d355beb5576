//! The parts of a `trace.dat` before and around its events, versions 6 and 7.
//!
//! Both begin with magic, version, byte order, width of a long and page size. Version 6 goes on with
//! its parts one after the other; version 7 names a codec and points to a chain of option sections,
//! whose options point to the parts, each of which may be compressed.

use std::collections::HashMap;

use super::format::{self, Formats};
use super::image::{Endian, Image, Parts};
use super::unpack::{Codec, decompress};
use crate::error::excerpt;
use crate::text::DAT_MAGIC;
use crate::{Fidelity, Malformed, Position, TraceError};

/// Everything that events need to be read.
pub(crate) struct Header {
    pub(crate) endian: Endian,
    pub(crate) long_bytes: usize,
    pub(crate) page_bytes: usize,
    pub(crate) codec: Codec,
    pub(crate) formats: Formats,
    pub(crate) comms: HashMap<u32, Box<str>>,
    pub(crate) cpus: Vec<CpuData>,
    pub(crate) lost: Fidelity,
}

/// Where one CPU's pages are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct CpuData {
    pub(crate) cpu: u32,
    pub(crate) offset: u64,
    pub(crate) size: u64,
    pub(crate) is_compressed: bool,
}

/// Most CPUs that a trace is believed to have.
const CPUS_MAX: u32 = 1 << 16;
/// Option sections of version 7 form a chain; a longer one is a loop.
const OPTION_SECTIONS_MAX: u32 = 1 << 10;
/// The largest page (sub-buffer) of a ring buffer.
const PAGE_BYTES_MAX: u32 = 1 << 24;

mod option {
    pub(super) const DONE: u64 = 0;
    pub(super) const CPU_STATISTICS: u64 = 2;
    pub(super) const BUFFER: u64 = 3;
    pub(super) const EVENT_PAGES: u64 = 16;
    pub(super) const FTRACE_EVENTS: u64 = 17;
    pub(super) const EVENT_FORMATS: u64 = 18;
    pub(super) const COMMS: u64 = 21;
}

impl Header {
    pub(crate) fn read(image: &mut Image) -> Result<Self, TraceError> {
        const START: &str = "a trace.dat header";
        let head = image.read(0, image.len().min(256), START)?;
        let mut parts = Parts::new(&head, Endian::Little, 0, START);
        if parts.take(DAT_MAGIC.len() as u64).ok() != Some(DAT_MAGIC) {
            return Err(unexpected(0, START, "no magic number"));
        }
        let version = parts.string()?.to_owned();
        let endian = match parts.number(1)? {
            0 => Endian::Little,
            1 => Endian::Big,
            _ => return Err(unexpected(0, "a byte order of 0 or 1", "another")),
        };
        let long_bytes = match parts.number(1)? {
            4 => 4,
            8 => 8,
            _ => return Err(unexpected(0, "longs of 4 or 8 bytes", "others")),
        };
        let mut parts = Parts::new(&head[parts.used()..], endian, 0, START);
        let start = head.len() - parts.left() + 4;
        let page_bytes = page_bytes(parts.small()?)?;
        let mut header = Self {
            endian,
            long_bytes,
            page_bytes,
            codec: Codec::None,
            formats: Formats::new(),
            comms: HashMap::new(),
            cpus: Vec::new(),
            lost: Fidelity::default(),
        };
        match version.as_str() {
            "6" => header.read_version_6(image, start as u64)?,
            "7" => {
                let codec = parts.string()?;
                header.codec = Codec::by_name(codec).ok_or_else(|| TraceError::Unsupported {
                    what: format!("trace.dat compressed with {}", excerpt(codec)).into(),
                })?;
                parts.string()?;
                let options = parts.number(8)?;
                header.read_version_7(image, options)?;
            }
            _ => {
                return Err(TraceError::Unsupported {
                    what: format!("trace.dat version {}", excerpt(&version)).into(),
                });
            }
        }
        if header.formats.is_empty() {
            return Err(unexpected(0, "event formats", "none"));
        }
        Ok(header)
    }

    fn read_version_7(&mut self, image: &mut Image, first: u64) -> Result<(), TraceError> {
        let mut at = first;
        let mut sections = 0;
        while at != 0 {
            sections += 1;
            if sections > OPTION_SECTIONS_MAX {
                return Err(unexpected(at, "an end of the options", "a loop"));
            }
            let options = self.section(image, at, "an options section")?;
            at = self.read_options(image, &options, at)?;
        }
        Ok(())
    }

    /// Takes one section's options; gives where the next section is, 0 at the end.
    fn read_options(
        &mut self,
        image: &mut Image,
        options: &[u8],
        at: u64,
    ) -> Result<u64, TraceError> {
        const OPTION: &str = "an option";
        let endian = self.endian;
        let mut parts = Parts::new(options, endian, at, OPTION);
        while !parts.is_empty() {
            let id = parts.number(2)?;
            let len = parts.number(4)?;
            let data = parts.take(len)?;
            let mut inner = Parts::new(data, endian, at, OPTION);
            match id {
                option::DONE => return inner.number(8),
                option::CPU_STATISTICS => self.read_statistics(data),
                option::BUFFER => self.read_buffer_7(image, &mut inner)?,
                option::EVENT_PAGES => {
                    let at = inner.number(8)?;
                    let pages = self.section(image, at, "a page format")?;
                    self.read_page_format(&mut Parts::new(&pages, endian, at, "a page format"))?;
                }
                option::FTRACE_EVENTS => {
                    let at = inner.number(8)?;
                    let events = self.section(image, at, "event formats")?;
                    let mut events = Parts::new(&events, endian, at, "event formats");
                    self.read_system("ftrace", &mut events)?;
                }
                option::EVENT_FORMATS => {
                    let at = inner.number(8)?;
                    let events = self.section(image, at, "event formats")?;
                    self.read_systems(&mut Parts::new(&events, endian, at, "event formats"))?;
                }
                option::COMMS => {
                    let at = inner.number(8)?;
                    let comms = self.section(image, at, "task names")?;
                    let mut comms = Parts::new(&comms, endian, at, "task names");
                    let len = comms.number(8)?;
                    self.read_comms(comms.take(len)?);
                }
                _ => {}
            }
        }
        Ok(0)
    }

    /// A section's contents, decompressed.
    fn section(
        &self,
        image: &mut Image,
        at: u64,
        what: &'static str,
    ) -> Result<Vec<u8>, TraceError> {
        let (is_compressed, len) = self.section_header(image, at, what)?;
        let data = image.read(at + SECTION_HEADER_BYTES, len, what)?;
        if !is_compressed {
            return Ok(data);
        }
        let mut parts = Parts::new(&data, self.endian, at, what);
        let packed = parts.number(4)?;
        let unpacked = parts.number(4)?;
        decompress(
            self.codec,
            parts.take(packed)?,
            unpacked,
            Position::Offset(at),
        )
    }

    fn section_header(
        &self,
        image: &mut Image,
        at: u64,
        what: &'static str,
    ) -> Result<(bool, u64), TraceError> {
        let head = image.read(at, SECTION_HEADER_BYTES, what)?;
        let mut parts = Parts::new(&head, self.endian, at, what);
        parts.number(2)?;
        let flags = parts.number(2)?;
        parts.number(4)?;
        Ok((flags & 1 != 0, parts.number(8)?))
    }

    /// An instance's buffers. The top one has no name and comes first; others are left out.
    fn read_buffer_7(
        &mut self,
        image: &mut Image,
        parts: &mut Parts<'_>,
    ) -> Result<(), TraceError> {
        const BUFFER: &str = "a buffer's CPUs";
        let at = parts.number(8)?;
        let name = parts.string()?;
        if !self.cpus.is_empty() || !name.is_empty() {
            return Ok(());
        }
        parts.string()?;
        self.page_bytes = page_bytes(parts.small()?)?;
        let count = parts.small()?;
        if count > CPUS_MAX {
            return Err(unexpected(at, "at most 65536 CPUs", "more"));
        }
        let (is_compressed, _) = self.section_header(image, at, BUFFER)?;
        for _ in 0..count {
            self.cpus.push(CpuData {
                cpu: parts.small()?,
                offset: parts.number(8)?,
                size: parts.number(8)?,
                is_compressed,
            });
        }
        Ok(())
    }

    /// The parts of version 6 say their own lengths only, so as much of the file is looked at as
    /// they turn out to need: a file of any size costs its header's memory.
    fn read_version_6(&mut self, image: &mut Image, from: u64) -> Result<(), TraceError> {
        let most = image.len().saturating_sub(from).min(HEADER_BYTES_MAX);
        let mut len = HEADER_BYTES.min(most);
        loop {
            let head = image.read(from, len, "its header")?;
            match self.read_parts(&head, from) {
                Err(TraceError::Cut { .. }) if len < most => {
                    len = len.saturating_mul(4).min(most);
                    self.formats.clear();
                    self.comms.clear();
                    self.cpus.clear();
                    self.lost = Fidelity::default();
                }
                read => return read,
            }
        }
    }

    fn read_parts(&mut self, head: &[u8], from: u64) -> Result<(), TraceError> {
        let endian = self.endian;
        let mut parts = Parts::new(head, endian, from, "its header");
        self.read_page_format(&mut parts)?;
        self.read_system("ftrace", &mut parts)?;
        self.read_systems(&mut parts)?;
        for width in [4, 4] {
            // Symbols of the kernel, then formats of its own messages.
            let len = parts.number(width)?;
            parts.take(len)?;
        }
        let len = parts.number(8)?;
        self.read_comms(parts.take(len)?);
        let count = parts.small()?;
        if count > CPUS_MAX {
            return Err(unexpected(from, "at most 65536 CPUs", "more"));
        }
        let mut kind = parts.take(10)?;
        if kind == b"options  \0" {
            loop {
                let id = parts.number(2)?;
                if id == option::DONE {
                    break;
                }
                let len = parts.number(4)?;
                let data = parts.take(len)?;
                if id == option::CPU_STATISTICS {
                    self.read_statistics(data);
                }
            }
            kind = parts.take(10)?;
        }
        if kind != b"flyrecord\0" {
            return Err(TraceError::Unsupported {
                what: "trace.dat without ring-buffer pages (the latency form)".into(),
            });
        }
        for cpu in 0..count {
            self.cpus.push(CpuData {
                cpu,
                offset: parts.number(8)?,
                size: parts.number(8)?,
                is_compressed: false,
            });
        }
        Ok(())
    }

    /// The layout of a page is the same in every kernel that writes these files; only the width of
    /// its commit word differs, which is a long's.
    fn read_page_format(&mut self, parts: &mut Parts<'_>) -> Result<(), TraceError> {
        for expected in ["header_page", "header_event"] {
            if parts.string()? != expected {
                return Err(unexpected(
                    0,
                    "header_page and header_event",
                    "another part",
                ));
            }
            let len = parts.number(8)?;
            let text = String::from_utf8_lossy(parts.take(len)?);
            let commit = text
                .lines()
                .filter_map(|line| format::field(line.trim(), self.long_bytes))
                .find(|field| &*field.name == "commit");
            if let Some(commit) = commit {
                self.long_bytes = match commit.size() {
                    4 => 4,
                    _ => 8,
                };
            }
        }
        Ok(())
    }

    fn read_systems(&mut self, parts: &mut Parts<'_>) -> Result<(), TraceError> {
        let systems = parts.small()?;
        for _ in 0..systems {
            let system = parts.string()?;
            self.read_system(system, parts)?;
        }
        Ok(())
    }

    fn read_system(&mut self, system: &str, parts: &mut Parts<'_>) -> Result<(), TraceError> {
        let events = parts.small()?;
        for _ in 0..events {
            let len = parts.number(8)?;
            let text = String::from_utf8_lossy(parts.take(len)?);
            // A format of another kind of event than these is of no interest here.
            if let Some((id, format)) = format::parse(system, &text, self.long_bytes) {
                self.formats.insert(id, format);
            }
        }
        Ok(())
    }

    /// `pid comm` on each line.
    fn read_comms(&mut self, text: &[u8]) {
        for line in String::from_utf8_lossy(text).lines() {
            if let Some((pid, comm)) = line.split_once(' ') {
                if let Ok(pid) = pid.parse() {
                    self.comms.insert(pid, comm.trim_end_matches('\0').into());
                }
            }
        }
    }

    /// The kernel's counts of one CPU's buffer when recording stopped.
    fn read_statistics(&mut self, text: &[u8]) {
        for line in String::from_utf8_lossy(text).lines() {
            let Some((key, count)) = line.split_once(':') else {
                continue;
            };
            let count = count.trim().trim_end_matches('\0').parse().unwrap_or(0);
            if matches!(key.trim(), "overrun" | "dropped events") {
                self.lost.overwritten = self.lost.overwritten.saturating_add(count);
            }
        }
    }
}

const SECTION_HEADER_BYTES: u64 = 16;
/// Kernels' symbol tables, the largest part, take about ten MiB.
const HEADER_BYTES: u64 = 1 << 24;
const HEADER_BYTES_MAX: u64 = 1 << 28;

fn page_bytes(bytes: u32) -> Result<usize, TraceError> {
    if !(64..=PAGE_BYTES_MAX).contains(&bytes) {
        return Err(unexpected(0, "a page size of 64 B to 16 MiB", "another"));
    }
    Ok(bytes as usize)
}

pub(super) fn unexpected(at: u64, expected: &'static str, found: &str) -> TraceError {
    TraceError::Malformed(Malformed::new(Position::Offset(at), expected, found))
}
