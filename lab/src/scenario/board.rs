//! QEMU's Arm board with the stack on it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;
use dmakit_addr::{DmaMask, Iova, PhysRange};
use dmakit_io_pgtable::Entry;
use dmakit_qemu::smmu::{Counters, Mode, Port, PortConfig, SmmuStack};
use dmakit_qemu::{Config, FunctionId, Machine};

use super::check::CheckName;
use super::page::{self, Page};
use super::report::{RunReport, Step, Translation};

/// Where and how a scenario runs.
pub struct Place {
    nodes: Vec<u64>,
    mode: Mode,
    program: Option<PathBuf>,
}

/// A running machine.
pub struct Virt {
    pub stack: SmmuStack,
    pub nodes: u16,
    mode: Mode,
    /// Bytes in use before any port was open.
    before: u64,
}

impl Place {
    pub fn new(page: &Page, program: Option<&Path>) -> Self {
        Self {
            nodes: page.nodes.clone(),
            mode: match page.mode() {
                page::Mode::Strict | page::Mode::Batched => Mode::Strict,
                page::Mode::Lazy => Mode::Lazy,
            },
            program: program.map(Path::to_owned),
        }
    }

    /// Starts the machine with one device, and brings up the SMMU.
    pub fn start(
        &self,
        device: String,
        id: FunctionId,
        drive: Option<String>,
        report: &mut RunReport,
    ) -> anyhow::Result<Virt> {
        let began = Instant::now();
        let mut config = Config::virt();
        config.nodes.clone_from(&self.nodes);
        config.devices = vec![device];
        config.drives = drive.into_iter().collect();
        config.program.clone_from(&self.program);
        let (machine, ram) = Machine::start(&config)?;
        report.program = Some(format!("QEMU {}", machine.version()));
        let smmu = dmakit_smmuv3::Config::default();
        let stack = SmmuStack::start(&machine, ram, smmu)?;
        // The part of the stream table that has the device stays for good.
        stack.smmu().detach(id.raw().into())?;
        let before = stack.memory().outstanding_bytes();
        report.timing.start_s = Some(began.elapsed().as_secs_f64());
        for (what, why) in UNSEEN {
            report.skip(*what, *why);
        }
        Ok(Virt {
            stack,
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

impl Virt {
    /// Opens a device's port.
    pub fn open(&self, id: FunctionId, limit: DmaMask) -> anyhow::Result<Port> {
        let config = PortConfig {
            mode: self.mode,
            ..PortConfig::strict(1, limit)
        };
        Ok(self.stack.open(id, config)?)
    }

    pub fn is_lazy(&self) -> bool {
        self.mode == Mode::Lazy
    }

    /// Judges a transfer through a live mapping by the SMMU's records.
    pub fn judge_good(&self, what: impl Fn() -> String, report: &mut RunReport) {
        let (faults, _) = self.stack.take_faults();
        report.faults += u64::from(!faults.is_empty());
        let failure = faults.first().map(|fault| format!("{}: {fault}", what()));
        report.trial(CheckName::NoFaults, failure);
    }

    /// Judges an access to what is unmapped: it must have faulted and changed nothing.
    pub fn judge_stale(
        &self,
        name: CheckName,
        changed: bool,
        what: impl Fn() -> String,
        report: &mut RunReport,
    ) {
        let (faults, _) = self.stack.take_faults();
        report.provoked_faults += u64::from(!faults.is_empty());
        let failure = match (faults.is_empty(), changed) {
            (false, false) => None,
            (true, _) => Some(format!("{}: no fault", what())),
            (false, true) => Some(format!("{}: memory has changed", what())),
        };
        report.trial(name, failure);
    }

    /// Closes the port and stops the machine; judges what is left.
    pub fn finish(self, port: Port, report: &mut RunReport) -> anyhow::Result<()> {
        let counters = port.close().context("closing the device's domain")?;
        let Counters {
            maps,
            unmaps,
            syncs,
            tickets,
            iova_bytes,
            iova_hits,
            tables,
            leaves,
            quarantined,
        } = counters;
        let refused = self.stack.smmu().command_counts().refused;
        let kept = self.stack.memory().outstanding_bytes() - self.before;
        for (what, count) in [
            ("maps", maps),
            ("unmaps", unmaps),
            ("syncs", syncs),
            ("iova_cache_hits", iova_hits),
            ("table_pages", tables),
        ] {
            report.counters.insert(what, count);
        }
        for (what, count) in [
            ("open tickets", tickets),
            ("bytes of device addresses", iova_bytes),
            ("leaves of page tables", leaves),
            ("bytes of quarantined addresses", quarantined),
            ("bytes of memory", kept),
            ("refused commands", refused),
            ("mappings", maps - unmaps),
        ] {
            let failure = (count > 0).then(|| format!("{count} {what} left"));
            report.trial(CheckName::AllReturned, failure);
        }
        self.stack.stop()?;
        Ok(())
    }

    /// One address as the SMMU translates it, and what memory holds there.
    pub fn translation(&self, port: &Port, iova: Iova, about: String) -> Option<Translation> {
        let walked = port.walk(iova);
        let Entry::Leaf(page, _) = walked.last()?.entry else {
            return None;
        };
        let phys = dmakit_addr::PhysAddr::new(page.raw() + iova.raw() % dmakit_addr::PAGE_BYTES);
        let range = PhysRange::new(phys, 16).ok()?;
        let mut bytes = [0; 16];
        self.stack
            .machine()
            .hardware_window(range)?
            .read(&mut bytes);
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
