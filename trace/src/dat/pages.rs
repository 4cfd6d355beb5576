//! One CPU's ring-buffer pages, event by event.
//!
//! A page begins with a time, then a word with the bytes in use and two flags (events were lost
//! before it; their number stands behind the last event). Each event begins with 5 bits of type or
//! length and 27 bits of time since the one before.

use std::ops::Range;

use super::header::{CpuData, Header};
use super::image::{Endian, Image};
use super::unpack::decompress;
use crate::{Fidelity, Malformed, Position, TraceError};

/// Where an event's bytes are in [`CpuPages::data`], and when it was.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct RawEvent {
    pub(crate) time: u64,
    pub(crate) bytes: Range<usize>,
    pub(crate) offset: u64,
}

/// A page at a time of one CPU; a chunk of some pages where they are compressed.
pub(crate) struct CpuPages {
    pub(crate) cpu: u32,
    /// The next byte of the file, and the first beyond this CPU's.
    next: u64,
    end: u64,
    /// Compressed chunks left; `None` where pages are plain.
    chunks: Option<u32>,
    buffer: Vec<u8>,
    /// Where the buffer begins in the CPU's decompressed data.
    base: u64,
    /// The page after the present one, in the buffer.
    next_page: usize,
    /// The present page's events not yet read.
    rest: Range<usize>,
    time: u64,
    page_time: u64,
}

const COMMIT_BYTES: u64 = (1 << 27) - 1;
const MISSED_EVENTS: u64 = 1 << 31;
const MISSED_STORED: u64 = 1 << 30;
const TIME_BITS: u32 = 27;
/// Absolute times have 59 bits; the upper five are those of the page's time.
const ABSOLUTE_BITS: u32 = 59;

enum Item {
    Event(Range<usize>),
    Nothing,
    PageEnd,
}

impl CpuPages {
    pub(crate) fn new(
        data: &CpuData,
        image: &mut Image,
        endian: Endian,
    ) -> Result<Self, TraceError> {
        const PAGES: &str = "a CPU's pages";
        let cut = || TraceError::Cut {
            after: Position::Offset(data.offset),
            what: PAGES,
        };
        let end = data.offset.checked_add(data.size).ok_or_else(cut)?;
        let mut next = data.offset;
        let mut chunks = None;
        if data.is_compressed && data.size > 0 {
            let count = image.read(next, 4, PAGES)?;
            chunks = Some((endian.number(&count) & u64::from(u32::MAX)) as u32);
            next += 4;
        }
        Ok(Self {
            cpu: data.cpu,
            next,
            end,
            chunks,
            buffer: Vec::new(),
            base: 0,
            next_page: 0,
            rest: 0..0,
            time: 0,
            page_time: 0,
        })
    }

    pub(crate) fn data(&self, event: &RawEvent) -> &[u8] {
        &self.buffer[event.bytes.clone()]
    }

    fn position(&self, at: usize) -> Position {
        Position::Page {
            cpu: self.cpu,
            offset: self.base + at as u64,
        }
    }

    /// Gives up the present page.
    pub(crate) fn skip_page(&mut self) {
        self.rest = 0..0;
    }

    /// The next event; `None` at the end.
    pub(crate) fn advance(
        &mut self,
        image: &mut Image,
        header: &Header,
        fidelity: &mut Fidelity,
    ) -> Result<Option<RawEvent>, TraceError> {
        loop {
            if self.rest.is_empty() {
                if !self.open_page(image, header, fidelity)? {
                    return Ok(None);
                }
                continue;
            }
            let at = self.rest.start;
            let item = self.item(header.endian);
            let Some(item) = item else {
                self.skip_page();
                return Err(TraceError::Malformed(Malformed::new(
                    self.position(at),
                    "an event inside its page",
                    "one that passes the end",
                )));
            };
            match item {
                Item::Event(bytes) => {
                    return Ok(Some(RawEvent {
                        time: self.time,
                        bytes,
                        offset: self.base + at as u64,
                    }));
                }
                Item::Nothing => {}
                Item::PageEnd => self.skip_page(),
            }
        }
    }

