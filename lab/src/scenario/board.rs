//! QEMU's boards with the stack on them.

use std::fs::File;
use std::path::{Path as FilePath, PathBuf};
use std::time::Instant;

use anyhow::Context;
use dmakit_addr::{DmaMask, Iova, NodeId, PhysRange};
use dmakit_dma::{BounceWhen, CoherentSource, Device, DeviceInfo, DeviceStats, Path, PoolId};
use dmakit_io_pgtable::Entry;
use dmakit_platform::SegmentRequest;
use dmakit_platform::host::{HostPlatform, SegmentStore};
use dmakit_qemu::smmu::{self, AttachConfig, Attachment, Counters, QemuDevice, SmmuStack};
use dmakit_qemu::{Board as BoardKind, Config, FunctionId, Machine};
use dmakit_swiotlb::{BounceConfig, BouncePool};

use super::check::CheckName;
use super::machine::MachineName;
use super::page::{Mode, Page};
use super::report::{RunReport, Step, Translation};

/// Where and how a scenario runs.
pub struct Place {
    machine: MachineName,
    nodes: Vec<u64>,
    mode: Mode,
    program: Option<PathBuf>,
}

/// A running machine.
pub struct Board {
    pub machine: Machine,
    pub memory: SegmentStore,
    smmu: Option<SmmuStack>,
    pub nodes: u16,
    pub mode: Mode,
    /// Bytes in use before any device was.
    before: u64,
}

/// How a device reaches memory: what its driver does not see.
#[allow(clippy::large_enum_variant, reason = "a run has one of these")]
pub enum Way {
    /// Through a domain of its own.
    Domain(Attachment),
    /// As it lies, or by way of a pool.
    Pool {
        pool: BouncePool<HostPlatform>,
        id: PoolId,
        when: BounceWhen,
    },
}

impl Place {
    pub fn new(page: &Page, machine: MachineName, program: Option<&FilePath>) -> Self {
        Self {
            machine,
            nodes: page.nodes.clone(),
            mode: page.mode(),
            program: program.map(FilePath::to_owned),
        }
    }

    /// Starts the machine with one device, and brings up the SMMU where it has one.
    pub fn start(
        &self,
        device: String,
        id: FunctionId,
        drive: Option<String>,
        report: &mut RunReport,
    ) -> anyhow::Result<Board> {
        let began = Instant::now();
        let mut config = Config::virt();
        if self.machine == MachineName::QemuQ35 {
            config.board = BoardKind::Q35;
            config.iommu = None;
        }
        config.nodes.clone_from(&self.nodes);
        config.devices = vec![device];
        config.drives = drive.into_iter().collect();
        config.program.clone_from(&self.program);
        let (machine, ram) = Machine::start(&config)?;
        report.program = Some(format!("QEMU {}", machine.version()));
        let (smmu, memory) = match config.iommu {
            Some(_) => {
                let stack = SmmuStack::start(&machine, ram, dmakit_smmuv3::Config::default())?;
                // The part of the stream table that has the device stays for good.
                stack.smmu().detach(id.raw().into())?;
                if !self.mode.translates() {
                    report.skip("translation", "the device is let past the SMMU");
                }
                for (part, why) in stack.missing() {
                    report.skip(part.name(), why);
                }
                let memory = stack.memory().clone();
                (Some(stack), memory)
            }
            None => {
                let memory = SegmentStore::new();
                for (node, segment) in (0..).zip(ram) {
                    memory.add(NodeId::new(node), segment);
                }
                report.skip(
                    "translation and faults",
                    "this board is run without an IOMMU",
                );
                (None, memory)
            }
        };
        let before = memory.outstanding_bytes();
        report.timing.start_s = Some(began.elapsed().as_secs_f64());
        for (what, why) in UNSEEN {
            report.skip(*what, *why);
        }
        Ok(Board {
            machine,
            memory,
            smmu,
            nodes: self.nodes.len() as u16,
            mode: self.mode,
            before,
        })
    }
}

