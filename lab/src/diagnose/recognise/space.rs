//! Address space and tables: IOVA windows, ITS tables.

use regex_lite::Captures;

use super::{Recogniser, bytes, decimal, text};
use crate::diagnose::event::{Event, IovaWindow, ItsUnit};

pub const RECOGNISERS: &[Recogniser] = &[
    Recogniser {
        needle: "Out of IOMMU space",
        pattern: r"(?:PCI-DMA: )?Out of IOMMU space for (?P<size>\d+) bytes",
        read: |found| {
            Some(Event::IovaFailed {
                size: decimal(found, "size"),
                pages: None,
                what: IovaWindow::Gart,
            })
        },
    },
    Recogniser {
        needle: "AGP aperture",
        pattern: r"Reserving (?P<mib>\d+)MB of IOMMU area in the AGP aperture",
        read: |found| {
            Some(Event::IovaWindowBytes {
                bytes: bytes(decimal(found, "mib")?, "M")?,
            })
        },
    },
    Recogniser {
        needle: "iommu_alloc",
        pattern: r"(?:(?P<dev>\S+ \S+): +)?iommu_alloc(?:_sg)? failed, tbl \S+ vaddr \S+ npages (?P<pages>[0-9a-f]+)",
        read: |found| {
            // Decimal in kernels that name the device, hex before.
            let digits = text(found, "pages")?;
            let radix = if found.name("dev").is_some() { 10 } else { 16 };
            Some(Event::IovaFailed {
                size: None,
                pages: u64::from_str_radix(digits, radix).ok(),
                what: IovaWindow::Tce,
            })
        },
    },
    Recogniser {
        needle: "out of mapping resources",
        pattern: r"out of mapping resources",
        read: |_| {
            Some(Event::IovaFailed {
                size: None,
                pages: None,
                what: IovaWindow::Generic,
            })
        },
    },
    Recogniser {
        needle: "iova for",
        pattern: r"Allocating (?P<pages>\d+)-page iova for (?P<dev>\S+) failed",
        read: |found| {
            Some(Event::IovaFailed {
                size: None,
                pages: decimal(found, "pages"),
                what: IovaWindow::Generic,
            })
        },
    },
    Recogniser {
        needle: "IOVA",
        pattern: r"(?x)(?:IOVA\ (?:alloc\w*|space|range|region)[^,;]{0,40}(?:fail|exhaust)
            |(?i:fail\w*|unable|cannot|can't|could\ not|couldn't)\ to\ (?:alloc\w*|get|reserve|find)\ [^,;]{0,40}IOVA
            |(?i:out\ of|no\ (?:more|free))\ IOVA)(?:.*?\ size[=:\ ]+(?P<size>(?:0x)?[0-9a-f]+))?",
        read: iova_words,
    },
    Recogniser {
        needle: "iova",
        pattern: r"(?x)(?:iova\ (?:alloc\w*|space|range|region)[^,;]{0,40}(?:fail|exhaust)
            |alloc_iova\w*[^,;]{0,40}fail
            |(?i:fail\w*|unable|cannot|can't|could\ not|couldn't)\ (?:to\ )?(?:alloc\w*|get|reserve|find)\ [^,;]{0,40}iova
            |(?i:out\ of|no\ (?:more|free))\ iova)(?:.*?\ size[=:\ ]+(?P<size>(?:0x)?[0-9a-f]+))?",
        read: iova_words,
    },
    Recogniser {
        needle: "-bit DMA addresses",
        pattern: r"(?:(?P<dev>\S+ \S+): +)?Using \d\d-bit DMA addresses",
        read: |_| Some(Event::Iova64Bit),
    },
    Recogniser {
        needle: "able too large, reduce",
        pattern: r"(?P<its>ITS\S*?): (?P<table>[\w ]+?) [Tt]able too large, reduce (?P<unit>ids|page order|ITS pages) (?P<from>\d+)->(?P<to>\d+)",
        read: its_too_large,
    },
    Recogniser {
        needle: "able too large, reduce",
        pattern: r"(?P<its>ITS\S*?): (?P<table>)[Tt]able too large, reduce (?P<unit>ids|page order|ITS pages) (?P<from>\d+)->(?P<to>\d+)",
        read: its_too_large,
    },
    Recogniser {
        needle: "too large, reduce ITS pages",
        pattern: r"(?P<its>ITS\S*?): (?P<table>[\w ]+?) too large, reduce (?P<unit>ITS pages) (?P<from>\d+)->(?P<to>\d+)",
        read: its_too_large,
    },
    Recogniser {
        needle: "esz ",
        pattern: r"(?P<its>ITS\S*?): allocated (?P<entries>\d+) (?P<table>[\w ]+?) @\S+ \((?P<shape>flat|indirect), esz (?P<entry>\d+), psz (?P<page>\d+)K",
        read: |found| {
            Some(Event::ItsTable {
                table: text(found, "table")?.to_owned(),
                its: text(found, "its")?.to_owned(),
                entries: decimal(found, "entries")?,
                is_flat: text(found, "shape")? == "flat",
                entry_bytes: decimal(found, "entry")?,
                page_bytes: bytes(decimal(found, "page")?, "K")?,
            })
        },
    },
];

fn iova_words(found: &Captures<'_>) -> Option<Event> {
    let size = text(found, "size").and_then(|digits| match digits.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => digits.parse().ok(),
    });
    Some(Event::IovaFailed {
        size,
        pages: None,
        what: IovaWindow::Generic,
    })
}

fn its_too_large(found: &Captures<'_>) -> Option<Event> {
    Some(Event::ItsTooLarge {
        table: text(found, "table")?.to_owned(),
        from: decimal(found, "from")?,
        to: decimal(found, "to")?,
        unit: match text(found, "unit")? {
            "ids" => ItsUnit::IdBits,
            "page order" => ItsUnit::PageOrder,
            _ => ItsUnit::ItsPages,
        },
        its: text(found, "its")?.to_owned(),
    })
}
