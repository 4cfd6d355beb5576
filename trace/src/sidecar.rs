//! What the kernel itself said, in a TOML file beside the trace.
//!
//! Every key may be missing, and unknown ones are ignored: a sidecar written by hand with nothing
//! but the kernel's version is one too.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::Name;

/// The contents of `NAME.toml`.
#[derive(Clone, PartialEq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Sidecar {
    /// The machine and the run.
    pub capture: Capture,
    /// How often each event was recorded, those that matter.
    pub events: BTreeMap<String, u64>,
    /// Phases of the load, in order, with the kernel's own counters.
    #[serde(rename = "phase")]
    pub phases: Vec<Phase>,
    /// Lines of the kernel's log that concern DMA.
    pub dmesg: Dmesg,
    /// Devices of the machine.
    pub devices: Devices,
    /// How often kprobes fired and missed.
    #[serde(skip_serializing_if = "Kprobes::is_empty")]
    pub kprobes: Kprobes,
}

/// The machine and the run.
#[derive(Clone, PartialEq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Capture {
    /// The capture's name.
    pub name: String,
    /// One line about it.
    pub description: String,
    /// `uname -r`.
    pub kernel: Option<String>,
    /// Whether the kernel can grow its bounce pool.
    pub swiotlb_dynamic: Option<bool>,
    /// `uname -m`.
    pub arch: Option<String>,
    /// The kernel's command line.
    pub cmdline: Option<String>,
    /// CPUs online.
    pub cpus: Option<u32>,
    /// `MemTotal`, in KiB.
    pub mem_total_kib: Option<u64>,
    /// The device under load.
    pub device: Option<String>,
    /// The load.
    pub workload: Option<String>,
    /// `trace_clock`.
    pub trace_clock: Option<String>,
    /// What the trace's times are worth.
    pub timing: Option<String>,
    /// Events in the trace.
    pub events_total: Option<u64>,
    /// Events that the ring buffers lost.
    pub events_lost: Option<u64>,
}

/// A phase of the load.
#[derive(Clone, PartialEq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Phase {
    /// Its name, as in the trace's markers.
    pub name: String,
    /// Its beginning, in seconds of the trace's clock.
    pub begin: Option<f64>,
    /// Its end, in seconds of the trace's clock.
    pub end: Option<f64>,
    /// `io_tlb_used` at the end.
    pub swiotlb_used: Option<u64>,
    /// `io_tlb_used_hiwater` at the end, reset at the beginning. Writing the reset makes it 0, not
    /// the present use: it moves again with the next mapping only.
    pub swiotlb_hiwater: Option<u64>,
    /// `io_tlb_nslabs` at the end.
    pub swiotlb_nslabs: Option<u64>,
}

impl Phase {
    /// The beginning in ns, to the microsecond.
    pub fn begin_ns(&self) -> Option<u64> {
        self.begin.and_then(seconds_ns)
    }

    /// The end in ns, to the microsecond.
    pub fn end_ns(&self) -> Option<u64> {
        self.end.and_then(seconds_ns)
    }
}

fn seconds_ns(seconds: f64) -> Option<u64> {
    let micros = (seconds * 1e6).round();
    // 2^53 µs are 285 years: beyond that a float has no microseconds.
    (0.0..9e15).contains(&micros).then(|| micros as u64 * 1000)
}

/// Lines of the kernel's log.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Dmesg {
    /// As `dmesg` prints them.
    pub lines: Vec<String>,
}

/// Devices of the machine.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Devices {
    /// PCI functions.
    pub pci: Vec<PciDevice>,
}

/// A PCI function, written `address vendor:device class= numa= drv= dma_mask= iommu_group=`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct PciDevice {
    /// `domain:bus:device.function`, the name that traces use.
    pub address: String,
    /// Vendor and device id.
    pub id: Option<(u16, u16)>,
    /// Class, subclass and interface.
    pub class: Option<u32>,
    /// The NUMA node; `None` where the machine has none or says none.
    pub node: Option<u32>,
    /// The driver bound to it.
    pub driver: Option<String>,
    /// The width of its DMA mask.
    pub dma_mask_bits: Option<u32>,
    /// Its IOMMU group.
    pub iommu_group: Option<u32>,
}