/// What the device models do not show.
const UNSEEN: &[(&str, &str)] = &[
    (
        "missing syncs and barriers",
        "QEMU carries commands out as they are written",
    ),
    (
        "missing cache maintenance",
        "QEMU's memory is the host's, and coherent",
    ),
];

impl Way {
    /// The device's domain, where it has one.
    pub fn attachment(&self) -> Option<&Attachment> {
        match self {
            Self::Domain(attachment) => Some(attachment),
            Self::Pool { .. } => None,
        }
    }

    /// Lets hardware forget what was unmapped lazily.
    pub fn flush(&self) -> anyhow::Result<()> {
        match self.attachment() {
            Some(attachment) => Ok(attachment.flush()?),
            None => Ok(()),
        }
    }
}

impl Board {
    /// Opens a device's way to memory. `mask` is what it reaches; a pool, where there is one, has
    /// `pool_bytes`.
    pub fn open(&self, id: FunctionId, mask: DmaMask, pool_bytes: u64) -> anyhow::Result<Way> {
        let when = match self.mode {
            Mode::Strict | Mode::Batched => return self.attach(id, smmu::Mode::Strict),
            Mode::Lazy => return self.attach(id, smmu::Mode::Lazy),
            Mode::Passthrough => BounceWhen::Needed,
            Mode::Bounce => BounceWhen::Always,
        };
        if let Some(stack) = &self.smmu {
            stack.smmu().bypass(id.raw().into())?;
        }
        let request = SegmentRequest {
            len: pool_bytes.next_power_of_two(),
            align: 1 << 16,
            node: None,
            limit: mask,
        };
        let segment = self.memory.allocate(&request);
        let segment = segment.context("no memory for a bounce pool that the device reaches")?;
        let config = BounceConfig {
            // What is used is then exact.
            credit_batch: 0,
            ..BounceConfig::default()
        };
        let pool = BouncePool::new(self.machine.platform(), segment, &config)?;
        let id = pool.attach(None)?;
        Ok(Way::Pool { pool, id, when })
    }

    fn attach(&self, id: FunctionId, mode: smmu::Mode) -> anyhow::Result<Way> {
        let stack = self.smmu.as_ref().context("the machine has no SMMU")?;
        let attachment = stack.attach(id, AttachConfig::new(1, mode))?;
        Ok(Way::Domain(attachment))
    }

