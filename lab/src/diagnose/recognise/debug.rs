//! The checker of the DMA API, and other complaints about a driver's use.

use super::{Recogniser, decimal, hex, text};
use crate::diagnose::event::{DebugFault, Event};

pub const RECOGNISERS: &[Recogniser] = &[
    Recogniser {
        needle: "DMA",
        pattern: r"(?:(?:(?P<dev2>\S+ \S+): )?DMA-API: (?:(?P<dev>\S+ \S+): )?)?device driver (?P<text>tries to free (?:an invalid )?DMA memory(?: address| it has not allocated)[^\n]*)",
        read: |found| debug(found, DebugFault::NotMapped),
    },
    Recogniser {
        needle: "device driver frees DMA",
        pattern: r"(?:(?:(?P<dev2>\S+ \S+): )?DMA-API: (?:(?P<dev>\S+ \S+): )?)?device driver (?P<text>frees DMA (?:memory|sg list) with (?:different|wrong) [^\n]*)",
        read: |found| debug(found, DebugFault::Mismatch),
    },
    Recogniser {
        needle: "pending DMA allocations",
        pattern: r"(?:(?:(?P<dev2>\S+ \S+): )?DMA-API: (?:(?P<dev>\S+ \S+): )?)?device driver (?P<text>has pending DMA allocations[^\n]*)",
        read: |found| debug(found, DebugFault::Pending),
    },
    Recogniser {
        needle: "overlapping mappings of cacheline",
        pattern: r"DMA-API: (?:(?P<dev>\S+ \S+): )?exceeded (?P<overlaps>\d+) overlapping mappings of cacheline (?P<line>(?:0x)?[0-9a-f]+)",
        read: |found| {
            Some(Event::DebugOverlap {
                overlaps: decimal(found, "overlaps")?,
                line: hex(found, "line")?,
            })
        },
    },
    Recogniser {
        needle: "DMA-API: debugging",
        pattern: r"DMA-API: debugging out of memory",
        read: |_| {
            Some(Event::Notice {
                why: "only the checker of the DMA API ran out of its own entries and switched itself off (dma_debug_entries= gives it more)",
            })
        },
    },
    Recogniser {
        needle: "DMA-API: ",
        pattern: r"(?:(?P<dev2>\S+ \S+): )?DMA-API: (?:(?P<dev>\S+ \S+): )?(?P<text>(?:device driver|mapping sg|cacheline tracking|dma_)[^\n]*)",
        read: |found| {
            Some(Event::DebugOther {
                text: text(found, "text")?.trim().to_owned(),
            })
        },
    },
];

fn debug(found: &regex_lite::Captures<'_>, what: DebugFault) -> Option<Event> {
    Some(Event::DebugFree {
        what,
        text: text(found, "text")?.trim().to_owned(),
    })
}
