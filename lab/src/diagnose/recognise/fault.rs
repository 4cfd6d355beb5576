//! Faults that IOMMUs report.

use regex_lite::Captures;

use super::{Recogniser, hex, text};
use crate::diagnose::event::Event;

pub const RECOGNISERS: &[Recogniser] = &[
    Recogniser {
        needle: "context fault",
        pattern: r"(?:(?P<dev>\S+ \S+): +)?Unhandled (?:arm-smmu )?context fault\b(?P<rest>.*)",
        read: context_fault,
    },
    Recogniser {
        needle: "FSR ",
        pattern: r"FSR +[=:] +(?:0x)?(?P<fsr>[0-9a-f]{1,8}) \[",
        read: |found| {
            Some(Event::FaultStatus {
                status: u32::try_from(hex(found, "fsr")?).ok()?,
            })
        },
    },
    Recogniser {
        needle: "global fault",
        pattern: r"(?:(?P<dev>\S+ \S+): +)?Unexpected global fault",
        read: |_| other("SMMU global fault"),
    },
    Recogniser {
        needle: "Blocked unknown Stream ID",
        pattern: r"(?:(?P<dev>\S+ \S+): +)?(?P<text>Blocked unknown Stream ID 0x[0-9a-f]+)",
        read: |found| other(text(found, "text")?),
    },
    Recogniser {
        needle: "event 0x",
        pattern: r"(?:(?P<dev>\S+ \S+): +)?event (?P<id>0x[0-9a-f]{2}) received",
        read: |found| {
            Some(Event::SmmuFault {
                id: u8::try_from(hex(found, "id")?).ok()?,
            })
        },
    },
    Recogniser {
        needle: "smmu",
        pattern: r"smmu\S*: +0x(?P<high>[0-9a-f]{8}) ?(?P<low>[0-9a-f]{8})(?:\s|$)",
        read: smmu_word,
    },
    Recogniser {
        // The continuation of a wrapped or bare dump.
        needle: "0x0",
        pattern: r"^\s*0x(?P<high>0[0-9a-f]{7}) ?(?P<low>[0-9a-f]{8})(?:\s|$)",
        read: smmu_word,
    },
    Recogniser {
        needle: "event: ",
        pattern: r"event: (?P<name>[FC]_\w+) client: (?P<dev>\S+).* iova: (?P<iova>0x[0-9a-f]+)",
        read: |found| {
            Some(Event::SmmuDecoded {
                name: text(found, "name")?.to_owned(),
                address: hex(found, "iova")?,
            })
        },
    },
    Recogniser {
        needle: "IO_PAGE_FAULT",
        pattern: r"(?:(?P<driver>\S+) (?P<bdf>\S+): +)?(?:AMD-Vi: )?(?:Event logged \[ ?)?IO_PAGE_FAULT (?:device=(?P<dev>\S+) )?(?:pasid=\S+ )?(?:domain|pasid)=\S+ (?:\S+ )??address=(?P<iova>(?:0x)?[0-9a-f]+) flags=(?P<flags>0x[0-9a-f]+)",
        read: |found| {
            Some(Event::AmdFault {
                flags: u32::try_from(hex(found, "flags")?).ok()?,
                address: hex(found, "iova")?,
            })
        },
    },
    Recogniser {
        needle: "Event logged [",
        pattern: r"AMD-Vi: Event logged \[ ?(?P<name>(?:ILLEGAL|DEV|PAGE|COMMAND|IOTLB|INVALID|RMP|UNKNOWN)\w+)",
        read: |found| other(&format!("AMD-Vi event {}", text(found, "name")?)),
    },
    Recogniser {
        needle: "fault addr",
        pattern: r"(?x)\[(?P<kind>DMA\ Read|DMA\ Write)[^\]]*\]\ Request\ device\ \[(?P<dev>[^\]]+)\]\ (?:PASID\ \S+\ )?fault\ addr\ (?:0x)?(?P<addr>[0-9a-fxX*]+)
            (?:\ ?\[[^\]]*\])??(?:\ \[fault\ reason\ (?P<reason>(?:0x)?[0-9a-fA-F]+)\]\ (?P<text>[^\[]*))?",
        read: vtd_fault,
    },
    Recogniser {
        needle: "[fault reason",
        pattern: r"^(?:DMAR: ?)*\[fault reason (?P<reason>(?:0x)?[0-9a-fA-F]+)\] (?P<text>.*)",
        read: |found| {
            Some(Event::VtdReason {
                reason: vtd_reason(found)?,
                text: text(found, "text")?.trim().to_owned(),
            })
        },
    },
    Recogniser {
        needle: "already set",
        pattern: r"(?:DMA PTE|PTE) for vPFN (?P<page>0x[0-9a-f]+) already set \(to (?P<old>[0-9a-f]+) not (?P<new>[0-9a-f]+)\)",
        read: |found| {
            Some(Event::PteAlreadySet {
                page: hex(found, "page")?,
                old: hex(found, "old")?,
                new: hex(found, "new")?,
            })
        },
    },
    Recogniser {
        needle: "ault",
        pattern: r"(?:(?P<dev>\S+ \S+): +)?(?:Page fault at (?P<rockchip>0x[0-9a-f]+) of type|\w* ?(?:\(\w+\) )?PAGE FAULT (?:occurred )?at (?P<exynos>0x[0-9a-f]+)|page fault from EP \d+ at (?P<virtio>0x[0-9a-f]+)|fault type=0x[0-9a-f]+ iova=(?P<mediatek>0x[0-9a-f]+)|translation fault: .* at (?P<dart>0x[0-9a-f]+)|iommu fault: da:(?P<omap>0x[0-9a-f]+))",
        read: |found| {
            let address = (1..found.len())
                .filter_map(|at| found.get(at))
                .filter_map(|m| m.as_str().strip_prefix("0x"))
                .find_map(|digits| u64::from_str_radix(digits, 16).ok());
            Some(Event::PageFault { address: address? })
        },
    },
    Recogniser {
        needle: "Invalidation Time-out",
        pattern: r"(?:VT-d detected )?Invalidation Time-out Error",
        read: |_| other("an invalidation timed out"),
    },
    Recogniser {
        needle: "INTR-REMAP",
        pattern: r"INTR-REMAP\S* Request device",
        read: |_| other("an interrupt, not a memory access, was refused by remapping"),
    },
    Recogniser {
        needle: "platform RMRR requirement",
        pattern: r"(?:(?P<dev>\S+ \S+): +)?Device is ineligible for IOMMU domain attach due to platform RMRR",
        read: |_| {
            other("the firmware reserves memory for this device (RMRR), so it cannot be assigned")
        },
    },
];

