//! Bounce pools, masks and the command line.

use super::{Recogniser, bytes, decimal, hex, text};
use crate::diagnose::event::{Event, PoolCounter, PoolUse, Stage};

pub const RECOGNISERS: &[Recogniser] = &[
    Recogniser {
        // total and used are printed since 4.18 or so.
        needle: "buffer is full",
        pattern: r"(?x)(?:(?P<dev>[\w.,+@/-]+\ [\w.,:+@/-]+):\ +)?swiotlb\ buffer\ is\ full
            \ ?\(sz:\ ?(?P<size>\d+)\ ?bytes\)
            (?:,\ total\ (?P<total>\d+)(?:\ \(slots\))?,\ used\ (?P<used>\d+)(?:\ \(slots\))?)?",
        read: |found| {
            let pool = decimal(found, "total").zip(decimal(found, "used"));
            Some(Event::PoolFull {
                size: decimal(found, "size")?,
                pool: pool.map(|(total, used)| PoolUse { total, used }),
            })
        },
    },
    Recogniser {
        needle: "SW-IOMMU space",
        pattern: r"(?:(?P<dev2>[\w.,+@/-]+ [\w.,:+@/-]+): +)?DMA: Out of SW-IOMMU space for (?P<size>\d+) bytes(?: at device (?P<dev>\S+))?",
        read: |found| {
            Some(Event::PoolFull {
                size: decimal(found, "size")?,
                pool: None,
            })
        },
    },
    Recogniser {
        needle: "coherent allocation failed",
        pattern: r"(?:(?P<dev2>[\w.,+@/-]+ [\w.,:+@/-]+): +)?(?:swiotlb: )?coherent allocation failed(?: for device (?P<dev>\S+?))?[, ]+size ?[= ] ?(?P<size>\d+)",
        read: |found| {
            Some(Event::CoherentFailed {
                size: decimal(found, "size")?,
            })
        },
    },
    Recogniser {
        needle: "overflow",
        pattern: r"(?x)(?:(?P<dev>[\w.,+@/-]+\ [\w.,:+@/-]+):\ +)?(?P<stage>DMA|swiotlb)\ addr\ (?P<addr>0x[0-9a-fA-F]+)\+(?P<size>\d+)\ overflow
            \ \(mask\ (?P<mask>[0-9a-f]+)(?:,\ bus\ (?:limit|mask)\ (?P<limit>[0-9a-f]+))?",
        read: |found| {
            overflow(
                found,
                if text(found, "stage")? == "DMA" {
                    Stage::Direct
                } else {
                    Stage::Bounced
                },
            )
        },
    },
    Recogniser {
        // 4.x to 5.5: device mask, DMA mask, bus mask, bus limit.
        needle: "overflow",
        pattern: r"(?x)(?:(?P<dev>[\w.,+@/-]+\ [\w.,+@/-]+(?::[\w.]+)*):\ *)?(?:(?P<function>\w+):\ *)?overflow\ (?P<addr>(?:0x)?[0-9a-fA-F]+)\+(?P<size>\d+)
            \ of\ (?:device|DMA)\ mask\ (?P<mask>(?:0x)?[0-9a-f]+)(?:,?\ bus\ (?:limit|mask)\ (?P<limit>(?:0x)?[0-9a-f]+))?",
        read: |found| {
            // The allocator without a pool says its own name.
            let is_direct = text(found, "function").is_some_and(|name| name.starts_with("nommu"));
            overflow(
                found,
                if is_direct {
                    Stage::Direct
                } else {
                    Stage::Either
                },
            )
        },
    },
    Recogniser {
        // The slot of a coherent buffer, up to 4.20.
        needle: "hwdev DMA mask",
        pattern: r"(?:(?P<dev>\S+ \S+): +)?hwdev DMA mask = (?P<mask>0x[0-9a-f]+), dev_addr = (?P<addr>0x[0-9a-f]+)",
        read: |found| {
            Some(Event::Overflow {
                stage: Stage::Bounced,
                address: hex(found, "addr")?,
                size: 1,
                mask: hex(found, "mask")?,
                limit: 0,
            })
        },
    },
    Recogniser {
        // There is no pool at all; the size is not said.
        needle: "not allocate SWIOTLB buffer earlier",
        pattern: r"(?:(?P<dev>\S+ \S+): +)?Can ?not allocate SWIOTLB buffer earlier",
        read: |_| {
            Some(Event::PoolFull {
                size: 1,
                pool: Some(PoolUse { total: 0, used: 0 }),
            })
        },
    },
    Recogniser {
        needle: "Cannot do DMA to address",
        pattern: r"(?:(?P<dev>\S+ \S+): +)?Cannot do DMA to address (?P<addr>0x[0-9a-f]+)",
        read: |found| {
            Some(Event::BounceRefused {
                address: hex(found, "addr")?,
            })
        },
    },
    Recogniser {
        needle: "software IO TLB",
        pattern: r"software IO TLB(?::? mapped)? \[mem (?P<start>0x[0-9a-f]+)-(?P<end>0x[0-9a-f]+)\](?: \((?P<mib>\d+)MB\))?",
        read: |found| {
            let span = hex(found, "end")?.checked_sub(hex(found, "start")?)?;
            // Some kernels print the last byte, some the one after it.
            Some(Event::PoolMapped {
                bytes: span.checked_add(span & 1)?,
            })
        },
    },
    Recogniser {
        needle: "software IO TLB",
        pattern: r"software IO TLB: .*(?:[Cc]annot allocate|[Ff]ailed to allocate|No low mem)",
        read: |_| Some(Event::PoolAbsent),
    },
    Recogniser {
        needle: "system is using DMA bounce buffers",
        pattern: "(?:Memory encryption|Memory Encryption|SEV|TDX).{0,40}is using DMA bounce buffers",
        read: |_| {
            Some(Event::Notice {
                why: "printed once by every guest with encrypted memory: all DMA goes through shared bounce buffers by design",
            })
        },
    },
    Recogniser {
        needle: "Using software bounce buffering for IO",
        pattern: r"PCI-DMA: Using software bounce buffering for IO",
        read: |_| {
            Some(Event::Notice {
                why: "says at boot that a bounce pool was set up, not that anything needed it",
            })
        },
    },
    Recogniser {
        needle: "io_tlb_",
        pattern: r"io_tlb_(?P<name>nslabs|used_hiwater|used|transient_nslabs)\s*[:= ]\s*(?P<slots>\d+)(?:\s|$)",
        read: |found| {
            Some(Event::PoolCounter {
                name: match text(found, "name")? {
                    "nslabs" => PoolCounter::Total,
                    "used" => PoolCounter::Used,
                    "used_hiwater" => PoolCounter::HighWater,
                    _ => PoolCounter::Transient,
                },
                slots: decimal(found, "slots")?,
            })
        },
    },
    Recogniser {
        needle: "ommand line:",
        pattern: r"(?:Kernel command line|Command line): (?P<text>.*)",
        read: |found| {
            Some(Event::CommandLine {
                text: text(found, "text")?.to_owned(),
            })
        },
    },
    Recogniser {
        needle: "Malformed early option",
        pattern: r"Malformed early option '(?P<option>swiotlb|cma|cma_pernuma|pernuma_cma|numa_cma|hugetlb_cma|coherent_pool|iommu[.\w]*|intel_iommu|amd_iommu)'",
        read: |found| {
            Some(Event::OptionRefused {
                option: text(found, "option")?.to_owned(),
            })
        },
    },
    Recogniser {
        needle: "Unknown option",
        pattern: r"(?P<who>AMD-Vi|DMAR|intel_iommu|SMMU|swiotlb): Unknown option\s*[:-]?\s*'?(?P<option>[\w.=]+)'?",
        read: |found| {
            let option = text(found, "option")?;
            Some(Event::OptionRefused {
                option: match text(found, "who")? {
                    "AMD-Vi" => format!("amd_iommu={option}"),
                    "DMAR" | "intel_iommu" => format!("intel_iommu={option}"),
                    _ => option.to_owned(),
                },
            })
        },
    },
    Recogniser {
        needle: "nknown kernel command line parameter",
        pattern: r#"Unknown kernel command line parameters? "(?:[^"]* )?(?P<option>(?:swiotlb|cma|cma_pernuma|pernuma_cma|numa_cma|coherent_pool|iommu|intel_iommu|amd_iommu|arm-smmu)[^" ]*)"#,
        read: |found| {
            Some(Event::OptionRefused {
                option: text(found, "option")?.to_owned(),
            })
        },
    },
    Recogniser {
        needle: "vmalloc memory",
        pattern: r"(?:(?P<dev>[\w.,+@/-]+ [\w.,:+@/-]+): +)?rejecting DMA map of vmalloc memory",
        read: |_| Some(Event::NotLinearMemory),
    },
    Recogniser {
        needle: "on stack",
        pattern: r"(?:(?P<dev>[\w.,+@/-]+ [\w.,:+@/-]+): +)?(?:rejecting DMA map of|transfer buffer is|buffer is) ?(?:memory )?on stack",
        read: |_| Some(Event::NotLinearMemory),
    },
    Recogniser {
        needle: "sp : ",
        pattern: r"^sp : (?P<sp>[0-9a-f]{16})",
        read: |found| {
            Some(Event::StackPointer {
                value: hex(found, "sp")?,
            })
        },
    },
    Recogniser {
        needle: "RSP: ",
        pattern: r"RSP: [0-9a-f]{4}:(?P<sp>[0-9a-f]{16})",
        read: |found| {
            Some(Event::StackPointer {
                value: hex(found, "sp")?,
            })
        },
    },
    Recogniser {
        // The u-dma-buf module reports what it was given.
        needle: "buffer size",
        pattern: r"buffer size +[=:] +(?P<size>\d+)",
        read: |found| {
            Some(Event::CoherentServed {
                size: decimal(found, "size")?,
            })
        },
    },
    Recogniser {
        needle: "cma-reserved",
        pattern: r"Memory: .* (?P<kib>\d+)K cma-reserved",
        read: |found| {
            Some(Event::CmaTotal {
                bytes: bytes(decimal(found, "kib")?, "K")?,
            })
        },
    },
];

fn overflow(found: &regex_lite::Captures<'_>, stage: Stage) -> Option<Event> {
    Some(Event::Overflow {
        stage,
        address: hex(found, "addr")?,
        size: decimal(found, "size")?,
        mask: hex(found, "mask")?,
        limit: hex(found, "limit").unwrap_or(0),
    })
}