    /// The device for its driver.
    pub fn device<'a>(&'a self, way: &'a Way, info: DeviceInfo<'a>) -> QemuDevice<'a> {
        match way {
            Way::Domain(attachment) => attachment.device(info, None),
            Way::Pool { pool, id, when } => {
                let (id, when) = (*id, *when);
                let path = Path::Bounced { pool, id, when };
                let source = CoherentSource::Cached(&self.memory);
                Device::new(self.machine.platform(), info, path, source)
            }
        }
    }

    pub fn is_lazy(&self) -> bool {
        self.mode == Mode::Lazy
    }

    /// Judges a transfer through a live mapping by the SMMU's records.
    pub fn judge_good(&self, what: impl Fn() -> String, report: &mut RunReport) {
        let Some(smmu) = &self.smmu else {
            return;
        };
        let (faults, _) = smmu.take_faults();
        report.faults += u64::from(!faults.is_empty());
        let failure = faults.first().map(|fault| format!("{}: {fault}", what()));
        report.trial(CheckName::NoFaults, failure);
    }

    /// Judges an access to what is unmapped: it must have changed nothing, and faulted where an IOMMU
    /// could have seen it.
    pub fn judge_stale(
        &self,
        name: CheckName,
        changed: bool,
        what: impl Fn() -> String,
        report: &mut RunReport,
    ) {
        let faulted = match &self.smmu {
            Some(smmu) => !smmu.take_faults().0.is_empty(),
            None => false,
        };
        report.provoked_faults += u64::from(faulted);
        let must_fault = self.mode.translates();
        let failure = match (must_fault && !faulted, changed) {
            (false, false) => None,
            (true, _) => Some(format!("{}: no fault", what())),
            (false, true) => Some(format!("{}: memory has changed", what())),
        };
        report.trial(name, failure);
    }

    /// Closes a device's way, whose driver has stopped, and stops the machine; judges what is left.
    pub fn finish(
        self,
        way: Way,
        stats: DeviceStats,
        report: &mut RunReport,
    ) -> anyhow::Result<()> {
        let DeviceStats {
            mapped,
            unmapped,
            bounced,
            bytes_copied_in,
            bytes_copied_out,
            lost,
            ..
        } = stats;
        let mut counters = vec![("maps", mapped), ("unmaps", unmapped)];
        let mut left = vec![
            ("mappings", stats.live()),
            ("lost mappings", lost),
            ("coherent blocks", stats.coherent_live()),
        ];
        match way {
            Way::Domain(attachment) => {
                let Counters {
                    iova_bytes,
                    iova_hits,
                    tables,
                    leaves,
                    quarantined,
                } = attachment.close().context("closing the device's domain")?;
                counters.extend([("iova_cache_hits", iova_hits), ("table_pages", tables)]);
                left.extend([
                    ("bytes of device addresses", iova_bytes),
                    ("leaves of page tables", leaves),
                    ("bytes of quarantined addresses", quarantined),
                ]);
            }
            Way::Pool { pool, .. } => {
                let copied = bytes_copied_in + bytes_copied_out;
                counters.extend([("bounced", bounced), ("bytes_copied", copied)]);
                left.push(("bounce slots", pool.used()));
                if let Ok(segment) = pool.dismantle() {
                    // Else it stays among what is outstanding.
                    drop(segment.map(|segment| self.memory.free(segment)));
                }
            }
        }
        if let Some(smmu) = &self.smmu {
            let counts = smmu.smmu().command_counts();
            counters.extend([("commands", counts.commands), ("syncs", counts.syncs)]);
            left.push(("refused commands", counts.refused));
        }
        left.push((
            "bytes of memory",
            self.memory.outstanding_bytes() - self.before,
        ));
        report.counters.extend(counters);
        for (what, count) in left {
            let failure = (count > 0).then(|| format!("{count} {what} left"));
            report.trial(CheckName::AllReturned, failure);
        }
        if let Some(smmu) = self.smmu {
            smmu.stop()?;
        }
        Ok(())
    }

    /// One address as the SMMU translates it, and what memory holds there.
    pub fn translation(&self, way: &Way, iova: Iova, about: String) -> Option<Translation> {
        let walked = way.attachment()?.walk(iova);
        let Entry::Leaf(page, _) = walked.last()?.entry else {
            return None;
        };
        let phys = dmakit_addr::PhysAddr::new(page.raw() + iova.raw() % dmakit_addr::PAGE_BYTES);
        let range = PhysRange::new(phys, 16).ok()?;
        let mut bytes = [0; 16];
        self.machine.hardware_window(range)?.read(&mut bytes);
        let steps = walked.iter().map(|step| Step {
            level: step.level,
            at: hex(step.at.raw()),
            entry: format!("{:#018x}", step.bits),
            leads_to: match step.entry {
                Entry::Absent => "nothing".to_owned(),
                Entry::Table(to) | Entry::Leaf(to, _) => hex(to.raw()),
            },
            is_leaf: matches!(step.entry, Entry::Leaf(..)),
        });
        Some(Translation {
            about,
            iova: hex(iova.raw()),
            steps: steps.collect(),
            phys: hex(phys.raw()),
            bytes: in_hex(&bytes),
            origin: None,
        })
    }
}

/// A file for the disk in a directory that goes with it.
pub fn disk_file(contents: &[u8]) -> anyhow::Result<(tempfile::TempDir, PathBuf, File)> {
    use std::io::Write;
    let directory = tempfile::tempdir().context("making a directory for the disk")?;
    let path = directory.path().join("disk");
    let mut file = File::options()
        .create_new(true)
        .read(true)
        .write(true)
        .open(&path)
        .context("making the disk's file")?;
    file.write_all(contents)
        .context("writing the disk's file")?;
    Ok((directory, path, file))
}

/// Bytes for people.
pub fn in_hex(bytes: &[u8]) -> String {
    let digits: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    digits.join(" ")
}

fn hex(number: u64) -> String {
    format!("{number:#x}")
}