#[allow(clippy::unnecessary_wraps, reason = "fits a recogniser's reader")]
fn other(name: &str) -> Option<Event> {
    Some(Event::IommuEventOther {
        name: name.to_owned(),
    })
}

fn smmu_word(found: &Captures<'_>) -> Option<Event> {
    Some(Event::SmmuWord {
        value: hex(found, "high")? << 32 | hex(found, "low")?,
    })
}

/// Old kernels print the reason in decimal without a prefix.
fn vtd_reason(found: &Captures<'_>) -> Option<u32> {
    let digits = text(found, "reason")?;
    match digits.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => digits.parse().ok(),
    }
}

fn vtd_fault(found: &Captures<'_>) -> Option<Event> {
    Some(Event::VtdFault {
        is_write: text(found, "kind")?.ends_with("Write"),
        // Some reports mask it.
        address: hex(found, "addr"),
        reason: vtd_reason(found),
        text: text(found, "text").unwrap_or_default().trim().to_owned(),
    })
}

/// The fields stand in different orders; the oldest kernels print no `fsr`.
fn context_fault(found: &Captures<'_>) -> Option<Event> {
    let rest = text(found, "rest")?;
    let value = |names: &[&str]| {
        names.iter().find_map(|name| {
            let after = rest.split(name).nth(1)?.trim_start_matches("0x");
            let end = after
                .find(|c: char| !c.is_ascii_hexdigit())
                .unwrap_or(after.len());
            u64::from_str_radix(after.get(..end)?, 16).ok()
        })
    };
    let narrow = |wide: u64| u32::try_from(wide).ok();
    Some(Event::ContextFault {
        status: value(&["fsr="]).and_then(narrow),
        address: value(&["iova=", "FAR="]),
        syndrome: value(&["fsynr=", "fsynr0="]).and_then(narrow),
    })
}
