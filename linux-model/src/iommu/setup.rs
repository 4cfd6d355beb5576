//! What is known of a recorded machine's translation besides the calls.

use std::collections::BTreeMap;

use dmakit_trace::Sidecar;
use dmakit_trace::sidecar::PciDevice;

use crate::boot::{Architecture, CommandLine};
use crate::calls::{BufferKind, CallKind, CallSource, Calls, RecordedTranslation};
use crate::engine::Engine;
use crate::iommu::domain::{DomainConfig, Invalidation};

/// Writes that raise interrupts on x86: no address of a buffer.
const X86_INTERRUPTS: (u64, u64) = (0xfee0_0000, 0xfeef_ffff);
/// 48 bits, where nothing says otherwise.
const ADDRESS_LAST: u64 = (1 << 48) - 1;
/// Buffers whose address and place must agree on the granule.
const GRANULE_SAMPLES: usize = 8;
const GRANULES: [u64; 3] = [4 << 10, 16 << 10, 64 << 10];

/// The machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TranslationSetup {
    /// The rules.
    pub engine: Engine,
    /// When hardware forgot.
    pub invalidation: Invalidation,
    /// Bytes of the smallest page.
    pub granule: u64,
    /// CPUs.
    pub cpus: u32,
    /// Address ranges withheld from all devices, first and last.
    pub reserved: Vec<(u64, u64)>,
    /// Whether message interrupts are translated too, so that each domain maps a doorbell (Arm).
    pub has_doorbells: bool,
    /// Whether devices are first tried below 4 GiB.
    pub tries_32_bits: bool,
    /// The highest address that the IOMMU translates.
    pub last: u64,
    /// The highest address that each device's mask allows, by its name, where that is known.
    pub masks: BTreeMap<String, u64>,
    /// The group of each device, by its name, where that is known: a group shares one domain.
    pub groups: BTreeMap<String, u32>,
}

impl TranslationSetup {
    /// From what the kernel said beside the trace; without that, from what the calls show.
    pub fn new(
        sidecar: Option<&Sidecar>,
        calls: &Calls,
        recorded: &RecordedTranslation,
        engine: Engine,
    ) -> Self {
        let capture = sidecar.map(|sidecar| &sidecar.capture);
        let log = sidecar.map_or(&[][..], |sidecar| &sidecar.dmesg.lines);
        let arch = capture.and_then(|capture| capture.arch.as_deref());
        let architecture = Architecture::from_name(arch.unwrap_or(""));
        let line = capture.and_then(|capture| capture.cmdline.as_deref());
        let line = CommandLine::parse(line.unwrap_or(""));
        let shown = calls.order.iter().map(|call| call.cpu + 1).max();
        let is_x86 = architecture == Architecture::X86_64;
        let mut reserved = windows(log);
        if is_x86 {
            reserved.push(X86_INTERRUPTS);
        }
        Self {
            engine,
            invalidation: said(log)
                .or_else(|| set(&line))
                .unwrap_or_else(|| shows(calls)),
            granule: granule(calls, recorded),
            cpus: capture
                .and_then(|capture| capture.cpus)
                .into_iter()
                .chain(shown)
                .max()
                .unwrap_or(1),
            reserved,
            has_doorbells: architecture == Architecture::Arm64,
            tries_32_bits: line.value("iommu.forcedac") != Some("1"),
            last: vtd_last(log).unwrap_or(ADDRESS_LAST),
            masks: sidecar.map(masks).unwrap_or_default(),
            groups: sidecar.map(groups).unwrap_or_default(),
        }
    }

    /// A domain of this machine under other rules.
    pub fn domain(&self, engine: Engine, invalidation: Invalidation) -> DomainConfig {
        DomainConfig {
            granule: self.granule,
            tries_32_bits: self.tries_32_bits,
            last: self.last,
            reserved: self.reserved.clone(),
            ..DomainConfig::new(engine, invalidation, self.cpus)
        }
    }
}

