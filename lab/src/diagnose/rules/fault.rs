//! What IOMMU fault reports prove.

use crate::diagnose::cause::{Cause, Certainty};
use crate::diagnose::event::Event;
use crate::diagnose::evidence::{Evidence, Seen};
use crate::diagnose::finding::Finding;

/// SMMUv2 fault status: no translation, no permission, more than one fault.
const FSR_TRANSLATION: u32 = 1 << 1;
const FSR_PERMISSION: u32 = 1 << 3;
const FSR_MULTIPLE: u32 = 1 << 31;
const FSYNR_WRITE: u32 = 1 << 4;

/// AMD event flags.
const AMD_INTERRUPT: u32 = 0x08;
const AMD_PRESENT: u32 = 0x10;
const AMD_WRITE: u32 = 0x20;
const AMD_DENIED: u32 = 0x40;
const AMD_RESERVED: u32 = 0x80;

/// SMMUv2 context faults.
pub fn smmu(evidence: &Evidence) -> Vec<Finding> {
    let faults = evidence.all(|event| match event {
        Event::ContextFault {
            status,
            address,
            syndrome,
        } => Some((*status, *address, *syndrome)),
        _ => None,
    });
    let mut findings: Vec<Finding> = faults
        .iter()
        .copied()
        .flat_map(|(seen, (status, address, syndrome))| {
            // Some kernels print the status on the next lines.
            let later = evidence.after(seen, 6).iter().find_map(|s| match s.event {
                Event::FaultStatus { status } => Some(status),
                _ => None,
            });
            let access = syndrome.map_or("an access", |s| access(s & FSYNR_WRITE != 0));
            let place = place(address);
            let Some(status) = status.or(later) else {
                let sum = format!("{access}{place}; the fault status is not in the log");
                return vec![
                    unmapped(seen, sum.clone(), Certainty::Likely),
                    permission(seen, sum, Certainty::Possible),
                ];
            };
            vec![context_fault(seen, status, &format!("{access}{place}"))]
        })
        .collect();
    if faults.is_empty() {
        let alone = evidence.all(|event| match event {
            Event::FaultStatus { status } => Some(*status),
            _ => None,
        });
        let judged = alone
            .into_iter()
            .map(|(seen, status)| context_fault(seen, status, "an access"));
        findings.extend(judged);
    }
    findings.extend(page_faults(evidence));
    findings
}

fn context_fault(seen: &Seen, status: u32, access: &str) -> Finding {
    let mut sum = format!(
        "fsr {status:#x}: bit 1 (translation) {}, bit 3 (permission) {}; {access}",
        set(status & FSR_TRANSLATION),
        set(status & FSR_PERMISSION)
    );
    if status & FSR_MULTIPLE != 0 {
        sum.push_str("; bit 31: more faults followed that are not described");
    }
    match (status & FSR_TRANSLATION != 0, status & FSR_PERMISSION != 0) {
        (true, false) => unmapped(seen, sum, Certainty::Certain),
        (false, true) => permission(seen, sum, Certainty::Certain),
        (true, true) => unmapped(seen, sum, Certainty::Likely),
        (false, false) => other(seen, sum),
    }
}

/// Drivers that say no more than where it happened.
fn page_faults(evidence: &Evidence) -> Vec<Finding> {
    let faults = evidence.all(|event| match event {
        Event::PageFault { address } => Some(*address),
        _ => None,
    });
    faults
        .into_iter()
        .map(|(seen, address)| {
            let sum = format!(
                "a page fault at {address:#x}; the driver prints no reason that tells a missing page from a missing permission"
            );
            unmapped(seen, sum, Certainty::Likely)
        })
        .collect()
}

pub(super) fn place(address: Option<u64>) -> String {
    address.map(|a| format!(" at {a:#x}")).unwrap_or_default()
}

/// SMMUv3 events, with the raw words that follow.
pub fn smmuv3(evidence: &Evidence) -> Vec<Finding> {
    let events = evidence.all(|event| match event {
        Event::SmmuFault { id } => Some(*id),
        _ => None,
    });
    let mut findings: Vec<Finding> = events
        .iter()
        .map(|(seen, id)| {
            let words = words_after(evidence, seen);
            by_event(seen, *id, &smmuv3_sum(*id, &words))
        })
        .collect();
    if events.is_empty() {
        let decoded = evidence.all(|event| match event {
            Event::SmmuDecoded { name, address } => Some((name, *address)),
            _ => None,
        });
        findings.extend(decoded.into_iter().map(|(seen, (name, address))| {
            let id = match name.as_str() {
                "F_TRANSLATION" => 0x10,
                "F_PERMISSION" => 0x13,
                _ => 0,
            };
            by_event(
                seen,
                id,
                &format!("decoded by the kernel: {name} at {address:#x}"),
            )
        }));
    }
    findings
}

fn by_event(seen: &Seen, id: u8, sum: &str) -> Finding {
    match id {
        0x10 => unmapped(seen, sum.to_owned(), Certainty::Certain),
        0x13 => permission(seen, sum.to_owned(), Certainty::Certain),
        _ => other(seen, sum.to_owned()),
    }
}