    /// What stands at the present place, which is passed; `None` where it does not fit.
    fn item(&mut self, endian: Endian) -> Option<Item> {
        let at = self.rest.start;
        let page = &self.buffer[..self.rest.end];
        let word = endian.at(page, at, 4)?;
        let (kind, delta) = match endian {
            Endian::Little => (word & 31, word >> 5),
            Endian::Big => (word >> TIME_BITS, word & ((1 << TIME_BITS) - 1)),
        };
        let array = endian.at(page, at + 4, 4);
        let (begin, end, item) = match kind {
            0 => {
                // The length counts itself, is rounded up for the next event and bounds this one.
                let len = usize::try_from(array?).ok()?;
                let end = at.checked_add(4)?.checked_add(len)?;
                (at + 8, end, Item::Event(at + 8..end))
            }
            29 if delta == 0 => return Some(Item::PageEnd),
            29 => {
                let len = usize::try_from(array?).ok()?;
                (at + 4, at.checked_add(4)?.checked_add(len)?, Item::Nothing)
            }
            30 | 31 => (at + 8, at + 8, Item::Nothing),
            _ => {
                let end = at + 4 + 4 * usize::try_from(kind).ok()?;
                (at + 4, end, Item::Event(at + 4..end))
            }
        };
        if begin > end || end > page.len() {
            return None;
        }
        match kind {
            30 => {
                let extended = delta.wrapping_add(array? << TIME_BITS);
                self.time = self.time.wrapping_add(extended);
            }
            31 => {
                let absolute = delta.wrapping_add(array? << TIME_BITS);
                let upper = self.page_time >> ABSOLUTE_BITS << ABSOLUTE_BITS;
                self.time = absolute | upper;
            }
            _ => self.time = self.time.wrapping_add(delta),
        }
        self.rest.start = end.next_multiple_of(4).min(self.rest.end);
        Some(item)
    }

    /// Opens the next page; false at the end.
    fn open_page(
        &mut self,
        image: &mut Image,
        header: &Header,
        fidelity: &mut Fidelity,
    ) -> Result<bool, TraceError> {
        let start = self.next_page;
        if self.buffer.len() - start < header.page_bytes {
            return self.fetch(image, header);
        }
        let page_end = start + header.page_bytes;
        self.next_page = page_end;
        let page = &self.buffer[start..page_end];
        let begin = 8 + header.long_bytes;
        let commit = header.endian.at(page, 8, header.long_bytes).unwrap_or(0);
        let used = usize::try_from(commit & COMMIT_BYTES).unwrap_or(usize::MAX);
        if begin.saturating_add(used) > page.len() {
            return Err(TraceError::Malformed(Malformed::new(
                self.position(start),
                "a page that holds what it says",
                "more bytes in use than a page has",
            )));
        }
        if commit & MISSED_EVENTS != 0 {
            let stored = (commit & MISSED_STORED != 0)
                .then(|| header.endian.at(page, begin + used, header.long_bytes))
                .flatten();
            match stored {
                Some(count) => {
                    fidelity.lost_marked = fidelity.lost_marked.saturating_add(count);
                }
                None => fidelity.lost_unnumbered += 1,
            }
        }
        self.page_time = header.endian.at(page, 0, 8).unwrap_or(0);
        self.time = self.page_time;
        self.rest = start + begin..start + begin + used;
        Ok(true)
    }

    /// Reads the next page, or the next compressed chunk of pages, behind what is left.
    fn fetch(&mut self, image: &mut Image, header: &Header) -> Result<bool, TraceError> {
        const PAGE: &str = "a page";
        let left = self.end.saturating_sub(self.next);
        let more = match &mut self.chunks {
            None if left == 0 => return Ok(false),
            None => {
                let len = left.min(header.page_bytes as u64);
                let page = image.read(self.next, len, PAGE)?;
                self.next += len;
                if len < header.page_bytes as u64 {
                    // Ranges are whole pages; the rest of the last one was never written.
                    return Ok(false);
                }
                page
            }
            Some(0) => return Ok(false),
            Some(chunks) => {
                *chunks -= 1;
                let position = Position::Offset(self.next);
                let sizes = image.read(self.next, 8, PAGE)?;
                let packed = header.endian.number(&sizes[..4]);
                let unpacked = header.endian.number(&sizes[4..]);
                self.next += 8;
                let data = image.read(self.next, packed, PAGE)?;
                self.next += packed;
                // The next chunk's place is known: a damaged one can be passed.
                decompress(header.codec, &data, unpacked, position)?
            }
        };
        self.base += self.next_page as u64;
        self.buffer.drain(..self.next_page);
        self.buffer.extend_from_slice(&more);
        self.next_page = 0;
        Ok(true)
    }
}