/// What the kernel's log says.
fn said(log: &[String]) -> Option<Invalidation> {
    let policy = log
        .iter()
        .find_map(|line| line.split_once("TLB invalidation policy: "))?;
    Some(match policy.1.starts_with("strict") {
        true => Invalidation::Strict,
        false => Invalidation::Lazy,
    })
}

/// What the command line asks.
fn set(line: &CommandLine) -> Option<Invalidation> {
    match line.value("iommu.strict")? {
        "0" => Some(Invalidation::Lazy),
        _ => Some(Invalidation::Strict),
    }
}

/// What VT-d says of itself: `dmar0: reg_base_addr fed90000 ver 1:0 cap d2008c22260206 ecap f42`. Six
/// bits of its capabilities are the width of the addresses that it translates, less one.
fn vtd_last(log: &[String]) -> Option<u64> {
    let of = |line: &String| {
        let (_, after) = line.split_once("reg_base_addr ")?;
        let (_, cap) = after.split_once(" cap ")?;
        let cap = u64::from_str_radix(cap.split(' ').next()?, 16).ok()?;
        Some(u64::MAX >> (63 - (cap >> 16 & 0x3f)))
    };
    log.iter().filter_map(of).min()
}

/// The highest address of each device's mask.
fn masks(sidecar: &Sidecar) -> BTreeMap<String, u64> {
    let devices = sidecar.devices.pci.iter();
    let mask = |device: &PciDevice| {
        let bits = device
            .dma_mask_bits
            .filter(|bits| (1..=64).contains(bits))?;
        Some((device.address.clone(), u64::MAX >> (64 - bits)))
    };
    devices.filter_map(mask).collect()
}

/// Who is isolated from others only together.
fn groups(sidecar: &Sidecar) -> BTreeMap<String, u32> {
    let devices = sidecar.devices.pci.iter();
    let group = |device: &PciDevice| Some((device.address.clone(), device.iommu_group?));
    devices.filter_map(group).collect()
}

/// Whole domains are forgotten only now and then: lazy. Without such events strict.
fn shows(calls: &Calls) -> Invalidation {
    let is_flush = |kind: CallKind| matches!(kind, CallKind::Flush { .. });
    match calls.order.iter().any(|call| is_flush(call.kind)) {
        true => Invalidation::Lazy,
        false => Invalidation::Strict,
    }
}

/// The address bits that translation leaves alone.
fn granule(calls: &Calls, recorded: &RecordedTranslation) -> u64 {
    if calls.source == CallSource::Translations {
        return GRANULES[0];
    }
    let singles = calls.buffers.iter().zip(&recorded.dma);
    let singles = singles.filter(|(buffer, _)| {
        buffer.kind == BufferKind::Single && calls.devices[buffer.device as usize].is_translated
    });
    let differing: Vec<u64> = singles
        .filter_map(|(buffer, dma)| Some((*dma)? ^ buffer.pieces[0].phys?))
        .collect();
    if differing.len() < GRANULE_SAMPLES {
        return GRANULES[0];
    }
    let differing = differing.into_iter().fold(0, |all, bits| all | bits);
    let is_kept = |granule: &&u64| differing & (**granule - 1) == 0;
    *GRANULES.iter().rev().find(is_kept).unwrap_or(&GRANULES[0])
}

/// Windows of host bridges: `root bus resource [mem 0xc0000000-0xfebfffff window]`.
fn windows(log: &[String]) -> Vec<(u64, u64)> {
    let window = |line: &String| {
        let (_, range) = line.split_once("root bus resource [mem 0x")?;
        let (first, last) = range.split_once("-0x")?;
        let hex = |text: &str| u64::from_str_radix(text, 16).ok();
        Some((hex(first)?, hex(last.split([' ', ']']).next()?)?))
    };
    log.iter().filter_map(window).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vtd_says_how_wide_its_addresses_are() {
        let line = "[    0.202898] DMAR: dmar0: reg_base_addr fed90000 ver 1:0 cap d2008c22260206 ecap f42";
        assert_eq!(vtd_last(&[line.to_owned()]), Some((1 << 39) - 1));
        assert_eq!(vtd_last(&["DMAR: IOMMU enabled".to_owned()]), None);
    }
}
