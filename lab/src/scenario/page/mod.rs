//! A scenario as it is written: one page of TOML.

mod bounds;
mod numa;
mod tables;

use dmakit_cma::{AreaParams, GiganticTurn, ReserveReason};
use serde::Deserialize;

use super::check::CheckName;
use super::machine::MachineName;
use super::params;
use bounds::MIB;
use numa::MemoryTable;

pub use bounds::Size;
pub use numa::{CarvingTable, CoherentTable, GateWord, HoldWord, PinsTable, PressureTable};
pub use tables::{CacheTable, DiskTable, EduTable, MapWord, Pattern};

/// A checked scenario.
#[derive(Debug)]
pub struct Page {
    pub name: String,
    /// What it shows, for people.
    pub shows: String,
    /// Where it can run.
    pub machines: Vec<MachineName>,
    pub checks: Vec<CheckName>,
    /// Bytes of RAM of each node.
    pub nodes: Vec<u64>,
    /// Row by row, how far nodes are apart; empty where nothing is said.
    pub distances: Vec<Vec<u8>>,
    /// The areas that kernel parameters ask for.
    pub areas: AreaParams,
    mode: Mode,
    pub workload: Workload,
}

/// What is done.
#[derive(Debug)]
pub enum Workload {
    Cache(CacheTable),
    Disk(DiskTable),
    Edu(EduTable),
    Coherent(CoherentTable),
    Pins(PinsTable),
    Pressure(PressureTable),
    Carving(CarvingTable),
}

/// When unmapped memory is out of a device's reach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    #[default]
    Strict,
    /// As strict, with one sync for many unmaps.
    Batched,
    Lazy,
    /// No IOMMU stands between: what the device cannot reach is copied.
    Passthrough,
    /// Neither does one here, and everything is copied.
    Bounce,
}

impl Mode {
    /// Whether a device has addresses of its own, which end with its mappings.
    pub fn translates(self) -> bool {
        matches!(self, Self::Strict | Self::Batched | Self::Lazy)
    }
}

/// The page as it is typed.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Typed {
    name: String,
    shows: String,
    machines: Vec<MachineName>,
    checks: Vec<CheckName>,
    params: Option<String>,
    memory: Option<MemoryTable>,
    domain: Option<DomainTable>,
    cache: Option<CacheTable>,
    disk: Option<DiskTable>,
    edu: Option<EduTable>,
    coherent: Option<CoherentTable>,
    pins: Option<PinsTable>,
    pressure: Option<PressureTable>,
    carving: Option<CarvingTable>,
}

