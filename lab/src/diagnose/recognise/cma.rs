//! Contiguous areas: reservation, allocation, ranges found busy.

use regex_lite::Captures;

use super::{Recogniser, bytes, decimal, errno, hex, text};
use crate::diagnose::event::{AreaCounter, CmaGeneration, CmaSum, Event};

pub const RECOGNISERS: &[Recogniser] = &[
    Recogniser {
        needle: "alloc failed, req-size",
        pattern: r"(?:cma: +)?(?:(?P<function>_*cma_\w+)(?:\(\))?: )?(?:(?P<dev>[\w,.@-]{1,64}): )?alloc failed, req-size: ?(?P<pages>\d+) pages?, ret: ?-(?P<errno>\d+)",
        read: failed,
    },
    Recogniser {
        needle: "number of available pages",
        pattern: r"(?x)number\ of\ available\ pages:\ ?(?P<list>(?:range\ \d+:\ ?)?[\d@+]*)
            (?:\ ?=>\ ?(?P<free>\d+)\ (?:free\ of|pages,\ total:)\ (?P<total>\d+))?",
        read: runs,
    },
    Recogniser {
        needle: "range ",
        pattern: r"(?P<list>range \d+: ?\d+@\d+[\d@+]*)(?: ?=> ?(?P<free>\d+) free of (?P<total>\d+))?",
        read: runs,
    },
    Recogniser {
        needle: "=>",
        pattern: r"(?P<list>[\d@+]*)=> ?(?P<free>\d+) (?:free of|pages, total:) (?P<total>\d+) (?:total )?pages",
        read: runs,
    },
    Recogniser {
        needle: "is busy, retrying",
        pattern: r"cma_\w+\(\): memory range at .* is busy, retrying",
        read: |_| Some(Event::CmaRetry),
    },
    Recogniser {
        needle: "PFNs busy",
        pattern: r"alloc_contig\w*: \[(?:0x)?(?P<start>[0-9a-f]+), ?(?:0x)?(?P<end>[0-9a-f]+)\) PFNs busy",
        read: busy,
    },
    Recogniser {
        needle: "test_pages_isolated(",
        pattern: r"alloc_contig\w*:? test_pages_isolated\((?:0x)?(?P<start>[0-9a-f]+), ?(?:0x)?(?P<end>[0-9a-f]+)\) failed",
        read: busy,
    },
    Recogniser {
        needle: "for global area",
        pattern: r"reserving (?P<mib>\d+) MiB for global area",
        read: |found| {
            Some(Event::CmaReserving {
                bytes: bytes(decimal(found, "mib")?, "M")?,
            })
        },
    },
    Recogniser {
        needle: "ailed to reserve",
        pattern: r"(?i)cma: +(?:\w+: )?failed to reserve (?P<mib>\d+) ?MiB(?: on node (?P<node>-?\d+))?",
        read: |found| {
            Some(Event::CmaReserveFailed {
                bytes: bytes(decimal(found, "mib")?, "M"),
                node: text(found, "node").and_then(|n| n.parse().ok()),
            })
        },
    },
    Recogniser {
        needle: "failed to",
        pattern: r"(?:[Rr]eserved mem(?:ory)?|OF: reserved mem): failed to (?:allocate|reserve) memory for node '(?P<dev>[^']*(?:cma|pool)[^']*)'(?:.* size (?P<mib>\d+) MiB)?",
        read: |found| {
            Some(Event::CmaReserveFailed {
                bytes: decimal(found, "mib").and_then(|n| bytes(n, "M")),
                node: None,
            })
        },
    },
    Recogniser {
        needle: "CMA",
        pattern: r"Reserved memory: (?:unable to setup CMA region|incorrect alignment of CMA region)",
        read: |_| {
            Some(Event::CmaReserveFailed {
                bytes: None,
                node: None,
            })
        },
    },
    Recogniser {
        needle: "hugetlb_cma: reservation failed",
        pattern: r"hugetlb_cma: reservation failed: err -?\d+, node (?P<node>\d+)",
        read: |found| {
            Some(Event::CmaReserveFailed {
                bytes: None,
                node: text(found, "node").and_then(|n| n.parse().ok()),
            })
        },
    },
    Recogniser {
        needle: "could not be activated",
        pattern: r"CMA area (?P<dev>\S+) could not be activated",
        read: |_| Some(Event::CmaActivationFailed),
    },
    Recogniser {
        needle: "cma: Reserved",
        pattern: r"cma: Reserved (?P<mib>\d+) ?MiB",
        read: |found| {
            Some(Event::CmaReserved {
                bytes: bytes(decimal(found, "mib")?, "M")?,
            })
        },
    },
    Recogniser {
        needle: "cma/",
        pattern: r"cma/(?P<dev>[^/\s]+)/(?P<name>count|used|maxchunk) ?: ?(?P<pages>\d+)(?:\s|$)",
        read: |found| {
            Some(Event::AreaCounter {
                name: match text(found, "name")? {
                    "count" => AreaCounter::Count,
                    "used" => AreaCounter::Used,
                    _ => AreaCounter::LongestFree,
                },
                pages: decimal(found, "pages")?,
            })
        },
    },
    Recogniser {
        needle: "created CMA memory pool",
        pattern: r"created CMA memory pool at 0x[0-9a-f]+, size (?P<size>\d+) (?P<unit>[KMG]iB)",
        read: |found| {
            Some(Event::CmaReserved {
                bytes: bytes(decimal(found, "size")?, text(found, "unit")?)?,
            })
        },
    },
    Recogniser {
        needle: "Cma",
        pattern: r"^\s*Cma(?P<what>Total|Free):\s+(?P<kib>\d+) kB",
        read: |found| {
            let bytes = bytes(decimal(found, "kib")?, "K")?;
            Some(if text(found, "what")? == "Total" {
                Event::CmaTotal { bytes }
            } else {
                Event::CmaFree { bytes }
            })
        },
    },
    Recogniser {
        needle: "compatible matching fail",
        pattern: r"node \S*cma\S* compatible matching fail",
        read: |_| {
            Some(Event::Notice {
                why: "the device tree's CMA node was passed over because the command line sizes the area",
            })
        },
    },
    Recogniser {
        needle: "cmdline CMA params",
        pattern: r"bypass \S*cma\S* node, using cmdline CMA params instead",
        read: |_| {
            Some(Event::Notice {
                why: "the device tree's CMA node was passed over because the command line sizes the area",
            })
        },
    },
];