impl From<String> for PciDevice {
    fn from(line: String) -> Self {
        let value = |key: &str| {
            line.split_whitespace()
                .find_map(|piece| piece.strip_prefix(key)?.strip_prefix('='))
                .filter(|value| !value.is_empty())
        };
        let mut pieces = line.split_whitespace();
        let address = pieces.next().unwrap_or("").to_owned();
        let id = pieces.next().and_then(|ids| {
            let (vendor, device) = ids.split_once(':')?;
            Some((hexadecimal(vendor)?, hexadecimal(device)?))
        });
        Self {
            address,
            id: id.and_then(|(v, d)| Some((u16::try_from(v).ok()?, u16::try_from(d).ok()?))),
            class: value("class").and_then(hexadecimal),
            node: value("numa").and_then(|node| node.parse().ok()),
            driver: value("drv").map(str::to_owned),
            dma_mask_bits: value("dma_mask").and_then(|bits| bits.parse().ok()),
            iommu_group: value("iommu_group").and_then(|group| group.parse().ok()),
        }
    }
}

impl From<PciDevice> for String {
    fn from(device: PciDevice) -> Self {
        device.to_string()
    }
}

impl fmt::Display for PciDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address)?;
        if let Some((vendor, device)) = self.id {
            write!(f, " {vendor:#06x}:{device:#06x}")?;
        }
        if let Some(class) = self.class {
            write!(f, " class={class:#08x}")?;
        }
        match self.node {
            Some(node) => write!(f, " numa={node}")?,
            None => write!(f, " numa=-1")?,
        }
        write!(f, " drv={}", self.driver.as_deref().unwrap_or(""))?;
        if let Some(bits) = self.dma_mask_bits {
            write!(f, " dma_mask={bits}")?;
        }
        write!(f, " iommu_group=")?;
        match self.iommu_group {
            Some(group) => write!(f, "{group}"),
            None => Ok(()),
        }
    }
}

fn hexadecimal(text: &str) -> Option<u32> {
    u32::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

/// Kprobes' own counts.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Kprobes {
    /// One for each probe.
    pub profile: Vec<KprobeProfile>,
}

impl Kprobes {
    fn is_empty(&self) -> bool {
        self.profile.is_empty()
    }

    /// The counts of one probe.
    pub fn of(&self, name: &str) -> Option<&KprobeProfile> {
        self.profile.iter().find(|profile| profile.name == name)
    }
}

/// How often one kprobe fired, written `name hits misses`. Hits and misses together are the calls;
/// a trace has only the hits.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct KprobeProfile {
    /// The probe.
    pub name: String,
    /// Times it was recorded.
    pub hits: u64,
    /// Times it fired inside another probe and was not.
    pub misses: u64,
}

impl From<String> for KprobeProfile {
    fn from(line: String) -> Self {
        let mut pieces = line.split_whitespace();
        let name = pieces.next().unwrap_or("").to_owned();
        let mut number = || pieces.next().and_then(|n| n.parse().ok()).unwrap_or(0);
        Self {
            name,
            hits: number(),
            misses: number(),
        }
    }
}

impl From<KprobeProfile> for String {
    fn from(profile: KprobeProfile) -> Self {
        let KprobeProfile { name, hits, misses } = profile;
        format!("{name} {hits} {misses}")
    }
}

/// Why a sidecar could not be read.
#[derive(Debug)]
pub enum SidecarError {
    /// Not TOML, or a key of the wrong type.
    Malformed {
        /// The line, counted from 1; 0 where it is not known.
        line: usize,
        /// What is wrong.
        reason: Box<str>,
    },
    /// The operating system refused.
    Io(io::Error),
}

impl fmt::Display for SidecarError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed { line, reason } => write!(f, "sidecar, line {line}: {reason}"),
            Self::Io(error) => write!(f, "sidecar: {error}"),
        }
    }
}

impl std::error::Error for SidecarError {}

impl Sidecar {
    /// Reads the text of a sidecar.
    ///
    /// # Errors
    /// [`SidecarError::Malformed`] with the line.
    pub fn parse(text: &str) -> Result<Self, SidecarError> {
        toml::from_str(text).map_err(|error| SidecarError::Malformed {
            line: error
                .span()
                .and_then(|span| text.get(..span.start))
                .map_or(0, |before| before.matches('\n').count() + 1),
            reason: crate::error::excerpt(error.message()),
        })
    }