/// The tables of which a page has one.
const TABLES: [&str; 7] = [
    "cache", "disk", "edu", "coherent", "pins", "pressure", "carving",
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DomainTable {
    mode: Mode,
}

impl Workload {
    /// Whether it is about areas of contiguous memory.
    pub fn has_areas(&self) -> bool {
        matches!(
            self,
            Self::Coherent(_) | Self::Pins(_) | Self::Pressure(_) | Self::Carving(_)
        )
    }

    /// Whether it claims memory of the area of `cma=`.
    fn needs_default_area(&self) -> bool {
        matches!(self, Self::Pins(_) | Self::Pressure(_))
    }

    fn check(&self) -> anyhow::Result<()> {
        match self {
            Self::Cache(table) => table.check(),
            Self::Disk(table) => table.check(),
            Self::Edu(table) => table.check(),
            Self::Coherent(table) => table.check(),
            Self::Pins(table) => table.check(),
            Self::Pressure(table) => table.check(),
            Self::Carving(table) => table.check(),
        }
    }
}

impl Typed {
    /// The one table that says what is done.
    fn workload(&mut self) -> anyhow::Result<Workload> {
        let tables = [
            self.cache.take().map(Workload::Cache),
            self.disk.take().map(Workload::Disk),
            self.edu.take().map(Workload::Edu),
            self.coherent.take().map(Workload::Coherent),
            self.pins.take().map(Workload::Pins),
            self.pressure.take().map(Workload::Pressure),
            self.carving.take().map(Workload::Carving),
        ];
        let mut tables = tables.into_iter().flatten();
        let (Some(workload), None) = (tables.next(), tables.next()) else {
            anyhow::bail!("expected one of [{}]", TABLES.join("], ["));
        };
        workload.check()?;
        if matches!(workload, Workload::Cache(_)) && self.memory.is_some() {
            anyhow::bail!("[memory] says nothing about a [cache] scenario");
        }
        let translates = matches!(workload, Workload::Disk(_) | Workload::Edu(_));
        if !translates && self.domain.is_some() {
            anyhow::bail!("[domain] says nothing about this scenario");
        }
        if !workload.has_areas() && self.params.is_some() {
            anyhow::bail!("params says nothing about this scenario");
        }
        Ok(workload)
    }
}

impl Page {
    /// Reads and checks a page.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let mut typed: Typed = toml::from_str(text)?;
        let workload = typed.workload()?;
        let memory = match typed.memory {
            Some(memory) => memory,
            None => MemoryTable {
                nodes: vec![Size(256 * MIB); 2],
                distances: None,
            },
        };
        match workload.has_areas() {
            true => memory.check_sim()?,
            false => memory.check_virt()?,
        }
        let mode = typed.domain.map_or(Mode::Strict, |domain| domain.mode);
        if mode == Mode::Batched && !matches!(workload, Workload::Disk(_)) {
            anyhow::bail!("domain.mode is \"batched\", which needs a ring: that of a [disk]");
        }
        let turn = match &workload {
            Workload::Carving(table) => table.gigantic.turn(),
            _ => GiganticTurn::First,
        };
        let areas = params::read(&typed.params.unwrap_or_default(), turn)?;
        if workload.needs_default_area() && areas.cma.is_none() {
            anyhow::bail!("params has no cma=, which is the area that is claimed");
        }
        if typed.machines.is_empty() {
            anyhow::bail!("machines is empty: there is nowhere to run");
        }
        if typed.checks.is_empty() {
            anyhow::bail!("checks is empty: nothing would be shown");
        }
        Ok(Self {
            name: typed.name,
            shows: typed.shows,
            machines: typed.machines,
            checks: typed.checks,
            nodes: memory.nodes.iter().map(|size| size.0).collect(),
            distances: memory.distances.unwrap_or_default(),
            areas,
            mode,
            workload,
        })
    }

    /// Whether it shows what happens without an area that is not there for this reason.
    pub fn does_without(&self, reason: ReserveReason) -> bool {
        match (&self.workload, reason) {
            (Workload::Carving(_), _) => true,
            (Workload::Coherent(_), ReserveReason::NoSuchNode { .. }) => false,
            (Workload::Coherent(_), _) => true,
            _ => false,
        }
    }

    /// When unmapped memory is out of reach.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Whether `machine` can do it.
    pub fn runs_on(&self, machine: MachineName) -> anyhow::Result<()> {
        if !self.machines.contains(&machine) {
            let names: Vec<_> = self.machines.iter().map(|name| name.word()).collect();
            anyhow::bail!(
                "scenario '{}' does not run on {}: it is for {}; try --machine {}",
                self.name,
                machine.word(),
                names.join(", "),
                names.first().unwrap_or(&"sim")
            );
        }
        let why = match (&self.workload, machine) {
            (Workload::Cache(_), MachineName::Sim) => return Ok(()),
            (workload, MachineName::Sim) if workload.has_areas() => return Ok(()),
            (workload, _) if workload.has_areas() => "programs and areas are on the simulated one",
            (Workload::Cache(_), _) => "QEMU's memory has no caches to be seen",
            (_, MachineName::QemuVirt) => return Ok(()),
            (_, MachineName::Sim) => "the simulated one has no such device",
            (_, MachineName::QemuQ35) if !self.mode.translates() => return Ok(()),
            (_, MachineName::QemuQ35) => {
                "there is no driver for its IOMMU, and domain.mode is not \"passthrough\" or \"bounce\""
            }
        };
        anyhow::bail!(
            "scenario '{}' cannot run on {}: {why}",
            self.name,
            machine.word()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = include_str!("../../../../scenarios/smmu-nvme.toml");

    fn complaint(from: &str, to: &str) -> String {
        assert!(GOOD.contains(from));
        let parsed = Page::parse(&GOOD.replace(from, to));
        parsed
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default()
    }

    #[test]
    fn what_makes_no_sense_is_named_with_its_bounds() {
        for (from, to, says) in [
            (
                "depth = 64",
                "depth = 65",
                "disk.depth is 65, expected 1 to 64",
            ),
            ("\"1M\"", "\"3M\"", "disk.sizes is 3M"),
            ("[512, ", "[\"4X\", ", "unknown unit 'X'"),
            ("[512, ", "[100, ", "disk.sizes is 100"),
            ("rounds = 1000", "", "needs disk.rounds"),
            ("size = \"64M\"", "size = \"8M\"", "disk.size is 8M"),
            ("\"256M\", \"256M\"", "\"63M\"", "memory.nodes"),
            ("[disk]", "[floppy]", "floppy"),
            ("\"data\", ", "\"date\", ", "date"),
            ("mode = \"strict\"", "mode = \"slack\"", "slack"),
            ("\"two-step\"\n", "\"two-steps\"\n", "two-steps"),
            (
                "pattern = \"mixed\"",
                "pattern = \"read\"",
                "from end to end",
            ),
        ] {
            let said = complaint(from, to);
            assert!(said.contains(says), "{to}: {said}");
        }
        assert!(Page::parse("").is_err());
    }

    #[test]
    fn a_machine_that_cannot_do_it_gets_a_reason() {
        let page = Page::parse(GOOD).unwrap();
        let refused = page.runs_on(MachineName::Sim).unwrap_err().to_string();
        assert!(refused.contains("try --machine qemu:virt"), "{refused}");
        let text = GOOD.replace("[\"qemu:virt\"]", "[\"qemu:q35\"]");
        let page = Page::parse(&text).unwrap();
        let refused = page.runs_on(MachineName::QemuQ35).unwrap_err().to_string();
        assert!(refused.contains("no driver for its IOMMU"), "{refused}");
    }
}