fn failed(found: &Captures<'_>) -> Option<Event> {
    let generation = match text(found, "function") {
        Some("cma_alloc") => CmaGeneration::Old,
        None | Some("__cma_alloc") => CmaGeneration::Between,
        Some(_) => CmaGeneration::New,
    };
    Some(Event::CmaFailed {
        generation,
        pages: decimal(found, "pages")?,
        errno: errno(found, "errno")?,
    })
}

fn busy(found: &Captures<'_>) -> Option<Event> {
    let (start, end) = (hex(found, "start")?, hex(found, "end")?);
    (start < end).then_some(Event::PfnsBusy { start, end })
}

/// `3@125+20@172=> 23 free of 512 total pages`, whole or in parts.
fn runs(found: &Captures<'_>) -> Option<Event> {
    let list = text(found, "list")?;
    let sum = decimal(found, "free").zip(decimal(found, "total"));
    let items = list.split(|c: char| !(c.is_ascii_digit() || c == '@'));
    let runs: Vec<(u64, u64)> = if list.contains('@') {
        items
            .filter_map(|item| {
                let (pages, at) = item.split_once('@')?;
                Some((pages.parse().ok()?, at.parse().ok()?))
            })
            .collect()
    } else {
        // The first form of the list has no positions.
        items
            .filter_map(|item| Some((item.parse().ok()?, 0)))
            .collect()
    };
    Some(Event::CmaRuns {
        runs,
        by_range: list.contains("range "),
        sum: sum.map(|(free, total)| CmaSum { free, total }),
    })
}