    /// The text of this sidecar.
    ///
    /// # Errors
    /// [`SidecarError::Malformed`] where a number does not fit TOML's 64 signed bits.
    pub fn to_toml(&self) -> Result<String, SidecarError> {
        toml::to_string(self).map_err(|error| SidecarError::Malformed {
            line: 0,
            reason: crate::error::excerpt(&error.to_string()),
        })
    }

    /// Where the sidecar of a trace would stand: the trace's name without `.zst` or `.gz` and
    /// without `.txt` or `.dat`, with `.toml`.
    pub fn path_beside(trace: &Path) -> PathBuf {
        let mut path = trace.to_path_buf();
        for endings in [["zst", "gz"], ["txt", "dat"]] {
            let ending = path.extension().and_then(|e| e.to_str());
            if ending.is_some_and(|e| endings.contains(&e)) {
                path.set_extension("");
            }
        }
        // Names hold dots ("6.12"), which `set_extension` would take for an ending.
        let mut name = path.into_os_string();
        name.push(".toml");
        name.into()
    }

    /// Reads the sidecar beside a trace; `None` where there is none.
    ///
    /// # Errors
    /// [`SidecarError`] for one that is there and cannot be read.
    pub fn beside(trace: &Path) -> Result<Option<Self>, SidecarError> {
        match std::fs::read_to_string(Self::path_beside(trace)) {
            Ok(text) => Self::parse(&text).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(SidecarError::Io(error)),
        }
    }

    /// The phase of this name.
    pub fn phase(&self, name: &Name) -> Option<&Phase> {
        self.phases.iter().find(|phase| phase.name == name.as_str())
    }

    /// The PCI function that traces call `device`.
    pub fn pci(&self, device: &str) -> Option<&PciDevice> {
        self.devices.pci.iter().find(|pci| pci.address == device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sidecar_stands_beside_its_trace_whatever_the_packing() {
        for trace in [
            "a/x-6.12.txt.zst",
            "a/x-6.12.dat.gz",
            "a/x-6.12.txt",
            "a/x-6.12",
        ] {
            assert_eq!(
                Sidecar::path_beside(Path::new(trace)),
                Path::new("a/x-6.12.toml"),
                "{trace}"
            );
        }
    }

    #[test]
    fn missing_keys_are_missing_and_unknown_ones_ignored() {
        let text = "[capture]\nkernel = \"6.12.1\"\nmood = 3\n[[phase]]\nname = \"a\"\n";
        let sidecar = Sidecar::parse(text).unwrap();
        assert_eq!(sidecar.capture.kernel.as_deref(), Some("6.12.1"));
        assert_eq!(sidecar.capture.cpus, None);
        assert_eq!(sidecar.phases[0].swiotlb_hiwater, None);
        assert!(Sidecar::parse("").unwrap().phases.is_empty());
    }

    #[test]
    fn a_malformed_sidecar_says_its_line_on_one_line() {
        let error = Sidecar::parse("[capture]\ncpus = \"two\"\n").unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("sidecar, line 2: "), "{text}");
        assert!(!text.contains('\n'), "{text}");
    }

    #[test]
    fn a_pci_line_reads_as_it_prints() {
        let line =
            "0000:00:01.0 0x1b36:0x0010 class=0x010802 numa=1 drv=nvme dma_mask=64 iommu_group=4";
        let device = PciDevice::from(line.to_owned());
        assert_eq!(device.id, Some((0x1b36, 0x0010)));
        assert_eq!(device.class, Some(0x01_08_02));
        assert_eq!((device.node, device.dma_mask_bits), (Some(1), Some(64)));
        assert_eq!(device.to_string(), line);
        let bare =
            "0000:00:1f.3 0x8086:0x2930 class=0x0c0500 numa=-1 drv= dma_mask=32 iommu_group=";
        let device = PciDevice::from(bare.to_owned());
        assert_eq!((device.node, device.driver.as_deref()), (None, None));
        assert_eq!(device.to_string(), bare);
    }

    #[test]
    fn a_phase_time_is_exact_to_the_microsecond() {
        let phase = Phase {
            begin: Some(11.704692),
            end: Some(-1.0),
            ..Phase::default()
        };
        assert_eq!(phase.begin_ns(), Some(11_704_692_000));
        assert_eq!(phase.end_ns(), None);
    }
}
