//! Pinning and device assignment: locked memory, VFIO mappings; and the
//! allocation failures that drivers report in their own words.

use super::{Recogniser, bytes, decimal, errno, text};
use crate::diagnose::event::Event;

pub const RECOGNISERS: &[Recogniser] = &[
    Recogniser {
        needle: "RLIMIT_MEMLOCK",
        pattern: r"(?:Task (?P<task>.{1,32}?) \((?P<pid>\d+)\) )?RLIMIT_MEMLOCK \((?P<limit>\d+)\) exceeded",
        read: |found| {
            Some(Event::Memlock {
                limit: decimal(found, "limit")?,
                task: text(found, "task").map(str::to_owned),
            })
        },
    },
    Recogniser {
        needle: "RLIMIT_MEMLOCK",
        pattern: r"RLIMIT_MEMLOCK \S+ \d+/(?P<limit>\d+) ?- ?exceeded",
        read: |found| {
            Some(Event::Memlock {
                limit: decimal(found, "limit")?,
                task: None,
            })
        },
    },
    Recogniser {
        needle: "RLIMIT_MEMLOCK",
        pattern: r"RLIMIT_MEMLOCK is (?P<limit>\d+) bytes",
        read: |found| {
            Some(Event::MemlockWarned {
                limit: decimal(found, "limit")?,
            })
        },
    },
    Recogniser {
        needle: "lock limit of",
        pattern: r"(?P<asked>\d+) locked pages exceed the lock limit of (?P<limit>\d+)",
        read: |found| {
            Some(Event::Memlock {
                limit: decimal(found, "limit")?.checked_mul(4096)?,
                task: None,
            })
        },
    },
    Recogniser {
        needle: "running out of DMA mappings",
        pattern: r"possibly running out of DMA mappings",
        read: |_| {
            Some(Event::Notice {
                why: "QEMU's estimate of the worst case at start, not a failed mapping",
            })
        },
    },
    Recogniser {
        needle: "No space left on device",
        pattern: r"(?:VFIO_MAP_DMA|vfio_(?:container_)?dma_map|VFIO_IOMMU_MAP_DMA|[Vv]fio[Dd]ma[Mm]ap|[Vv]fio.{0,60}[Mm]ap|DMA map(?:ping)?).{0,160}No space left on device",
        read: |_| Some(Event::VfioMapFailed { errno: 28 }),
    },
    Recogniser {
        needle: "annot allocate memory",
        pattern: r"(?:VFIO_MAP_DMA|vfio_(?:container_)?dma_map|VFIO_IOMMU_MAP_DMA|[Vv]fio[Dd]ma[Mm]ap|[Vv]fio.{0,60}[Mm]ap).{0,160}Cannot allocate memory",
        read: |_| Some(Event::VfioMapFailed { errno: 12 }),
    },
    Recogniser {
        needle: "VFIO_MAP_DMA failed",
        pattern: r"VFIO_MAP_DMA failed: (?P<what>Invalid argument|Bad address|File exists)",
        read: |found| {
            Some(Event::VfioMapFailed {
                errno: match text(found, "what")? {
                    "Invalid argument" => 22,
                    "Bad address" => 14,
                    _ => 17,
                },
            })
        },
    },
    Recogniser {
        needle: "mapping, error",
        pattern: r"[Cc]annot set ?up DMA (?:re)?mapping, error (?P<errno>\d+)",
        read: |found| {
            Some(Event::VfioMapFailed {
                errno: errno(found, "errno")?,
            })
        },
    },
    Recogniser {
        needle: "vfio_dma_map(",
        pattern: r"vfio_dma_map\([^)]*\) = -(?P<errno>\d+)",
        read: |found| {
            Some(Event::VfioMapFailed {
                errno: errno(found, "errno")?,
            })
        },
    },
    Recogniser {
        needle: "vfio",
        pattern: r"vfio: DMA mapping failed, unable to continue|hw error: vfio",
        read: |_| Some(Event::VfioFatal),
    },
    Recogniser {
        needle: "VM status",
        pattern: r"VM status: running",
        read: |_| Some(Event::GuestRunning),
    },
    Recogniser {
        needle: "atomic DMA coherent pool",
        pattern: r"(?P<kib>\d+) KiB atomic DMA coherent pool is too small",
        read: |found| {
            Some(Event::AtomicPool {
                bytes: bytes(decimal(found, "kib")?, "K"),
            })
        },
    },
    Recogniser {
        // The wording since 6.12 or so, which tells an empty pool from a
        // missing one.
        needle: "DMA pool exhausted for",
        pattern: r"DMA pool exhausted for (?P<dev>.+)",
        read: |_| Some(Event::AtomicPool { bytes: None }),
    },
    Recogniser {
        needle: "suitable pool for",
        pattern: r"Failed to get suitable pool for (?P<dev>.+)",
        read: |_| Some(Event::AtomicPoolMissing),
    },
    Recogniser {
        needle: "coherent pool not initialised",
        pattern: r"coherent pool not initialised",
        read: |_| Some(Event::AtomicPoolMissing),
    },
    Recogniser {
        needle: "atomic",
        pattern: r"DMA: failed to allocate (?P<kib>\d+) KiB (?:\S+ )?pool for atomic",
        read: |_| Some(Event::AtomicPoolMissing),
    },
    Recogniser {
        needle: "dma_alloc_coherent of size",
        pattern: r"(?:(?P<dev>\S+ \S+): +)?dma_alloc_coherent of size (?P<size>\d+) failed",
        read: |found| {
            Some(Event::AllocationFailed {
                size: decimal(found, "size"),
            })
        },
    },
    Recogniser {
        needle: "lloc",
        pattern: r"(?i)(?:fail\w*|unable|cannot|can't|could ?n[o']t) (?:to )?(?:\w+ )?(?:re)?alloc\w*(?: (?:a )?\w+)?(?: with size (?P<size>\d+))?|alloc\w* (?:of \S+ |\w+ )?(?:has )?(?:fail(?:ed|ure)|error)",
        read: |found| {
            Some(Event::AllocationFailed {
                size: decimal(found, "size"),
            })
        },
    },
    Recogniser {
        needle: "-12",
        pattern: r"(?:error|failed|setup|returned|probe|ret)[^,]{0,40}[ :(=]-12\b",
        read: |_| Some(Event::AllocationFailed { size: None }),
    },
    Recogniser {
        needle: "ENOMEM",
        pattern: r"-ENOMEM|\(ENOMEM\)",
        read: |_| Some(Event::AllocationFailed { size: None }),
    },
];
