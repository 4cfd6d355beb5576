//! Event records (7.3): 32 bytes each.

use core::fmt;

/// Words of a record.
pub const WORDS: usize = 4;

/// What happened. Numbers that no manual up to version 3.5 names stay as they are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum EventKind {
    /// A stream ID beyond the table.
    BadStreamId,
    /// A stream table entry that could not be read.
    SteFetch,
    /// A stream table entry that is invalid or means nothing.
    BadSte,
    /// A context descriptor that could not be read.
    CdFetch,
    /// A context descriptor that is invalid or means nothing.
    BadCd,
    /// A page table that could not be read.
    WalkAbort,
    /// Nothing is mapped.
    Translation,
    /// An output address that is too large.
    AddressSize,
    /// An access flag that is clear.
    AccessFlag,
    /// Mapped, but not for this access.
    Permission,
    /// Any other.
    Other(u8),
}

impl EventKind {
    /// From its number.
    pub const fn from_number(number: u8) -> Self {
        match number {
            0x02 => Self::BadStreamId,
            0x03 => Self::SteFetch,
            0x04 => Self::BadSte,
            0x09 => Self::CdFetch,
            0x0a => Self::BadCd,
            0x0b => Self::WalkAbort,
            0x10 => Self::Translation,
            0x11 => Self::AddressSize,
            0x12 => Self::AccessFlag,
            0x13 => Self::Permission,
            number => Self::Other(number),
        }
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BadStreamId => "stream ID out of range",
            Self::SteFetch => "stream table entry unreadable",
            Self::BadSte => "stream table entry invalid",
            Self::CdFetch => "context descriptor unreadable",
            Self::BadCd => "context descriptor invalid",
            Self::WalkAbort => "page table unreadable",
            Self::Translation => "nothing mapped",
            Self::AddressSize => "output address too large",
            Self::AccessFlag => "access flag clear",
            Self::Permission => "access not permitted",
            Self::Other(number) => return write!(f, "event {number:#x}"),
        })
    }
}

/// One record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// Who did it.
    pub stream: u32,
    /// Its substream, if the transaction had one.
    pub substream: Option<u32>,
    /// Whether it was a read; meaningful for faults of translation.
    pub is_read: bool,
    /// The input address; meaningful for faults of translation.
    pub address: u64,
}

impl Event {
    /// Reads a record.
    pub const fn from_words(words: [u64; WORDS]) -> Self {
        let substream = if words[0] >> 11 & 1 != 0 {
            Some((words[0] >> 12 & 0xf_ffff) as u32)
        } else {
            None
        };
        Self {
            kind: EventKind::from_number(words[0] as u8),
            stream: (words[0] >> 32) as u32,
            substream,
            is_read: words[1] >> 35 & 1 != 0,
            address: words[2],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_as_an_unmodified_linux_driver_printed_it() {
        // A read of 0x1245678000 by stream 8, unmapped: read out of a paused guest's queue.
        let event = Event::from_words([0x8_0000_0010, 0x8_0000_0000, 0x12_4567_8000, 0]);
        assert_eq!(event.kind, EventKind::Translation);
        assert_eq!(
            (event.stream, event.substream, event.is_read),
            (8, None, true)
        );
        assert_eq!(event.address, 0x12_4567_8000);
    }
}