fn words_after(evidence: &Evidence, seen: &Seen) -> Vec<u64> {
    evidence
        .after(seen, 8)
        .iter()
        .take_while(|s| !matches!(s.event, Event::SmmuFault { .. }))
        .filter_map(|s| match s.event {
            Event::SmmuWord { value } => Some(value),
            _ => None,
        })
        .take(4)
        .collect()
}

fn smmuv3_sum(id: u8, words: &[u64]) -> String {
    let mut sum = format!("event {id:#04x} = {}", event_name(id));
    let [first, second, address, ..] = words else {
        return sum;
    };
    // The first word repeats the event number in its low byte; if it does
    // not, the words are not this event's.
    if *first & 0xff != u64::from(id) {
        return sum;
    }
    let access = access(second >> 35 & 1 == 0);
    sum.push_str(&format!(
        "; stream {:#x}, bit 35 of word 1: {access}; address {address:#x}",
        first >> 32
    ));
    sum
}

fn event_name(id: u8) -> &'static str {
    match id {
        0x02 => "C_BAD_STREAMID (stream not in the table)",
        0x03 => "F_STE_FETCH (stream table entry not readable)",
        0x04 => "C_BAD_STE (stream table entry not valid)",
        0x06 => "F_STREAM_DISABLED",
        0x08 => "C_BAD_SUBSTREAMID",
        0x09 => "F_CD_FETCH (context descriptor not readable)",
        0x0a => "C_BAD_CD (context descriptor not valid)",
        0x0b => "F_WALK_EABT (table walk refused by memory)",
        0x10 => "F_TRANSLATION (no translation)",
        0x11 => "F_ADDR_SIZE (address too wide)",
        0x12 => "F_ACCESS (access flag)",
        0x13 => "F_PERMISSION (no permission)",
        _ => "not a translation or permission fault",
    }
}

/// AMD page faults.
pub fn amd(evidence: &Evidence) -> Vec<Finding> {
    let faults = evidence.all(|event| match event {
        Event::AmdFault { flags, address } => Some((*flags, *address)),
        _ => None,
    });
    faults
        .into_iter()
        .map(|(seen, (flags, address))| amd_fault(seen, flags, address))
        .collect()
}

fn amd_fault(seen: &Seen, flags: u32, address: u64) -> Finding {
    let access = access(flags & AMD_WRITE != 0);
    let is_present = flags & AMD_PRESENT != 0;
    let sum = format!(
        "flags {flags:#06x}: 0x10 (present) {}, 0x20 (write) {}, 0x40 (no permission) {}: {access} at {address:#x}",
        set(flags & AMD_PRESENT),
        set(flags & AMD_WRITE),
        set(flags & AMD_DENIED)
    );
    if flags & AMD_INTERRUPT != 0 {
        return other(
            seen,
            format!("{sum}; 0x08: an interrupt request, not a memory access"),
        );
    }
    if flags & AMD_RESERVED != 0 {
        return other(seen, format!("{sum}; 0x80: reserved bits in a table entry"));
    }
    match (is_present, flags & AMD_DENIED != 0) {
        (true, true) => permission(seen, sum, Certainty::Certain),
        (false, false) => unmapped(seen, sum, Certainty::Certain),
        (false, true) => unmapped(seen, sum, Certainty::Likely),
        (true, false) => permission(seen, sum, Certainty::Likely),
    }
}

/// Reports of other kinds.
pub fn rest(evidence: &Evidence) -> Vec<Finding> {
    let events = evidence.all(|event| match event {
        Event::IommuEventOther { name } => Some(name),
        _ => None,
    });
    events
        .into_iter()
        .map(|(seen, name)| {
            other(
                seen,
                format!("{name}: neither a missing page nor a missing permission"),
            )
        })
        .collect()
}

pub(super) fn unmapped(seen: &Seen, sum: String, certainty: Certainty) -> Finding {
    Finding::new(seen, Cause::IommuFaultUnmapped, certainty, sum)
        .fixed_by([
            "find who unmapped or never mapped that address: a driver that stops the device too late, or maps with another device",
            "an address below 4 GiB near its top is often an old mapping; one near 0 a descriptor that was never filled",
        ])
        .not_helped_by(["permissions or directions", "larger tables, iommu=pt: they hide it and let the device write anywhere"])
}

pub(super) fn permission(seen: &Seen, sum: String, certainty: Certainty) -> Finding {
    Finding::new(seen, Cause::IommuFaultPermission, certainty, sum)
        .fixed_by(["the mapping's direction must allow what the device does: a write needs FROM_DEVICE or BIDIRECTIONAL"])
        .not_helped_by(["mapping it again the same way", "more address space"])
}

pub(super) fn other(seen: &Seen, sum: String) -> Finding {
    Finding::new(seen, Cause::Other, Certainty::Likely, sum)
        .fixed_by(["see the IOMMU's manual for this event"])
}

pub(super) fn access(is_write: bool) -> &'static str {
    if is_write { "a write" } else { "a read" }
}

fn set(bits: u32) -> &'static str {
    if bits == 0 { "clear" } else { "set" }
}
